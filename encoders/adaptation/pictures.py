"""The pictures of a person's two folders, as far as adaptation has to know them. No torch, and nothing is decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from encoders import data
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
    """The picture as the service sees it, its long side at most 512 px."""
    return data.upright(path, _READ_PX)


def described(pictures: Sequence[Picture], vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Described:
    """Pictures with their vectors, for scores as the service counts them, but of whole pictures alone: without small
    copies and windows. Shape: n, (n, dim) unit rows."""
    return Described.of(
        list(np.rint(vectors * LATTICE)[:, None]),
        [one.hash for one in pictures],
        [one.quality for one in pictures],
        [one.colour for one in pictures],
    )
