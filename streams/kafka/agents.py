"""What the Faust agents do with a batch: topic -> stage -> topic, and what becomes a dead letter."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal

import structlog

from streams import metrics
from streams.decide.checkpoint import Superseded
from streams.decide.stage import Shard
from streams.decide.things import Entry
from streams.embed.stage import EmbedStage, SourceEvent
from streams.errors import Fatal, Invalid
from streams.events import LogRecord, Unreadable, encode_record
from streams.kafka.dead_letters import MESSAGE_CHARS, Flood, FloodGate, flood_message, to_message
from streams.kafka.delivery import DeliveryApp, Stale
from streams.kafka.ports import entry_of
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topics
from streams.retry import patiently

_log = structlog.get_logger(__name__)

_TAKEOVERS: Final = 5
"""How often a batch is taken up again after another owner wrote, before that is an error."""


class EmbedWork:
    """Events of one source topic into log records and dead letters."""

    def __init__(
        self,
        kind: Literal["design", "item"],
        stage: EmbedStage,
        producer: Producer,
        topics: Topics,
        tenants: Sequence[str],
        flood: FloodGate,
    ) -> None:
        self._kind: Literal["design", "item"] = kind
        self._stage = stage
        self._producer = producer
        self._topics = topics
        self._shards = {tenant: shard for shard, tenant in enumerate(tenants)}
        self._flood = flood

    async def prepare(self, events: Sequence[Any]) -> list[tuple[SourceEvent, LogRecord | Invalid]]:
        """Records, or reasons, of a batch; several batches may be on their way."""
        most = self._topics.most_bytes
        sources = [_source_event(self._kind, event.message, most) for event in events]
        metrics.batch_size.labels("embed").observe(len(sources))
        return list(zip(sources, await self._stage.embed(sources), strict=True))

    async def finish(self, events: Sequence[Any], prepared: Sequence[tuple[SourceEvent, LogRecord | Invalid]]) -> None:
        """Append in source order. All of it is acknowledged by the broker before the next batch's turn."""
        try:
            self._flood.admit(
                (source, answer.reason if isinstance(answer, Invalid) else "") for source, answer in prepared
            )
        except Flood as flood:
            marker = [flood_message(flood)]
            await patiently("embed", "kafka", lambda: self._producer.append(self._topics.dead_letters.name, marker))
            raise
        letters = [
            to_message(source, answer, self._topics.max_message_bytes)
            for source, answer in prepared
            if isinstance(answer, Invalid)
        ]
        records = [answer for _, answer in prepared if isinstance(answer, LogRecord)]
        messages = [
            Message(None, encode_record(record), shard) for record in records for shard in self._shards_of(record)
        ]
        with metrics.stage_seconds.labels("embed", "append").time():
            for topic, batch in ((self._topics.dead_letters.name, letters), (self._topics.log.name, messages)):
                if batch:
                    await patiently("embed", "kafka", lambda t=topic, b=batch: self._producer.append(t, b))  # type: ignore[misc]
        for source, answer in prepared:
            topic = source.source.rpartition("/")[0]
            if isinstance(answer, Invalid):
                metrics.dead_letters.labels(topic, answer.reason).inc()
                error = str(answer)[:MESSAGE_CHARS]
                _log.warning(
                    "dead letter", source=source.source, offset=source.offset, reason=answer.reason, error=error
                )
            else:
                metrics.events.labels(topic, answer.kind).inc()
        metrics.progress_timestamp.labels("embed").set_to_current_time()

    def _shards_of(self, record: LogRecord) -> Sequence[int]:
        """A tombstone names no tenant: every shard may hold its id."""
        return (self._shards[record.tenant],) if record.pictures else tuple(self._shards.values())


def _source_event(kind: Literal["design", "item"], message: Any, max_bytes: int) -> SourceEvent:
    value = message.value
    if value is not None and len(value) > max_bytes:  # the broker measures it compressed
        value = Unreadable(
            f"{len(value)} bytes, more than the {max_bytes} that max_message_bytes allows with its envelope".encode()
        )
    return SourceEvent(
        kind=kind,
        source=f"{message.topic}/{message.partition}",
        offset=message.offset,
        timestamp_ms=int(message.timestamp * 1000),
        key=message.key,
        value=value,
    )


