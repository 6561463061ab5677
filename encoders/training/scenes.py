"""A garment taken out of its photo, and put into another: the two domains, made from one picture without labels.

Shapes: a picture is (height, width, 3) uint8, its mask (height, width) float32 from 0 to 1.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from encoders.training.augment import Pixels, Random, clipped, resized
from encoders.training.masks import Mask

_SCENE_PX: Final = 288
_PHOTO_PX: Final = 448
"""Longer sides of a photo that is seen whole, and of one that is seen through windows."""
_WINDOW: Final = (0.7, 1.5)
"""The side of a window, in longer sides of the garment."""
_OFF: Final = 0.25
"""By so much of its side a window misses the garment's middle."""


class CutOut(NamedTuple):
    """A garment without its surroundings: the box around it. Pixels outside the mask are arbitrary."""

    pixels: Pixels
    mask: Mask


def cut(image: Pixels, mask: Mask) -> CutOut:
    """The garment and its box; the whole picture where the mask is empty."""
    if not mask.any():
        return CutOut(image, np.ones(image.shape[:2], np.float32))
    rows, columns = np.flatnonzero(mask.max(axis=1) > 0.5), np.flatnonzero(mask.max(axis=0) > 0.5)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return CutOut(image[box], mask[box])


def part_of(piece: CutOut, rng: Random) -> CutOut:
    """A piece as people cut it: a side hidden behind something, or a soft blob of it."""
    height, width = piece.mask.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        keep = x * np.cos(angle) + y * np.sin(angle) < rng.uniform(-0.1, 0.7)
    else:
        keep = ((x - rng.uniform(-0.3, 0.3)) / rng.uniform(0.5, 1)) ** 2 + (
            (y - rng.uniform(-0.3, 0.3)) / rng.uniform(0.5, 1)
        ) ** 2 < 1
    mask = piece.mask * cv2.GaussianBlur(keep.astype(np.float32), (0, 0), 1.5)
    return cut(piece.pixels, np.asarray(mask, np.float32)) if mask.mean() > 0.08 else piece


def scaled(piece: CutOut, width: int, height: int) -> CutOut:
    """To a size."""
    mask = cv2.resize(piece.mask, (max(8, width), max(8, height)), None, 0, 0, cv2.INTER_AREA)
    return CutOut(resized(piece.pixels, width, height), np.asarray(mask, np.float32))


def bent(piece: CutOut, rng: Random, strength: float = 0.04) -> CutOut:
    """As cloth on another body: a smooth field moves it, and it may be mirrored and turned a little."""
    height, width = piece.mask.shape
    grid = rng.normal(0, strength, (2, 4, 4)).astype(np.float32)
    shift_x, shift_y = (cv2.resize(g, (width, height), None, 0, 0, cv2.INTER_CUBIC) for g in grid)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.3:
        x = width - 1 - x
    angle = np.radians(rng.uniform(-10, 10))
    dx, dy = x - width / 2, y - height / 2
    map_x = width / 2 + dx * np.cos(angle) - dy * np.sin(angle) + shift_x * width
    map_y = height / 2 + dx * np.sin(angle) + dy * np.cos(angle) + shift_y * height
    pixels = cv2.remap(piece.pixels, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    mask = cv2.remap(piece.mask, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)
    return CutOut(np.asarray(pixels), np.asarray(mask))


def on_plain(piece: CutOut, rng: Random) -> Pixels:
    """The clean design: on white or another plain ground, with some margin."""
    height, width = piece.mask.shape
    margin = [round(side * rng.uniform(0.01, 0.2)) for side in (height, height, width, width)]
    ground = np.full(3, 255.0) if rng.random() < 0.75 else rng.uniform(150, 255) + rng.uniform(-15, 15, 3)
    canvas = np.empty((height + margin[0] + margin[1], width + margin[2] + margin[3], 3), np.float32)
    canvas[:] = np.clip(ground, 0, 255)
    paste(canvas, piece, margin[2], margin[0])
    return clipped(canvas)


def paste(canvas: NDArray[np.float32], piece: CutOut, left: int, top: int) -> None:
    """Put a piece on a canvas (height, width, 3) float32; what lies outside is cut off."""
    height, width = piece.mask.shape
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + height), min(canvas.shape[1], left + width)
    if y1 <= y0 or x1 <= x0:
        return
    inner = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    alpha = piece.mask[inner][..., None]
    place = canvas[y0:y1, x0:x1]
    place += alpha * (piece.pixels[inner] - place)


