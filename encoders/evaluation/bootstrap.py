"""Percentile intervals by resampling clusters (product, sender, photo): queries of one cluster are not independent, and
an interval that treats them so is too narrow (Cameron, Gelbach, Miller 2008).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS: Final = 1000
_TAIL: Final = 0.025  # on each side: 95 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Resamples:
    """Bootstrap weights of n queries in clusters.

    `weights` says how often each query counts in each draw: all queries of a cluster alike, as often as the cluster was
    drawn; as many clusters are drawn as there are. Shape: (draws, n).
    """

    def __init__(self, clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> None:
        names, cluster_of = np.unique(np.array(clusters, dtype=str), return_inverse=True)
        self.clusters = len(names)
        rng = np.random.default_rng((seed, len(names)))
        drawn = np.zeros((draws, len(names)))
        if len(names):
            drawn[:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self.weights = drawn[:, cluster_of]

    def mean(self, values: Floats) -> Interval:
        """The mean of a figure of each query. Shape: (n,)."""
        if not len(values):
            return Interval(math.nan, math.nan, math.nan)
        means = self.weights @ values / self.weights.sum(axis=1)
        return Interval(float(values.mean()), *_ends(means))

    def recall_at_rate(self, truth: Floats, unrelated: Floats, rate: float) -> Interval:
        """`metrics.recall_at_rate`, its threshold drawn anew with every resample. Shape: each (n,).

        NaN when there are fewer queries than one false duplicate at that rate needs.
        """
        if len(truth) * rate < 1:
            return Interval(math.nan, math.nan, math.nan)
        whole = np.ones((1, len(truth)))
        value, draws = (_recalls(weights, truth, unrelated, rate) for weights in (whole, self.weights))
        return Interval(float(value[0]), *_ends(draws))


def _recalls(weights: Floats, truth: Floats, unrelated: Floats, rate: float) -> Floats:
    """Shape: weights (draws, n), truth and unrelated (n,) -> (draws,)."""
    order = np.argsort(-unrelated, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)  # weight of queries whose unrelated similarity is this high
    total = reached[:, -1]
    # The first place where more than the allowed weight is reached: what lies strictly above it is a duplicate.
    place = (reached > np.floor(total * rate + 1e-9)[:, None]).argmax(axis=1)
    thresholds = unrelated[order][place]
    by_truth = np.argsort(truth, kind="stable")
    below = np.searchsorted(truth[by_truth], thresholds, side="right")
    summed = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, by_truth], axis=1)], axis=1)
    found: Floats = 1 - summed[np.arange(len(weights)), below] / total
    return found


def _ends(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
    return float(low), float(high)
