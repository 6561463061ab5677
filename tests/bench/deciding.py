"""decide alone, a process of its own, on a log that was written directly: its speed, CPU and memory by number of rows.

One log serves all: 10,000 rows with the body in Milvus, then in memory; 100,000 rows in memory, then in Milvus.
"""

import uuid
from collections.abc import Iterator
from time import monotonic
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streams.decide.policy import load_policy
from streams.embed.encoder import Canary, model_path
from streams.events import LogRecord, Picture, encode_record, lattice
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topics, create_topics
from tests.bench.figures import Figure
from tests.bench.harness import Bench, BenchService, Follower, following, mean_batch, peak_mb, stage_millis
from tests.bench.plain import Loop, alone, kafka_loop
from tests.service import WorkerProcess

Index = Literal["milvus", "memory"]

_SEND = 1000
_SEALED_WITHIN = 1024
_DUPLICATES = 0.3
_TARGETS = {(10_000, "milvus"): "400", (10_000, "memory"): "1,000"}


async def measure(bench: Bench) -> list[Figure]:
    """The families `decide alone` and `memory`."""
    steps: list[tuple[int, Index]] = [(10_000, "milvus"), (10_000, "memory")]
    if not bench.quick:
        steps += [(100_000, "memory"), (100_000, "milvus")]
    figures: list[Figure] = []
    async with (
        BenchService(bench, "decide", seal_idle_s=0.5) as service,
        following(service.settings.kafka_bootstrap, service.topics.verdicts.name) as verdicts,
    ):
        run = _Run(bench, service, verdicts)
        await run.begin()
        for rows, index in steps:
            figures += await run.step(rows, index)
        figures += await run.plain()
        await run.close()
    return figures


