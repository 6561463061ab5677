"""One design through the whole real chain."""

import io
from pathlib import Path

import pytest

from encoders.synthetic import design as draw
from encoders.synthetic import garment, photo
from streams.local import LocalStack
from tests.service import Service, design, item

pytestmark = pytest.mark.stack


def jpeg(image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


async def test_one_design_through_the_whole_chain(full_stack: LocalStack, prefix: str, tmp_path: Path) -> None:
    hangs, new = garment(1), garment(2)
    async with Service(full_stack, prefix, tmp_path) as service:
        service.start()
        await service.update([("shirt", item(jpeg(photo(hangs, 1))))])
        await service.until_settled()
        await service.publish(
            [
                ("copy", design(jpeg(photo(hangs, 1)))),
                ("saved again", design(jpeg(photo(hangs, 1), quality=70))),
                ("new", design(jpeg(draw(new)))),
                ("twin", design(jpeg(draw(new), quality=60))),
                ("broken", design(jpeg(draw(new))[:500])),
            ]
        )
        await service.until_settled()
        said = await service.verdicts()
        assert {name: v.verdict for name, v in said.items()} == {
            "copy": "duplicate", "saved again": "duplicate", "new": "accept", "twin": "duplicate",
        }  # fmt: skip
        assert [said[name].neighbours[0].id for name in ("copy", "saved again", "twin")] == ["shirt", "shirt", "new"]
        assert said["copy"].neighbours[0].signal == "digest"
        assert [h["dedup-reason"] for h in await service.dead_letters()] == [b"broken_image"]
        await service.assert_as_promised()
        assert service.workers[0].stop() == 0
