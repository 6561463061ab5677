"""What decide's log and ledger do: in memory as on both brokers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from streams.decide.stage import Ledger, Log
from streams.decide.things import Entry
from streams.errors import Fatal, Retryable
from streams.events import LogRecord, Policy, Verdict, encode_event, encode_record
from streams.kafka.partition import Ends
from streams.kafka.ports import KafkaLedger, KafkaLog
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topics, create_topics
from streams.local import LocalStack
from tests import logs
from tests.doubles import MemoryLedger, MemoryLog

SHARDS = 2
CONFIG = LogRecord(kind="config", policy=Policy(similarity=0.9), log_id="a-log", encoder="one")


@dataclass(frozen=True, slots=True)
class Broker:
    """Logs and ledgers of some shards, and a way to append to the logs, which decide never does."""

    logs: Sequence[KafkaLog | MemoryLog]
    ledgers: Sequence[KafkaLedger | MemoryLedger]
    producer: Producer | None
    topics: Topics

    async def append(self, records: Sequence[LogRecord], shard: int = 0) -> list[int]:
        values, log = [encode_record(record) for record in records], self.logs[shard]
        if isinstance(log, MemoryLog):
            return log.append(values)
        assert self.producer is not None
        return await self.producer.append(self.topics.log.name, [Message(None, value, shard) for value in values])


@pytest.fixture(
    params=[
        "memory",
        pytest.param("tansu", marks=pytest.mark.stack),
        pytest.param("kafka", marks=[pytest.mark.stack, pytest.mark.kafka]),
    ]
)
async def where(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Broker]:
    topics = Topics(prefix=prefix, shards=SHARDS)
    if request.param == "memory":
        made = [MemoryLog(slice_size=7) for _ in range(SHARDS)], [MemoryLedger() for _ in range(SHARDS)]
        yield Broker(*made, None, topics)
        return
    stack: LocalStack = request.getfixturevalue(request.param)
    bootstrap = stack.endpoints.kafka
    await create_topics(bootstrap, topics)
    producer, ends = Producer(bootstrap, 1 << 20, {}), Ends(bootstrap)
    try:
        yield Broker(
            [KafkaLog(bootstrap, topics, shard, {}) for shard in range(SHARDS)],
            [KafkaLedger(bootstrap, topics, shard, producer, ends, {}) for shard in range(SHARDS)],
            producer,
            topics,
        )
    finally:
        await producer.close()
        await ends.close()


def items(count: int) -> list[LogRecord]:
    """Records with everything a record can have."""
    return [
        LogRecord(
            kind="upsert", id=f"i{n}é", source="c/0", src=n, encoder="one", tenant="t",
            pictures=(logs.picture(n + 2, 0, "one", 8),), title="“x”", version=n,
        )
        for n in range(count)
    ]  # fmt: skip


async def read(log: Log, low: int, high: int) -> list[Entry]:
    """All slices, each of which has something."""
    slices = [entries async for entries in log.read(low, high)]
    assert all(slices)
    return [entry for entries in slices for entry in entries]


def verdicts(first: int, count: int) -> list[tuple[str, bytes]]:
    """(design id, value) of some events; a ledger does not read them but for their names."""
    return [(f"d{n}é", verdict(n)) for n in range(first, first + count)]


def verdict(n: int) -> bytes:
    """The JSON of a verdict."""
    return encode_event(
        Verdict(
            verdict_id=f"v{n}", design_id=f"d{n}é", verdict="accept", similarity=0.0, threshold=0.9, neighbours=(),
            category="", tenant="t", generator="", encoder_version="one", policy_version="p", image_digests=(),
            position=n, shard=0, submitted_at_ms=0, advisory=False,
        )
    )  # fmt: skip


# The log


async def test_an_empty_log_ends_where_it_begins(where: Broker) -> None:
    log = where.logs[0]
    assert await log.end() == 0
    assert await log.first() is None
    assert await read(log, 0, 0) == []


async def test_what_is_appended_is_read_in_order_and_unchanged(where: Broker) -> None:
    log, records = where.logs[0], [CONFIG, *items(40)]
    offsets = await where.append(records[:15]) + await where.append(records[15:])
    assert offsets == list(range(41))
    assert await log.end() == 41
    entries = await read(log, 0, 41)
    assert [(entry.position, entry.record) for entry in entries] == list(enumerate(records))


async def test_a_range_includes_its_low_end_and_not_its_high_one(where: Broker) -> None:
    await where.append([CONFIG, *items(20)])
    for low, high in ((0, 1), (3, 9), (20, 21), (5, 5), (9, 4)):
        assert [entry.position for entry in await read(where.logs[0], low, high)] == list(range(low, high))


async def test_a_read_beyond_the_end_is_retryable_and_not_short(where: Broker) -> None:
    await where.append([CONFIG, *items(4)])
    got: list[Entry] = []

    async def beyond() -> None:
        async for entries in where.logs[0].read(2, 7):
            got.extend(entries)

    if isinstance(where.logs[0], MemoryLog):
        with pytest.raises(Retryable):
            await beyond()
        return
    # A broker is waited for, since its end may come late; what is appended meanwhile is read.
    reading = asyncio.create_task(beyond())
    await asyncio.sleep(0.5)
    assert not reading.done()
    await where.append(items(2))
    await reading
    assert [entry.position for entry in got] == [2, 3, 4, 5, 6]


async def test_the_first_record_names_the_log(where: Broker) -> None:
    await where.append([CONFIG])
    await where.append(items(3))
    first = await where.logs[0].first()
    assert first is not None
    assert (first.position, first.record) == (0, CONFIG)


async def test_a_log_that_does_not_begin_with_its_name_is_refused(where: Broker) -> None:
    await where.append(items(2))
    with pytest.raises(Fatal, match="config record"):
        await where.logs[0].first()


async def test_shards_are_apart(where: Broker) -> None:
    await where.append([CONFIG, *items(3)])
    await where.append([CONFIG], 1)
    assert [await log.end() for log in where.logs] == [4, 1]
    await where.ledgers[1].publish(verdicts(0, 2))
    assert (await where.ledgers[0].since(0)) == ([], 0)


# The ledger


async def test_an_empty_ledger_holds_nothing(where: Broker) -> None:
    ledger: Ledger = where.ledgers[0]
    assert await ledger.since(0) == ([], 0)
    assert await ledger.between(0, 0) == []


async def test_what_is_published_is_acknowledged_with_its_offsets_and_seen_at_once(where: Broker) -> None:
    ledger, said = where.ledgers[0], verdicts(0, 9)
    assert await ledger.publish(said[:1]) == [0]
    assert await ledger.since(0) == ([(0, said[0][1])], 1)
    assert await ledger.publish(said[1:]) == list(range(1, 9))
    assert await ledger.since(0) == ([(n, value) for n, (_, value) in enumerate(said)], 9)
    assert await ledger.since(7) == ([(n, said[n][1]) for n in (7, 8)], 9)
    assert await ledger.since(9) == ([], 9)


async def test_between_leaves_out_its_high_end(where: Broker) -> None:
    ledger, said = where.ledgers[0], verdicts(0, 6)
    await ledger.publish(said)
    for low, high in ((0, 6), (2, 4), (5, 6), (3, 3)):
        assert await ledger.between(low, high) == [(n, said[n][1]) for n in range(low, high)]


async def test_the_same_verdict_published_again_stands_there_again(where: Broker) -> None:
    ledger, said = where.ledgers[0], verdicts(0, 2)
    await ledger.publish(said)
    assert await ledger.publish(said[:1]) == [2]
    assert (await ledger.since(0))[0] == [(0, said[0][1]), (1, said[1][1]), (2, said[0][1])]


async def test_two_publishers_have_offsets_of_their_own_each_in_its_order(where: Broker) -> None:
    ledger = where.ledgers[0]
    one, other = verdicts(0, 30), verdicts(100, 30)
    mine, theirs = await asyncio.gather(_in_parts(ledger, one, 3), _in_parts(ledger, other, 4))
    assert sorted(mine + theirs) == list(range(60))
    assert mine == sorted(mine)
    assert theirs == sorted(theirs)
    held = dict((await ledger.since(0))[0])
    assert [held[offset] for offset in mine] == [value for _, value in one]
    assert [held[offset] for offset in theirs] == [value for _, value in other]


async def _in_parts(ledger: Ledger, said: Sequence[tuple[str, bytes]], size: int) -> list[int]:
    offsets = []
    for start in range(0, len(said), size):
        offsets += await ledger.publish(said[start : start + size])
    return offsets