def in_scene(piece: CutOut, others: list[CutOut], background: Pixels, rng: Random, area: tuple[float, float]) -> Pixels:
    """The garment in another photo: `area` (least, most) is its box's share, `others` lie around and over it."""
    return _scene(piece, others, background, rng, area, _SCENE_PX)[0]


def in_window(
    piece: CutOut, others: list[CutOut], background: Pixels, rng: Random, area: tuple[float, float]
) -> Pixels:
    """A square window of such a photo that shows the garment, perhaps not all of it and not in its middle, as one of
    the windows does that a cluttered photo is looked at through (`encoders.preprocess.to_windows`)."""
    photo, (x, y), side = _scene(piece, others, background, rng, area, _PHOTO_PX)
    height, width = photo.shape[:2]
    side = round(min(side * rng.uniform(*_WINDOW), height, width))
    left, top = (
        round(np.clip(at * length + side * (rng.uniform(-_OFF, _OFF) - 0.5), 0, length - side))
        for at, length in ((x, width), (y, height))
    )
    return photo[top : top + side, left : left + side]


def _scene(
    piece: CutOut, others: list[CutOut], background: Pixels, rng: Random, area: tuple[float, float], long_side: int
) -> tuple[Pixels, tuple[float, float], float]:
    """The photo, the garment's centre in shares of its sides, and the garment's longer side in pixels."""
    aspect = rng.uniform(0.62, 1.2)
    height, width = (long_side, round(long_side * aspect)) if aspect < 1 else (round(long_side / aspect), long_side)
    canvas = resized(background, width, height).astype(np.float32)
    for other in others[1:]:
        _drop(canvas, camera_of(other, rng), rng, rng.uniform(0.05, 0.3), None)
    share = np.exp(rng.uniform(*np.log(area)))
    worn = camera_of(bent(piece, rng), rng)
    centre = _drop(canvas, worn, rng, share, None)
    if others and rng.random() < 0.4:  # half hidden
        near = centre[0] + rng.uniform(-0.3, 0.3), centre[1] + rng.uniform(-0.3, 0.3)
        _drop(canvas, camera_of(others[0], rng), rng, share * rng.uniform(0.3, 0.8), near)
    tall, wide = worn.mask.shape
    return clipped(canvas), centre, float(np.sqrt(share * height * width * max(tall / wide, wide / tall)))


def camera_of(piece: CutOut, rng: Random) -> CutOut:
    """Other light on a piece."""
    gain = np.exp(rng.uniform(-0.3, 0.2) + rng.uniform(-0.08, 0.08, 3)).astype(np.float32)
    return CutOut(clipped(piece.pixels * gain), piece.mask)


def _drop(
    canvas: NDArray[np.float32], piece: CutOut, rng: Random, share: float, near: tuple[float, float] | None
) -> tuple[float, float]:
    """Paste with a box of `share` of the canvas at random or near a place; returns its centre, in shares of a side."""
    rows, columns = canvas.shape[:2]
    height, width = piece.mask.shape
    scale = np.sqrt(share * rows * columns / (height * width))
    scale = min(scale, 1.05 * rows / height, 1.05 * columns / width)
    small = scaled(piece, round(width * scale), round(height * scale))
    height, width = small.mask.shape
    if near is None:
        left, top = (int(rng.integers(min(0, free), max(1, free + 1))) for free in (columns - width, rows - height))
    else:
        left, top = round(near[0] * columns - width / 2), round(near[1] * rows - height / 2)
    paste(canvas, small, left, top)
    return (left + width / 2) / columns, (top + height / 2) / rows
