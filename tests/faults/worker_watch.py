"""What a worker and its topics look like from outside, while things fail: memory, open files, metrics, positions."""

import asyncio
import contextlib
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from streams.kafka.partition import committed_offsets
from tests.service import Service, WorkerProcess

MB = 1 << 20


@dataclass
class Memory:
    """Resident memory of a process, some times a second: (monotonic seconds, bytes)."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def most_mb(self, since: float, until: float = float("inf")) -> float:
        """The largest value between two moments."""
        return max(size for at, size in self.samples if since <= at <= until) / MB


@contextlib.asynccontextmanager
async def memory_of(worker: WorkerProcess, every_s: float = 0.1) -> AsyncIterator[Memory]:
    """Measure for as long as the block lasts."""
    memory, process = Memory(), psutil.Process(worker.process.pid)

    async def measure() -> None:
        while True:
            memory.samples.append((time.monotonic(), process.memory_info().rss))
            await asyncio.sleep(every_s)

    task = asyncio.create_task(measure())
    try:
        yield memory
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def open_files(worker: WorkerProcess) -> int:
    """Files and connections."""
    return psutil.Process(worker.process.pid).num_fds()


def web_address(worker: WorkerProcess) -> str:
    """Where its HTTP server answers; empty until it does."""
    found = re.search(r"answering\s.*?address=(\S+)", worker.text())
    return found[1] if found else ""


def metrics_of(worker: WorkerProcess) -> list[Sample]:
    """What its /metrics says now; nothing while it does not answer."""
    try:
        with urllib.request.urlopen(f"{web_address(worker)}/metrics", timeout=5) as answer:  # noqa: S310 - our own
            families = text_string_to_metric_families(answer.read().decode())
            return [sample for family in families for sample in family.samples]
    except (OSError, ValueError):
        return []


def picked(samples: Sequence[Sample], name: str, **labels: str) -> list[Sample]:
    """Those with this name and these labels."""
    return [s for s in samples if s.name == name and labels.items() <= s.labels.items()]


def metric(worker: WorkerProcess, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels; 0 when there is none."""
    return sum(sample.value for sample in picked(metrics_of(worker), name, **labels))


class Positions:
    """How far everything is, asked of the broker itself. Apache Kafka: Tansu says its ends wrongly."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._consumer = AIOKafkaConsumer(bootstrap_servers=service.settings.kafka_bootstrap)

    async def __aenter__(self) -> "Positions":
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def _end(self, *names: str) -> int:
        topics = [topic for topic in self._service.topics.all() if topic.name in names]
        tps = [TopicPartition(topic.name, p) for topic in topics for p in range(topic.partitions)]
        ends = await self._consumer.end_offsets(tps)
        return sum(ends.values())

    async def sources(self) -> int:
        """Source events that were published."""
        return await self._end(self._service.topics.designs.name, self._service.topics.catalog.name)

    async def designs(self) -> int:
        """Designs that were published."""
        return await self._end(self._service.topics.designs.name)

    async def log(self) -> int:
        """Records in dedup.log."""
        return await self._end(self._service.topics.log.name)

    async def verdicts(self) -> int:
        """Verdicts that were said, copies included."""
        return await self._end(self._service.topics.verdicts.name)

    async def taken(self, stage: str) -> int:
        """Events that a group has acknowledged: `designs`, `catalog` or `decide`."""
        settings, topics = self._service.settings, self._service.topics
        topic = {"designs": topics.designs, "catalog": topics.catalog, "decide": topics.log}[stage]
        return sum((await committed_offsets(settings.kafka_bootstrap, f"{settings.group}-{stage}", topic)).values())

    async def settle(self, timeout_s: float) -> None:
        """Wait until every event is in the log and every record of the log decided, by acknowledged offsets."""

        async def settled() -> bool:
            embedded = await self.taken("designs") + await self.taken("catalog")
            return embedded == await self.sources() and await self.taken("decide") == await self.log()

        await self._service.until(settled, "every event is decided and acknowledged", timeout_s)
