"""A consumer group, on both brokers."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.group import JoinGroupRequest

from streams.kafka.delivery import outlive_leaders
from streams.kafka.topics import Topics, create_topics
from streams.local import LocalStack

pytestmark = pytest.mark.stack


async def until_read_by(*members: AIOKafkaConsumer) -> None:
    """Wait until each partition of the two has one reader among the members."""
    async with asyncio.timeout(90):
        while sorted(p.partition for member in members for p in member.assignment()) != [0, 1]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_leader_that_leaves_while_another_member_joins_is_succeeded(broker: LocalStack, prefix: str) -> None:
    topics, group = Topics(prefix), f"{prefix}group"
    await create_topics(broker.endpoints.kafka, topics)

    def member() -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            topics.catalog.name, group_id=group, bootstrap_servers=broker.endpoints.kafka, session_timeout_ms=6000,
            heartbeat_interval_ms=1000,
        )  # fmt: skip
        outlive_leaders(consumer._client)
        return consumer

    leader, follower = member(), member()
    client = AIOKafkaClient(bootstrap_servers=broker.endpoints.kafka)
    async with contextlib.AsyncExitStack() as stack:
        for each in (leader, follower):
            await each.start()
            stack.push_async_callback(each.stop)
        await until_read_by(leader, follower)
        await client.bootstrap()
        stack.push_async_callback(client.close)
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        asks = JoinGroupRequest(group, 6000, 6000, "", None, "consumer", [("roundrobin", b"")])
        await client.send(node, asks)
        await leader.stop()
        await until_read_by(follower)
