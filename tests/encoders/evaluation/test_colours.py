"""CIELAB against published values."""

import numpy as np
import pytest

from encoders.evaluation.colours import chroma, difference, lab


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),  # the sRGB primaries, as in every table of CIELAB D65
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_known_colours(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert lab(np.array(rgb, np.uint8)) == pytest.approx(expected, abs=0.03)


def test_difference_and_chroma_over_a_mask() -> None:
    red, grey = (np.full((4, 4, 3), colour, np.uint8) for colour in ((255, 0, 0), (119, 119, 119)))
    where = np.zeros((4, 4), bool)
    where[0, :2] = True
    mixed = grey.copy()
    mixed[0, 0] = (255, 0, 0)
    assert difference(red, red, where) == 0
    one = float(np.linalg.norm(lab(red[0, 0]) - lab(grey[0, 0])))
    assert difference(red, mixed, where) == pytest.approx(one / 2)
    assert chroma(red, where) == pytest.approx([np.hypot(80.09, 67.20)] * 2, abs=0.03)
    assert chroma(grey, where) == pytest.approx([0, 0], abs=0.01)
