"""One design through the whole real chain."""

from pathlib import Path

import pytest

from streams.local import LocalStack
from tests.pictures import drawn, photographed
from tests.service import Service, design, item

pytestmark = pytest.mark.stack


async def test_one_design_through_the_whole_chain(full_stack: LocalStack, prefix: str, tmp_path: Path) -> None:
    async with Service(full_stack, prefix, tmp_path) as service:
        service.start()
        await service.update([("shirt", item(photographed(1)))])
        await service.until_settled()
        await service.publish(
            [
                ("copy", design(photographed(1))),
                ("saved again", design(photographed(1, 70))),
                ("new", design(drawn(2))),
                ("twin", design(drawn(2, 60))),
                ("broken", design(drawn(2)[:500])),
            ]
        )
        await service.until_settled()
        said = await service.verdicts()
        assert {said[name].verdict for name in ("copy", "saved again")} == {"duplicate"}
        assert [said[name].neighbours[0].id for name in ("copy", "saved again")] == ["shirt", "shirt"]
        # Whichever of the two stands first in the log is new; the other is its twin.
        first, second = sorted(("new", "twin"), key=lambda name: said[name].position)
        assert (said[first].verdict, said[second].verdict) == ("accept", "duplicate")
        assert said[second].neighbours[0].id == first
        assert said["copy"].neighbours[0].signal == "digest"
        assert [h["dedup-reason"] for h in await service.dead_letters()] == [b"broken_image"]
        await service.assert_as_promised()
        assert service.workers[0].stop() == 0
