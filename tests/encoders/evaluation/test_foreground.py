"""Masks on pictures whose garment is known to the pixel, and refusals."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from encoders.evaluation import foreground


def packshot(garment: tuple[int, int, int], ground: int = 245, hole: bool = False) -> Image.Image:
    image = Image.new("RGB", (96, 128), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 30, 69, 99), fill=garment)
    if hole:
        draw.rectangle((40, 50, 49, 59), fill=(ground, ground, ground))
    return image


def truth() -> foreground.Mask:
    mask = np.zeros((128, 96), bool)
    mask[30:100, 20:70] = True
    return mask


@pytest.mark.parametrize("ground", [255, 245, 215])
@pytest.mark.parametrize("hole", [False, True])
def test_a_garment_is_found_with_its_holes_filled(ground: int, hole: bool) -> None:
    found = foreground.mask(packshot((60, 90, 140), ground, hole))
    assert found is not None
    assert (found == truth()).all()
    assert foreground.box(found) == (20, 30, 70, 100)


def test_a_ground_that_darkens_to_one_side() -> None:
    pixels = np.asarray(packshot((60, 90, 140))).astype(float)
    shade = np.linspace(1, 0.88, 96)[None, :, None]
    found = foreground.mask(Image.fromarray((pixels * np.where(truth()[..., None], 1, shade)).astype(np.uint8)))
    assert found is not None
    assert (found == truth()).mean() > 0.99


@pytest.mark.parametrize(
    "image",
    [
        packshot((244, 246, 245)),  # white on white
        Image.new("RGB", (96, 128), (245, 245, 245)),  # nothing
        packshot((60, 90, 140), ground=90),  # no light ground
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)),
    ],
    ids=["white on white", "blank", "dark ground", "noise"],
)
def test_what_has_no_usable_mask(image: Image.Image) -> None:
    assert foreground.mask(image) is None


def slow_reached(free: foreground.Mask) -> foreground.Mask:
    """Flood from every free pixel of the edge, one pixel after the other."""
    height, width = free.shape
    edge = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    waiting = [at for at in edge if free[at]]
    seen = np.zeros_like(free)
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < height and 0 <= x < width and free[y, x] and not seen[y, x]:
            seen[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return seen


@pytest.mark.parametrize("seed", range(30))
def test_the_flood_against_a_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    free = rng.random((int(rng.integers(3, 30)), int(rng.integers(3, 30)))) < rng.uniform(0.4, 0.8)
    assert (foreground._reached(free) == slow_reached(free)).all()
