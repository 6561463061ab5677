"""The vectors of pictures by every model: each picture is made once and embedded once in a run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from encoders.embedding import Embedder, Vectors
from encoders.evaluation.suites import Picture, Suite
from encoders.preprocess import DOMAINS, Domain, Pixels, to_pixels

_CHUNK: Final = 32  # pictures made, embedded and forgotten at a time
_PROBES: Final = 4

Tick = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much of it is done, of how much."""

ToPixels = Callable[[Image.Image], Pixels]
"""What a model is shown of a picture."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model under a name. `threshold`: the similarity from which on it calls a duplicate; None: to be chosen."""

    name: str
    embedder: Embedder
    threshold: float | None = None


class Library:
    """Vectors by model, picture and domain. `tick` hears of what is computed."""

    def __init__(self, models: Sequence[Model], tick: Tick, pixels: ToPixels = to_pixels) -> None:
        self.models, self._tick, self._pixels = models, tick, pixels
        self._known: dict[tuple[str, str, Domain], Vectors] = {}

    def prepare(self, suite: Suite, models: Sequence[Model] | None = None, exchanged: bool = False) -> None:
        """Compute what is not known yet of a suite, all models on a picture while it is at hand.

        exchanged: with the domain flags of both sides exchanged.
        """
        for what, pictures, domain in sides(suite, exchanged):
            self._compute(what, pictures, domain, self.models if models is None else models)

    def vectors(self, model: Model, suite: Suite, exchanged: bool = False) -> tuple[Vectors, Vectors]:
        """The vectors of the queries and of the gallery. Shape: (n, dim), (m, dim)."""
        self.prepare(suite, [model], exchanged)
        gallery, queries = (
            np.stack([self._known[model.name, picture.name, domain] for picture in pictures])
            for _, pictures, domain in sides(suite, exchanged)
        )
        return queries, gallery

    def ignores_the_flag(self, model: Model, suite: Suite) -> bool:
        """Whether a few pictures of a suite have the same vector under both domains."""
        pixels = [self._pixels(query.picture.make()) for query in suite.queries[:_PROBES]]
        first, second = (model.embedder.pixels(pixels, domain) for domain in DOMAINS)
        return bool((first == second).all())

    def _compute(self, what: str, pictures: Iterable[Picture], domain: Domain, models: Sequence[Model]) -> None:
        waiting = list(
            {
                picture.name: picture
                for picture in pictures
                if any((model.name, picture.name, domain) not in self._known for model in models)
            }.values()
        )
        for start in range(0, len(waiting), _CHUNK):
            self._tick(what, start, len(waiting))
            chunk = waiting[start : start + _CHUNK]
            pixels = [self._pixels(picture.make()) for picture in chunk]
            for model in models:
                rows = model.embedder.pixels(pixels, domain)
                for picture, row in zip(chunk, rows, strict=True):
                    self._known[model.name, picture.name, domain] = row
        self._tick(what, len(waiting), len(waiting))


def sides(suite: Suite, exchanged: bool) -> list[tuple[str, list[Picture], Domain]]:
    """What it is called, its pictures and their domain, of the gallery and of the queries."""
    domains = (suite.gallery_domain, suite.query_domain)
    if exchanged:
        domains = domains[::-1]
    asked = [query.picture for query in suite.queries]
    return [(f"{suite.name}: gallery", list(suite.gallery), domains[0]), (suite.name, asked, domains[1])]
