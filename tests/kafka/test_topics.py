"""Topics and reading to the end, on both brokers: what holds on one must hold on the other."""

import asyncio
import contextlib
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.client import AIOKafkaClient

from streams.errors import Fatal, Retryable
from streams.kafka import partition
from streams.kafka.client import insist
from streams.kafka.partition import Ends, _Reader, committed_offsets, read_to_end
from streams.kafka.topics import Topic, Topics, create_topics
from streams.local import LocalStack, PortLease

pytestmark = pytest.mark.stack


@contextlib.asynccontextmanager
async def admin(stack: LocalStack) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=stack.endpoints.kafka)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def make(stack: LocalStack, name: str, partitions: int = 1, config: dict[str, str] | None = None) -> str:
    async with admin(stack) as client:
        answer = await client.create_topics([NewTopic(name, partitions, 1, topic_configs=config or {})])
        assert answer.topic_errors[0][1] == 0
    return name


async def send(
    stack: LocalStack, topic: str, values: Sequence[bytes | None], partition: int = 0, **producer: Any
) -> int:
    """Offset behind the last one acknowledged."""
    sender = AIOKafkaProducer(bootstrap_servers=stack.endpoints.kafka, linger_ms=2, **producer)
    await sender.start()
    try:
        sent = [
            await sender.send(topic, value, key=b"k%d" % (i % 3), partition=partition) for i, value in enumerate(values)
        ]
        return int(max(record.offset for record in await asyncio.gather(*sent))) + 1
    finally:
        await sender.stop()


async def read(stack: LocalStack, topic: str, start: int, end: int | None = None, **more: Any) -> list[ConsumerRecord]:
    partition = more.pop("partition", 0)
    async with asyncio.timeout(60):
        return [r async for r in read_to_end(stack.endpoints.kafka, topic, partition, start, end, **more)]


def offsets(records: list[ConsumerRecord]) -> list[int]:
    return [record.offset for record in records]


