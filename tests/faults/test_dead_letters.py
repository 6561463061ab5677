"""Promise 12: dead letters can be listed, looked into and replayed after a fix; a flood of them stops the worker."""

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from PIL import Image as Picture

from streams.embed.stage import SourceEvent
from streams.errors import Invalid
from streams.events import GeneratedDesign, Image, LogRecord, encode_event, encode_record
from streams.kafka.dead_letters import FLOOD, to_message
from streams.kafka.producer import Message, Producer
from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.faults.history import command
from tests.pictures import drawn, photographed
from tests.service import Event, Service, WorkerProcess, design, item

pytestmark = pytest.mark.stack

LIMIT = 1_000_000


async def letters(service: Service, *arguments: object) -> list[dict[str, Any]]:
    return [
        json.loads(text) for text in (await command(service, "dead-letters", "list", "--json", *arguments)).splitlines()
    ]


def referring(path: Path, *pictures: bytes) -> GeneratedDesign:
    return GeneratedDesign((*(Image(data=data) for data in pictures), Image(uri=f"file://{path}")))


def noise(size_px: int) -> bytes:
    """A picture that no compression makes small."""
    file = io.BytesIO()
    Picture.fromarray(np.random.default_rng(1).integers(0, 255, (size_px, size_px, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


async def stopped(service: Service, worker: WorkerProcess, what: str) -> None:
    worker.may_fail = True

    async def ended() -> bool:
        return not worker.alive

    await service.until(ended, what)
    assert worker.process.returncode != 0


async def test_letters_are_listed_looked_into_and_replayed_after_a_fix(
    full_stack: LocalStack, prefix: str, tmp_path: Path, figure: Figure
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "there.jpg").write_bytes(photographed(3, 70))
    async with Service(
        full_stack, prefix, tmp_path, max_message_bytes=LIMIT, image_roots=str(photos), dead_letter_window=1000
    ) as service:
        first = service.start(image_schemes="https")
        large = referring(photos / "there.jpg", noise(510))
        assert LIMIT < len(encode_event(large)) < LIMIT + 100_000
        bad: list[tuple[str, Event]] = [
            ("no json", b"{"),
            ("no pictures", b'{"images": []}'),
            ("\x1b[31mred\x07", encode_event(design(drawn(1)))),
            ("stranger", GeneratedDesign((Image(data=drawn(1)),), tenant="unknown")),
            ("no picture", design(b"plain text")),
            ("half a picture", design(drawn(2)[:2000])),
            ("forbidden", referring(photos / "there.jpg")),
            ("large", large),
            ("late file", referring(photos / "late.jpg")),
            ("overtaken", referring(photos / "there.jpg")),
        ]  # fmt: skip
        await service.update([("item", item(photographed(3))), ("item by reference", referring_item(photos))])
        await service.publish([*bad, ("good", design(drawn(5)))])
        producer = Producer(service.settings.kafka_bootstrap, LIMIT, {})
        await producer.append(service.topics.designs.name, [Message(None, encode_event(design(drawn(1))), 0)])
        await producer.close()
        await service.until_settled()

        # Listed, newest first too, and looked into.
        listed = await letters(service)
        assert [one["offset"] for one in listed] == list(range(len(bad) + 2))
        assert await letters(service, "--limit", 3) == listed[:-4:-1]
        by_id = {one["id"]: one for one in listed}
        reasons = {name: one["reason"] for name, one in by_id.items()}
        assert reasons == {
            "": "bad_key", "\ufffd[31mred\ufffd": "bad_key", "no json": "bad_json", "no pictures": "bad_event",
            "stranger": "unknown_tenant", "no picture": "not_an_image", "half a picture": "broken_image",
            "forbidden": "scheme_not_allowed", "large": "scheme_not_allowed", "late file": "scheme_not_allowed",
            "overtaken": "scheme_not_allowed", "item by reference": "scheme_not_allowed",
        }  # fmt: skip
        table = await command(service, "dead-letters", "list")
        assert "\x1b" not in table
        assert all(reason in table for reason in reasons.values())
        shown = await command(service, "dead-letters", "show", by_id["forbidden"]["offset"])
        assert all(word in shown for word in ("scheme_not_allowed", "there.jpg", by_id["forbidden"]["source"]))
        assert (by_id["large"]["pointer"], by_id["large"]["value_bytes"]) == (True, None)
        assert "kept in the source topic only" in await command(
            service, "dead-letters", "show", by_id["large"]["offset"]
        )
        assert "no dead letter at offset 999" in await command(service, "dead-letters", "show", 999, code=1)

        # The cause is gone: replayed, they are judged; what came later stays.
        assert first.stop() == 0
        second = service.start(image_schemes="file")
        await service.publish([("overtaken", design(drawn(8)))])
        await service.until_settled()
        offsets = {name: one["offset"] for name, one in by_id.items()}
        fixed = ("forbidden", "large", "late file", "item by reference")
        said = await command(service, "dead-letters", "replay", *(offsets[name] for name in fixed))
        assert [line.partition(": ")[2] for line in said.splitlines()] == sorted(fixed, key=lambda name: offsets[name])
        await service.until_settled()
        verdicts = await service.verdicts()
        assert verdicts["forbidden"].verdict == "duplicate"
        assert {"large", "overtaken", "good"} <= verdicts.keys()
        assert "late file" not in verdicts
        refused = await command(
            service, "dead-letters", "replay", offsets["forbidden"], offsets["overtaken"], 999, code=1
        )
        for text in ("forbidden has a later event", "overtaken has a later event", "999: there is no such dead letter"):
            assert text in refused

        # One that fails again is a letter again; it can be replayed once more, its elder cannot.
        again = (await letters(service))[-1]
        assert (again["id"], again["reason"]) == ("late file", "not_found")
        (photos / "late.jpg").write_bytes(drawn(9))
        everything = await command(service, "dead-letters", "replay", "--all")
        await service.until_settled()
        assert f"replayed {again['offset']}: late file" in everything
        assert f"replayed {offsets['late file']}:" not in everything
        assert f"replayed {offsets['']}:" not in everything
        assert (await service.verdicts())["late file"].verdict == "accept"
        at_last = await letters(service)
        assert {one["id"] for one in at_last[len(listed) + 1 :]} == {
            "no json", "no pictures", "stranger", "no picture", "half a picture", "\ufffd[31mred\ufffd",
        }  # fmt: skip
        assert not {"forbidden", "large"} & {line.partition(": ")[2] for line in everything.splitlines()}
        await service.assert_as_promised()
        assert second.stop() == 0
        figure(
            12,
            f"{len(at_last)} letters of {len(set(reasons.values()))} reasons listed, {len(fixed)} judged after a fix",
        )


def referring_item(photos: Path) -> bytes:
    return json.dumps({"images": [{"uri": f"file://{photos}/there.jpg"}]}).encode()


async def test_a_flood_stops_every_worker_and_one_resume_lets_all_go_on(
    full_stack: LocalStack, prefix: str, tmp_path: Path, figure: Figure, long: bool
) -> None:
    bad = 4000 if long else 300
    async with Service(full_stack, prefix, tmp_path, dead_letter_window=20, embed_batch=4) as service:
        decide = service.start("decide")
        workers = [service.start("embed"), service.start("embed")]
        await service.publish([(f"good{n}", design(drawn(20 + n))) for n in range(8)])
        await service.until_settled()
        for worker in workers:
            worker.may_fail = True
        await service.publish([(f"bad{n}", b"not json") for n in range(bad)])
        await service.publish([("last", design(drawn(40)))])
        for worker in workers:
            await stopped(service, worker, "the flood stops the worker")
            last = worker.text().splitlines()[-1]
            assert "of the last 20 events could not be used" in last
            assert "bad_json" in last
            assert "run `design-dedup dead-letters resume` once" in last
        written = len(await letters(service))
        assert written <= 2 * 20, "it was stopped before it filled the topic"
        markers = [r for r in await service.read(service.topics.dead_letters.name) if FLOOD in dict(r.headers)]
        assert len(markers) >= 2

        refused = service.start("embed")
        await stopped(service, refused, "no worker starts before a person has looked")
        assert "run `design-dedup dead-letters resume` once" in refused.text().splitlines()[-1]

        assert "are let through up to offset" in await command(service, "dead-letters", "resume")
        # A worker that hung with its marker unsent says so only now; a person has let these events through.
        producer = Producer(service.settings.kafka_bootstrap, LIMIT, {})
        late = [Message(r.key, r.value, 0, dict(r.headers)) for r in markers]
        await producer.append(service.topics.dead_letters.name, late)
        await producer.close()
        again = service.start("embed")
        await service.until_settled(300 if long else 180)
        assert (await service.verdicts())["last"].verdict == "accept"
        assert len(await letters(service)) == bad
        await service.assert_as_promised()

        # What comes now is another flood.
        await service.publish([(f"worse{n}", b"not json") for n in range(100)])
        await stopped(service, again, "another flood stops the worker")
        assert len(await letters(service)) <= bad + 20
        assert decide.stop() == 0
        figure(
            12,
            f"a flood of {bad} bad events stopped both workers after {written} letters; one resume and they went on,"
            " nothing lost",
        )


_MEASURED = (
    "import resource, sys\n"
    "from streams.cli.main import app\n"
    "try: app(sys.argv[1:])\n"
    "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)\n"
)


async def test_tens_of_thousands_of_letters_need_no_memory(
    tansu: LocalStack, prefix: str, tmp_path: Path, figure: Figure, long: bool
) -> None:
    count, size = (40_000, 5_000) if long else (4_000, 25_000)
    async with Service(tansu, prefix, tmp_path, milvus_uri="http://127.0.0.1:1") as service:
        source = f"{service.topics.designs.name}/0"
        producer = Producer(service.settings.kafka_bootstrap, 12_000_000, {})
        for start in range(0, count, 100):
            events = [SourceEvent("design", source, n, 0, b"d%d" % n, b"x" * size) for n in range(start, start + 100)]
            found = [to_message(event, Invalid("bad_json", "no JSON"), 12_000_000) for event in events]
            await producer.append(service.topics.dead_letters.name, found)
        await producer.close()

        def measured(*arguments: str) -> tuple[list[str], int]:
            done = subprocess.run(
                [sys.executable, "-c", _MEASURED, "dead-letters", *arguments],
                env=service.full_env(), capture_output=True, text=True, check=True, timeout=250,
            )  # fmt: skip
            return done.stdout.splitlines(), int(done.stderr.split()[-1])

        newest, few_mib = await asyncio.to_thread(measured, "list", "--json", "--limit", "2")
        assert [json.loads(one)["offset"] for one in newest] == [count - 1, count - 2]
        every, all_mib = await asyncio.to_thread(measured, "list", "--json")
        assert [json.loads(one)["offset"] for one in every] == list(range(count))
        table, table_mib = await asyncio.to_thread(measured, "list")
        assert sum("bad_json" in one for one in table) == count
        # All of them are 100 MB at the least.
        assert max(all_mib, table_mib) < few_mib + 60
        figure(12, f"{count} letters of {size} bytes listed with {max(all_mib, table_mib) - few_mib} MiB more than two")


@pytest.mark.kafka
async def test_a_later_event_is_known_when_its_topic_has_forgotten_it(
    kafka: LocalStack, prefix: str, tmp_path: Path
) -> None:
    """Retention took the source topic's records; what came of them stands in the log and in the dead letters."""
    async with Service(kafka, prefix, tmp_path, milvus_uri="http://127.0.0.1:1") as service:
        topic, bootstrap = service.topics.designs.name, service.settings.kafka_bootstrap
        producer = Producer(bootstrap, LIMIT, {})
        names = ("revised", "withdrawn", "alone", "alone", "revised", "withdrawn")
        sent = await producer.append(topic, [Message(name.encode(), b"{", 0) for name in names])
        found = [
            to_message(
                SourceEvent("design", f"{topic}/0", offset, 0, name.encode(), b"{"), Invalid("bad_json", "?"), LIMIT
            )
            for name, offset in zip(names[:4], sent[:4], strict=True)
        ]
        await producer.append(service.topics.dead_letters.name, found)
        later = [
            LogRecord(kind="config", log_id="x"),
            LogRecord(kind="delete", id="alone", source=f"{service.topics.catalog.name}/0", src=99),
            LogRecord(kind="withdraw", id="withdrawn", source=f"{topic}/0", src=sent[5]),
            LogRecord(kind="withdraw", id="revised", source=f"{topic}/0", src=sent[4]),
        ]
        await producer.append(service.topics.log.name, [Message(None, encode_record(one), 0) for one in later])
        await producer.close()
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(sent[-1] + 1)})
        finally:
            await admin.close()
        assert await command(service, "dead-letters", "replay", "--all") == "replayed 3: alone\n"
        refused = await command(service, "dead-letters", "replay", 0, 1, 2, 3, code=1)
        assert refused.count("has a later event") == 4
