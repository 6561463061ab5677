"""What arrives before the catalogue, in too bad a shape, or while a dependency is down."""

from pathlib import Path

import pytest

from streams.kafka.dead_letters import resume_message
from streams.kafka.producer import Producer
from streams.kafka.topics import high_watermark
from streams.local import LocalStack
from tests.pictures import drawn, photographed
from tests.service import Service, design, ids, item

pytestmark = pytest.mark.stack


async def test_designs_wait_for_the_catalogue_that_was_there(
    full_stack: LocalStack, prefix: str, tmp_path: Path
) -> None:
    """Far more designs than the buffers hold come first; an empty catalogue would accept them."""
    async with Service(full_stack, prefix, tmp_path, buffer_events=16, embed_batch=4) as service:
        copies = [photographed(n % 10, 60) for n in range(400)]
        await service.publish(ids("copy", copies, design))
        await service.update(ids("item", [photographed(n % 10) for n in range(60)], item))
        service.start()
        await service.until_settled(120)
        assert {v.verdict for v in (await service.verdicts()).values()} == {"duplicate"}
        folded = await service.assert_as_promised()
        assert folded.counts["duplicate"] == 400


async def test_a_flood_of_dead_letters_stops_the_worker_until_a_person_resumes(
    full_stack: LocalStack, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, dead_letter_window=20, embed_batch=4) as service:
        bad: list[tuple[str, bytes]] = [(f"bad{n}", b"not json") for n in range(100)]
        await service.publish(bad)
        await service.publish([("good", design(drawn(1)))])
        worker = service.start()
        worker.may_fail = True

        async def stopped() -> bool:
            return not worker.alive

        await service.until(stopped, "the flood stops the worker")
        assert worker.process.returncode != 0
        assert "dead-letters resume" in worker.text().splitlines()[-1]
        assert len(await service.dead_letters()) <= 20

        again = service.start()
        again.may_fail = True

        async def refused() -> bool:
            return not again.alive

        await service.until(refused, "no worker starts before a person has looked")
        assert "dead-letters resume" in again.text().splitlines()[-1]

        topic = service.topics.designs
        ends = {
            f"{topic.name}/{p}": await high_watermark(service.settings.kafka_bootstrap, topic.name, p)
            for p in range(topic.partitions)
        }
        producer = Producer(service.settings.kafka_bootstrap, 1_000_000, {})
        await producer.append(service.topics.dead_letters.name, [resume_message(ends)])
        await producer.close()
        second = service.start()
        await service.until_settled()
        assert (await service.verdicts())["good"].verdict == "accept"
        await service.assert_as_promised()
        assert second.stop() == 0


async def test_nothing_is_lost_while_triton_or_milvus_is_down(prefix: str, tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack") as stack:
        async with Service(stack, prefix, tmp_path, seal_rows=16) as service:
            service.start()
            await service.update(ids("item", [photographed(n) for n in range(20)], item))
            await service.until_settled()
            stack.triton.stop(1)
            await service.publish(ids("one", [photographed(n % 20, 60) for n in range(10)], design))
            stack.restart_triton()
            await service.until_settled(90)
            stack.milvus.stop(1)
            await service.publish(ids("two", [drawn(100 + n) for n in range(40)], design))
            stack.restart_milvus()
            await service.publish(ids("three", [drawn(100 + n, 60) for n in range(20)], design))
            await service.until_settled(90)
            assert await service.dead_letters() == []
            folded = await service.assert_as_promised()
            assert folded.counts["duplicate"] >= 30
            assert service.workers[0].stop() == 0
