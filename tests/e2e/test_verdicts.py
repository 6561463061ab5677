"""What the service promises of verdicts, on real parts and both brokers."""

from pathlib import Path

import msgspec
import pytest

from streams.local import LocalStack
from tests.pictures import drawn, photographed
from tests.service import Service, design, ids, item

pytestmark = pytest.mark.stack


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


@pytest.mark.parametrize("waits", [True, False])
async def test_designs_wait_for_the_catalogue_that_was_there(
    full_stack: LocalStack, prefix: str, tmp_path: Path, waits: bool
) -> None:
    """Far more designs than the buffers hold come first. With rule 12 left out an empty catalogue accepts them."""
    async with Service(
        full_stack, prefix, tmp_path, buffer_events=16, embed_batch=4, wait_for_catalog=waits
    ) as service:
        copies = [photographed(n % 10, 60) for n in range(400)]
        await service.publish(ids("copy", copies, design))
        others = [drawn(n) for n in range(150)]
        await service.update(ids("item", [*others, *map(photographed, range(10))], item))
        service.start()
        await service.until_settled()
        folded = await service.assert_as_promised()
        assert (folded.counts["duplicate"] == 400) is waits
