"""What every figure needs: workers with their metrics, CPU time and memory, a live view of a topic, and a pace."""

import asyncio
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from streams.local import LocalStack, PortLease
from tests.service import Event, Service, WorkerProcess

Metrics = Mapping[tuple[str, frozenset[str]], float]
"""Samples by name and label values."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the bench. `quick`: less of everything."""

    stack: LocalStack
    folder: Path
    quick: bool
    console: Console

    def say(self, text: str) -> None:
        """What is going on."""
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')} {text}[/dim]")


class BenchService(Service):
    """A service whose workers tell their metrics."""

    def __init__(self, bench: Bench, name: str, **env: object) -> None:
        folder = bench.folder / name
        folder.mkdir()
        super().__init__(bench.stack, f"{name}.", folder, kafka=None, **env)
        self._stack = bench.stack
        self._ports = PortLease()
        self._pages: dict[int, str] = {}

    async def __aenter__(self) -> "BenchService":
        await super().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__(*_)
        self._ports.close()

    def start(self, stage: str = "all", **env: object) -> WorkerProcess:
        port = self._ports.take()
        worker = super().start(stage, web_port=port, **env)
        self._pages[worker.process.pid] = f"http://127.0.0.1:{port}/metrics"
        return worker

    async def metrics(self, worker: WorkerProcess) -> Metrics:
        """The worker's metrics; empty while it does not answer yet."""
        try:
            text = await asyncio.to_thread(_get, self._pages[worker.process.pid])
        except OSError:
            return {}
        return {
            (sample.name, frozenset(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until_metric(
        self, worker: WorkerProcess, name: str, *labels: str, least: float, timeout_s: float
    ) -> None:
        """Wait until a metric has reached a value."""

        async def reached() -> bool:
            return (await self.metrics(worker)).get((name, frozenset(labels)), -1) >= least

        await self.until(reached, f"{name} {least:g}", timeout_s)

    async def until_said(self, verdicts: "Follower", count: int) -> None:
        """Wait until so many verdicts are published in all."""

        async def said() -> bool:
            return len(verdicts.records) >= count

        await self.until(said, f"{count} verdicts", 300)

    def cpu(self) -> "Cpu":
        """CPU seconds of every process so far."""
        pids = {
            "broker": self._stack.broker.pid, "triton": self._stack.triton.pid, "milvus": self._stack.milvus.pid,
        }  # fmt: skip
        workers = [worker.process.pid for worker in self.workers if worker.alive]
        return Cpu(
            {name: _cpu_s(pid) for name, pid in pids.items() if pid}
            | {"worker": sum(_cpu_s(pid) for pid in workers)}
            | {str(pid): _cpu_s(pid) for pid in workers}
        )


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds by process; `worker` is all workers together."""

    seconds: Mapping[str, float] = field(default_factory=dict)

    def since(self, before: "Cpu", count: int) -> dict[str, float]:
        """Milliseconds for each of `count` things."""
        return {name: 1000 * (s - before.seconds.get(name, 0.0)) / count for name, s in self.seconds.items()}


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own worker
        text: str = answer.read().decode()
        return text


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def peak_mb(worker: WorkerProcess) -> float:
    """The most memory a worker has had resident, in MB."""
    status = Path(f"/proc/{worker.process.pid}/status")
    if not status.exists():
        return float(psutil.Process(worker.process.pid).memory_info().rss / 1e6)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Follower:
    """Every record of one partition, as it comes."""

    def __init__(self, on_record: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self.records: list[Any] = []
        self._on_record = on_record

    async def _run(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            self.records.append(record)
            if self._on_record is not None:
                await self._on_record(record)


@asynccontextmanager
async def following(bootstrap: str, topic: str, on_record: Callable[[Any], Awaitable[None]] | None = None) -> Any:
    """Follow partition 0 of a topic from its beginning; the broker is asked often only if `on_record` must be quick."""
    follower = Follower(on_record)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=250 if on_record is None else 20,
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    task = asyncio.create_task(follower._run(consumer))
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


async def paced(
    events: Iterable[tuple[str, Event]], per_s: float, send: Callable[[Sequence[tuple[str, Event]]], Awaitable[None]]
) -> None:
    """Send events one by one, at an even pace whatever each send takes."""
    begin = time.monotonic()
    async with asyncio.TaskGroup() as sending:
        for number, event in enumerate(events):
            await asyncio.sleep(max(0.0, begin + number / per_s - time.monotonic()))
            sending.create_task(_one(send, event))


async def _one(send: Callable[[Sequence[tuple[str, Event]]], Awaitable[None]], event: tuple[str, Event]) -> None:
    await send([event])


def stage_millis(before: Metrics, after: Metrics, count: int) -> dict[str, float]:
    """Milliseconds a thing in every step of the stages, over `count` things. Steps of several batches overlap."""
    name = "dedup_stage_seconds_sum"
    return {
        "/".join(step): 1000 * (value - before.get((family, labels), 0.0)) / count
        for (family, labels), value in after.items()
        if family == name and (step := _in_order(labels))
    }


def _in_order(labels: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(labels, key=lambda word: word not in ("embed", "decide")))


def mean_batch(before: Metrics, after: Metrics, stage: str) -> float:
    """Events in an average batch."""
    total, count = (
        after.get((f"dedup_batch_size_{part}", frozenset({stage})), 0.0)
        - before.get((f"dedup_batch_size_{part}", frozenset({stage})), 0.0)
        for part in ("sum", "count")
    )
    return total / count if count else 0.0
