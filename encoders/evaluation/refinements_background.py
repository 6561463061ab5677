"""The frozen background: pictures that whitening, normalisation and the basis of the local features are fitted on.

Only what weights may be trained on and shipped: home photos of the training senders, synthetic garments of small seeds.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from encoders import data as photo_sets
from encoders import synthetic
from encoders.embedding import Embedder, Vectors
from encoders.evaluation.library import Tick
from encoders.evaluation.sources import SYNTHETIC_PX
from encoders.evaluation.suites import Picture, generator
from encoders.preprocess import Pixels, to_pixels

GARMENTS: Final = 400
"""Synthetic garments, each as a design and as a photograph."""

_CHUNK: Final = 32


def pictures(data: Path, seed: int) -> list[Picture]:
    """All of them in a random order, so that any first part is a fair sample."""
    photos = [photo for photo in photo_sets.clothing(data) if int(photo.group) % photo_sets.HELD_OUT]
    made = [Picture(f"background/{photo.path.stem}", partial(photo_sets.load, photo.path)) for photo in photos]
    for number in range(GARMENTS):
        made += [
            Picture(f"background/design {number}", partial(_design, number)),
            Picture(f"background/photo {number}", partial(_photo, number)),
        ]
    return [made[i] for i in generator("background", seed).permutation(len(made))]


def vectors(background: Sequence[Picture], embedder: Embedder, tick: Tick) -> Vectors:
    """Their vectors, as catalogue pictures. Shape: (n, dim)."""
    rows = []
    for start in range(0, len(background), _CHUNK):
        tick("background", start, len(background))
        rows.append(embedder.pixels(pixels(background[start : start + _CHUNK]), "catalog"))
    return np.concatenate(rows)


def pixels(some: Sequence[Picture]) -> list[Pixels]:
    """What the model sees of them. Shape: each (224, 224, 3)."""
    return [to_pixels(picture.make()) for picture in some]


def _design(number: int) -> Image.Image:
    return synthetic.design(synthetic.garment(number), SYNTHETIC_PX)


def _photo(number: int) -> Image.Image:
    return synthetic.photo(synthetic.garment(number), number, SYNTHETIC_PX)
