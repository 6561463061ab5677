"""An installation whose workers can be made to die or hang at a named moment, and the comparison of its rows."""

import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.group import LeaveGroupRequest

from streams.decide.checkpoint import Checkpoint
from streams.decide.store import MilvusStore
from streams.decide.things import PICTURES, position_of, row_key
from streams.kafka.topics import Topic, committed_offsets, high_watermark
from tests import oracle
from tests.faults.fault_worker import Fault, run
from tests.service import Service

_STAGES: Final = {"embed": ("designs", "catalog"), "decide": ("decide",), "all": ("designs", "catalog", "decide")}
_POLL_S: Final = 0.1

# Imported once: a worker is then up in a second or so, which is what allows hundreds of deaths.
_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(["pytest", "tests.faults.fault_worker"])


@dataclass(frozen=True)
class Report:
    """What a worker said just before it died or hung. members: by group. in_hand: by topic, by partition, the first
    offset of the batch under way."""

    point: str
    members: Mapping[str, str]
    in_hand: Mapping[str, Mapping[int, int]]


class FaultWorker:
    """A worker in a process of its own."""

    def __init__(self, stage: str, env: Mapping[str, str], log: Path, fault: Fault) -> None:
        self.stage, self.log, self.fault = stage, log, fault
        self.may_end = bool(fault.point)
        self._process = _forked.Process(target=run, args=(stage, dict(env), log, fault), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    @property
    def hangs(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def send(self, number: int) -> None:
        """A signal."""
        self.may_end |= number in (signal.SIGKILL, signal.SIGTERM)
        os.kill(self.pid, number)

    def report(self) -> Report | None:
        if not self.fault.report.exists():
            return None
        said = json.loads(self.fault.report.read_text())
        in_hand = {topic: {int(p): first for p, first in batch.items()} for topic, batch in said["in_hand"].items()}
        return Report(said["point"], said["members"], in_hand)

    async def ended(self, timeout_s: float = 30.0) -> int:
        """Its exit code."""
        end = time.monotonic() + timeout_s
        while (code := self.exit_code) is None:
            assert time.monotonic() < end, f"{self.log.name} goes on\n{self.tail()}"
            await asyncio.sleep(_POLL_S)
        return code

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()


class Installation(Service):
    """A service whose workers are `FaultWorker`s."""

    def __init__(self, *args: Any, **env: Any) -> None:
        super().__init__(*args, **env)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.forked: list[FaultWorker] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for worker in self.forked:
            worker.close()
        for log_id in {record["log_id"] for record in await self.records() if record.get("log_id")}:
            self._store(log_id).drop()
        await super().__aexit__(*error)

    def launch(self, stage: str = "all", *, data_dir: Path | None = None, **fault: Any) -> FaultWorker:
        """A worker; with fault=..., see `Fault`."""
        name = f"fault-{len(self.forked)}"
        extra = {} if data_dir is None else {"DESIGN_DEDUP_DATA_DIR": str(data_dir)}
        worker = FaultWorker(
            stage, self.env | extra, self.folder / f"{name}.log", Fault(self.folder / f"{name}.json", **fault)
        )
        self.forked.append(worker)
        return worker

    async def until(self, ready: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 60.0) -> None:
        """Wait for `ready`; a worker that ended unasked is an error at once."""
        end = time.monotonic() + timeout_s
        while not await ready():
            ended = [worker for worker in self.forked if not worker.may_end and worker.exit_code is not None]
            if ended or time.monotonic() > end:
                tails = "\n".join(f"--- {w.log.name}: {w.exit_code}\n{w.tail()}" for w in ended or self.forked[-4:])
                raise AssertionError(f"{'a worker ended' if ended else f'not within {timeout_s:g} s'}: {what}\n{tails}")
            await asyncio.sleep(_POLL_S)

    async def end(self) -> None:
        """SIGTERM to all, and wait."""
        alive = [worker for worker in self.forked if worker.exit_code is None]
        for worker in alive:
            worker.send(signal.SIGTERM)
        for worker in alive:
            assert await worker.ended() == 0, worker.tail()

    # Groups and offsets

    def _topic(self, group: str) -> Topic:
        return {"designs": self.topics.designs, "catalog": self.topics.catalog, "decide": self.topics.log}[group]

    async def committed(self, group: str) -> dict[int, int]:
        """By partition; group: `designs`, `catalog` or `decide`."""
        name = f"{self.settings.group}-{group}"
        return await committed_offsets(self.settings.kafka_bootstrap, name, self._topic(group))

    async def committed_of(self, topic: str) -> dict[int, int]:
        """By partition, of the group that reads a topic."""
        return await self.committed(next(group for group in _STAGES["all"] if self._topic(group).name == topic))

    async def backlog(self, stage: str) -> int:
        """How many records of its topics a stage has not committed."""
        left = 0
        for group in _STAGES[stage]:
            for partition, done in (await self.committed(group)).items():
                end = await high_watermark(self.settings.kafka_bootstrap, self._topic(group).name, partition)
                left += end - done
        return left

    async def evict(self, report: Report) -> None:
        """End a dead worker's memberships now, as an administrator can, rather than when its sessions do: waiting 6 s
        proves nothing, and promise 3 does wait."""
        client = AIOKafkaClient(bootstrap_servers=self.settings.kafka_bootstrap)
        try:
            await client.bootstrap()
            for group, member in report.members.items():
                node = await client.coordinator_lookup(CoordinationType.GROUP, group)
                await client.send(node, LeaveGroupRequest(group, member))
        finally:
            await client.close()

    # What is compared

    async def records(self, shard: int = 0) -> list[dict[str, Any]]:
        """The log, decoded."""
        return [msgspec.msgpack.decode(record.value) for record in await self.log(shard)]

    def _store(self, log_id: str) -> MilvusStore:
        return MilvusStore(self.settings.milvus_uri, "", self.settings.milvus_timeout_s, log_id)

    async def stray_rows(self, folded: oracle.Folded, data_dir: Path | None = None) -> int:
        """Milvus holds the sealed rows of what exists by the oracle, every row is the log's own, and what else is there
        is known as garbage; returns how many are not. No worker may be running."""
        log = await self.records()
        checkpoint = Checkpoint((data_dir or self.settings.data_dir) / "shard-0.sqlite")
        sealed, garbage = checkpoint.head.sealed, {key for key, _ in checkpoint.garbage(len(log) * PICTURES)}
        checkpoint.close()
        vectors = {
            row_key(0, position, n): [picture[-1]]
            for position, record in enumerate(log)
            for n, picture in enumerate(record.get("pictures", ()))
        }
        live = set()
        for (kind, name), place in folded.live.items():
            # What another record let exist again stands at the place of that record, with pictures of its own.
            own = [r["pictures"] for r in log if (r["kind"], r.get("id")) == (kind, name) and r.get("pictures")]
            again = place != position_of(place)
            for n in range(len(own[-1] if again else log[place]["pictures"])):
                live.add(key := row_key(0, place, n))
                if again:
                    vectors[key] = [pictures[n][-1] for pictures in own]
        stored: dict[int, Any] = {}
        store = self._store(log[0]["log_id"])
        for encoder in sorted({record["encoder"] for record in log if record.get("pictures")}):
            for keys, rows in store.scan(encoder, 0, row_key(0, len(log))):
                stored |= dict(zip(keys.tolist(), rows, strict=True))
        store.close()
        assert {key for key in live if key < row_key(0, sealed)} <= stored.keys(), "a live row is not in Milvus"
        for key, row in stored.items():
            assert key not in vectors or row.astype("<i2").tobytes() in vectors[key], "a row is not its record's"
        return len(stored.keys() - live - garbage)
