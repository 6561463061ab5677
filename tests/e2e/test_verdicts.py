"""What the service promises of verdicts, on real parts and both brokers."""

from pathlib import Path

import msgspec
import pytest

from streams.kafka.topics import Topic, committed_offsets
from streams.local import LocalStack
from tests.pictures import drawn, photographed
from tests.service import Service, design, ids, item

pytestmark = pytest.mark.stack


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest, full_stack: LocalStack) -> str:
    """Each broker in turn, beside the same Triton and Milvus Lite."""
    if request.param == "tansu":
        return full_stack.endpoints.kafka
    kafka: LocalStack = request.getfixturevalue("kafka")
    return kafka.endpoints.kafka


def mixed(count: int) -> list[bytes]:
    """Designs of which a third are copies of what hangs in the catalogue, saved again or not."""
    return [
        (photographed(n % 20, 90 if n % 2 else 60) if n % 3 == 0 else drawn(1000 + n % (count // 2)))
        for n in range(count)
    ]


async def test_the_same_designs_again_get_the_same_verdicts(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap) as service:
        service.start()
        await service.update(ids("item", [photographed(n) for n in range(20)], item))
        await service.until_settled()
        designs = ids("design", mixed(60), design)
        await service.publish(designs)
        await service.until_settled()
        first = {r.key: r.value for r in await service.read(service.topics.verdicts.name)}
        await service.publish(designs)
        await service.until_settled()
        again = await service.read(service.topics.verdicts.name)
        assert len(again) == 120
        assert {r.key: r.value for r in again} == first
        folded = await service.assert_as_promised()
        assert folded.counts["duplicate"] >= 15
        assert folded.counts["repeated"] == 60


async def test_embed_killed_in_the_middle_loses_and_contradicts_nothing(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap, seal_rows=32, embed_batch=8) as service:
        service.start("decide")
        victim = service.start("embed")
        await service.update(ids("item", [photographed(n) for n in range(20)], item))
        await service.until_settled()
        await service.publish(ids("design", mixed(120), design))

        async def some() -> bool:
            return await designs_in_log(service) > 20

        await service.until(some, "embed is in the middle of its work")
        victim.kill()
        assert await committed(service, "designs", service.topics.designs) < 120
        service.start("embed")
        await service.until_settled(90)
        folded = await service.assert_as_promised()
        assert folded.counts["duplicate"] >= 30


async def test_decide_killed_in_the_middle_loses_and_contradicts_nothing(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap, seal_rows=32, decide_batch=4) as service:
        service.start("embed")
        await service.update(ids("item", [photographed(n) for n in range(20)], item))
        await service.publish(ids("design", mixed(120), design))

        async def full() -> bool:
            return await designs_in_log(service) == 120

        await service.until(full, "the log is full")
        victim = service.start("decide")

        async def some() -> bool:
            return len(await service.read(service.topics.verdicts.name)) > 15

        await service.until(some, "decide is in the middle of its work")
        victim.kill()
        assert await committed(service, "decide", service.topics.log) < len(await service.log())
        service.start("decide")
        await service.until_settled(90)
        folded = await service.assert_as_promised()
        assert folded.counts["duplicate"] >= 30


async def designs_in_log(service: Service) -> int:
    return sum(msgspec.msgpack.decode(r.value)["kind"] == "design" for r in await service.log())


async def committed(service: Service, stage: str, topic: Topic) -> int:
    group = f"{service.settings.group}-{stage}"
    return sum((await committed_offsets(service.settings.kafka_bootstrap, group, topic)).values())


async def test_a_second_worker_joins_and_the_first_leaves(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap) as service:
        first = service.start()
        await service.update(ids("item", [photographed(n) for n in range(20)], item))
        await service.until_settled()
        designs = ids("design", mixed(160), design)
        await service.publish(designs[:60])
        service.start()
        await service.publish(designs[60:120])
        await service.until_settled(90)
        assert first.stop() == 0
        await service.publish(designs[120:])
        await service.until_settled(90)
        await service.assert_as_promised()


async def test_deletes_and_upserts_take_effect_at_their_position(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path
) -> None:
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap) as service:
        service.start()
        await service.update([("x", item(photographed(1))), ("gone", item(photographed(2))), ("gone", None)])
        await service.until_settled()
        await service.publish([("sees x", design(photographed(1, 60))), ("sees nothing", design(photographed(2, 60)))])
        await service.until_settled()
        await service.update([("x", None)])
        await service.until_settled()
        deleted_at = len(await service.log()) - 1
        assert (await service.verdicts())["sees x"].verdict == "accept"  # revised: x alone stood in its way
        await service.publish([("sees x", None)])
        await service.until_settled()
        await service.publish([("after", design(photographed(1, 50)))])
        await service.until_settled()
        await service.publish([("sees x", design(photographed(1, 60)))])
        await service.until_settled()
        said = await service.verdicts()
        assert said["sees nothing"].verdict == "accept"
        assert said["after"].verdict == "accept"
        # Judged afresh after the withdrawal: x is gone, and "after" hangs there now.
        assert said["sees x"].neighbours[0].id == "after"
        for record in await service.read(service.topics.verdicts.name):
            verdict = msgspec.json.decode(record.value)
            if verdict["position"] > deleted_at:
                assert "x" not in [n["id"] for n in verdict["neighbours"]]
        folded = await service.assert_as_promised()
        assert ("item", "gone") not in folded.live
