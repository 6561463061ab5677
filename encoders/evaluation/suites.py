"""The vocabulary: pictures that are made when they are needed, queries with their truth, suites.

Not for any suite in particular (each family has a file of its own) nor for figures (`metrics`).
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from encoders.preprocess import Domain


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, opened or drawn when it is needed, the same each time.

    `name` is unique: pictures of one name are computed once and shown under it. `make` gives an RGB image.
    """

    name: str
    make: Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a gallery, whose entries are meant by their place.

    truth: what it duplicates; the first of these found counts. rivals: near misses that must not be called duplicates
    (a recoloured twin, the garment underneath). ignored: entries about which nothing is claimed, such as another photo
    of the same product. Everything else is unrelated. `cluster` is what queries share that are not independent
    (product, sender, photo): intervals resample clusters. `kind` sorts queries of a suite for the breakdown.
    """

    picture: Picture
    cluster: str
    kind: str = ""
    truth: tuple[int, ...] = ()
    rivals: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """Queries against a gallery. `title` says in one line what is asked.

    A query that stands in the gallery itself (the same picture name) never meets itself. `pairs_only`: only truth and
    rivals are judged, the rest of the gallery is there because other queries need it.
    """

    name: str
    title: str
    gallery: Sequence[Picture]
    queries: Sequence[Query]
    query_domain: Domain = "generated"
    gallery_domain: Domain = "catalog"
    pairs_only: bool = False


def generator(name: str, seed: int) -> np.random.Generator:
    """Randomness that depends on a picture's name and the seed of the evaluation only, so that a suite of fewer queries
    holds the same pictures."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))