class TestCreate:
    async def test_makes_them_once(self, broker: LocalStack, prefix: str) -> None:
        topics = Topics(prefix, design_partitions=3, catalog_partitions=2, shards=2)
        names = [topic.name for topic in topics.all()]
        assert await create_topics(broker.endpoints.kafka, topics) == names
        assert await create_topics(broker.endpoints.kafka, topics) == []
        async with admin(broker) as client:
            told = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics(names)}
        assert told == dict(zip(names, [3, 2, 2, 2, 1], strict=True))

    async def test_at_once_from_two_sides(self, broker: LocalStack, prefix: str) -> None:
        topics = Topics(prefix)
        both = await asyncio.gather(*[create_topics(broker.endpoints.kafka, topics) for _ in range(2)])
        assert sorted(both[0] + both[1]) == sorted(t.name for t in topics.all())

    async def test_makes_only_what_is_missing(self, broker: LocalStack, prefix: str) -> None:
        topics = Topics(prefix)
        await make(broker, topics.verdicts.name)
        assert topics.verdicts.name not in await create_topics(broker.endpoints.kafka, topics)

    async def test_another_number_of_partitions_is_fatal(self, broker: LocalStack, prefix: str) -> None:
        await create_topics(broker.endpoints.kafka, Topics(prefix, design_partitions=2))
        with pytest.raises(Fatal, match=r"designs\.generated has 2 partitions, the settings say 5"):
            await create_topics(broker.endpoints.kafka, Topics(prefix, design_partitions=5))

    @pytest.mark.parametrize("name", ["dedup.log", "designs.verdicts"])
    async def test_a_compacted_log_is_fatal(self, broker: LocalStack, prefix: str, name: str) -> None:
        await make(broker, prefix + name, config={"cleanup.policy": "compact"})
        with pytest.raises(Fatal, match=r"cleanup\.policy=compact"):
            await create_topics(broker.endpoints.kafka, Topics(prefix))

    async def test_a_log_that_forgets_is_told(
        self, broker: LocalStack, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await make(broker, prefix + "dedup.log", config={"cleanup.policy": "delete", "retention.ms": "86400000"})
        with caplog.at_level(logging.WARNING):
            await create_topics(broker.endpoints.kafka, Topics(prefix))
        assert "it will lose its beginning" in caplog.text

    async def test_no_broker_is_retryable(self) -> None:
        with contextlib.closing(PortLease()) as ports, pytest.raises(Retryable, match="gave no answer"):
            await create_topics(f"127.0.0.1:{ports.take()}", Topics(), timeout_s=0.5)

    @pytest.mark.kafka
    async def test_too_many_replicas_is_fatal(self, kafka: LocalStack, prefix: str) -> None:
        with pytest.raises(Fatal, match="replicate"):
            await create_topics(kafka.endpoints.kafka, Topics(prefix, replication_factor=3))

    @pytest.mark.kafka
    async def test_a_bad_name_is_fatal(self, kafka: LocalStack) -> None:
        with pytest.raises(Fatal, match="InvalidTopic"):
            await create_topics(kafka.endpoints.kafka, Topics("no good "))

    async def test_pictures_fit(self, broker: LocalStack, prefix: str) -> None:
        topics = Topics(prefix, max_message_bytes=10_000_000)
        await create_topics(broker.endpoints.kafka, topics)
        for topic in (topics.designs, topics.catalog, topics.dead_letters):
            await send(broker, topic.name, [b"x" * 10_000_000, b"small"], max_request_size=11_000_000)
            assert [len(r.value) for r in await read(broker, topic.name, 0)] == [10_000_000, 5]


class TestReadToEnd:
    async def test_an_empty_topic(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        assert await read(broker, topic, 0) == []
        assert await read(broker, topic, 0, 10) == []

    @pytest.mark.parametrize("sent", [1, 7, 300])
    async def test_every_range(self, broker: LocalStack, prefix: str, sent: int) -> None:
        topic = await make(broker, prefix + "t", 2)
        await send(broker, topic, [b"other"] * 3, partition=0)
        await send(broker, topic, [b"%d" % i for i in range(sent)], partition=1)
        records = await read(broker, topic, 0, partition=1)
        assert offsets(records) == list(range(sent))
        assert [r.value for r in records] == [b"%d" % i for i in range(sent)]
        for start, end in [
            (0, 1),
            (sent // 2, None),
            (sent // 2, sent),
            (sent - 1, None),
            (sent, None),
            (0, sent + 50),
        ]:
            got = await read(broker, topic, start, end, partition=1)
            assert offsets(got) == list(range(sent))[start:end]

    async def test_what_was_acknowledged_is_read(self, broker: LocalStack, prefix: str) -> None:
        topic, end = await make(broker, prefix + "t"), 0
        for size in [1, 5, 2, 17, 3, 1, 64]:
            end = await send(broker, topic, [b"v"] * size)
            assert offsets(await read(broker, topic, 0)) == list(range(end))

    async def test_many_megabytes_in_small_answers(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        end = await send(broker, topic, [b"%06d" % i + b"x" * 20_000 for i in range(1000)])
        records = await read(broker, topic, 0, max_bytes=500_000)
        assert offsets(records) == list(range(end))
        assert [int(r.value[:6]) for r in records] == list(range(end))

    @pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
    async def test_compressed(self, broker: LocalStack, prefix: str, codec: str) -> None:
        topic = await make(broker, prefix + "t")
        await send(broker, topic, [b"x" * 100] * 50, compression_type=codec)
        assert offsets(await read(broker, topic, 13)) == list(range(13, 50))

    async def test_a_busy_writer_does_not_keep_it(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        end = await send(broker, topic, [b"v"] * 100)
        sender = AIOKafkaProducer(bootstrap_servers=broker.endpoints.kafka)
        await sender.start()

        async def write() -> None:
            while True:
                await sender.send_and_wait(topic, b"more", partition=0)

        writer = asyncio.create_task(write())
        try:
            got = offsets(await read(broker, topic, 0))
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            await sender.stop()
        assert got == list(range(len(got)))
        assert len(got) >= end

    async def test_waits_for_a_required_end(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        await send(broker, topic, [b"v"] * 3)
        reading = asyncio.create_task(read(broker, topic, 0, 6, require_end=True))
        await asyncio.sleep(0.3)
        assert not reading.done()
        await send(broker, topic, [b"v"] * 4)
        assert offsets(await reading) == list(range(6))
        with pytest.raises(Retryable, match="wanted up to 9; the log ends at 7"):
            await read(broker, topic, 0, 9, require_end=True, timeout_s=0.6)

    async def test_a_start_beyond_the_end_is_fatal(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        await send(broker, topic, [b"v"] * 3)
        assert await read(broker, topic, 3) == []
        for start in (4, 1000):
            with pytest.raises(Fatal, match=rf"\b{start}\b"):
                await read(broker, topic, start, timeout_s=1)
        with pytest.raises(Fatal, match="no offset"):
            await read(broker, topic, -1)

    async def test_a_topic_made_anew_is_fatal(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        end = await send(broker, topic, [b"v"] * 5)
        async with admin(broker) as client:
            await client.delete_topics([topic])
        await _until(lambda: _exists(broker, topic), lambda there: not there)
        await make(broker, topic)
        await send(broker, topic, [b"v"] * 2)
        with pytest.raises(Fatal, match="made anew"):
            await read(broker, topic, end, timeout_s=1)

    async def test_offsets_without_records_up_to_the_end(self, tansu: LocalStack, prefix: str) -> None:
        topic = await make(tansu, prefix + "t")
        await send(tansu, topic, [b"v"] * 3)
        fetch = _Reader._fetch

        async def emptied(reader: _Reader) -> bytes:
            raw = await fetch(reader)
            reader.high_watermark = 9
            return raw

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Reader, "_fetch", emptied)
            lenient: dict[str, Any] = {"compacted": True, "timeout_s": 0.6}
            assert offsets(await read(tansu, topic, 0, **lenient)) == [0, 1, 2]
            assert offsets(await read(tansu, topic, 1, 9, require_end=True, **lenient)) == [1, 2]
            assert offsets(await read(tansu, topic, 5, 7, **lenient)) == []
            assert offsets(await read(tansu, topic, 1, 3)) == [1, 2]
            with pytest.raises(Retryable, match="no record from 3 on, wanted up to 9"):
                await read(tansu, topic, 0, timeout_s=0.6)

    async def test_nothing_to_read_asks_nobody(self) -> None:
        assert [r async for r in read_to_end("127.0.0.1:1", "t", 0, 5, 5)] == []

    async def test_a_missing_topic_is_retryable_and_not_made(self, broker: LocalStack, prefix: str) -> None:
        with pytest.raises(Retryable, match="UnknownTopic"):
            await read(broker, prefix + "nowhere", 0, timeout_s=0.5)
        topic = await make(broker, prefix + "t")
        with pytest.raises(Retryable, match="UnknownTopic"):
            await read(broker, topic, 0, partition=7, timeout_s=0.5)
        async with admin(broker) as client:
            assert prefix + "nowhere" not in await client.list_topics()

    async def test_no_broker_is_retryable(self) -> None:
        with contextlib.closing(PortLease()) as ports, pytest.raises(Retryable, match="gave no answer"):
            async for _ in read_to_end(f"127.0.0.1:{ports.take()}", "t", 0, 0, timeout_s=0.5):
                pass

    async def test_a_frozen_broker_is_retryable(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        end = await send(broker, topic, [b"x" * 5_000] * 100)
        got = []
        more: dict[str, Any] = {"require_end": True, "timeout_s": 1.0, "max_bytes": 50_000}
        try:
            with pytest.raises(Retryable):  # noqa: PT012 - the broker is frozen while it is read
                async for record in read_to_end(broker.endpoints.kafka, topic, 0, 0, end + 1, **more):
                    got.append(record.offset)
                    broker.broker.signal(signal.SIGSTOP)
            with pytest.raises(Retryable):
                await read(broker, topic, 0, timeout_s=0.5)
            with pytest.raises(Retryable):
                await create_topics(broker.endpoints.kafka, Topics(prefix), timeout_s=0.5)
        finally:
            broker.broker.signal(signal.SIGCONT)
        assert got == list(range(len(got)))
        assert offsets(await read(broker, topic, 0)) == list(range(end))

    async def test_may_be_left_early(self, broker: LocalStack, prefix: str) -> None:
        topic = await make(broker, prefix + "t")
        await send(broker, topic, [b"v"] * 10)
        async with aclosing(read_to_end(broker.endpoints.kafka, topic, 0, 2)) as records:
            async for record in records:
                assert record.offset == 2
                break


@pytest.mark.kafka
class TestHoles:
    """Offsets without a record: only Apache Kafka makes them."""

    async def test_compaction(self, kafka: LocalStack, prefix: str) -> None:
        settings = {"segment.ms": "50", "min.cleanable.dirty.ratio": "0.0", "delete.retention.ms": "0"}
        topic = await make(kafka, prefix + "t", config={"cleanup.policy": "compact", **settings})
        for _ in range(3):
            end = await send(kafka, topic, [b"v%d" % i for i in range(30)] + [None] * 3)
            await asyncio.sleep(0.1)
        end = await send(kafka, topic, [b"last"])  # closes the segment before it

        async def left() -> list[int]:
            return offsets(await read(kafka, topic, 0, compacted=True))

        await _until(left, lambda seen: len(seen) < 20)
        seen = await left()
        assert seen[-1] == end - 1
        for start in range(0, end, 7):
            for stop in (None, end, end + 5, start + 10, end - 1):
                expected = [o for o in seen if o >= start and (stop is None or o < stop)]
                assert (
                    offsets(await read(kafka, topic, start, stop, require_end=(stop or 0) <= end, compacted=True))
                    == expected
                )

    async def test_transaction_markers(self, kafka: LocalStack, prefix: str) -> None:
        topic = await make(kafka, prefix + "t")
        producer = AIOKafkaProducer(bootstrap_servers=kafka.endpoints.kafka, transactional_id=prefix)
        await producer.start()
        try:
            for _ in range(3):
                async with producer.transaction():
                    await producer.send_and_wait(topic, b"v", partition=0)
        finally:
            await producer.stop()
        assert offsets(await read(kafka, topic, 0)) == [0, 2, 4]
        assert offsets(await read(kafka, topic, 0, 6, require_end=True)) == [0, 2, 4]
        assert offsets(await read(kafka, topic, 5)) == []
        assert offsets(await read(kafka, topic, 1, 4)) == [2]

    async def test_a_lost_beginning_is_fatal(self, kafka: LocalStack, prefix: str) -> None:
        topic = await make(kafka, prefix + "t")
        await send(kafka, topic, [b"v"] * 10)
        async with admin(kafka) as client:
            await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=4)})
        with pytest.raises(Fatal, match="lost its beginning"):
            await read(kafka, topic, 0)
        assert offsets(await read(kafka, topic, 4)) == list(range(4, 10))

    async def test_all_records_deleted(self, kafka: LocalStack, prefix: str) -> None:
        topic = await make(kafka, prefix + "t")
        await send(kafka, topic, [b"v"] * 10)
        async with admin(kafka) as client:
            await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=10)})
        assert await read(kafka, topic, 10) == []


async def _exists(stack: LocalStack, topic: str) -> bool:
    async with admin(stack) as client:
        return topic in await client.list_topics()


async def _until(ask: Callable[[], Any], right: Callable[[Any], bool], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not right(await ask()):  # noqa: ASYNC110 - the broker sends no event
            await asyncio.sleep(0.2)


async def test_security_reaches_the_client() -> None:
    security = {"security_protocol": "SSL", "ssl_context": ssl.create_default_context()}
    with contextlib.closing(PortLease()) as ports, pytest.raises(Retryable):
        await create_topics(f"127.0.0.1:{ports.take()}", Topics(), security, timeout_s=0.3)
    with pytest.raises(ValueError, match="ssl_context"):
        await create_topics("127.0.0.1:1", Topics(), {"security_protocol": "SSL"})


async def test_committed_offsets_wait_for_a_broker_that_is_gone_again(
    tansu: LocalStack, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka says so with an assertion."""
    topic = Topic(await make(tansu, f"{prefix}topic"), 1)
    monkeypatch.setattr(AIOKafkaClient, "get_random_node", lambda _: None)
    with pytest.raises(Retryable, match="Did we not perform bootstrap"):
        await committed_offsets(tansu.endpoints.kafka, prefix, topic)


async def test_an_end_is_asked_for_again_after_a_failure(tansu: LocalStack, prefix: str) -> None:
    topic = await make(tansu, f"{prefix}topic")
    ends = Ends(tansu.endpoints.kafka)
    try:
        await send(tansu, topic, [b"one"])
        assert await ends.of(topic, 0, 0) == 1
        with pytest.raises(Retryable):
            await ends.of(f"{prefix}nothing", 0, 0)
        assert await ends.of(topic, 0, 1) == 1
    finally:
        await ends.close()


async def test_a_ledger_that_is_shorter_than_what_is_known_of_it_is_told_of(
    tansu: LocalStack, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each question ends before it can be sure: the embedded broker has no error for it."""
    monkeypatch.setattr(partition, "_BEYOND_END_S", 0.5)
    topic = await make(tansu, f"{prefix}topic")
    ends = Ends(tansu.endpoints.kafka, timeout_s=0.3)
    try:
        with pytest.raises(Retryable, match="ends at 0, before 3"):
            await ends.of(topic, 0, 3)
        await asyncio.sleep(0.3)
        with pytest.raises(Fatal, match="was the topic made anew"):
            await ends.of(topic, 0, 3)
    finally:
        await ends.close()


async def test_a_connection_that_was_just_lost_is_asked_again() -> None:
    """As uvloop says it to whoever writes before aiokafka has heard of the end."""
    answers: list[object] = [RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"), 7]

    async def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert await insist(ask, "nowhere:1", 5) == 7
    answers.append(RuntimeError("a mistake"))
    with pytest.raises(RuntimeError, match="a mistake"):
        await insist(ask, "nowhere:1", 5)
