"""The vectors of pictures by every model: each picture is made once and embedded once in a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoders.embedding import Embedder, Vectors
from encoders.evaluation.suites import Picture, Suite
from encoders.preprocess import DOMAINS, Domain, as_in_catalog, to_pixels

_CHUNK: Final = 32  # pictures made, embedded and forgotten at a time
_PROBES: Final = 4

Tick = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much of it is done, of how much."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model under a name. `threshold`: the similarity from which on it calls a duplicate; None: to be chosen."""

    name: str
    embedder: Embedder
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a suite: what it is called, and its pictures with their domain."""

    what: str
    pictures: Sequence[Picture]
    domain: Domain
    is_gallery: bool


@dataclass(frozen=True, slots=True)
class Gallery:
    """The vectors of m pictures: of each its own, then those of its windows (`encoders.preprocess.as_in_catalog`).

    Shape: vectors (rows, dim), start (m,), the row of each picture's own.
    """

    vectors: Vectors
    start: NDArray[np.intp]

    @property
    def whole(self) -> Vectors:
        """The pictures' own. Shape: (m, dim)."""
        return self.vectors[self.start]

    def similarity(self, asked: Vectors) -> Vectors:
        """Cosines with the pictures, of each the best one of its vectors. Shape: (n, dim) -> (n, m)."""
        if not len(self.start):
            return np.empty((len(asked), 0), np.float32)
        return np.asarray(np.maximum.reduceat(asked @ self.vectors.T, self.start, axis=1))


class Library:
    """Vectors by model, picture, domain and side. `tick` hears of what is computed."""

    def __init__(self, models: Sequence[Model], tick: Tick) -> None:
        self.models, self._tick = models, tick
        self._known: dict[tuple[str, str, Domain, bool], Vectors] = {}

    def prepare(self, suite: Suite, models: Sequence[Model] | None = None, exchanged: bool = False) -> None:
        """Compute what is not known yet of a suite, all models on a picture while it is at hand.

        exchanged: with the domain flags of both sides exchanged.
        """
        for side in sides(suite, exchanged):
            self._compute(side, self.models if models is None else models)

    def vectors(self, model: Model, suite: Suite, exchanged: bool = False) -> tuple[Vectors, Gallery]:
        """The vectors of the queries and of the gallery. Shape: (n, dim), m pictures."""
        self.prepare(suite, [model], exchanged)
        kept, asked = (
            [self._vectors(model, picture, side) for picture in side.pictures] for side in sides(suite, exchanged)
        )
        start = np.cumsum([0, *(len(own) for own in kept)])[:-1]
        return np.concatenate(asked), Gallery(np.concatenate(kept), start)

    def ignores_the_flag(self, model: Model, suite: Suite) -> bool:
        """Whether a few pictures of a suite have the same vector under both domains."""
        pixels = [to_pixels(query.picture.make()) for query in suite.queries[:_PROBES]]
        first, second = (model.embedder.pixels(pixels, domain) for domain in DOMAINS)
        return bool((first == second).all())

    def _vectors(self, model: Model, picture: Picture, side: Side) -> Vectors:
        """What is known; a query's may be known from a gallery. Shape: (1 + windows, dim), of a query (1, dim)."""
        key = (model.name, picture.name, side.domain)
        known = self._known.get((*key, side.is_gallery))
        return self._known[*key, True][:1] if known is None else known

    def _compute(self, side: Side, models: Sequence[Model]) -> None:
        def is_known(model: Model, picture: Picture) -> bool:
            key = (model.name, picture.name, side.domain)
            return (*key, True) in self._known or (not side.is_gallery and (*key, False) in self._known)

        waiting = list(
            {
                picture.name: picture
                for picture in side.pictures
                if not all(is_known(model, picture) for model in models)
            }.values()
        )
        for start in range(0, len(waiting), _CHUNK):
            self._tick(side.what, start, len(waiting))
            chunk = waiting[start : start + _CHUNK]
            images = [picture.make() for picture in chunk]
            pixels = [as_in_catalog(image) if side.is_gallery else to_pixels(image)[None] for image in images]
            ends = np.cumsum([len(own) for own in pixels])[:-1]
            for model in models:
                rows = model.embedder.pixels(list(np.concatenate(pixels)), side.domain)
                for picture, own in zip(chunk, np.split(rows, ends), strict=True):
                    self._known[model.name, picture.name, side.domain, side.is_gallery] = own
        self._tick(side.what, len(waiting), len(waiting))


def sides(suite: Suite, exchanged: bool) -> tuple[Side, Side]:
    """The gallery and the queries."""
    domains = (suite.gallery_domain, suite.query_domain)
    if exchanged:
        domains = domains[::-1]
    asked = [query.picture for query in suite.queries]
    return (
        Side(f"{suite.name}: gallery", list(suite.gallery), domains[0], is_gallery=True),
        Side(suite.name, asked, domains[1], is_gallery=False),
    )
