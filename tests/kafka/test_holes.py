"""Offsets without a record, at the beginning of a partition, on real Apache Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from streams.errors import Fatal
from streams.kafka.delivery import DeliveryApp, Flow, pump
from streams.kafka.partition import read_to_end
from streams.local import LocalStack
from tests.kafka.working import Work

pytestmark = [pytest.mark.stack, pytest.mark.kafka]

COMPACTED = {
    "cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.0", "delete.retention.ms": "0",
}  # fmt: skip


@asynccontextmanager
async def reading(bootstrap: str, topic: str, folder: Path) -> AsyncIterator[tuple[DeliveryApp, Work]]:
    """An app of a new group that reads one topic."""
    app, work = DeliveryApp(
        f"{topic}.group", stop_grace_s=1, broker=f"kafka://{bootstrap}", datadir=str(folder), broker_session_timeout=6,
        broker_heartbeat_interval=1,
    ), Work()  # fmt: skip

    async def read(partition: int, low: int, high: int) -> list[Any]:
        try:
            return [r async for r in read_to_end(bootstrap, topic, partition, low, high, compacted=True)]
        except Fatal:  # gone for good, as in streams/kafka/app.py
            return []

    async def agent(stream: Any) -> None:
        await pump(app, stream, work, Flow(32, 0.005, 2), read, compacted=True)

    app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), name=topic)(agent)
    await app.start()
    try:
        yield app, work
    finally:
        await app.stop()


@asynccontextmanager
async def topic_of(kafka: LocalStack, name: str, config: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    """A topic of one partition: an admin client, and a function that appends a record."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.endpoints.kafka)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.endpoints.kafka)
    await admin.start()
    await producer.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])

        async def append(key: bytes, age_s: float = 0.0) -> None:
            at_ms = int(1000 * (time.time() - age_s))
            await producer.send_and_wait(name, b"v", key=key, partition=0, timestamp_ms=at_ms)

        yield admin, append
    finally:
        await producer.stop()
        await admin.close()


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not await what():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_what_lies_behind_a_hole_after_the_first_offset_is_committed(
    kafka: LocalStack, prefix: str, tmp_path: Path
) -> None:
    """Else a first start on a compacted catalogue waits for it for ever (rule 12)."""
    topic, at = f"{prefix}compacted", kafka.endpoints.kafka
    async with topic_of(kafka, topic, COMPACTED) as (_, append):
        for key in (b"a", b"b", b"c", b"b", b"c"):
            await append(key, age_s=120)
        for key in (b"d", b"e"):  # each closes a segment
            await asyncio.sleep(0.2)
            await append(key)

        async def compacted() -> bool:
            left = [record.offset async for record in read_to_end(at, topic, 0, 0, compacted=True)]
            return left[0] == 0 and not {1, 2} & set(left)

        await until(compacted)
        async with reading(at, topic, tmp_path) as (app, work):

            async def committed() -> bool:
                return app.assigned() == {(topic, 0): 7}

            await until(committed)
            assert work.done == [0, 3, 4, 5, 6]
            assert app.lag() == {topic: 0}


async def test_records_that_are_gone_are_no_backlog(kafka: LocalStack, prefix: str, tmp_path: Path) -> None:
    """A worker would take it for a standstill, and end every two minutes."""
    topic, at = f"{prefix}emptied", kafka.endpoints.kafka
    async with topic_of(kafka, topic, {}) as (admin, append):
        for _ in range(10):
            await append(b"k")
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(10)})
        async with reading(at, topic, tmp_path) as (app, work):

            async def idle() -> bool:
                return bool(app.assigned()) and app.lag() == {topic: 0}

            await until(idle)
            await append(b"k")

            async def committed() -> bool:
                return app.assigned() == {(topic, 0): 11}

            await until(committed)
            assert work.done == [10]
