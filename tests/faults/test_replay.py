"""Promise 6: a replay says the same word for word, and what was lost is made again."""

import asyncio
import json
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from onnx import numpy_helper

from encoders.export import write_canary
from streams.decide.checkpoint import Checkpoint
from streams.decide.policy import load_policy
from streams.decide.store import MilvusStore
from streams.decide.things import NOWHERE, place_of, position_of, row_key
from streams.embed.encoder import model_path
from streams.events import GeneratedDesign, Image
from streams.kafka.partition import committed_offsets, high_watermark
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topic
from streams.local import REPOSITORY, LocalStack
from tests import oracle
from tests.faults.conftest import Figure
from tests.faults.history import command, history, play
from tests.pictures import drawn, photographed
from tests.service import Service, design
from tests.two_worlds import counts, differing

pytestmark = pytest.mark.stack

EVENTS = {False: 160, True: 4000}
STRICT = "similarity = 0.9999\nuse_hash = false\nuse_digest = false\n"
LOOSE = "similarity = 0.55\n"


def groups(service: Service) -> list[tuple[str, Topic]]:
    """The consumer groups of an installation and what each reads."""
    name, topics = service.settings.group, service.topics
    return [
        (f"{name}-catalog", topics.catalog),
        (f"{name}-designs", topics.designs),
        (f"{name}-decide", topics.log),
    ]


async def backlog(service: Service) -> int:
    """How many records have not been committed."""
    left = 0
    for group, topic in groups(service):
        done = await committed_offsets(service.settings.kafka_bootstrap, group, topic)
        for partition in range(topic.partitions):
            end = await high_watermark(service.settings.kafka_bootstrap, topic.name, partition)
            left += end - done[partition]
    return left


async def until_read(service: Service, timeout_s: float) -> None:
    async def read() -> bool:
        return await backlog(service) == 0

    await service.until(read, "everything is read to its end", timeout_s)


async def set_back(service: Service) -> None:
    """The groups at the beginning again."""
    await asyncio.gather(*(_set_back(service.settings.kafka_bootstrap, *pair) for pair in groups(service)))


async def _set_back(bootstrap: str, group: str, topic: Topic) -> None:
    """As a member: the embedded broker counts those that have left for ever, and takes no commit from outside of a
    group that has members."""
    consumer = AIOKafkaConsumer(
        topic.name, bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, session_timeout_ms=6000
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            while len(consumer.assignment()) < topic.partitions:  # noqa: ASYNC110 - it is the broker's time
                await asyncio.sleep(0.1)
        await consumer.commit(dict.fromkeys(consumer.assignment(), 0))
    finally:
        await consumer.stop()
    assert set((await committed_offsets(bootstrap, group, topic)).values()) == {0}


async def said(service: Service) -> dict[str, bytes]:
    """Every verdict by its name; no later event of a name may be another one."""
    values: defaultdict[str, set[bytes]] = defaultdict(set)
    for record in await service.read(service.topics.verdicts.name):
        values[msgspec.json.decode(record.value)["verdict_id"]].add(record.value)
    assert all(len(some) == 1 for some in values.values())
    return {name: next(iter(some)) for name, some in values.items()}


def drop_milvus(service: Service, log_id: str) -> None:
    store = MilvusStore(service.settings.milvus_uri, "", service.settings.milvus_timeout_s, log_id)
    store.drop()
    store.close()


def held_by_milvus(service: Service, log_id: str, encoders: set[str]) -> set[int]:
    """The keys of every row of shard 0."""
    store = MilvusStore(service.settings.milvus_uri, "", service.settings.milvus_timeout_s, log_id)
    try:
        return {
            int(key)
            for encoder in encoders
            for keys, _ in store.scan(encoder, row_key(0, 0), row_key(1, 0))
            for key in keys
        }
    finally:
        store.close()


async def log_id_of(service: Service) -> str:
    return str(msgspec.msgpack.decode((await service.log())[0].value)["log_id"])


async def test_groups_set_back_to_the_beginning_contradict_nothing(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path, figure: Figure, long: bool
) -> None:
    patience_s = 1500 if long else 180
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap, seal_rows=16) as service:
        worker = service.start()
        steps = history(EVENTS[long], 1)
        await play(service, steps)
        await service.until_settled(patience_s)
        assert worker.stop() == 0
        first = await said(service)

        log_id, before = await log_id_of(service), len(await service.log())
        # Everything is read and embedded a second time, so the log holds it twice; the shard is decided with what it
        # remembers, and then, or at once, from its first record on without checkpoint and rows.
        for is_lost in (False, True) if long else (True,):
            if is_lost:
                drop_milvus(service, log_id)
                shutil.rmtree(tmp_path / "data")
            await set_back(service)
            worker = service.start()
            await until_read(service, patience_s)
            await play(service, [step for step in steps if step[0] == "design" and step[2] is not None][:40])
            await service.until_settled(patience_s)
            assert len(await service.log()) >= 2 * before - 2
            assert first.items() <= (await said(service)).items()
            assert worker.stop() == 0
        folded = await service.assert_as_promised()
        first = await said(service)

        # And with nothing that was said: the whole ledger again, by another worker.
        drop_milvus(service, log_id)
        (tmp_path / "second").mkdir()
        async with Service(
            full_stack, f"second.{prefix}", tmp_path / "second", kafka=bootstrap, seal_rows=16
        ) as second:
            producer = Producer(bootstrap, 12_000_000, {})
            records = [Message(None, record.value, 0) for record in await service.log()]
            await producer.append(second.topics.log.name, records)
            await producer.close()
            second.start("decide")

            async def decided() -> bool:
                done = await committed_offsets(bootstrap, f"{second.settings.group}-decide", second.topics.log)
                return done[0] == len(records)

            await second.until(decided, "the log is decided again", patience_s)
            assert await said(second) == first
            assert second.workers[0].stop() == 0
            drop_milvus(second, log_id)
        figure(
            6,
            f"{'Apache Kafka' if bootstrap != full_stack.endpoints.kafka else 'embedded broker'}: {len(steps)} events,"
            f" groups set back, {len(first)} verdicts said again by a second owner word for word"
            f" ({folded.counts['stale']} events came a second time, {folded.counts['duplicate']} duplicates)",
        )


