"""A consumer is stopped while its fetches wait to be tried again, because the broker has just gone."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest

from streams.kafka.client import end_fetches
from streams.kafka.delivery import DeliveryApp
from streams.kafka.topics import Topics, create_topics
from streams.local import LocalStack

pytestmark = pytest.mark.stack


async def lose_the_broker(consumer: Any) -> None:
    """From now on fetches fail, and what failed waits for an hour. Returns when one waits."""
    send, failed = consumer._client.send, asyncio.Event()

    async def send_or_fail(node: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            failed.set()
            raise KafkaConnectionError("the connection is closed")
        return await send(node, request, **options)

    consumer._fetcher._retry_backoff = 3600
    consumer._client.send = send_or_fail
    await asyncio.wait_for(failed.wait(), 10)


@pytest.fixture
async def consumer(tansu: LocalStack, prefix: str) -> Any:
    topics = Topics(prefix)
    await create_topics(tansu.endpoints.kafka, topics)
    consumer = AIOKafkaConsumer(bootstrap_servers=tansu.endpoints.kafka)
    await consumer.start()
    partition = TopicPartition(topics.catalog.name, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    await lose_the_broker(consumer)
    yield consumer
    await consumer._client.close()


async def test_a_consumer_whose_fetches_were_ended_stops(consumer: Any) -> None:
    await end_fetches(consumer)
    await consumer.stop()
    assert not any(connection.connected() for connection in consumer._client._conns.values())


async def test_without_that_aiokafka_cancels_whoever_stops_it(consumer: Any) -> None:
    """When this fails, `end_fetches` is not needed any more."""
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()


async def test_a_consumer_that_was_never_started_has_none_to_end(tansu: LocalStack) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=tansu.endpoints.kafka)
    await end_fetches(consumer)
    await consumer.stop()


async def test_a_worker_stops(tansu: LocalStack, prefix: str, tmp_path: Any) -> None:
    topics = Topics(prefix)
    await create_topics(tansu.endpoints.kafka, topics)
    app = DeliveryApp(
        f"{prefix}group", stop_grace_s=1, broker=f"kafka://{tansu.endpoints.kafka}", datadir=str(tmp_path),
        broker_session_timeout=6, broker_heartbeat_interval=1,
    )  # fmt: skip

    @app.agent(app.topic(topics.catalog.name, value_serializer="raw", key_serializer="raw"))  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    await app.start()
    async with asyncio.timeout(60):
        while not app.assigned():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    consumer = app._consumer._thread._consumer
    asyncio.run_coroutine_threadsafe(lose_the_broker(consumer), consumer._client._loop).result(20)
    await asyncio.wait_for(app.stop(), 30)
    assert not any(connection.connected() for connection in consumer._client._conns.values())
