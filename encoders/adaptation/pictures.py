"""The pictures of a person's two folders, as far as adaptation has to know them. No torch, and nothing is decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from encoders.data import Photo
from encoders.described import LATTICE, Described
from encoders.preprocess import Domain

_READ_PX: Final = 512
"""Larger pictures are brought down to this: twice what views are made of."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that can be used. folder: the one it lies in; digest: of its bytes (32); hash, quality, colour: what
    the service's hash rule goes by (32 bytes, 0 to 100, 48 bytes)."""

    path: Path
    side: Domain
    folder: str
    digest: bytes
    hash: bytes
    quality: int
    colour: bytes

    @property
    def photo(self) -> Photo:
        """As the code of training knows it: unrelated to every other one."""
        return Photo(self.path, self.digest.hex(), self.digest.hex(), "")


def upright(path: Path) -> Image.Image:
    """The picture as the service sees it, RGB on white, its long side at most 512 px."""
    with Image.open(path) as image:
        image.draft("RGB", (_READ_PX, _READ_PX))
        turned = ImageOps.exif_transpose(image)
        turned.thumbnail((_READ_PX, _READ_PX), reducing_gap=3.0)
        layer = turned.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def described(pictures: Sequence[Picture], vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Described:
    """Pictures with their vectors, for scores as the service counts them. Shape: n, (n, dim) unit rows."""
    n = len(pictures)
    bits = np.unpackbits(np.frombuffer(b"".join(one.hash for one in pictures), np.uint8)).reshape(n, 256)
    colour = np.frombuffer(b"".join(one.colour for one in pictures), np.uint8).reshape(n, 48)
    return Described(
        np.rint(vectors * LATTICE).astype(np.float32),
        2 * bits.astype(np.int8) - 1,
        np.array([one.quality for one in pictures], np.int16),
        colour.astype(np.int16),
    )
