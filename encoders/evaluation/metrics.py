"""Figures of similarity matrices: ranks, recall, micro-AP, false duplicates, the gap between two domains.

Ties are always counted in the worst way: whatever ties with a true match is ranked before it (as SSCD does, Pizzi et
al. 2022). Not for pictures or suites. Intervals live in `bootstrap`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.suites import Query

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of each of n queries; -inf (similarity) where there is no such entry.

    truth, rival, unrelated: the best similarity to each sort of entry. truth_at, rival_at, wrong_at: their places in
    the gallery, -1 for none; wrong_at is of the best entry that is not truth. rank: of the best true match, from 1; 0
    for a query without truth. before_rival: how many entries are more similar than the best rival; -1 for none.
    Shape: each (n,).
    """

    truth: Floats
    rival: Floats
    unrelated: Floats
    truth_at: Whole
    rival_at: Whole
    wrong_at: Whole
    rank: Whole
    before_rival: Whole

    def only(self, rows: NDArray[np.intp]) -> "Judged":
        """Of some of the queries."""
        return Judged(*(getattr(self, field.name)[rows] for field in fields(self)))


def judge(similarity: Matrix, queries: Sequence[Query], pairs_only: bool = False) -> Judged:
    """Sort out the similarities of queries to a gallery.

    Shape: (n, m) for n queries and m entries; an entry of -inf does not exist for that query.
    """
    n = len(queries)
    wrong = similarity.astype(np.float32, copy=True)
    for row, query in enumerate(queries):
        wrong[row, [*query.truth, *query.ignored]] = -np.inf
    if pairs_only:
        kept = np.full_like(wrong, -np.inf)
        for row, query in enumerate(queries):
            kept[row, list(query.rivals)] = wrong[row, list(query.rivals)]
        wrong = kept
    unrelated = wrong.copy()
    for row, query in enumerate(queries):
        unrelated[row, list(query.rivals)] = -np.inf
    truth_at = _best(similarity, [query.truth for query in queries])
    rival_at = _best(wrong, [query.rivals for query in queries])
    truth, rival = _at(similarity, truth_at), _at(wrong, rival_at)
    ahead = (wrong >= truth[:, None].astype(np.float32)) & np.isfinite(wrong)
    over_rival = (unrelated > rival[:, None].astype(np.float32)) & np.isfinite(unrelated)
    over_rival_truths = np.array(
        [sum(similarity[row, at] > rival[row] for at in query.truth) for row, query in enumerate(queries)], np.int64
    )
    wrong_at = wrong.argmax(axis=1) if similarity.shape[1] else np.full(n, -1)
    wrong_at = np.where(np.isfinite(_at(wrong, wrong_at)), wrong_at, -1)
    return Judged(
        truth=truth,
        rival=rival,
        unrelated=unrelated.max(axis=1, initial=-np.inf).astype(np.float64),
        truth_at=truth_at,
        rival_at=rival_at,
        wrong_at=wrong_at,
        rank=np.where(truth_at >= 0, 1 + ahead.sum(axis=1), 0),
        before_rival=np.where(rival_at >= 0, over_rival.sum(axis=1) + over_rival_truths, -1),
    )


def hits(rank: Whole, k: int) -> Floats:
    """1 where the best true match is among the first k, else 0. Shape: (n,)."""
    return ((rank >= 1) & (rank <= k)).astype(np.float64)


def micro_average_precision(similarity: Matrix, queries: Sequence[Query]) -> float:
    """Average precision over all pairs of query and entry at once, by similarity: one threshold for everything.

    Ignored pairs are left out. NaN when there is no true pair. Shape: similarity (n, m).
    """
    true = [similarity[row, list(query.truth)] for row, query in enumerate(queries)]
    positives = np.sort(np.concatenate([*true, np.empty(0, np.float32)]))  # ascending
    if not len(positives):
        return float("nan")
    wrong_of = np.zeros(len(positives) + 1, np.int64)  # wrong pairs by the number of positives they reach
    for row, query in enumerate(queries):
        counted = np.delete(similarity[row], [*query.truth, *query.ignored])
        wrong_of += np.bincount(
            np.searchsorted(positives, counted[counted >= positives[0]], side="right"), minlength=len(wrong_of)
        )
    wrong_above = np.cumsum(wrong_of[::-1])[::-1][1:]  # of positive i: wrong pairs at or above it
    right_above = np.arange(len(positives), 0, -1)
    return float((right_above / (right_above + wrong_above)).mean())


def threshold_at(unrelated: Floats, rate: float) -> float:
    """The lowest threshold that at most `rate` of the queries reach with something unrelated; a duplicate is what lies
    above it, so an unrelated pair that lies exactly on it is no false duplicate.

    NaN when `rate` is below one in the number of queries: the data cannot tell. Shape: (n,).
    """
    if len(unrelated) * rate < 1:
        return float("nan")
    allowed = int(np.floor(len(unrelated) * rate + 1e-9))
    return float(np.sort(unrelated)[::-1][allowed]) if allowed < len(unrelated) else -np.inf


def recall_at_rate(truth: Floats, unrelated: Floats, rate: float) -> float:
    """Share of queries whose true match lies above the threshold at which `rate` of them are false duplicates.

    truth and unrelated are best similarities; NaN as in `threshold_at`. Shape: each (n,).
    """
    threshold = threshold_at(unrelated, rate)
    return float("nan") if np.isnan(threshold) else float((truth > threshold).mean())


def share(marks: Floats) -> float:
    """The mean, NaN of nothing."""
    return float(marks.mean()) if len(marks) else float("nan")


@dataclass(frozen=True, slots=True)
class Gap:
    """How unlike two clouds of unit vectors are: Euclidean distance of the means, and Frobenius distance of the
    covariances (what CORAL brings to zero; Sun et al. 2016)."""

    mean: float
    covariance: float


def domain_gap(a: Matrix, b: Matrix) -> Gap:
    """The gap between two sets of vectors, not necessarily of one size. Shape: a (n, dim), b (m, dim)."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a64, b64)]
    return Gap(
        mean=float(np.linalg.norm(a64.mean(axis=0) - b64.mean(axis=0))),
        covariance=float(np.linalg.norm(covariances[0] - covariances[1])),
    )


def _best(similarity: Matrix, places: Sequence[tuple[int, ...]]) -> Whole:
    """The place of the most similar of the given entries of each row, -1 where none is given."""
    best = np.full(len(places), -1, np.int64)
    for row, among in enumerate(places):
        if among:
            best[row] = among[int(similarity[row, list(among)].argmax())]
    return best


def _at(similarity: Matrix, places: Whole) -> Floats:
    """The similarity at each row's place, -inf at -1."""
    if not similarity.shape[1]:
        return np.full(len(places), -np.inf)
    picked = similarity[np.arange(len(places)), places].astype(np.float64)
    return np.where(places >= 0, picked, -np.inf)
