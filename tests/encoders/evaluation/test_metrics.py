"""Every figure against a slow, plain reference, and in cases whose answer is known beforehand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoders.evaluation import metrics
from encoders.evaluation.metrics import domain_gap, hits, judge, micro_average_precision, recall_at_rate, threshold_at
from encoders.evaluation.suites import Picture, Query

Matrix = NDArray[np.float32]


def picture(name: str) -> Picture:
    return Picture(name, lambda: pytest.fail("metrics open no pictures"))


def query(truth: tuple[int, ...] = (), rivals: tuple[int, ...] = (), ignored: tuple[int, ...] = ()) -> Query:
    return Query(picture("q"), "cluster", "", truth, rivals, ignored)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Matrix, list[Query]]:
    """Small matrices with many ties, entries that do not exist, and every mixture of truth, rivals and ignored."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    levels = [-math.inf, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]
    values = draw(st.lists(st.sampled_from(levels), min_size=n * m, max_size=n * m))
    similarity = np.array(values, np.float32).reshape(n, m)
    queries = []
    for row in range(n):
        roles = draw(st.lists(st.sampled_from(["truth", "rival", "ignored", "", ""]), min_size=m, max_size=m))
        of = {role: tuple(i for i, r in enumerate(roles) if r == role) for role in ("truth", "rival", "ignored")}
        for place in of["truth"]:
            similarity[row, place] = max(similarity[row, place], np.float32(-0.5))
        queries.append(query(of["truth"], of["rival"], of["ignored"]))
    return similarity, queries


@given(cases())
@settings(max_examples=300, deadline=None)
def test_ranks_as_a_person_would_count_them(case: tuple[Matrix, list[Query]]) -> None:
    similarity, queries = case
    judged = judge(similarity, queries)
    for row, q in enumerate(queries):
        # Best first; of equals the wrong one first, and nothing that does not exist.
        ranked = sorted(
            (-float(similarity[row, at]), at in q.truth, at)
            for at in range(similarity.shape[1])
            if at not in q.ignored and similarity[row, at] > -math.inf
        )
        rank = next((place for place, (_, is_truth, _) in enumerate(ranked, start=1) if is_truth), 0)
        assert judged.rank[row] == rank
        for k in (1, 2, 5):
            assert hits(judged.rank, k)[row] == (1 <= rank <= k)
        unrelated = [-s for s, _, at in ranked if at not in q.truth and at not in q.rivals]
        assert judged.unrelated[row] == max(unrelated, default=-math.inf)
        rivals = [-s for s, _, at in ranked if at in q.rivals]
        assert judged.rival[row] == max(rivals, default=-math.inf)
        if rivals:
            others = [-s for s, _, at in ranked if at not in q.rivals]
            assert judged.before_rival[row] == sum(s > max(rivals) for s in others)


def slow_average_precision(similarity: Matrix, queries: list[Query]) -> float:
    """Walk down all pairs, wrong ones first among equals, and average the precision at every right one."""
    pairs = sorted(
        (-float(similarity[row, at]), at in q.truth)
        for row, q in enumerate(queries)
        for at in range(similarity.shape[1])
        if at not in q.ignored
    )
    right, precisions = 0, []
    for seen, (_, is_true) in enumerate(pairs, start=1):
        if is_true:
            right += 1
            precisions.append(right / seen)
    return sum(precisions) / len(precisions) if precisions else math.nan


@given(cases())
@settings(max_examples=300, deadline=None)
def test_micro_average_precision_against_the_slow_walk(case: tuple[Matrix, list[Query]]) -> None:
    similarity, queries = case
    assert micro_average_precision(similarity, queries) == pytest.approx(
        slow_average_precision(similarity, queries), nan_ok=True
    )


def test_micro_average_precision_of_known_cases() -> None:
    perfect = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert micro_average_precision(perfect, [query((0,)), query((1,))]) == 1
    # One threshold for all: each query alone is right, but 0.5 of the first lies above 0.4 of the second.
    pooled = np.array([[0.9, 0.5], [0.1, 0.4]], np.float32)
    assert micro_average_precision(pooled, [query((0,)), query((1,))]) == pytest.approx((1 + 2 / 3) / 2)
    # All equal: the worst order puts the two wrong pairs first.
    assert micro_average_precision(np.ones((2, 2), np.float32), [query((0,)), query((1,))]) == pytest.approx(
        (1 / 3 + 2 / 4) / 2
    )


def slow_recall_at_rate(truth: NDArray[np.float64], unrelated: NDArray[np.float64], rate: float) -> float:
    """Try every threshold there is, keep the best that is lawful."""
    best = 0.0
    for threshold in [*truth, *unrelated, -math.inf, math.inf]:
        if (unrelated > threshold).sum() <= rate * len(unrelated) + 1e-9:
            best = max(best, float((truth > threshold).mean()))
    return best


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=60),
       st.sampled_from([0.05, 0.1, 0.3, 1.0]))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_recall_at_a_false_rate_against_every_threshold(pairs: list[tuple[int, int]], rate: float) -> None:
    truth, unrelated = np.array(pairs, np.float64).T
    if len(pairs) * rate < 1:
        assert math.isnan(recall_at_rate(truth, unrelated, rate))
    else:
        assert recall_at_rate(truth, unrelated, rate) == pytest.approx(slow_recall_at_rate(truth, unrelated, rate))


def test_a_threshold_lets_through_what_it_promises() -> None:
    unrelated = np.arange(1000, dtype=np.float64)
    for rate in (0.001, 0.005, 0.01):
        assert (unrelated > threshold_at(unrelated, rate)).mean() == pytest.approx(rate)
    assert math.isnan(threshold_at(unrelated, 0.0009))


def test_pairs_only_leaves_the_rest_of_the_gallery_out() -> None:
    similarity = np.array([[0.2, 0.9, 0.8]], np.float32)
    judged = judge(similarity, [query(rivals=(0,))], pairs_only=True)
    assert judged.rival[0] == pytest.approx(0.2)
    assert judged.unrelated[0] == -math.inf
    assert judged.wrong_at[0] == 0


def test_the_gap_of_known_clouds() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((500, 3)).astype(np.float32)
    assert domain_gap(cloud, cloud) == metrics.Gap(0, 0)
    moved = domain_gap(cloud, cloud + np.array([3, 4, 0], np.float32))
    assert moved.mean == pytest.approx(5, rel=1e-5)
    assert moved.covariance == pytest.approx(0, abs=1e-5)
    # Doubling one axis of a cloud of variance v adds 3 v at one place of the covariance matrix, and as much as that of
    # its covariances with the others.
    doubled = domain_gap(cloud, cloud * np.array([2, 1, 1], np.float32))
    covariance = np.cov(cloud.astype(np.float64), rowvar=False)
    expected = math.sqrt((3 * covariance[0, 0]) ** 2 + 2 * covariance[0, 1] ** 2 + 2 * covariance[0, 2] ** 2)
    assert doubled.covariance == pytest.approx(expected, rel=1e-5)


def test_an_empty_gallery_is_no_match() -> None:
    judged = judge(np.empty((2, 0), np.float32), [query(), query()])
    assert judged.rank.tolist() == [0, 0]
    assert judged.unrelated.tolist() == [-math.inf, -math.inf]
    assert judged.wrong_at.tolist() == [-1, -1]
