"""What decide reads and writes, on Kafka: its shard's log and its ledger of verdicts."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from streams.decide.things import Entry, name_of
from streams.errors import Fatal
from streams.events import decode_record
from streams.kafka.partition import Ends, high_watermark, read_to_end
from streams.kafka.producer import Message, Producer, cloud_event
from streams.kafka.topics import Topics

_SLICE: Final = 2048


def entry_of(record: Any) -> Entry:
    """The log entry in a Kafka record."""
    return Entry(record.offset, decode_record(record.value), record.timestamp)


class KafkaLog:
    """`dedup.log` of one shard."""

    def __init__(self, bootstrap: str, topics: Topics, shard: int, security: Mapping[str, Any]) -> None:
        self._where = (bootstrap, topics.log.name, shard)
        self._security = security

    async def end(self) -> int:
        """The position after the last record."""
        return await high_watermark(*self._where, security=self._security)

    async def first(self) -> Entry | None:
        """The record at position 0; None while the log is empty. Fatal if it lost its beginning."""
        async for record in read_to_end(*self._where, 0, 1, security=self._security):
            entry = entry_of(record)
            if entry.record.kind != "config" or not entry.record.log_id:
                raise Fatal(f"{self._where[1]}[{self._where[2]}] does not begin with a config record")
            return entry
        return None

    async def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        """The records with low <= position < high, in slices."""
        entries: list[Entry] = []
        async for record in read_to_end(*self._where, low, high, security=self._security, require_end=True):
            entries.append(entry_of(record))
            if len(entries) == _SLICE:
                yield entries
                entries = []
        if entries:
            yield entries


class KafkaLedger:
    """`designs.verdicts` of one shard."""

    def __init__(
        self, bootstrap: str, topics: Topics, shard: int, producer: Producer, ends: Ends, security: Mapping[str, Any]
    ) -> None:
        self._where = (bootstrap, topics.verdicts.name, shard)
        self._producer = producer
        self._ends = ends
        self._security = security

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        """(offset, value) of every verdict from `offset` on, and the offset after the last one. Cheap when none is."""
        _, topic, shard = self._where
        if await self._ends.of(topic, shard, offset) == offset:
            return [], offset
        said = [
            (record.offset, record.value) async for record in read_to_end(*self._where, offset, security=self._security)
        ]
        return said, said[-1][0] + 1 if said else offset

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        """(offset, value) of the verdicts with low <= offset < high."""
        return [
            (record.offset, record.value)
            async for record in read_to_end(*self._where, low, high, security=self._security, require_end=True)
        ]

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append (design id, value) in order; returns their acknowledged offsets."""
        _, topic, shard = self._where
        return await self._producer.append(
            topic,
            [Message(design.encode(), value, shard, _headers(design, value)) for design, value in verdicts],
        )


def _headers(design: str, value: bytes) -> dict[str, bytes]:
    named = name_of(value)
    return cloud_event("verdict.revised" if named.revises else "verdict", named.verdict_id, design)
