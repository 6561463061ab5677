"""The garment of a packshot: what stands out from an even, light ground, found without a model.

Not for photos with a background. White on white cannot be told apart; such a picture has no usable mask.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from encoders.evaluation.suites import Picture

Mask = NDArray[np.bool_]

_LIGHT: Final = 190  # a ground is at least this light (0 to 255, every channel)
_EVEN: Final = 12  # levels that a channel may differ from the ground of its row and column
_AREA: Final = (0.05, 0.75)  # of the picture
_SOLID: Final = 0.6  # of the hull by rows: below that the mask is an outline, the garment as white as the ground


def mask(image: Image.Image) -> Mask | None:
    """Which pixels show the garment, holes filled; None where that cannot be told. Shape: (height, width)."""
    pixels = np.asarray(image, np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if np.percentile(border.min(axis=1), 10) < _LIGHT:
        return None
    garment = standing_out(pixels, _ground(pixels))
    area = garment.mean()
    hull = np.maximum.accumulate(garment, axis=1) & np.maximum.accumulate(garment[:, ::-1], axis=1)[:, ::-1]
    if not _AREA[0] <= area <= _AREA[1] or garment.sum() < _SOLID * hull.sum():
        return None
    return garment


def standing_out(pixels: NDArray[np.int16], ground: NDArray[np.float32] | int) -> Mask:
    """Which pixels differ from the ground or are enclosed by such, whether that is a garment or not.

    Shape: pixels (height, width, 3), ground the same or one level for all -> (height, width).
    """
    free = (np.abs(pixels - ground) <= _EVEN).all(axis=2)
    return _opened(~_reached(free))


@lru_cache(maxsize=2_000)
def of(picture: Picture) -> Mask | None:
    """The mask of a picture, remembered."""
    return mask(picture.make())


def soft(garment: Mask, radius_px: float = 0.8) -> NDArray[np.float32]:
    """Opacity 0 to 1 with a soft edge, so that what is pasted has no staircase. Shape: (height, width)."""
    image = Image.fromarray(garment.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(radius_px))
    return np.asarray(image, np.float32) / np.float32(255)


def inner(garment: Mask) -> Mask:
    """Without the outermost pixels, in which the ground shines through. Shape: (height, width)."""
    image = Image.fromarray(garment.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MinFilter(3))) > 127


def cloth(image: Image.Image, garment: Mask) -> Mask:
    """The garment without its edge and without holes that show the ground, such as between sleeve and body.

    Shape: garment (height, width) -> the same.
    """
    pixels = np.asarray(image, np.int16)
    ground = (np.abs(pixels - _ground(pixels)) <= _EVEN).all(axis=2)
    return inner(garment) & ~_opened(ground)


def box(garment: Mask) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in px, right and bottom outside."""
    rows, columns = np.flatnonzero(garment.any(axis=1)), np.flatnonzero(garment.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _ground(pixels: NDArray[np.int16]) -> NDArray[np.float32]:
    """The ground under the garment: its left and right edge, blended over the width, since packshots darken to a side.

    Shape: (height, width, 3) -> the same.
    """
    left, right = (np.median(side, axis=1) for side in (pixels[:, :3], pixels[:, -3:]))
    blend = np.linspace(0, 1, pixels.shape[1], dtype=np.float32)[None, :, None]
    return np.asarray(left[:, None] * (1 - blend) + right[:, None] * blend, np.float32)


def _reached(free: Mask) -> Mask:
    """What of `free` is connected with the picture's edge (4 neighbours). Shape: (height, width) -> the same."""
    seen = np.zeros_like(free)
    seen[[0, -1]], seen[:, [0, -1]] = free[[0, -1]], free[:, [0, -1]]
    count = -1
    while count != (count := int(seen.sum())):
        for sides in ((0, 1), (0, -1), (1, 1), (1, -1)):
            _carry(seen, free, *sides)
    return seen


def _carry(seen: Mask, free: Mask, axis: int, step: int) -> None:
    """Carry what is seen on along an axis as far as the way is free: where the last seen is nearer than the last
    obstacle."""
    ahead, way = (np.moveaxis(x, axis, 0)[::step] for x in (seen, free))
    number = np.arange(len(way))[:, None]
    last_seen = np.maximum.accumulate(np.where(ahead, number, -1))
    last_obstacle = np.maximum.accumulate(np.where(way, -1, number))
    ahead |= way & (last_seen > last_obstacle)


def _opened(garment: Mask) -> Mask:
    """Without specks and hairs: eroded and dilated again by one pixel."""
    image = Image.fromarray(garment.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.MaxFilter(3))) > 127