def things(folder: Path) -> dict[Any, Any]:
    """Everything the checkpoint remembers, with the current verdicts."""
    checkpoint = Checkpoint(folder / "shard-0.sqlite")
    try:
        return {key: (thing, checkpoint.value(key)) for key, thing, _ in checkpoint.things()}
    finally:
        checkpoint.close()


async def test_what_was_lost_is_made_again(
    full_stack: LocalStack, prefix: str, tmp_path: Path, figure: Figure, long: bool
) -> None:
    async with Service(full_stack, prefix, tmp_path, seal_rows=16, seal_idle_s=0.2) as service:
        worker = service.start()
        steps = history(EVENTS[long], 2)
        await play(service, steps)
        await service.until_settled(1500 if long else 180)
        assert worker.stop() == 0
        before, ledger = things(tmp_path / "data"), await said(service)

        drop_milvus(service, await log_id_of(service))
        shutil.rmtree(tmp_path / "data")
        begin = time.monotonic()
        assert "rebuilt up to position" in await command(service, "rebuild")
        took_s = time.monotonic() - begin
        after = things(tmp_path / "data")
        assert after == before
        folded = await service.assert_as_promised()
        live = {key: thing.row for key, (thing, _) in after.items() if thing.row != NOWHERE}
        assert live == folded.live

        checkpoint = Checkpoint(tmp_path / "data" / "shard-0.sqlite")
        sealed, garbage = checkpoint.head.sealed, {key for key, _ in checkpoint.garbage(1 << 20)}
        tail = {row.key for row in checkpoint.tail()}
        checkpoint.close()
        rows = {row_key(0, place, n) for key, place in live.items() for n in range(folded.vectors[key])}
        due = {key for key in rows if position_of(place_of(key)) < sealed}
        held = held_by_milvus(service, await log_id_of(service), {thing.encoder for thing, _ in after.values()} - {""})
        assert due <= held
        assert held - rows <= garbage
        assert rows - due <= tail
        assert due

        service.start()
        await service.publish([("last", design(photographed(1, 70)))])
        await service.until_settled()
        await service.assert_as_promised()
        assert ledger.items() <= (await said(service)).items()
        figure(
            6,
            f"Milvus and checkpoint deleted: {len(after)} ids, {len(rows)} live rows and {len(ledger)} verdicts"
            f" made again in {took_s:.0f} s, equal to what was and to the oracle",
        )


async def places(service: Service) -> Any:
    """Where every topic ends, what every group has committed, and what lies in the data folder."""
    ends = [
        await high_watermark(service.settings.kafka_bootstrap, topic.name, partition)
        for topic in service.topics.all()
        for partition in range(topic.partitions)
    ]
    done = [await committed_offsets(service.settings.kafka_bootstrap, *pair) for pair in groups(service)]
    files = {file.name: file.stat().st_mtime_ns for file in (service.folder / "data").glob("shard-*")}
    return ends, done, files, things(service.folder / "data")


async def folded_under(service: Service, policy: Any) -> oracle.Folded:
    """The log with another policy in its config records, as the oracle sees it."""
    records = []
    for record in await service.log():
        decoded = msgspec.msgpack.decode(record.value)
        if decoded.get("policy"):
            decoded["policy"] = msgspec.to_builtins(policy)
        records.append((record.offset, msgspec.msgpack.encode(decoded)))
    return oracle.fold(records)


