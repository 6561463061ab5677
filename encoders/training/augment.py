"""What happens to a picture that stays the same thing: edits, alone and in chains, and what another camera does.

Every function takes pixels (height, width, 3) uint8 RGB and a generator and returns pixels, perhaps of another size.
All randomness comes from the generator. Not for near misses (`near_misses`) nor for scenes (`scenes`).
"""

import string
from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Random = np.random.Generator
Edit = Callable[[Pixels, Random], Pixels]
_LETTERS: Final = string.ascii_letters + string.digits + " -%.@"
_STROKED_PX: Final = 22
"""Height of a capital letter of OpenCV's typefaces at size 1."""
_Draw = Callable[[Pixels, tuple[int, int], list[int], Random], None]


def clipped(values: NDArray[Any]) -> Pixels:
    """Back to bytes."""
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)


def resized(image: Pixels, width: int, height: int) -> Pixels:
    """To a size, without aliasing."""
    smaller = width * height < image.shape[0] * image.shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (max(8, width), max(8, height)), None, 0, 0, way))


def crop(image: Pixels, rng: Random) -> Pixels:
    """Keeps 55 to 95 % of the area, of an aspect off by up to a quarter."""
    height, width = image.shape[:2]
    keep, aspect = np.sqrt(rng.uniform(0.55, 0.95)), rng.uniform(0.8, 1.25)
    new_w, new_h = (min(side, max(8, round(side * part))) for side, part in (
        (width, keep * np.sqrt(aspect)), (height, keep / np.sqrt(aspect))))  # fmt: skip
    left, top = int(rng.integers(0, width - new_w + 1)), int(rng.integers(0, height - new_h + 1))
    return image[top : top + new_h, left : left + new_w]


def mirror(image: Pixels, _: Random) -> Pixels:
    """Left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def warp(image: Pixels, rng: Random) -> Pixels:
    """Turned by up to 12 degrees, sheared and seen a little from the side; what was outside is white or repeated."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    centre = np.array([width / 2, height / 2], np.float32)
    angle, scale = np.radians(rng.uniform(-12, 12)), rng.uniform(0.9, 1.1)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    moved = (corners - centre) @ turn.T + centre
    moved += rng.uniform(-0.05, 0.05, (4, 2)) * [width, height]
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    return np.asarray(cv2.warpPerspective(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=(255, 255, 255)
    ))  # fmt: skip


def reencode(image: Pixels, rng: Random) -> Pixels:
    """JPEG of quality 12 to 90."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 91))]
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
    return np.asarray(cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def shrink(image: Pixels, rng: Random) -> Pixels:
    """To a long side of 56 to 200 px."""
    height, width = image.shape[:2]
    scale = min(1.0, np.exp(rng.uniform(np.log(56), np.log(200))) / max(height, width))
    return resized(image, round(width * scale), round(height * scale))


def tone(image: Pixels, rng: Random) -> Pixels:
    """Brightness, contrast, gamma and saturation."""
    x = image.astype(np.float32) / 255
    x = x ** np.float32(np.exp(rng.uniform(-0.5, 0.5))) * np.float32(rng.uniform(0.75, 1.25))
    x = (x - 0.5) * np.float32(rng.uniform(0.7, 1.3)) + 0.5 + np.float32(rng.uniform(-0.1, 0.1))
    grey = x.mean(axis=2, keepdims=True)
    return clipped((grey + (x - grey) * np.float32(rng.uniform(0.6, 1.4))) * 255)


def cast(image: Pixels, rng: Random) -> Pixels:
    """Light of another colour over everything."""
    return clipped(image * np.exp(rng.uniform(-0.22, 0.22, 3)).astype(np.float32))


def soften(image: Pixels, rng: Random) -> Pixels:
    """Out of focus, or sharpened."""
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.6))
    if rng.random() < 0.75:
        return np.asarray(blurred)
    return np.asarray(cv2.addWeighted(image, 1.7, blurred, -0.7, 0))


def noise(image: Pixels, rng: Random) -> Pixels:
    """Of a sensor."""
    return clipped(image + rng.normal(0, rng.uniform(3, 14), image.shape).astype(np.float32))


def pad(image: Pixels, rng: Random) -> Pixels:
    """A border of one colour, up to a quarter of a side."""
    height, width = image.shape[:2]
    top, bottom, left, right = (round(side * rng.uniform(0, 0.25)) for side in (height, height, width, width))
    kind = rng.random()
    colour = (255, 255, 255) if kind < 0.5 else (0, 0, 0) if kind < 0.65 else rng.integers(0, 256, 3).tolist()
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour))


def stamp(image: Pixels, rng: Random) -> Pixels:
    """A badge, or a line or two of words across everything, as shops put on pictures."""
    if rng.random() < 0.3:
        return _drawn_over(image, rng, _badge)
    for _ in range(int(rng.integers(1, 3))):
        image = _drawn_over(image, rng, _words)
    return image


def _drawn_over(image: Pixels, rng: Random, draw: _Draw) -> Pixels:
    """A drawing somewhere, more or less opaque."""
    height, width = image.shape[:2]
    kind = rng.random()
    colour = [0, 0, 0] if kind < 0.25 else [255, 255, 255] if kind < 0.5 else rng.integers(0, 256, 3).tolist()
    spot = int(rng.integers(0, max(1, width * 2 // 3))), int(rng.integers(height // 10, height))
    layer = image.copy()
    draw(layer, spot, colour, rng)
    share = rng.uniform(0.5, 1) if rng.random() < 0.5 else 1.0
    return np.asarray(cv2.addWeighted(layer, share, image, 1 - share, 0))


def _words(layer: Pixels, spot: tuple[int, int], colour: list[int], rng: Random) -> None:
    """In one of OpenCV's stroked typefaces or, as shops do, in Pillow's filled one."""
    words = "".join(rng.choice(list(_LETTERS), int(rng.integers(3, 12))))
    share = rng.uniform(0.04, 0.13)  # of the height
    if rng.random() < 0.3:
        size = share * layer.shape[0] / _STROKED_PX
        cv2.putText(layer, words, spot, int(rng.integers(0, 8)), size, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        return
    page = Image.fromarray(layer)
    font = ImageFont.load_default(size=max(6.0, share * layer.shape[0]))
    ImageDraw.Draw(page).text(spot, words, fill=tuple(colour), font=font, anchor="ls")
    layer[:] = np.asarray(page)


def _badge(layer: Pixels, spot: tuple[int, int], colour: list[int], rng: Random) -> None:
    cv2.circle(layer, spot, round(min(layer.shape[:2]) * rng.uniform(0.04, 0.12)), colour, -1, cv2.LINE_AA)


EDITS: Final[Sequence[tuple[Edit, float]]] = (
    (crop, 0.45), (mirror, 0.35), (warp, 0.35), (pad, 0.2), (tone, 0.45), (cast, 0.4), (stamp, 0.45), (soften, 0.4),
    (noise, 0.12), (shrink, 0.35), (reencode, 0.5),
)  # fmt: skip
"""Each with the share of the chains that hold it, in the order in which they happen."""


def chain(image: Pixels, rng: Random) -> Pixels:
    """Some edits one after the other."""
    for edit, share in EDITS:
        if rng.random() < share:
            image = edit(image, rng)
    return image


def camera(image: Pixels, rng: Random) -> Pixels:
    """What another camera and another light do: no cut, no words."""
    for edit, share in ((warp, 0.5), (tone, 0.7), (cast, 0.5), (soften, 0.2), (noise, 0.2), (reencode, 0.4)):
        if rng.random() < share:
            image = edit(image, rng)
    return image
