"""Appends over a connection that goes silent in the middle of one."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.produce import ProduceRequest

from streams.errors import Fatal, Retryable
from streams.kafka import producer as room
from streams.kafka.partition import read_to_end
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topics, create_topics
from streams.local import LocalStack

pytestmark = pytest.mark.stack


async def test_what_comes_later_never_overtakes_what_is_sent_again(
    broker: LocalStack, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later record of an id that stands before an earlier one makes that one stale, and its verdict is never said."""
    monkeypatch.setattr(room, "_ANSWER_MS", 500)
    at, topics = broker.endpoints.kafka, Topics(prefix)
    await create_topics(at, topics)
    producer = Producer(at, topics.max_message_bytes, {})
    messages = [Message(None, f"{n:04}".encode() * 500, 0) for n in range(600)]  # three batches of ours, 75 of 16 KB
    await producer.append(topics.log.name, [Message(None, b"first", 0)])
    client = producer._producer.client  # type: ignore[union-attr]
    send, silent = client.send, True

    async def goes_silent(node: Any, request: Any, **options: Any) -> Any:
        nonlocal silent
        if isinstance(request, ProduceRequest) and silent:
            silent = False
            await asyncio.sleep(0.5)
            raise RequestTimedOutError
        return await send(node, request, **options)

    client.send = goes_silent
    failed = 0
    while True:
        try:
            offsets = await producer.append(topics.log.name, messages)
            break
        except Retryable:
            failed += 1
    await producer.close()
    assert failed == 1
    values = {r.offset: r.value async for r in read_to_end(at, topics.log.name, 0, 0)}
    assert [values[offset] for offset in offsets] == [message.value for message in messages]
    firsts = list(dict.fromkeys(values.values()))
    assert firsts == [b"first", *(message.value for message in messages)]


async def test_one_message_may_be_as_large_as_its_topic_takes(tansu: LocalStack, prefix: str) -> None:
    topics = Topics(prefix, max_message_bytes=3_000_000)
    await create_topics(tansu.endpoints.kafka, topics)
    producer = Producer(tansu.endpoints.kafka, topics.max_message_bytes, {})
    sizes = [10, 2_900_000, 10, 400_000, 10]
    messages = [Message(b"k", bytes(size), 0) for size in sizes]
    offsets = await producer.append(topics.dead_letters.name, messages)
    assert offsets == list(range(5))
    with pytest.raises(Fatal, match="max_message_bytes"):
        await producer.append(topics.dead_letters.name, [Message(b"k", bytes(3_200_000), 0)])
    await producer.close()


async def test_long_headers_count(tansu: LocalStack, prefix: str) -> None:
    topics = Topics(prefix)
    await create_topics(tansu.endpoints.kafka, topics)
    producer = Producer(tansu.endpoints.kafka, topics.max_message_bytes, {})
    messages = [Message(b"k", b"", 0, {"why": b"x" * 4000, "\u00fc" * 100: b""}) for _ in range(600)]
    assert await producer.append(topics.dead_letters.name, messages) == list(range(600))
    await producer.close()


async def test_without_a_partition_the_key_chooses_as_java_does(tansu: LocalStack, prefix: str) -> None:
    topics = Topics(prefix, design_partitions=4)
    await create_topics(tansu.endpoints.kafka, topics)
    producer = Producer(tansu.endpoints.kafka, topics.max_message_bytes, {})
    # Of Kafka's own UtilsTest: murmur2 of these keys.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    await producer.append(topics.designs.name, [Message(key, b"v") for key in hashes])
    await producer.close()
    found = {
        record.key: partition
        for partition in range(4)
        async for record in read_to_end(tansu.endpoints.kafka, topics.designs.name, partition, 0)
    }
    assert found == {key: (value & 0x7FFFFFFF) % 4 for key, value in hashes.items()}
