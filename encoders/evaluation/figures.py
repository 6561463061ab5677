"""The figures of a set of judged queries, with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation import metrics
from encoders.evaluation.bootstrap import Interval, Resamples
from encoders.evaluation.metrics import Floats, Judged, Matrix
from encoders.evaluation.suites import Query

DEPTHS: Final = (1, 5, 10, 50)
FALSE_RATES: Final = (0.001, 0.005, 0.01)
_TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of some queries by one model. NaN where a figure does not apply.

    recall: at 1, 5, 10 and 50. recall_at_rate: above a threshold that this share of the queries reaches with something
    unrelated. At the model's own threshold: `found`, the share of queries with truth that are called duplicates of it;
    `false`, of queries that are called duplicates of something unrelated; `rival_called`, of queries with near misses
    that are called duplicates of one. rival_ahead: a near miss is at least as similar as the truth. rival_in_top: one
    is among the first ten. The medians are of similarities: to the truth, to the nearest near miss, to the nearest
    unrelated entry.
    """

    queries: int
    clusters: int
    recall: Mapping[int, Interval]
    recall_at_rate: Mapping[float, Interval]
    micro_ap: float
    found: Interval
    false: Interval
    rival_called: Interval
    rival_ahead: Interval
    rival_in_top: Interval
    median_truth: float
    median_rival: float
    median_unrelated: float

    def as_object(self) -> dict[str, Any]:
        """For JSON: intervals as [value, low, high], None for NaN."""
        return {
            "queries": self.queries,
            "clusters": self.clusters,
            **{f"recall_at_{k}": plain(interval) for k, interval in self.recall.items()},
            **{f"recall_at_false_rate_{rate}": plain(interval) for rate, interval in self.recall_at_rate.items()},
            "micro_ap": number(self.micro_ap),
            "found_at_threshold": plain(self.found),
            "false_at_threshold": plain(self.false),
            "near_miss_called": plain(self.rival_called),
            "near_miss_ahead": plain(self.rival_ahead),
            "near_miss_in_top_10": plain(self.rival_in_top),
            "median_similarity_truth": number(self.median_truth),
            "median_similarity_near_miss": number(self.median_rival),
            "median_similarity_unrelated": number(self.median_unrelated),
        }


def measure(judged: Judged, similarity: Matrix, queries: Sequence[Query], threshold: float) -> Figures:
    """All figures. Shape: judged (n,), similarity (n, m), n queries."""
    truth, rival = judged.truth_at >= 0, judged.rival_at >= 0
    unrelated = np.isfinite(judged.unrelated)
    of_all, of_truth, of_rival, of_unrelated, of_both = (
        _Among(queries, among) for among in (np.ones(len(queries), bool), truth, rival, unrelated, truth & unrelated)
    )
    return Figures(
        queries=len(queries),
        clusters=of_all.resamples.clusters,
        recall={k: of_truth.mean(metrics.hits(judged.rank, k)) for k in DEPTHS},
        recall_at_rate={rate: of_both.recall_at_rate(judged, rate) for rate in FALSE_RATES},
        micro_ap=metrics.micro_average_precision(similarity, queries),
        found=of_truth.mean(judged.truth >= threshold),
        false=of_unrelated.mean(judged.unrelated >= threshold),
        rival_called=of_rival.mean(judged.rival >= threshold),
        rival_ahead=_Among(queries, truth & rival).mean(judged.rival >= judged.truth),
        rival_in_top=_Among(queries, rival & unrelated).mean(judged.before_rival < _TOP),
        median_truth=of_truth.median(judged.truth),
        median_rival=of_rival.median(judged.rival),
        median_unrelated=of_unrelated.median(judged.unrelated),
    )


class _Among:
    """Figures of the queries that are marked. Shape: among (n,)."""

    def __init__(self, queries: Sequence[Query], among: NDArray[np.bool_]) -> None:
        self._among = among
        self.resamples = Resamples([query.cluster for query, kept in zip(queries, among, strict=True) if kept])

    def mean(self, values: Floats | NDArray[np.bool_]) -> Interval:
        return self.resamples.mean(values[self._among].astype(np.float64))

    def recall_at_rate(self, judged: Judged, rate: float) -> Interval:
        return self.resamples.recall_at_rate(judged.truth[self._among], judged.unrelated[self._among], rate)

    def median(self, values: Floats) -> float:
        return float(np.median(values[self._among])) if self._among.any() else math.nan


def plain(interval: Interval) -> list[float] | None:
    """[value, low, high], None for NaN."""
    if math.isnan(interval.value):
        return None
    return [round(end, 4) for end in (interval.value, interval.low, interval.high)]


def number(value: float) -> float | None:
    """Four digits, None for NaN."""
    return None if math.isnan(value) else round(value, 4)
