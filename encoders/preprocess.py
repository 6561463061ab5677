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

Pixels = NDArray[np.uint8]

INPUT_PX: Final = 224
"""Height and width of what the encoder reads, in pixels: the size EfficientNet-Lite0 was trained at."""

Domain = Literal["catalog", "generated"]
DOMAINS: Final[tuple[Domain, ...]] = get_args(Domain)
"""Where a picture comes from; its place here is the integer the model receives. Never reorder, only append."""

_WHITE: Final = (255, 255, 255)
_REDUCING_GAP: Final = 2.0  # box-reduce to at most twice the target first: cheaper, invisible below a bicubic filter


def domain_index(domain: str) -> int:
    """The integer that stands for a domain in the model's `domain` input; ValueError for an unknown name."""
    for index, known in enumerate(DOMAINS):
        if known == domain:
            return index
    raise ValueError(f"unknown domain {domain!r}, expected one of {', '.join(DOMAINS)}")


def to_pixels(image: Image.Image, longest: int = INPUT_PX) -> Pixels:
    """The whole picture, scaled to fit and centred on a white square.

    Padded, not cropped and not stretched: the hem and the sleeves that a centre crop cuts away are what tells one
    garment from another, and stretching changes the cut. White, because packshots already stand on it, so the padding
    of a packshot is no edge.

    longest: how many pixels of the square its longer side takes.
    Shape: image of mode RGB, any size -> (224, 224, 3) uint8, contiguous.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, not {image.mode}")
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    fitted = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)
    if (width, height) == (INPUT_PX, INPUT_PX):
        return np.array(fitted)
    square = Image.new("RGB", (INPUT_PX, INPUT_PX), _WHITE)
    square.paste(fitted, ((INPUT_PX - width) // 2, (INPUT_PX - height) // 2))
    return np.array(square)


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
