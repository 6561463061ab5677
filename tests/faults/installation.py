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

from streams.decide.store import MilvusStore
from streams.kafka.partition import committed_offsets, high_watermark
from streams.kafka.topics import Topic
from tests.faults.fault_worker import Fault, run
from tests.milvus_rows import stored
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

    async def stray_rows(self) -> int:
        """Rows in Milvus that nothing needs and nobody will collect. No worker may be running."""
        return len((await stored(self, 0, *await self.folded())).unknown)
