"""What commands do with the topics, on a real broker where the test plays the worker."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from typer.testing import CliRunner

from streams.cli import main
from streams.cli.cluster import Cluster
from streams.cli.listing import open_listing
from streams.cli.sending import Receipt, Sender
from streams.cli.waiting import Decided, look_before, wait_until_decided
from streams.embed.stage import SourceEvent
from streams.errors import Invalid, Retryable
from streams.events import LogRecord, decode_update, encode_record
from streams.kafka.dead_letters import to_message
from streams.kafka.producer import Message
from streams.local import LocalStack
from streams.settings import Settings, load_settings

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(broker: LocalStack, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    values = {"KAFKA_BOOTSTRAP": broker.endpoints.kafka, "TOPIC_PREFIX": prefix, "GROUP": prefix, "TENANTS": "a,b"}
    for name, value in values.items():
        monkeypatch.setenv(f"DESIGN_DEDUP_{name}", value)
    monkeypatch.chdir(tmp_path)
    return load_settings()


def nothing(_: int) -> None:
    pass


def picture(folder: Path, name: str) -> Path:
    path = folder / f"{name}.jpg"
    path.write_bytes(name.encode())
    return path


async def record(cluster: Cluster, receipt: Receipt, shard: int) -> int:
    entry = LogRecord(kind="delete", id=receipt.id, source=receipt.source, src=receipt.offset)
    return (await cluster.append(cluster.topics.log.name, [Message(None, encode_record(entry), shard)]))[0]


async def commit(cluster: Cluster, ends: Sequence[int]) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=cluster.settings.kafka_bootstrap, group_id=cluster.decide_group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        tps = [TopicPartition(cluster.topics.log.name, shard) for shard in range(len(ends))]
        consumer.assign(tps)
        await consumer.commit(dict(zip(tps, ends, strict=True)))
    finally:
        await consumer.stop()


async def test_rows_stand_in_the_topic_where_the_receipts_say(settings: Settings, tmp_path: Path) -> None:
    listing = tmp_path / "items.csv"
    names = [f"item {n}" for n in range(150)]
    picture(tmp_path, "same")
    rows = "".join(f"{name},same.jpg,shirt,3,{'ab'[n % 2]}\n" for n, name in enumerate(names))
    listing.write_text(f"id,images,category,version,tenant\n{rows}missing,missing.jpg,,,\n")
    done: list[int] = []
    async with Cluster(settings) as cluster:
        await cluster.create_topics()
        sent = await Sender(cluster, "item").send_rows(open_listing(listing).rows(), done.append)
        assert [receipt.id for receipt in sent.receipts] == names
        assert [receipt.shards for receipt in sent.receipts[:2]] == [(0,), (1,)]
        assert len(sent.refused) == 1
        assert done[-1] == 151
        there = {}
        for partition in range(cluster.topics.catalog.partitions):
            async for one in cluster.read(cluster.topics.catalog.name, partition):
                there[f"{one.topic}/{one.partition}", one.offset] = one
        for receipt in sent.receipts:
            one = there.pop((receipt.source, receipt.offset))
            assert one.key.decode() == receipt.id
            assert decode_update(one.value).images[0].data == b"same"
            assert dict(one.headers)["ce_subject"].decode() == receipt.id
        assert not there


async def test_waiting_needs_every_shard_and_the_commit(settings: Settings) -> None:
    async with Cluster(settings) as cluster:
        await cluster.create_topics()
        before = await look_before(cluster)
        sent = await Sender(cluster, "item").send_tombstones(["x", "y"], nothing)

        async def wait(timeout_s: float) -> list[Decided]:
            return await wait_until_decided(
                cluster, before, sent.receipts, nothing, with_verdicts=False, timeout_s=timeout_s
            )

        x, y = sent.receipts
        assert x.shards == (0, 1)
        await record(cluster, y, 0)
        first = await record(cluster, x, 0)
        await record(cluster, x, 0)  # delivered twice: the first counts
        with pytest.raises(Retryable, match="2 of 2 events are not decided"):
            await wait(1)
        second = await record(cluster, x, 1)
        letter = SourceEvent("item", y.source, y.offset, 0, b"y", None)
        message = to_message(letter, Invalid("bad_key", "an odd key"), 1000)
        await cluster.append(cluster.topics.dead_letters.name, [message])
        waiting = asyncio.create_task(wait(60))
        await commit(cluster, [first, 0])
        await asyncio.sleep(1)
        assert not waiting.done()
        await commit(cluster, [first + 1, second + 1])
        decided = await waiting
        assert decided[0].positions == {0: first, 1: second}
        assert (decided[1].reason, decided[1].message) == ("bad_key", "an odd key")


def test_a_large_dead_letter_is_replayed_from_its_source(settings: Settings) -> None:
    async def prepare() -> Receipt:
        async with Cluster(settings) as cluster:
            await cluster.create_topics()
            topic = cluster.topics.designs
            partition = cluster.partition_of(topic, b"large")
            offsets = await cluster.append(topic.name, [Message(b"large", b"x" * 2000, partition)])
            receipt = Receipt("large", f"{topic.name}/{partition}", offsets[0], (0,))
            event = SourceEvent("design", receipt.source, receipt.offset, 0, b"large", b"x" * 2000)
            await cluster.append(
                cluster.topics.dead_letters.name, [to_message(event, Invalid("bad_json", "no JSON"), 1000)]
            )
            return receipt

    async def values(receipt: Receipt) -> list[bytes | None]:
        topic, _, partition = receipt.source.rpartition("/")
        async with Cluster(settings) as cluster:
            return [one.value async for one in cluster.read(topic, int(partition))]

    receipt = asyncio.run(prepare())
    shown = CliRunner().invoke(main.app, ["dead-letters", "show", "0"])
    assert "kept in the source topic only" in shown.stdout
    assert CliRunner().invoke(main.app, ["dead-letters", "replay", "--all"]).exit_code == 0
    assert asyncio.run(values(receipt)) == [b"x" * 2000] * 2
    again = CliRunner().invoke(main.app, ["dead-letters", "replay", "0"])
    assert again.exit_code == 1
    assert "large has a later event" in again.stderr
