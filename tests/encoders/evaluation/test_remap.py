"""Bending pictures: cases whose answer is known."""

import numpy as np
import pytest
from PIL import Image

from encoders.evaluation.alterations import STRENGTHS, altered
from encoders.evaluation.foreground import box, mask
from encoders.evaluation.remap import grid, moved, remapped
from encoders.evaluation.suites import Picture


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def test_nothing_moves_nothing() -> None:
    x, y = grid(noise())
    assert (np.asarray(remapped(noise(), x, y)) == np.asarray(noise())).all()


def test_whole_pixels_and_halves() -> None:
    x, y = grid(noise())
    pixels = np.asarray(noise()).astype(float)
    assert (np.asarray(remapped(noise(), x + 3, y - 2))[2:, :-3] == pixels[:-2, 3:]).all()
    halves = np.asarray(remapped(noise(), x + 0.5, y))[:, :-1]
    assert halves == pytest.approx((pixels[:, :-1] + pixels[:, 1:]) / 2, abs=0.51)


def test_what_lies_outside_is_the_edge() -> None:
    x, y = grid(noise())
    assert (np.asarray(remapped(noise(), x - 100, y)) == np.asarray(noise())[:, :1]).all()


def test_moved_brings_knots_where_they_belong() -> None:
    assert moved(np.array([0.0, 60.0, 100.0]), [0, 80, 100], [0, 60, 100]).tolist() == [0, 80, 100]
    assert moved(np.array([30.0, 80.0]), [0, 80, 100], [0, 60, 100]).tolist() == [40, 90]


def garment() -> Picture:
    canvas = np.full((144, 96, 3), 248, np.uint8)
    canvas[20:110, 25:70] = np.random.default_rng(1).integers(0, 160, (90, 45, 3), dtype=np.uint8)
    return Picture("garment", lambda: Image.fromarray(canvas))


@pytest.mark.parametrize("change", STRENGTHS)
def test_a_stronger_change_changes_more(change: str) -> None:
    original = np.asarray(garment().make(), float)
    off = [
        np.abs(np.asarray(altered(garment(), change, strength, 0), float) - original).mean()
        for strength in (STRENGTHS[change][1][0], STRENGTHS[change][1][-1])
    ]
    assert 0 < off[0] < off[1]


def test_the_hem_moves_as_far_as_it_says() -> None:
    for strength in (0.1, 0.2):
        found = mask(altered(garment(), "hem", strength, 0))
        assert found is not None
        left, top, right, bottom = box(found)
        assert (left, top, right) == (25, 20, 70)
        assert abs(bottom - 110) == pytest.approx(strength * 90, abs=2)


def test_sides_come_in_and_the_collar_goes_down() -> None:
    found = mask(altered(garment(), "sleeves", 0.2, 0))
    assert found is not None
    assert list(box(found)) == pytest.approx([34, 20, 61, 110], abs=1)
    cut = mask(altered(garment(), "collar", 0.2, 0))
    assert cut is not None
    first = cut.argmax(axis=0)  # the first row of the garment in each column
    assert first[47] == pytest.approx(38, abs=1)
    assert first[27] == first[67] == 20
    assert first.argmax() == pytest.approx(47, abs=1)
    assert cut[40:110, 26:69].all()
