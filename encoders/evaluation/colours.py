"""How unlike two colours look: CIELAB (CIE 1976) from sRGB, white point D65.

Only what evaluation needs to leave out pairs whose difference nobody could see.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.foreground import Mask
from encoders.preprocess import Pixels

Floats = NDArray[np.float64]

_TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)  # IEC 61966-2-1
_WHITE: Final = _TO_XYZ.sum(axis=1)


def lab(pixels: Pixels) -> Floats:
    """L* 0 to 100, a*, b*. Shape: (..., 3) uint8 sRGB -> (..., 3)."""
    level = pixels.astype(np.float64) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    cube = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(cube, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def difference(a: Pixels, b: Pixels, where: Mask) -> float:
    """The mean colour difference (Delta E*ab) of two pictures over a mask; about 2.3 is just noticeable.

    Shape: a and b (height, width, 3), where (height, width).
    """
    return float(np.linalg.norm(lab(a[where]) - lab(b[where]), axis=-1).mean())


def chroma(pixels: Pixels, where: Mask) -> Floats:
    """How colourful each pixel of a mask is: C*ab, 0 for grey. Shape: (pixels of the mask,)."""
    return np.asarray(np.hypot(*np.moveaxis(lab(pixels[where])[:, 1:], -1, 0)))
