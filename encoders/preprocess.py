"""What training and serving must agree on: how a picture becomes pixels, the domains, a model's version, the canary.

Not for decoding bytes (`streams.embed.images` checks those) nor for normalising colours (the exported model does that
itself). NumPy and Pillow only: the service imports this module and has no torch.
"""

import hashlib
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.subject import is_cluttered, subject_of

Pixels = NDArray[np.uint8]

PIXELS: Final = 6
"""The number of what `to_pixels` and `as_in_catalog` do. A model made for other pixels is not used, and as the number
stands in every model, vectors of other pixels have another version. 1: the whole picture, and no windows. 2: of a
subject in several things the large ones alone. 3: the ground as it is, and the subject a little smaller. 4: no small
copy in the catalogue. 5: the line below a bar counted as picture."""

INPUT_PX: Final = 224
"""Height and width of what the encoder reads, in pixels: the size EfficientNet-Lite0 was trained at."""

Domain = Literal["catalog", "generated"]
DOMAINS: Final[tuple[Domain, ...]] = get_args(Domain)
"""Where a picture comes from; its place here is the integer the model receives. Never reorder, only append."""

_SUBJECT_PX: Final = round(0.9 * INPUT_PX)
"""About what a garment takes of a packshot."""

_GROUND: Final = 240
"""Level of the ground that every subject stands on, here and in most packshots. Not white: what is lighter than its
ground, a white shirt for instance, must stay so."""
_DARKEST_GROUND: Final = 128
_STRONGEST_CAST: Final = 1.5
"""A ground with a darker channel, or whose channels differ by a larger factor, is meant to be of that colour."""

_SMALL_PX: Final = 80
"""Longer side of the small copy, in pixels: that of the thumbnails of shops."""

_WINDOWS: Final = ((0.6, 6), (0.4, 8))
"""Sides of the windows, in shorter sides of the picture, and how many there are of each size."""

_REDUCING_GAP: Final = 2.0  # box-reduce to at most twice the target first: cheaper, invisible below a bicubic filter


def domain_index(domain: str) -> int:
    """The integer that stands for a domain in the model's `domain` input; ValueError for an unknown name."""
    for index, known in enumerate(DOMAINS):
        if known == domain:
            return index
    raise ValueError(f"unknown domain {domain!r}, expected one of {', '.join(DOMAINS)}")


def to_pixels(image: Image.Image) -> Pixels:
    """The subject of a picture, scaled to one size and centred on a light square: a copy that was framed or cut off
    close to the garment looks like one with all its margins (`encoders.subject`). A picture without a plain ground is
    shown whole.

    The plain ground of a subject tells the light: all levels are scaled so that it has the square's (von Kries 1902),
    and what was a cast or a darker copy looks like its original. Padded and not stretched: stretching changes the cut.
    Shape: image of mode RGB, any size -> (224, 224, 3) uint8, contiguous.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, not {image.mode}")
    box, ground = subject_of(image)
    if box == (0, 0, *image.size):
        return _on_square(image, INPUT_PX)
    return _on_square(_relit(image.crop(box), ground), _SUBJECT_PX)


def _relit(image: Image.Image, ground: tuple[float, ...] | None) -> Image.Image:
    """As it would be where its ground has the level _GROUND in every channel."""
    if ground is None or min(ground) < _DARKEST_GROUND or max(ground) > _STRONGEST_CAST * min(ground):
        return image
    levels = [np.floor(np.arange(256) * (_GROUND / level) + 0.5).clip(0, 255).astype(int) for level in ground]
    return image.point(np.concatenate(levels).tolist())


def to_windows(image: Image.Image) -> Pixels:
    """Parts of a cluttered picture, each as `to_pixels` shows a picture; none of a picture with a plain ground.

    In a street photograph a garment is a tenth of what is seen, and one vector of the whole holds little of it. So the
    catalogue keeps vectors of squares along the middle of a photograph's longer side too, since people put there what
    they take a picture of.
    Shape: image of mode RGB, any size -> (windows, 224, 224, 3) uint8.
    """
    if not is_cluttered(image):
        return np.empty((0, INPUT_PX, INPUT_PX, 3), np.uint8)
    shorter, longer = sorted(image.size)
    crops = []
    for share, count in _WINDOWS:
        side = share * shorter
        across = (shorter - side) / 2
        for along in np.linspace(0, longer - side, count):
            left, top = (along, across) if image.width > image.height else (across, along)
            crops.append(image.crop((round(left), round(top), round(left + side), round(top + side))))
    return np.stack([to_pixels(crop) for crop in crops])


def to_small(image: Image.Image) -> Pixels:
    """What `to_pixels` shows of a thumbnail of a picture; nothing where the picture is no larger.

    A fine check is grey in a thumbnail, and stripes are plain: no encoder can tell that it is this garment and tell
    prints apart too. So the catalogue keeps a vector of what a picture looks like when it is small.
    Shape: image of mode RGB, any size -> (0 or 1, 224, 224, 3) uint8.
    """
    if max(image.size) <= _SMALL_PX:
        return np.empty((0, INPUT_PX, INPUT_PX, 3), np.uint8)
    return to_pixels(_scaled(image, _SMALL_PX))[None]


def as_in_catalog(image: Image.Image) -> Pixels:
    """What a catalogue keeps vectors of: the picture, its small copy, and its windows. Here and in all that follows
    whatever comes after the picture counts as windows. Shape: -> (1 + windows, 224, 224, 3)."""
    return np.concatenate([to_pixels(image)[None], to_small(image), to_windows(image)])


def _on_square(image: Image.Image, longest: int) -> Pixels:
    """The whole picture, its longer side `longest` pixels of the square."""
    fitted = _scaled(image, longest)
    if fitted.size == (INPUT_PX, INPUT_PX):
        return np.array(fitted)
    square = Image.new("RGB", (INPUT_PX, INPUT_PX), (_GROUND, _GROUND, _GROUND))
    square.paste(fitted, ((INPUT_PX - fitted.width) // 2, (INPUT_PX - fitted.height) // 2))
    return np.array(square)


def _scaled(image: Image.Image, longest: int) -> Image.Image:
    """With a longer side of `longest` pixels."""
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def encoder_version(model: Path) -> str:
    """The version of an exported model: the first 16 hexadecimal digits of its file's SHA-256."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:16]


def canary_pixels() -> Pixels:
    """A picture whose vector is known: a sun, a bar and fine stripes on a two-way gradient.

    Whole-number arithmetic only, so that it is the same on every machine. Structure at several scales and in every
    channel, so that a server that swaps channels, transposes, drops bytes or repeats one value answers otherwise.

    Shape: (224, 224, 3) uint8.
    """
    y, x = np.mgrid[0:INPUT_PX, 0:INPUT_PX]
    red, green, blue = x * 255 // (INPUT_PX - 1), y * 255 // (INPUT_PX - 1), (x + 2 * y) * 255 // (3 * INPUT_PX)
    sun = (x - 150) ** 2 + (y - 70) ** 2 < 40**2
    bar = (abs(x - 60) < 18) & (y > 30) & (y < 200)
    stripes = (y > 150) & (x > 110) & ((x + y) // 6 % 2 == 0)
    pixels = np.stack([red, green, blue], axis=2)
    pixels[sun], pixels[bar], pixels[stripes] = (250, 200, 20), (20, 40, 120), (235, 235, 240)
    return pixels.astype(np.uint8)
