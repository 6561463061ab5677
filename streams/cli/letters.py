"""Reading `dedup.dead-letters`, however many there are: as they come, without their values, which may be large."""

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import ConsumerRecord

from streams.cli.cluster import Cluster
from streams.events import decode_record
from streams.kafka.dead_letters import POINTER, from_record

_DELETE_SEEN_MS: Final = 24 * 3600 * 1000
"""No broker removes the tombstone of a compacted topic sooner than that, unless it is told to; ours in 30 days."""

Place = tuple[str, bytes | None]
"""Source partition and key."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its value. pointer: the original was too large to be kept with it. size: of the value."""

    offset: int
    source: str
    source_offset: int
    key: bytes | None
    reason: str
    message: str
    timestamp_ms: int
    pointer: bool
    size: int | None

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self.source.rpartition("/")[0]

    @property
    def partition(self) -> int:
        """And its partition."""
        return int(self.source.rpartition("/")[2])


def _letter_of(record: Any) -> Letter | None:
    found = from_record(record)
    if found is None:
        return None
    return Letter(
        found.offset,
        found.source,
        found.source_offset,
        found.key,
        found.reason,
        found.message,
        found.timestamp_ms,
        POINTER in dict(record.headers),
        None if found.value is None else len(found.value),
    )


async def all_letters(cluster: Cluster) -> AsyncGenerator[Letter, None]:
    """Every dead letter, oldest first."""
    topic = cluster.topics.dead_letters.name
    async with aclosing(cluster.read(topic, 0, await cluster.beginning(topic, 0))) as records:
        async for record in records:
            if (letter := _letter_of(record)) is not None:
                yield letter


async def newest_letters(cluster: Cluster, limit: int) -> AsyncGenerator[Letter, None]:
    """The `limit` newest ones, newest first."""
    topic = cluster.topics.dead_letters.name
    first, high = await cluster.beginning(topic, 0), await cluster.end(topic, 0)
    while limit and high > first:
        low = max(first, high - limit)  # fewer when there are markers among them
        async with aclosing(cluster.read(topic, 0, low, high)) as records:
            page = [letter async for record in records if (letter := _letter_of(record)) is not None]
        for letter in reversed(page):
            yield letter
        limit, high = limit - len(page), low


async def records_at(cluster: Cluster, offsets: Sequence[int]) -> AsyncGenerator[tuple[Letter, ConsumerRecord], None]:
    """Those of the dead letters at some ascending offsets that exist, with their records."""
    topic = cluster.topics.dead_letters.name
    first, end = await cluster.beginning(topic, 0), await cluster.end(topic, 0)
    wanted = [offset for offset in offsets if first <= offset < end]
    for low, high in _stretches(wanted):
        async with aclosing(cluster.read(topic, 0, low, high)) as records:
            async for record in records:
                if (letter := _letter_of(record)) is not None:
                    yield letter, record


async def letters_at(cluster: Cluster, offsets: Sequence[int]) -> AsyncGenerator[Letter, None]:
    """Those of the dead letters at some ascending offsets that exist."""
    async with aclosing(records_at(cluster, offsets)) as records:
        async for letter, _ in records:
            yield letter


def _stretches(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending offsets as ranges without holes: (first, last + 1)."""
    ranges: list[tuple[int, int]] = []
    for offset in offsets:
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return ranges


async def last_offsets(cluster: Cluster, letters: Sequence[Letter]) -> dict[Place, int]:
    """For every source partition and key of some letters: the offset of the key's last event, if one came later."""
    first: dict[str, int] = {}
    keys: defaultdict[str, set[bytes | None]] = defaultdict(set)
    for one in letters:
        first[one.source] = min(first.get(one.source, one.source_offset), one.source_offset)
        keys[one.source].add(one.key)
    last: dict[Place, int] = {}
    forgetful = set()
    oldest_ms = min((one.timestamp_ms for one in letters), default=0)
    for source, start in first.items():
        topic, _, partition = source.rpartition("/")
        if topic not in {known.name for known in cluster.topics.all()}:
            continue
        # From the one after: the letter's own event may be gone by now.
        beginning = await cluster.beginning(topic, int(partition))
        compacted = topic == cluster.topics.catalog.name
        if beginning > start + 1 or (compacted and oldest_ms < time.time() * 1000 - _DELETE_SEEN_MS):
            forgetful.add(source)
        async with aclosing(cluster.read(topic, int(partition), max(beginning, start + 1))) as records:
            async for record in records:
                if record.key in keys[source]:
                    last[source, record.key] = record.offset
    if forgetful:
        await _remember(cluster, {source: keys[source] for source in forgetful}, last)
    return last


async def _remember(cluster: Cluster, keys: dict[str, set[bytes | None]], last: dict[Place, int]) -> None:
    """Add what a source topic has forgotten: every event of it is in the log or the dead letters, which forget
    nothing."""
    places = {(source, key) for source, some in keys.items() for key in some}

    def see(place: Place, offset: int) -> None:
        if place in places:
            last[place] = max(offset, last.get(place, offset))

    for shard in range(cluster.topics.shards):
        async with aclosing(cluster.read(cluster.topics.log.name, shard)) as records:
            async for record in records:
                entry = decode_record(record.value)
                see((entry.source, entry.id.encode()), entry.src)
    async for letter in all_letters(cluster):
        see((letter.source, letter.key), letter.source_offset)
