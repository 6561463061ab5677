"""What edits do to a picture, in figures; and that a picture is the same whenever it is made."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from encoders.evaluation.edits import EDITS, KINDS, THUMBNAIL_PX, THUMBNAILS, Edit, copies, edited
from encoders.evaluation.sources import Item, Limits, Sources
from encoders.evaluation.suites import Picture

SIZE = (120, 160)


def checks() -> Image.Image:
    """A picture with edges, colours and an asymmetry."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    pixels = np.stack([x * 2 % 256, (x // 8 + y // 8) % 2 * 120 + 60, y], axis=2).astype(np.uint8)
    pixels[:40, :40] = (250, 20, 20)
    return Image.fromarray(pixels)


def item(name: str, group: str, label: str = "t-shirt", digest: str = "") -> Item:
    return Item(Picture(name, checks), group, name, label, "", digest or name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_each_time_and_is_another_picture(kind: str) -> None:
    picture = edited(Picture("a", checks), kind, KINDS[kind], seed=1)
    first, second = picture.make(), picture.make()
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()
    assert first.size != SIZE or first.tobytes() != checks().tobytes()
    other = edited(Picture("b", checks), kind, KINDS[kind], seed=1).make()
    if kind != "mirror":
        assert other.tobytes() != first.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_edits_stay_within_what_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = checks()
    width, height = EDITS["crop"](image, rng).size
    assert 0.59 <= width * height / (SIZE[0] * SIZE[1]) <= 0.96
    width, height = EDITS["resize"](image, rng).size
    assert 0.24 <= width / SIZE[0] <= 0.91
    assert width / height == pytest.approx(SIZE[0] / SIZE[1], rel=0.05)
    assert EDITS["rotate"](image, rng).size == SIZE
    framed = EDITS["border"](image, rng)
    assert 1.08 <= framed.width / SIZE[0] <= 1.41
    toned = np.asarray(EDITS["cast"](image, rng), float).mean(axis=(0, 1)) / np.asarray(image, float).mean(axis=(0, 1))
    assert (np.abs(toned - 1) <= 0.21).all()
    assert EDITS["mirror"](image, rng).tobytes() == ImageOps.mirror(image).tobytes()


@pytest.mark.parametrize("edit", THUMBNAILS.values(), ids=THUMBNAILS)
def test_a_thumbnail_fits(edit: Edit) -> None:
    for size in ((192, 288), (288, 192), (500, 500)):
        width, height = edit(Image.new("RGB", size), np.random.default_rng(0)).size
        assert width == THUMBNAIL_PX[0] or height == THUMBNAIL_PX[1]
        assert width <= THUMBNAIL_PX[0]
        assert height <= THUMBNAIL_PX[1]
        assert width * size[1] == pytest.approx(height * size[0], rel=0.02)


def test_what_a_copy_asks_for() -> None:
    items = [
        item("red", "shirt 1"), item("blue", "shirt 1"), item("twin", "shirt 2", digest="red"), item("far", "shirt 3"),
        item("hat", "shirt 1", label="hat"), item("unsure", "shirt 1", label="Not sure"),
    ]  # fmt: skip
    items[0] = item("red", "shirt 1", digest="red")
    sources = Sources(None, Limits(gallery=10, queries=10, of_a_kind=10, largest=0), seed=0)
    suite = copies("s", "", items, sources, {"mirror": EDITS["mirror"]}, 10)
    asked = {query.picture.name: query for query in suite.queries}
    assert set(asked) == {f"{i.picture.name} mirror" for i in items}
    red = asked["red mirror"]
    assert red.truth == (0, 2)  # the same file under another number is as good
    assert red.ignored == (1, 5)  # the other colourway, and what may be the same; not the hat
    assert red.cluster == "shirt 1"
    assert asked["far mirror"].truth == (3,)
    assert asked["far mirror"].ignored == ()


def test_a_smaller_suite_holds_pictures_of_the_larger_one() -> None:
    items = [item(str(number), str(number)) for number in range(50)]
    names = []
    for n in (10, 30):
        sources = Sources(None, Limits(gallery=50, queries=n, of_a_kind=n, largest=0), seed=3)
        names.append({q.picture.name for q in copies("s", "", items, sources, {"crop": EDITS["crop"]}, n).queries})
    assert len(names[0]) == 10
    assert names[0] < names[1]
