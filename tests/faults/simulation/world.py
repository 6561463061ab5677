"""Everything that outlives a process, and one schedule from its beginning to its end."""

import asyncio
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from streams.decide.checkpoint import Superseded
from streams.decide.store import MemoryStore
from streams.kafka.producer import Message
from streams.kafka.topics import Topics
from tests.doubles import MemoryLedger, MemoryLog
from tests.faults.simulation.faults import SESSION_S, Faults
from tests.faults.simulation.group import Group, Stored
from tests.faults.simulation.ports import LedgerPort, LogPort, ProducerPort, StorePort, Wire
from tests.faults.simulation.process import Killed, Process
from tests.faults.simulation.scenario import ENCODERS, POLICIES, Scenario, Sent, without_revisions
from tests.faults.simulation.worker import Around, Setting, Worker

_PATIENCE_S: Final = 300.0
_QUIET_S: Final = 4.0
_LOOK_S: Final = 2.0
_LIES: Final = 5
"""In one schedule of so many, answers are wrong on purpose."""
_ANEW: Final = 0.1
"""In so many, a shard is made anew from log and verdicts at the end."""


class Unsettled(Exception):
    """The faults are over, and the work is not."""


class World:
    """One schedule."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.lies = seed % _LIES == 0
        self.faults = Faults(self.rng, lies=self.lies)
        self.scenario = Scenario(self.rng)
        shards = len(self.scenario.tenants)
        self.topics = Topics(design_partitions=2, catalog_partitions=self.rng.choice((1, 2)), shards=shards)
        names = (self.topics.designs.name, self.topics.catalog.name)
        partitions = (self.topics.designs.partitions, self.topics.catalog.partitions)
        self.sources = {name: [list[Stored]() for _ in range(n)] for name, n in zip(names, partitions, strict=True)}
        self.raw = [list[Stored]() for _ in range(shards)]
        self.dead_letters: list[Message] = []
        self.logs = [MemoryLog() for _ in range(shards)]
        self.ledgers = [MemoryLedger() for _ in range(shards)]
        self.stores: defaultdict[str, MemoryStore] = defaultdict(MemoryStore)
        stored = {**self.sources, self.topics.log.name: self.raw}
        self.groups = {name: Group(name, held, self.rng) for name, held in stored.items()}
        self.problems: list[str] = []
        self.counts = Counter[str]()
        self.anew = 1.0 if self.lies else _ANEW
        self.machines = 3 if self.lies else self.rng.choice((1, 1, 2, 3))
        self._processes: dict[Process, Worker] = {}
        self._wires: list[Wire] = []
        self.started = 0
        # A revision that only one of two owners finds is no verdict of the other's, so nothing would bind that one.
        self._policies = [without_revisions(policy) for policy in POLICIES] if self.lies else POLICIES
        self._encoder, self._policy = ENCODERS[0], self.rng.choice(self._policies)
        self._ends = False

    # Messages

    def send(self, sent: Sent) -> None:
        """A service upstream publishes."""
        topic = (self.topics.designs if sent.kind == "design" else self.topics.catalog).name
        partitions = self.sources[topic]
        partitions[zlib.crc32(sent.key or b"") % len(partitions)].append(Stored(sent.key, sent.value))
        self.groups[topic].has_news()

    def _append(self, topic: str, messages: Sequence[Message]) -> list[int]:
        if topic == self.topics.dead_letters.name:
            self.dead_letters += messages
            return list(range(len(messages)))
        offsets = []
        for message in messages:
            shard, value = message.partition or 0, message.value or b""
            offsets += self.logs[shard].append([value])
            self.raw[shard].append(Stored(None, value))
        self.groups[topic].has_news()
        return offsets

    # Processes

    def start(self, name: str) -> None:
        """A process starts, on its machine."""
        self.started += 1
        # A tenth of restarts find an empty disk, if nobody else works there.
        folder = self.folder / f"machine-{int(name[1:]) % self.machines}"
        if self.rng.random() < 0.1 and not any(p.folder == folder for p in self._processes):
            for file in folder.glob("*"):
                file.unlink()
        process = Process(name, folder, self.faults)
        wire = Wire(process, self.faults)
        self._wires.append(wire)
        around = Around(
            topics=self.topics,
            tenants=self.scenario.tenants,
            groups=self.groups,
            producer=ProducerPort(wire, self._append),
            logs=[LogPort(wire, log) for log in self.logs],
            ledgers=[LedgerPort(wire, ledger) for ledger in self.ledgers],
            store=lambda log_id: StorePort(process, self.stores[log_id]),
        )
        worker = Worker(process, self._setting(), around, self.rng)
        self._processes[process] = worker
        process.on_death = lambda: self._died(process, worker)
        process.on_freeze = lambda duration_s: self._hangs(process, worker, duration_s)
        process.on_stop = lambda: self._stops(process, worker)
        process.on_rebalance = lambda: self.rng.choice(list(self.groups.values())).rebalance()
        process.spawn(self._run(process, worker))

    def _setting(self) -> Setting:
        rng = self.rng
        if rng.random() < 0.15:  # someone rolls out another policy and another model
            self._encoder, self._policy = rng.choice(ENCODERS), rng.choice(self._policies)
        return Setting(
            encoder=self._encoder,
            policy=self._policy,
            index="memory" if rng.random() < 0.2 else "milvus",
            seal_rows=rng.choice((1, 3, 8)),
            log_id=f"log{self.started}",
        )

    async def _run(self, process: Process, worker: Worker) -> None:
        try:
            await worker.run()
        except (Killed, asyncio.CancelledError):
            pass  # killed, or asked to stop, which ends it
        except Exception as error:  # noqa: BLE001 - the process exits
            self.counts[f"exit: {type(error).__name__}"] += 1
            if not isinstance(error, Superseded):
                self.problems.append(f"{process.name} failed: {error!r}")
            await worker.stop()
            process.kill()

    def _stops(self, process: Process, worker: Worker) -> None:
        async def stop() -> None:
            try:
                await worker.stop()
            except Exception as error:  # noqa: BLE001 - a finding
                self.problems.append(f"{process.name} failed to stop: {error!r}")
            process.kill()

        process.spawn(stop())

    def _died(self, process: Process, worker: Worker) -> None:
        del self._processes[process]
        loop = asyncio.get_running_loop()
        loop.call_later(SESSION_S, self._expire, worker)
        loop.call_later(self.rng.uniform(0.1, 2 * SESSION_S), self._starts_again, process.name)

    def _starts_again(self, name: str) -> None:
        if not self._ends:
            self.start(name)

    def _expire(self, worker: Worker) -> None:
        for app in worker.apps:
            app.expire()

    def _hangs(self, process: Process, worker: Worker, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        if duration_s > SESSION_S:
            loop.call_later(SESSION_S, self._expire, worker)
            process.when_awake(lambda: loop.call_later(self.rng.uniform(0, 1), self._wakes, worker))

    def _wakes(self, worker: Worker) -> None:
        for app in worker.apps:
            app.join()

    # A schedule

    async def live(self) -> None:
        """Send, fail, heal, settle."""
        for number in range(self.rng.randint(2 if self.lies else 1, 3)):
            asyncio.get_running_loop().call_later(self.rng.uniform(0, 2), self.start, f"p{number}")
        pace_s = self.rng.choice((0.0, 0.1, 1.0))
        for sent in self.scenario.events():
            await asyncio.sleep(pace_s * self.rng.random())
            self.send(sent)
        await asyncio.sleep(self.rng.uniform(0, 4 * SESSION_S))
        self.faults.heal()
        quiet = 0.0
        while quiet < _QUIET_S:
            await asyncio.sleep(_LOOK_S)
            quiet = quiet + _LOOK_S if self._is_settled() else 0.0
            if asyncio.get_running_loop().time() > _PATIENCE_S:
                raise Unsettled(self._state())
        self._ends = True

    def _is_settled(self) -> bool:
        return (
            len(self._processes) > 0
            and not any(process.is_frozen for process in self._processes)
            and all(worker.decide is not None for worker in self._processes.values())
            and not any(wire.in_flight for wire in self._wires)
            and not any(app._in_flight for worker in self._processes.values() for app in worker.apps)
            and all(group.is_read for group in self.groups.values())
            and all(len(self.owners(shard)) == 1 for shard in range(len(self.raw)))
        )

    def _state(self) -> str:
        read = {group.topic: (group.committed, [len(p) for p in group.partitions]) for group in self.groups.values()}
        return f"committed and ends: {read}, processes: {[p.name for p in self._processes]}"

    def owners(self, shard: int) -> list[Path]:
        """The folders of those who own a shard now."""
        works = ((process, worker.decide) for process, worker in self._processes.items())
        return [process.folder for process, decide in works if decide is not None and decide.owned(shard)]

    async def end(self) -> None:
        """Nothing runs any more."""
        self._ends = True
        for process in list(self._processes):
            process.kill()