def another_model(folder: Path) -> Path:
    """The encoder with one bias moved: another version, to which pictures look more alike."""
    folder.mkdir()
    shutil.copy(model_path(REPOSITORY / "triton_models"), folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    bias = next(one for one in model.graph.initializer if one.name == "late.structure.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(5), bias.name))
    onnx.save(model, folder / "model.onnx")
    write_canary(folder / "model.onnx")
    return folder / "model.onnx"


async def explained(service: Service, *arguments: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The findings of `replay --explain`, and its summary."""
    lines = (await command(service, "replay", "--explain", "--json", *arguments)).splitlines()
    *findings, summary = map(json.loads, lines)
    return findings, summary


@pytest.mark.kafka
async def test_replay_explains_another_policy_and_another_encoder(
    full_stack: LocalStack, kafka: LocalStack, prefix: str, tmp_path: Path, figure: Figure, long: bool
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    async with Service(
        full_stack, prefix, tmp_path, kafka=kafka.endpoints.kafka, seal_rows=16, image_schemes="file",
        image_roots=str(photos),
    ) as service:  # fmt: skip
        worker = service.start()
        by_reference = ("stays", "changes", "vanishes")
        for number, name in enumerate(by_reference):
            (photos / f"{name}.jpg").write_bytes(drawn(9000 + number))
        references = [(name, GeneratedDesign((Image(uri=f"file://{photos}/{name}.jpg"),))) for name in by_reference]
        await service.publish(references)
        await service.until_settled()
        await play(service, history(EVENTS[long], 3))
        await service.until_settled(1500 if long else 180)
        assert worker.stop() == 0
        was = await service.assert_as_promised()
        before = await places(service)

        findings, summary = await explained(service)
        assert (findings, summary["decided"]) == ([], len(was.all()))
        lines = []
        for name, text in (("strict", STRICT), ("loose", LOOSE)):
            file = tmp_path / f"{name}.toml"
            file.write_text(text)
            now = await folded_under(service, load_policy(file))
            findings, summary = await explained(service, "--policy", file)
            assert_as_the_oracle(was, now, findings, summary)
            lines.append(f"{name} policy {len(findings)} differ ({listed(summary)})")
            assert "threshold" in summary["differ"]

        # The encoder of the log again: every picture is read again, and nothing differs.
        (photos / "changes.jpg").write_bytes(drawn(9100))
        (photos / "vanishes.jpg").unlink()
        findings, summary = await explained(service, "--encoder", model_path(service.settings.model_repository))
        assert {one["id"]: one["reason"] for one in findings} == {"changes": "changed", "vanishes": "not_found"}
        assert summary["unread"] == {"changed": 1, "not_found": 1}
        assert summary["same"] == summary["decided"] == len(was.all()) - 2
        findings, summary = await explained(service, "--encoder", another_model(tmp_path / "candidate"))
        assert sum(summary["unread"].values()) == 2
        assert summary["differ"].get("similarity", 0) > 0
        lines.append(f"another encoder {sum(summary['differ'].values())} differ ({listed(summary)})")

        # What the topic has forgotten cannot be read again; the catalogue is still all there.
        await forget(service, service.topics.designs)
        findings, summary = await explained(service, "--encoder", model_path(service.settings.model_repository))
        assert summary["unread"]["gone"] == sum(one["kind"] == "design" for one in findings)
        assert summary["decided"] == 0
        after = await places(service)
        assert after == before
        figure(6, f"replay --explain of {len(was.all())} verdicts: {'; '.join(lines)}; equal to the oracle")


def listed(summary: dict[str, Any]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in summary["differ"].items())


def assert_as_the_oracle(
    was: oracle.Folded, now: oracle.Folded, findings: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    expected = differing(was, now)
    assert expected
    assert {(one["design"], one["position"]) for one in findings} == expected.keys()
    for one in findings:
        pair = expected[one["design"], one["position"]]
        for side, verdict in zip(("said", "new"), pair, strict=True):
            assert one[side] == {name: verdict[name] for name in one[side]}
        if one["reason"] != "revised":
            nearest = pair[one["new"]["verdict"] == "duplicate"]["neighbours"][0]
            assert (one["neighbour"]["kind"], one["neighbour"]["id"]) == (nearest["kind"], nearest["id"])
    duplicates = summary["duplicates"]
    assert counts(was, now) == (summary["decided"], summary["same"], duplicates["said"], duplicates["new"])


async def forget(service: Service, topic: Topic) -> None:
    """Retention, at once: the records are gone, the offsets stay."""
    admin = AIOKafkaAdminClient(bootstrap_servers=service.settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_records(
            {
                TopicPartition(topic.name, partition): RecordsToDelete(
                    await high_watermark(service.settings.kafka_bootstrap, topic.name, partition)
                )
                for partition in range(topic.partitions)
            }
        )
    finally:
        await admin.close()