class _Run:
    def __init__(self, bench: Bench, service: BenchService, verdicts: Follower) -> None:
        self._bench = bench
        self._service = service
        self._verdicts = verdicts
        self._producer = Producer(service.settings.kafka_bootstrap, service.settings.max_message_bytes, {})
        self._canary = Canary.beside(model_path(service.settings.model_repository))
        self._rng = np.random.default_rng(7)
        self._vectors = np.empty((0, len(self._canary.vector)), np.float32)
        self._written = self._rows = 0
        self._running: tuple[Index, WorkerProcess] | None = None
        self._cpu_ms: dict[tuple[int, Index], float] = {}

    async def begin(self) -> None:
        """The log's first records, as embed writes them."""
        config = LogRecord(
            kind="config", policy=load_policy(None), encoder=self._canary.version, log_id=uuid.uuid4().hex[:16]
        )
        await self._append(iter([config, LogRecord(kind="ready")]))

    async def close(self) -> None:
        await self._producer.close()

    async def _append(self, records: Iterator[LogRecord]) -> None:
        topic = self._service.topics.log.name
        while messages := [Message(None, encode_record(r), 0) for _, r in zip(range(_SEND), records, strict=False)]:
            await self._producer.append(topic, messages)
            self._written += len(messages)

    def _new_vectors(self, count: int) -> NDArray[np.float32]:
        drawn = self._rng.standard_normal((count, self._vectors.shape[1]), np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    def _record(self, kind: Literal["upsert", "design"], number: int, vector: NDArray[np.float32]) -> LogRecord:
        random = self._rng.bytes(32 + 32 + 48)
        picture = Picture(random[:32], random[32:64], 100, random[64:], lattice(vector).tobytes())
        return LogRecord(
            kind=kind, id=f"{kind}-{number:06}", source=f"bench.{kind}/0", src=number, category="shirt",
            title="a striped shirt with short sleeves", tenant="default", encoder=self._canary.version,
            pictures=(picture,), submitted_at_ms=1,
        )  # fmt: skip

    async def _fill(self, rows: int) -> None:
        """Catalogue items until there are so many."""
        vectors = self._new_vectors(rows - self._rows)
        await self._append(self._record("upsert", self._rows + n, vector) for n, vector in enumerate(vectors))
        self._vectors = np.concatenate([self._vectors, vectors])
        self._rows = rows

    def _designs(self, count: int, first: int) -> Iterator[LogRecord]:
        """New designs, and near copies of what is there."""
        vectors = self._new_vectors(count)
        copies = self._rng.random(count) < _DUPLICATES
        near = self._vectors[self._rng.integers(len(self._vectors), size=count)] + 0.1 * vectors
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        for n, vector in enumerate(np.where(copies[:, None], near, vectors)):
            yield self._record("design", first + n, vector)

    async def _worker(self, index: Index) -> WorkerProcess:
        if self._running is not None and self._running[0] == index:
            return self._running[1]
        if self._running is not None:
            self._running[1].stop()
        worker = self._service.start("decide", index=index)
        self._running = (index, worker)
        began = monotonic()
        await self._service.until_metric(worker, "dedup_takeovers_total", least=1, timeout_s=120)
        self._bench.say(f"index={index}: up with {self._rows:,} rows after {monotonic() - began:.0f} s")
        return worker

    async def step(self, rows: int, index: Index) -> list[Figure]:
        """Verdicts a second with so many rows, all of them sealed."""
        worker = await self._worker(index)
        if rows > self._rows:
            self._bench.say(f"writing {rows - self._rows:,} catalogue rows")
            await self._fill(rows)
            self._bench.say(f"index={index}: waiting until they are sealed")
            least = self._written - _SEALED_WITHIN
            await self._service.until_metric(worker, "dedup_sealed_position", "0", least=least, timeout_s=600)
        count = 1000 if self._bench.quick or (rows, index) == (100_000, "milvus") else 2000
        self._bench.say(f"index={index}: {count} designs on {rows:,} rows")
        before, cpu, said = await self._service.metrics(worker), self._service.cpu(), len(self._verdicts.records)
        await self._append(self._designs(count, self._written))
        await self._service.until_said(self._verdicts, said + count)
        after, spent = await self._service.metrics(worker), self._service.cpu().since(cpu, count)
        times = [record.timestamp for record in self._verdicts.records[said:]]
        later = [at for at in times if at > times[0]]  # the first batch has no beginning
        self._cpu_ms[rows, index] = spent["worker"]
        both_ms = spent["worker"] + spent["milvus"]
        family, what = f"decide alone, {rows:,} rows", f"index={index}"
        return [
            Figure(family, what, 1000 * len(later) / (times[-1] - times[0]), "verdicts/s",
                   f"from a full log, batches of {mean_batch(before, after, 'decide'):.0f}",
                   _TARGETS.get((rows, index), "")),
            Figure(family, f"{what}, by CPU", 1000 / both_ms, "verdicts/s",
                   "1 / (CPU of worker and Milvus a verdict): with nothing else running, nothing overlapping"),
            *(Figure(family, f"{what}, {step}", millis, "ms", "wall time a verdict")
              for step, millis in sorted(stage_millis(before, after, count).items(), key=lambda s: -s[1])),
            *(Figure(family, f"{what}, {name} CPU", spent[name], "ms", "CPU a verdict")
              for name in ("worker", "milvus", "broker")),
            Figure("memory", f"decide, {rows:,} rows, {what}", peak_mb(worker), "MB",
                   "most resident memory since its start, filling included", "600"),
        ]  # fmt: skip

    async def plain(self) -> list[Figure]:
        """A loop that only consumes the log's records and produces."""
        bootstrap, topics = self._service.settings.kafka_bootstrap, self._service.topics
        scratch = Topics(prefix=f"{topics.prefix}plain.")
        await create_topics(bootstrap, scratch)
        loop: Loop = await alone(kafka_loop, bootstrap, topics.log, scratch.verdicts.name, LogRecord, 5000)
        family = "decide against a plain loop"
        return [
            Figure(family, "plain loop, CPU", loop.cpu_ms, "ms", "CPU a log record: aiokafka, msgspec, produce"),
            *(Figure(family, f"decide / plain loop, {rows:,} rows, index={index}", cpu_ms / loop.cpu_ms, "",
                     "CPU of the worker, its search included")
              for (rows, index), cpu_ms in self._cpu_ms.items()),
        ]  # fmt: skip