class DecideWork:
    """Log records into verdicts, each shard by its owner."""

    def __init__(
        self,
        app: DeliveryApp,
        topic: str,
        make: Callable[[int], Shard],
        log_ids: Mapping[int, str],
        sources: frozenset[str],
        source_end: Callable[[str, int], Awaitable[int]],
    ) -> None:
        """sources: the topics whose events the log holds. source_end: where a partition of one ends."""
        self._sources = sources
        self._app = app
        self._source_end = source_end
        self._topic = topic
        self._make = make
        self._log_ids = log_ids
        self._shards: dict[int, Shard] = {}
        self._generations: dict[int, int] = {}
        self._taking: dict[int, asyncio.Lock] = {}

    async def prepare(self, events: Sequence[Any]) -> list[Entry]:
        """The entries of a batch; makes no effect."""
        return [entry_of(_Record(event.message)) for event in events]

    async def finish(self, events: Sequence[Any], prepared: Sequence[Entry]) -> None:
        """Decide, shard by shard."""
        pairs = sorted(zip(events, prepared, strict=True), key=lambda pair: pair[0].message.partition)
        for number, group in groupby(pairs, key=lambda pair: pair[0].message.partition):
            members = list(group)
            await self._decide(number, members[0][0], [entry for _, entry in members])

    async def _decide(self, number: int, event: Any, entries: Sequence[Entry]) -> None:
        for attempt in range(_TAKEOVERS):
            if not self._app.is_current(event):
                raise Stale
            try:
                first = self._committed().get(number, entries[0].position)
                shard = await self.own(number, first, event.message.generation_id)
                await shard.process(entries)
                return
            except Superseded as error:
                _log.warning("another owner wrote: taking up again", shard=number, attempt=attempt, error=str(error))
                self._generations.pop(number, None)
        raise Superseded(f"shard {number} was taken up {_TAKEOVERS} times and another owner wrote each time")

    async def own(self, number: int, first: int, generation: int) -> Shard:
        """The shard, taken over in this generation and decided up to `first`, the position that it delivers next. Stale
        when there is another one by now, which may deliver a later one."""
        async with self._taking.setdefault(number, asyncio.Lock()):
            if generation != self._app.consumer_generation_id:
                raise Stale
            shard = self._shards.get(number)
            if shard is None:
                shard = self._shards[number] = self._make(number)
            if self._generations.get(number) != generation:
                await shard.take_over(self._log_ids[number], first)
                await self._check_sources(shard)
                self._generations[number] = generation
                _log.info("took over", shard=number, next=shard.next)
            return shard

    async def _check_sources(self, shard: Shard) -> None:
        """Rule 5: the events of a source topic that was made anew would all look as if they had been applied."""
        for source, applied in shard.sources.items():
            topic, _, partition = source.rpartition("/")
            if topic not in self._sources:
                continue
            end = await self._source_end(topic, int(partition))
            if end <= applied:
                raise Fatal(
                    f"{topic}[{partition}] ends at {end}, but its event {applied} is in dedup.log: was the topic made"
                    " anew? Its events would be taken for old ones. Use another topic_prefix for a new installation"
                )

    def _committed(self) -> dict[int, int]:
        """The shards that are assigned to this worker, each with the position that was to be delivered next."""
        return {p: first or 0 for (topic, p), first in self._app.assigned().items() if topic == self._topic}

    async def tend(self) -> None:
        """To be called every second or so: take over what was assigned and is quiet, let go of what was revoked, seal
        what has waited long enough."""
        mine, generation = self._committed(), self._app.consumer_generation_id
        for number, first in mine.items():
            try:
                shard = await self.own(number, first, generation)
                await shard.idle()
            except Superseded:
                self._generations.pop(number, None)
            except Stale:
                return
        for number in set(self._shards) - set(mine):
            if self._app.gate.is_set():
                async with self._taking[number]:
                    self._generations.pop(number, None)
                    await self._shards.pop(number).close()

    def owned(self, number: int) -> Shard | None:
        """The shard, if this worker owns it now."""
        shard = self._shards.get(number)
        current = self._generations.get(number) == self._app.consumer_generation_id
        return shard if shard is not None and shard.is_open and current else None

    def awaited(self) -> list[int]:
        """The shards that are assigned to this worker and not taken over yet."""
        return [number for number in self._committed() if self.owned(number) is None]

    async def close(self) -> None:
        """Let go of every shard."""
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))  # each may wait for a store
        self._shards.clear()


class _Record:
    """Faust's message with the names of aiokafka's record."""

    def __init__(self, message: Any) -> None:
        self.offset = message.offset
        self.value = message.value
        self.timestamp = int(message.timestamp * 1000)
