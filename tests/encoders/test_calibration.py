"""Choosing thresholds: closed forms, coverage by simulation, and what is refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoders.binomial import allowed_hits, cumulative, upper_bound
from encoders.calibration import (
    Choice,
    Negatives,
    NoThreshold,
    TooFew,
    above,
    buckets,
    calibrate,
    choose,
    cuts,
    tail,
)


def negatives(scores: NDArray[np.floating], *sizes: int, category: str = "") -> Negatives:
    """Scores (s, n), or (n,) for one size; one category, or one letter each."""
    table = np.atleast_2d(scores)
    letters = list(category) if len(category) > 1 else [category] * table.shape[1]
    return Negatives(sizes, table, np.array(letters, np.str_))


def ladder(n: int) -> NDArray[np.float64]:
    """n scores in no order, a tick of the grid apart: just below 0.9, just below 0.8999 and so on."""
    return np.random.default_rng(n).permutation(0.9 - (np.arange(n) + 0.5) / 10_000)


# One threshold


@pytest.mark.parametrize(("n", "hits"), [(299, 0), (472, 0), (473, 1), (3000, 20)])
def test_the_threshold_stands_above_the_first_score_too_many(n: int, hits: int) -> None:
    assert allowed_hits(n, 0.01) == hits
    choice = choose(negatives(ladder(n), 500), 0.01, 500)
    expected = round(0.9 - hits / 10_000, 4)
    assert choice == Choice(expected, hits, n, upper_bound(hits, n), "measured")
    assert (ladder(n) >= choice.similarity).sum() == hits


def test_the_rate_is_kept_as_often_as_is_said() -> None:
    """Scores are uniform, so the true rate of a threshold t is 1 - t, and whether it is kept can be counted."""
    n, rate, times = 100, 0.05, 3000
    scores = np.random.default_rng(0).random((times, n))
    broken = sum(1 - choose(negatives(row, 10), rate, 10).similarity > rate for row in scores)
    exactly = cumulative(allowed_hits(n, rate), n, rate)[-1]
    assert exactly <= 0.05
    assert broken / times == pytest.approx(exactly, abs=3.5 * math.sqrt(exactly / times))


@given(st.floats(-1, 0.99999))
def test_the_threshold_is_the_lowest_of_four_decimals_that_is_not_reached(score: float) -> None:
    threshold = above(score)
    assert max(score, 0) < threshold <= max(score, 0) + 1.0001e-4
    assert threshold == round(threshold, 4)


def test_no_score_at_all_needs_the_least_threshold() -> None:
    assert above(-math.inf) == above(-0.5) == above(0.0) == 0.0001


def test_a_score_on_the_grid_is_not_reached() -> None:
    assert [above(n / 10_000) for n in (9310, 29, 5700)] == [0.9311, 0.003, 0.5701]


def test_a_threshold_is_not_lower_among_more_rows() -> None:
    least = Choice(0.97, 0, 300, 0.01, "measured")
    assert choose(negatives(ladder(300), 500), 0.01, 500, least).similarity == 0.97


# More rows than were searched


@pytest.mark.parametrize("growth", [2, 7])
def test_beyond_the_gallery_the_union_bound_holds(growth: int) -> None:
    choice = choose(negatives(ladder(3000), 500), 0.01, 500 * growth)
    hits = allowed_hits(3000, 0.01 / growth)
    assert hits >= 0
    assert choice == Choice(round(0.9 - hits / 10_000, 4), hits, 3000, upper_bound(hits, 3000) * growth, "union bound")
    assert choice.bound is not None
    assert choice.bound <= 0.01


def test_beyond_what_the_clusters_can_show_nothing_bounds_it() -> None:
    """299 clean clusters show 1 % in the gallery, so nothing among twice the rows."""
    choice = choose(negatives(ladder(299), 500), 0.01, 1000)
    assert (choice.basis, choice.bound) == ("tail", None)
    assert choice.similarity > choose(negatives(ladder(299), 500), 0.01, 500).similarity


@pytest.mark.parametrize("exponent", [2.0, 6.0, 20.0])
def test_the_tail_of_a_power_law_is_found(exponent: float) -> None:
    """P(distance <= d) = (d / 0.4) ** exponent, so at a rate r the distance is 0.4 * r ** (1 / exponent)."""
    distances = 0.4 * np.random.default_rng(1).random(200_000) ** (1 / exponent)
    scores = -np.sort(distances - 1)
    for rate in (1e-2, 1e-3, 1e-4):
        assert 1 - tail(scores, rate) == pytest.approx(0.4 * rate ** (1 / exponent), rel=0.06)


def test_a_tail_by_hand() -> None:
    """Twenty scores, all of them the tail. The mean of ln(0.5 / 0.25) is ln 2: half the distance for each factor e."""
    scores = np.array([0.75] * 19 + [0.5])
    assert tail(scores, 1 / math.e) == pytest.approx(0.75)
    assert tail(scores, 1 / math.e**3) == pytest.approx(1 - 0.5 / 8)
    assert tail(np.array([0.7]), 0.1) == 1.0


def test_a_tail_of_equal_pictures_is_still_below_one() -> None:
    scores = np.concatenate([np.full(9, 2.0), np.linspace(0.99, 0.5, 290)])
    assert 0.99 < choose(negatives(scores, 500), 0.01, 1 << 20).similarity <= 1


def test_the_scores_of_as_many_rows_are_used_where_they_were_searched() -> None:
    scores = np.stack([np.full(300, value) for value in (0.1, 0.2, 0.3)])
    three = negatives(scores, 10, 100, 1000)
    chosen = [choose(three, 0.01, rows).similarity for rows in (1, 10, 11, 100, 101, 1000)]
    assert chosen == [0.1001, 0.1001, 0.2001, 0.2001, 0.3001, 0.3001]
    assert choose(three, 0.01, 1001).basis != "measured"


# Refusals


def test_too_few_clusters_are_refused_with_how_many_are_needed() -> None:
    for rate, needed in ((0.01, 299), (0.001, 2995)):
        calibrate(negatives(ladder(needed) / 10, 500), rate)
        with pytest.raises(TooFew, match=rf"{needed - 1} clusters .* {needed} without a false") as refusal:
            calibrate(negatives(ladder(needed - 1) / 10, 500), rate)
        assert (refusal.value.clusters, refusal.value.needed) == (needed - 1, needed)
    with pytest.raises(TooFew, match="0 clusters"):
        calibrate(negatives(np.empty((1, 0)), 500), 0.01)
    with pytest.raises(TooFew):
        choose(negatives(ladder(10), 500), 0.01, 500)


@pytest.mark.parametrize("score", [1.0, 2.0])
def test_no_threshold_keeps_equal_pictures_apart(score: float) -> None:
    clean = np.full(600, 0.5)
    assert allowed_hits(600, 0.01) == 1
    clean[:1] = score
    assert choose(negatives(clean, 50), 0.01, 50).similarity == 0.5001
    clean[:2] = score
    with pytest.raises(NoThreshold, match=r"2 of 600 unrelated pictures of hats are as near as equal .* and 1 may"):
        choose(negatives(clean, 50), 0.01, 50, name="hats")


# All buckets


def test_the_first_bucket_ends_within_what_was_measured() -> None:
    assert buckets(6000) == [(0, 1023), *((1 << k, (2 << k) - 1) for k in range(10, 21))]
    assert buckets(300, 4000) == [(0, 255), (256, 511), (512, 1023), (1024, 2047), (2048, 4095)]
    assert buckets(255, 256) == [(0, 255), (256, 511)]
    assert buckets(254, 256) == [(0, 127), (128, 255), (256, 511)]
    assert buckets(10_000, 600) == [(0, 511), (512, 1023)]
    assert buckets(1, 4) == [(0, 1), (2, 3), (4, 7)]


def test_a_gallery_is_cut_where_its_buckets_end() -> None:
    assert cuts(6000, 1) == [1024, 2048, 4096, 6000]
    assert cuts(6000, 17) == [1040, 2064, 4112, 6000]
    assert cuts(4097, 1) == [1024, 2048, 4096, 4097]
    assert cuts(4096, 1) == [1024, 2048, 4096]
    assert cuts(4095, 1) == [1024, 2048, 4095]
    assert cuts(3, 3) == [3]
    assert cuts(6000, 1, 2048) == [1024, 2048, 4096, 6000]
    assert cuts(6000, 1, 1024) == [1024, 2048, 6000]


@given(st.integers(1, 1 << 22), st.integers(1, 1 << 22))
def test_buckets_leave_no_gap(measured: int, largest: int) -> None:
    found = buckets(measured, largest)
    assert found[0][0] == 0
    assert all(a[1] + 1 == b[0] for a, b in pairwise(found))
    assert all(first & (first - 1) == 0 and last == 2 * first - 1 for first, last in found[1:])
    assert found[0][1] <= measured
    assert found[-1][1] >= min(largest, found[-1][0])


def test_a_bucket_keeps_the_rate_up_to_its_end() -> None:
    rng = np.random.default_rng(3)
    sizes = (1023, 2047, 3000)
    scores = np.maximum.accumulate(rng.normal(0.4, 0.1, (3, 3000)), axis=0)
    made = calibrate(negatives(scores, *sizes), 0.01, 1 << 14)
    assert [bucket.rows for bucket in made.buckets] == [0, 1024, 2048, 4096, 8192, 16384]
    assert [bucket.extrapolated for bucket in made.buckets] == [False, False, True, True, True, True]
    chosen = [bucket.threshold("any") for bucket in made.buckets]
    assert chosen == sorted(chosen)
    for bucket, place in zip(made.buckets[:2], (0, 1), strict=True):
        hits = int((scores[place] >= bucket.pooled.similarity).sum())
        assert hits == bucket.pooled.hits == 20
    for bucket in made.buckets[2:]:
        growth = bucket.end / 3000
        expected = allowed_hits(3000, 0.01 / growth)
        assert bucket.pooled.basis == ("union bound" if expected >= 0 else "tail")
        if expected >= 0:
            assert int((scores[2] >= bucket.pooled.similarity).sum()) == expected
    assert made.at(0) == made.at(1023) == made.buckets[0]
    assert made.at(1024) == made.buckets[1]
    assert made.at(1 << 30) == made.buckets[-1]


def test_a_category_has_its_own_threshold_only_with_enough_clusters() -> None:
    scores = np.concatenate([np.full(299, 0.3), np.full(298, 0.8), np.full(50, 0.1)])
    made = calibrate(negatives(scores, 2000, category="a" * 299 + "b" * 298 + " " * 50), 0.01, 4096)
    first = made.buckets[0]
    assert set(first.categories) == {"a"}
    assert made.too_few == {"b": 298, " ": 50}
    assert first.threshold("a") == 0.3001
    assert first.threshold("b") == first.threshold("never seen") == first.pooled.similarity == 0.8001
    assert all(set(bucket.categories) == {"a"} for bucket in made.buckets)
    assert first.categories["a"].clusters == 299
    assert first.pooled.clusters == 647


def test_what_has_no_category_has_no_threshold_of_its_own() -> None:
    made = calibrate(negatives(ladder(400), 500), 0.01)
    assert not made.buckets[0].categories
    assert not made.too_few
