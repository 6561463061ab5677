"""One way of scoring, as shipped or refined, and what it makes of a suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from encoders.embedding import Vectors
from encoders.evaluation import metrics
from encoders.evaluation import refinements_scores as scores
from encoders.evaluation.bootstrap import Interval, Resamples
from encoders.evaluation.metrics import Floats, Judged, Matrix
from encoders.evaluation.refinements_views import Side
from encoders.evaluation.run import CALIBRATION_RATE
from encoders.evaluation.suites import Suite

TOP: Final = 20
"""Entries that get a second look."""

FALSE_RATE: Final = 0.01
_DRAWS: Final = 200  # of a paired interval: sorting is done anew in each

LOCAL: Final = {"chamfer": scores.chamfer, "mutual": scores.mutual}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done to vectors and similarities. The defaults do nothing.

    mirrored: items are averaged with their mirror image. shrinkage: of the whitening, None without. sides and strength:
    whose crowding among its `near` nearest background pictures is subtracted, half of each for "both". local and
    weight: the similarity of tokens, and its share in the score of the first TOP.
    """

    mirrored: bool = False
    shrinkage: float | None = None
    sides: Literal["query", "item", "both"] = "both"
    near: int = 1
    strength: float = 0.0
    local: Literal["chamfer", "mutual"] = "chamfer"
    weight: float = 0.0

    def similarities(self, suite: Suite, asked: Side, kept: Side, background: Vectors, cut: int) -> Matrix:
        """Scores of the queries with the gallery, -inf where a query would meet itself.

        cut: where the second block of a vector begins. Shape: background (b, dim) -> (queries, entries).
        """
        queries, items = asked.vectors, kept.vectors
        if self.mirrored:
            items = scores.averaged(items, kept.mirrored, cut)
        if self.shrinkage is not None:
            queries, items, background = (
                scores.whitened(x, background, self.shrinkage, cut) for x in (queries, items, background)
            )
        similarity = queries @ items.T
        if self.strength:
            half = 0.5 if self.sides == "both" else 1.0
            crowded = [
                half * scores.crowding(x, background, self.near) if self.sides in (side, "both")
                else np.zeros(len(x), np.float32)
                for side, x in (("query", queries), ("item", items))
            ]  # fmt: skip
            similarity = scores.normalised(similarity, crowded[0], crowded[1], self.strength)
        _forbid_itself(similarity, suite)
        if self.weight:
            places = scores.first(similarity, TOP)
            alike = LOCAL[self.local]
            local = np.stack([alike(q, kept.tokens[at]) for q, at in zip(asked.tokens, places, strict=True)])
            similarity = scores.second_look(similarity, places, local, self.weight)
        return similarity


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one recipe made of one suite. `recall` at 1 and `found` at FALSE_RATE false duplicates."""

    judged: Judged
    clusters: Sequence[str]

    @property
    def recall(self) -> float:
        """Share of queries whose best entry is the right one."""
        return metrics.share(metrics.hits(self.judged.rank, 1))

    @property
    def found(self) -> float:
        """Share of queries above the threshold that FALSE_RATE of them reach with something unrelated."""
        return metrics.recall_at_rate(self.judged.truth, self.judged.unrelated, FALSE_RATE)

    def called(self, threshold: float) -> Floats:
        """1 for every near miss that is called a duplicate."""
        return (self.judged.rival >= threshold).astype(np.float64)


def outcome(suite: Suite, similarity: Matrix) -> Outcome:
    """Judge the queries of a suite. Shape: (queries, entries)."""
    judged = metrics.judge(similarity, suite.queries, suite.pairs_only)
    return Outcome(judged, [query.cluster for query in suite.queries])


def threshold(calibration: Outcome) -> float:
    """The lowest score that at most CALIBRATION_RATE of the unrelated queries reach.

    ValueError when they are too few for that.
    """
    highest = metrics.threshold_at(calibration.judged.unrelated, CALIBRATION_RATE)
    if np.isnan(highest):
        raise ValueError(f"{len(calibration.clusters)} unrelated pictures are too few to choose a threshold from")
    return float(np.nextafter(highest, np.inf))


def recall_gained(after: Outcome, before: Outcome) -> Interval:
    """Recall at 1, paired on the queries."""
    change = metrics.hits(after.judged.rank, 1) - metrics.hits(before.judged.rank, 1)
    return Resamples(after.clusters).mean(change)


def found_gained(after: Outcome, before: Outcome) -> Interval:
    """Recall at FALSE_RATE, paired on the queries, both thresholds drawn anew with every resample."""
    draws = []
    for weights in Resamples(after.clusters, draws=_DRAWS).weights:
        rows = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
        a, b = after.judged.only(rows), before.judged.only(rows)
        draws.append(metrics.recall_at_rate(a.truth, a.unrelated, FALSE_RATE)
                     - metrics.recall_at_rate(b.truth, b.unrelated, FALSE_RATE))  # fmt: skip
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(after.found - before.found, float(low), float(high))


def called_gained(after: Floats, before: Floats, clusters: Sequence[str]) -> Interval:
    """Near misses called duplicates, paired; the thresholds are taken as given. Shape: each (n,)."""
    return Resamples(clusters).mean(after - before)


def _forbid_itself(similarity: Matrix, suite: Suite) -> None:
    place = {picture.name: at for at, picture in enumerate(suite.gallery)}
    for row, query in enumerate(suite.queries):
        if (itself := place.get(query.picture.name)) is not None:
            similarity[row, itself] = -np.inf
