"""Thresholds for a wished rate of false duplicates, per category and per power-of-two bucket of live rows.

A false duplicate is a new design whose threshold is reached by anything in a catalogue of so many rows. Their rate is
counted on *negatives*, one a cluster (the nearest unrelated picture of a product), and no threshold is called measured
unless the exact binomial bound at 95 % keeps the rate. Beyond the rows that were searched the union bound takes over
(among N rows instead of n the rate is at most N / n times as high), and beyond what that many clusters can show a
power law: both are marked as extrapolated.

NumPy only: vectors come from elsewhere (`described.py`), and what is written to a file from `policy_toml.py`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.binomial import allowed_hits, trials_needed, upper_bound

LARGEST: Final = 1 << 20
"""Live rows up to which thresholds are written."""

FIRST_STEP: Final = 1 << 10
"""Smaller catalogues share one threshold: what a few hundred rows happen to hold says little about the next ones."""

_GRID: Final = 10_000  # thresholds have four decimals
_TAIL: Final = 0.1  # the share of the highest scores that the tail is fitted to
_TAIL_LEAST: Final = 20

Basis = Literal["measured", "union bound", "tail"]
"""What a threshold rests on. All but the first are extrapolated."""


class TooFew(ValueError):
    """So few clusters cannot show the wished rate, whatever they are like."""

    def __init__(self, clusters: int, rate: float) -> None:
        self.clusters, self.needed = clusters, trials_needed(rate)
        super().__init__(
            f"{clusters} clusters of unrelated pictures are too few to show a rate of {rate:.3g}: "
            f"{self.needed} without a false duplicate are the least"
        )


class NoThreshold(ValueError):
    """So many unrelated pictures are equal, or fire the hash rule, that no threshold keeps the rate."""


class Negatives(NamedTuple):
    """The nearest unrelated picture of each of n clusters, in s galleries of growing size.

    sizes: rows that were searched, ascending. Shape: scores (s, n), never falling along the sizes; category (n,) str.
    """

    sizes: Sequence[int]
    scores: NDArray[np.floating]
    category: NDArray[np.str_]

    def of(self, category: str) -> "Negatives":
        """Those of one category."""
        here = self.category == category
        return Negatives(self.sizes, self.scores[:, here], self.category[here])

    def among(self, rows: int) -> tuple[NDArray[np.floating], float]:
        """The scores in the smallest gallery of at least `rows`, else in the largest one with the factor by which the
        rate may then be higher (union bound; 1 else)."""
        place = int(np.searchsorted(np.array(self.sizes), rows))
        return (self.scores[place], 1.0) if place < len(self.sizes) else (self.scores[-1], rows / self.sizes[-1])


class Choice(NamedTuple):
    """A threshold. hits: how many of the `clusters` may reach it (none of them needs to); bound: the highest rate of
    false duplicates that they leave possible at 95 %, at the end of the bucket; None where nothing bounds it."""

    similarity: float
    hits: int
    clusters: int
    bound: float | None
    basis: Basis


@dataclass(frozen=True, slots=True)
class Bucket:
    """From `rows` to `end` live rows. categories: those with a threshold of their own."""

    rows: int
    end: int
    pooled: Choice
    categories: Mapping[str, Choice]

    @property
    def extrapolated(self) -> bool:
        """Whether any threshold here is a guess, or a bound for more rows than were searched."""
        return any(choice.basis != "measured" for choice in (self.pooled, *self.categories.values()))

    def threshold(self, category: str) -> float:
        """The similarity from which a design of this category is a duplicate here."""
        return self.categories.get(category, self.pooled).similarity


@dataclass(frozen=True, slots=True)
class Calibration:
    """buckets: ascending, the first from 0 rows on. too_few: the clusters of each category that has the pooled
    threshold."""

    rate: float
    buckets: Sequence[Bucket]
    too_few: Mapping[str, int]

    def at(self, rows: int) -> Bucket:
        """The bucket that a catalogue of so many rows is in; above the last one, that one."""
        return [bucket for bucket in self.buckets if bucket.rows <= rows][-1]


def calibrate(negatives: Negatives, rate: float, largest: int = LARGEST) -> Calibration:
    """Thresholds that keep the rate. TooFew clusters: refused; NoThreshold: the scores do not allow any."""
    clusters = len(negatives.category)
    if allowed_hits(clusters, rate) < 0:
        raise TooFew(clusters, rate)
    counts = Counter(negatives.category[negatives.category != ""].tolist())
    own = {name: negatives.of(name) for name, n in sorted(counts.items()) if allowed_hits(n, rate) >= 0}
    pooled: Choice | None = None
    before: dict[str, Choice] = {}
    found = []
    for rows, end in buckets(negatives.sizes[-1], largest):
        pooled = choose(negatives, rate, end, pooled)
        before = {name: choose(those, rate, end, before.get(name), name) for name, those in own.items()}
        found.append(Bucket(rows, end, pooled, before))
    return Calibration(rate, found, {name: n for name, n in sorted(counts.items()) if name not in own})


def buckets(measured: int, largest: int = LARGEST) -> list[tuple[int, int]]:
    """(first, last) number of live rows of every bucket. The first one ends within the rows that were `measured`, if
    they are two at least; then one for each power of two up to `largest`."""
    step = max(2, min(FIRST_STEP, *(1 << n.bit_length() - 1 for n in (measured + 1, largest))))
    steps = [step << i for i in range(max(1, largest.bit_length() - step.bit_length() + 1))]
    return [(0, step - 1), *((rows, 2 * rows - 1) for rows in steps)]


def cuts(pictures: int, widest: int, largest: int = LARGEST) -> list[int]:
    """How many rows of a gallery to search, one size after the other, so that each bucket within it is measured at its
    end, and the whole at last. widest: the most pictures that one product has; they are among the rows, but nothing is
    compared with its own, so that in `cut` rows `cut - widest` others are counted on."""
    ends = [end + widest for _, end in buckets(max(1, pictures - widest), largest)]
    return [*(cut for cut in ends if cut < pictures), pictures]


def choose(negatives: Negatives, rate: float, rows: int, least: Choice | None = None, name: str = "") -> Choice:
    """The lowest threshold that keeps the rate among `rows` rows, and is not below `least`, that of fewer rows.

    Which score it stands above depends on the number of clusters alone, not on the scores (a one-sided tolerance limit,
    S. Wilks 1941), so the bound holds for the threshold that was chosen. NoThreshold where that score is 1.
    """
    scores, growth = negatives.among(rows)
    n, floor = len(scores), least.similarity if least else 0.0
    descending = -np.sort(-scores.astype(float))
    hits = allowed_hits(n, rate / growth)
    if hits >= 0 and descending[hits] < 1:
        bound = upper_bound(hits, n) * growth
        return Choice(max(floor, above(descending[hits])), hits, n, bound, "measured" if growth == 1 else "union bound")
    if growth == 1:
        if hits < 0:
            raise TooFew(n, rate)
        reach = int((descending >= 1).sum())
        raise NoThreshold(
            f"{reach} of {n} unrelated pictures{f' of {name}' if name else ''} are as near as equal ones or fire the "
            f"hash rule, and {hits} may: are they true duplicates, or is the rule too lax?"
        )
    return Choice(max(floor, min(1.0, above(tail(descending, rate / growth)))), 0, n, None, "tail")


def above(score: float) -> float:
    """The lowest threshold of four decimals that a score does not reach, and more than 0."""
    ticks = max(0, math.floor(score * _GRID)) if score > -math.inf else 0
    while ticks / _GRID <= max(score, 0):
        ticks += 1
    return ticks / _GRID


def tail(descending: NDArray[np.float64], rate: float) -> float:
    """Where the tail of the scores is exceeded at this rate: a guess and no bound.

    Near 1 the distance 1 - score is taken to follow a power law, as the distance to the nearest of many points does on
    a surface of any dimension; the exponent is Hill's estimate (B. Hill 1975; E. Levina and P. Bickel 2004) from the
    highest scores. Shape: (n,), descending.
    """
    distance = 1 - np.minimum(descending[np.isfinite(descending)], 1 - 1 / _GRID)
    near = distance[: max(_TAIL_LEAST, math.ceil(_TAIL * len(descending)))]
    if len(near) < 2:
        return 1.0
    inverse_exponent = np.log(near[-1] / near[:-1]).mean()
    return float(1 - near[-1] * (rate * len(descending) / len(near)) ** inverse_exponent)
