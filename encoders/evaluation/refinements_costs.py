"""What refinements cost: CPU time of one core, and bytes a row of the index."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from encoders.embedding import Embedder, Vectors
from encoders.evaluation import refinements_scores as scores
from encoders.evaluation.refinements_recipe import LOCAL, TOP, Recipe
from encoders.evaluation.refinements_views import TokenEmbedder
from encoders.preprocess import Pixels

_TIMES: Final = 5
_LATTICE_BYTES: Final = 2  # of a number of a vector: the service keeps int16
_SCORE_BYTES: Final = 2  # of a stored crowding, as one more number on the lattice
_TOKEN_BYTES: Final = 2  # of a number of a token: float16


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU ms a picture of a design and of the catalogue, the model's own share included; bytes a row."""

    design_ms: float
    item_ms: float
    row_bytes: int


class Costs:
    """Measured on a few pictures. `embedder` must have no cache, or nothing is measured."""

    def __init__(self, embedder: Embedder, tokens: TokenEmbedder, pictures: Sequence[Pixels], background: Vectors,
                 cut: int) -> None:  # fmt: skip
        few = list(pictures)
        n = len(few)
        self._vectors = embedder.pixels(few, "catalog")
        self._tokens = tokens.pixels(few, "catalog")[1]
        plain, with_tokens = cpu_ms(lambda: embedder.pixels(few, "catalog"), lambda: tokens.pixels(few, "catalog"))
        self._plain_ms = plain / n
        self._tokens_ms = max(0.0, with_tokens - plain) / n
        self._background, self._cut = background, cut

    def of(self, recipe: Recipe) -> Cost:
        """Of one recipe."""
        n, dim = self._vectors.shape
        design = item = self._plain_ms
        stored = dim * _LATTICE_BYTES
        if recipe.weight:
            design += self._tokens_ms + self._looking_ms(recipe)
            item += self._tokens_ms
            stored += int(np.prod(self._tokens.shape[1:])) * _TOKEN_BYTES
        if recipe.mirrored:
            item += self._plain_ms
        if recipe.shrinkage is not None:
            parts = [(at, scores.whitening(self._background[:, at], recipe.shrinkage))
                     for at in scores.blocks(dim, self._cut)]  # fmt: skip
            (turning,) = cpu_ms(lambda: [turn(self._vectors[:, at]) for at, turn in parts])
            design, item = design + turning / n, item + turning / n
        if recipe.strength:
            (crowding,) = cpu_ms(lambda: scores.crowding(self._vectors, self._background, recipe.near))
            design += crowding / n * (recipe.sides != "item")
            item += crowding / n * (recipe.sides != "query")
            stored += _SCORE_BYTES * (recipe.sides != "query")
        return Cost(design, item, stored)

    def _looking_ms(self, recipe: Recipe) -> float:
        """At TOP entries, their tokens at hand."""
        items = self._tokens[np.arange(TOP) % len(self._tokens)]
        (looking,) = cpu_ms(lambda: LOCAL[recipe.local](self._tokens[0], items))
        return looking


def cpu_ms(*works: Callable[[], Any]) -> list[float]:
    """CPU time of each, of this process with all its threads: the least of a few goes, which other programs on the
    machine disturb least. The works take turns, so that what disturbs one disturbs all."""
    taken = np.empty((_TIMES, len(works)))
    for go in range(_TIMES):
        for place, work in enumerate(works):
            start = time.process_time()
            work()
            taken[go, place] = 1000 * (time.process_time() - start)
    return [float(ms) for ms in taken.min(axis=0)]
