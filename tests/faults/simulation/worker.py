"""What a worker process runs: as streams/kafka/app.py puts it together, without Faust and brokers around it."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from streams.decide.stage import DecideOptions, Shard
from streams.embed.cache import PictureCache
from streams.embed.stage import EmbedStage
from streams.errors import Retryable
from streams.events import LogRecord, Policy, encode_record
from streams.kafka.agents import DecideWork, EmbedWork
from streams.kafka.dead_letters import FloodGate
from streams.kafka.delivery import Flow, Work, pump
from streams.kafka.producer import Message
from streams.kafka.topics import Topics
from streams.retry import patiently
from tests.doubles import MemoryEncoder
from tests.faults.simulation.group import App, Group
from tests.faults.simulation.ports import EncoderPort, LedgerPort, LogPort, ProducerPort, StorePort
from tests.faults.simulation.process import Process
from tests.faults.simulation.scenario import DIM, Checker, Fetcher, pictured

_TEND_S: Final = 1.5
_STOP_GRACE_S: Final = 2.0
_NO_FLOOD: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Setting:
    """What the operator of one process chose."""

    encoder: str
    policy: Policy
    index: Literal["milvus", "memory"]
    seal_rows: int
    log_id: str


@dataclass(frozen=True, slots=True)
class Around:
    """What one process reaches."""

    topics: Topics
    tenants: Sequence[str]
    groups: Mapping[str, Group]
    producer: ProducerPort
    logs: Sequence[LogPort]
    ledgers: Sequence[LedgerPort]
    store: Callable[[str], StorePort]


class Worker:
    """Both stages in one process."""

    def __init__(self, process: Process, setting: Setting, around: Around, rng: random.Random) -> None:
        self._process, self._setting, self._around, self._rng = process, setting, around, rng
        self.apps: list[App] = []
        self._pumps: list[asyncio.Task[Any]] = []
        self._tending: asyncio.Task[None] | None = None
        self._encoder = EncoderPort(
            process, MemoryEncoder(setting.encoder, DIM, lambda pixels: pictured(pixels, setting.encoder), 1)
        )
        self.decide: DecideWork | None = None

    async def run(self) -> None:
        """Work until something fails, which is raised."""
        around, setting = self._around, self._setting
        await self._encoder.start()
        for shard in range(len(around.tenants)):
            log_id = f"{setting.log_id}-{shard}"
            config = LogRecord(kind="config", policy=setting.policy, encoder=setting.encoder, log_id=log_id)
            message = Message(None, encode_record(config), shard)
            await patiently("embed", "kafka", lambda m=message: around.producer.append(around.topics.log.name, [m]))  # type: ignore[misc]
        log_ids = {shard: await self._log_id(shard) for shard in range(len(around.tenants))}
        flood = FloodGate(1.0, _NO_FLOOD, {})
        unused: Any = Checker()
        fetcher: Any = Fetcher()
        stage = EmbedStage(self._encoder, fetcher, unused, PictureCache(4), around.tenants, windows=True)
        producer: Any = around.producer
        for kind, topic in (("item", around.topics.catalog.name), ("design", around.topics.designs.name)):
            work = EmbedWork(kind, stage, producer, around.topics, around.tenants, flood)  # type: ignore[arg-type]
            self._pump(self._app(topic), work, compacted=kind == "item")
        self._decide(log_ids)
        self._tending = asyncio.create_task(self._tend())
        ends: list[asyncio.Future[Any]] = [self._tending, *(app.failed for app in self.apps)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for app in self.apps:
            if app.failed.done():
                raise app.failed.result()
        await self._tending

    async def stop(self) -> None:
        """A graceful stop."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await asyncio.gather(*(app.leave(_STOP_GRACE_S) for app in self.apps))
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self.decide is not None:
            await self.decide.close()

    async def _log_id(self, shard: int) -> str:
        first = await patiently("embed", "kafka", self._around.logs[shard].first)
        assert first is not None
        return first.record.log_id

    def _app(self, topic: str) -> App:
        app = App(self._around.groups[topic], self._process, self._rng)
        self.apps.append(app)
        return app

    def _pump(self, app: Any, work: Work[Any], *, compacted: bool) -> None:
        rng = self._rng
        flow = Flow(rng.randint(1, 5), rng.choice((0.0, 0.05)), rng.choice((1, 2, 3)))

        async def read(partition: int, low: int, high: int) -> Sequence[Any]:
            return [_Found(app.message(partition, offset)) for offset in range(low, high)]

        self._pumps.append(asyncio.create_task(pump(app, app, work, flow, read, compacted=compacted)))
        app.join()

    def _decide(self, log_ids: Mapping[int, str]) -> None:
        around, setting = self._around, self._setting
        options = DecideOptions(self._process.folder, setting.index, setting.seal_rows, seal_idle_s=0.0)

        def shard(number: int) -> Shard:
            return Shard(number, options, around.store, around.ledgers[number], around.logs[number])

        async def source_end(topic: str, partition: int) -> int:
            return len(around.groups[topic].partitions[partition])

        sources = frozenset({around.topics.designs.name, around.topics.catalog.name})
        app: Any = self._app(around.topics.log.name)
        self.decide = DecideWork(app, around.topics.log.name, shard, log_ids, sources, source_end)
        self._pump(app, self.decide, compacted=False)

    async def _tend(self) -> None:
        assert self.decide is not None
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 2) * _TEND_S)
            await self._process.at("tend")
            try:
                await self.decide.tend()
            except Retryable:
                continue


class _Found:
    """aiokafka's record of a message."""

    def __init__(self, message: Any) -> None:
        self.topic, self.partition, self.offset = message.topic, message.partition, message.offset
        self.key, self.value, self.timestamp = message.key, message.value, message.timestamp * 1000
