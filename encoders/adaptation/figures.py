"""What two encoders find and what they mistake, on the same pictures, and whether the new one is kept.

Every model is asked at a threshold of its own: the lowest that at most one in a hundred of the held-back pictures has
a stranger at or above. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import above
from encoders.described import FIRES, Described, HashRule, scores
from encoders.evaluation.bootstrap import Interval, Resamples

STRANGERS: Final = 0.01
"""The share of held-back pictures that may have a stranger at or above the threshold."""

_BLOCK: Final = 256

Kinds = Mapping[str, Sequence[int]]
"""Kinds of made pictures, and at which places among a thing's views they stand."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one model. found, mistaken: (how many reach the threshold, of how many) copies and near misses, by kind.

    reached: Shape (n, views) float, 1 where a made picture reaches the threshold.
    """

    version: str
    threshold: float
    found: Mapping[str, tuple[int, int]]
    mistaken: Mapping[str, tuple[int, int]]
    reached: NDArray[np.float64]

    @property
    def recall(self) -> float:
        """The share of all copies that are found."""
        return _share(self.found)

    @property
    def false_duplicates(self) -> float:
        """The share of all near misses that are called duplicates."""
        return _share(self.mistaken)

    def as_object(self) -> dict[str, Any]:
        """Plain enough for JSON."""
        return {
            "version": self.version, "threshold": self.threshold,
            "recall": round(self.recall, 5), "false_duplicates": round(self.false_duplicates, 5),
            "copies_found": {kind: {"found": hits, "of": n} for kind, (hits, n) in self.found.items()},
            "near_misses_called_duplicates": {kind: {"called": hits, "of": n} for kind, (hits, n) in
                                              self.mistaken.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """The two models, and by how much the new one differs, with 95 % intervals that resample whole pictures. alike: of
    the held-back pictures, those that have a stranger which the hash rule calls the same picture."""

    base: Figures
    new: Figures
    recall: Interval
    false_duplicates: Interval
    alike: int

    @property
    def kept(self) -> bool:
        """Whether recall rises and false duplicates of near misses do not."""
        return self.new.recall > self.base.recall and self.new.false_duplicates <= self.base.false_duplicates


def nearest_strangers(
    gallery: Described, asked: int, rule: HashRule | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The nearest other picture of each of the first `asked` pictures, and which of them the hash rule has left a
    picture out for: what it calls the same picture is a duplicate whatever the vectors, so it is no stranger.

    Shape: (asked,), (asked,).
    """
    nearest, alike = np.empty(asked, np.float32), np.empty(asked, bool)
    for start in range(0, asked, _BLOCK):
        rows = np.arange(start, min(asked, start + _BLOCK))
        score = scores(gallery.at(rows), gallery, rule)
        score[np.arange(len(rows)), rows] = -1
        fired = score == FIRES
        nearest[rows], alike[rows] = np.where(fired, -1, score).max(axis=1), fired.any(axis=1)
    return nearest, alike


def threshold(nearest: NDArray[np.float32], share: float = STRANGERS) -> float:
    """The lowest threshold of four decimals that at most this share reaches. Shape: (n,), n > 0."""
    return above(float(-np.sort(-nearest)[int(len(nearest) * share)]))


def figures(
    version: str,
    similarity: NDArray[np.floating],
    there: NDArray[np.bool_],
    limit: float,
    copies: Kinds,
    near_misses: Kinds,
) -> Figures:
    """Count what reaches the limit. Shape: similarity (n, views) of made pictures with their own, there (n, views)."""
    reached = (similarity >= limit) & there

    def counted(kinds: Kinds) -> dict[str, tuple[int, int]]:
        return {kind: (int(reached[:, at].sum()), int(there[:, at].sum())) for kind, at in kinds.items()}

    return Figures(version, limit, counted(copies), counted(near_misses), reached.astype(float))


def compare(
    base: Figures, new: Figures, there: NDArray[np.bool_], alike: int, copies: Kinds, near_misses: Kinds
) -> Comparison:
    """Two models on the same made pictures. Shape: there (n, views)."""

    def difference(kinds: Kinds) -> Interval:
        places = [place for at in kinds.values() for place in at]
        picture, place = np.nonzero(there[:, places])
        more = (new.reached - base.reached)[:, places][picture, place]
        return Resamples([str(one) for one in picture]).mean(more)

    return Comparison(base, new, difference(copies), difference(near_misses), alike)


def _share(counts: Mapping[str, tuple[int, int]]) -> float:
    hits, n = (sum(column) for column in zip(*counts.values(), strict=True))
    return hits / n if n else 0.0
