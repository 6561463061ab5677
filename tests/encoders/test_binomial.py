"""Exact binomial bounds, against whole-number arithmetic and against tables."""

from fractions import Fraction
from math import comb

import pytest

from encoders.binomial import allowed_hits, cumulative, trials_needed, upper_bound


def exactly(hits: int, n: int, chance: Fraction) -> Fraction:
    """P(at most `hits`), with no rounding at all."""
    return sum((comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(hits + 1)), Fraction(0))


@pytest.mark.parametrize(("hits", "n", "chance"), [(0, 1, "1/2"), (3, 10, "1/3"), (9, 10, "9/10"), (7, 500, "1/100")])
def test_the_distribution_is_that_of_whole_numbers(hits: int, n: int, chance: str) -> None:
    ours = cumulative(hits, n, float(Fraction(chance)))
    assert ours == pytest.approx([float(exactly(k, n, Fraction(chance))) for k in range(hits + 1)], rel=1e-12)


def test_a_distribution_ends_at_one() -> None:
    assert cumulative(20_000, 20_000, 0.3)[-1] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("hits", "n", "bound"),
    [
        (0, 10, 0.258866),  # 1 - 0.05 ** (1 / 10)
        (1, 10, 0.394163),
        (5, 10, 0.777559),
        (9, 10, 0.994884),  # 0.95 ** (1 / 10)
        (2, 100, 0.061619),
        (0, 3000, 0.000998),  # the rule of three
    ],
)
def test_bounds_by_hand(hits: int, n: int, bound: float) -> None:
    assert upper_bound(hits, n) == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 60), (4, 90), (12, 500)])
def test_at_the_bound_the_hits_are_as_rare_as_was_said(hits: int, n: int) -> None:
    for confidence in (0.9, 0.95, 0.99):
        rarity = exactly(hits, n, Fraction(upper_bound(hits, n, confidence)).limit_denominator(10**9))
        assert float(rarity) == pytest.approx(1 - confidence, rel=1e-6)


def test_all_hits_bound_nothing() -> None:
    assert upper_bound(5, 5) == upper_bound(0, 0) == 1.0


def test_how_many_clean_clusters_a_rate_needs() -> None:
    assert trials_needed(0.01) == 299
    assert trials_needed(0.001) == 2995
    assert trials_needed(0.005) == 598
    assert trials_needed(0.5) == 5  # 1/32 < 0.05 < 1/16
    for rate in (0.3, 0.05, 0.01, 0.001):
        n = trials_needed(rate)
        assert upper_bound(0, n) <= rate < upper_bound(0, n - 1)


@pytest.mark.parametrize("rate", [0.4, 0.05, 0.01])
@pytest.mark.parametrize("n", [1, 4, 5, 58, 59, 298, 299, 473, 474, 5000])
def test_the_hits_allowed_are_the_most_whose_bound_holds(n: int, rate: float) -> None:
    hits = allowed_hits(n, rate)
    assert hits < 0 or upper_bound(hits, n) <= rate
    assert upper_bound(hits + 1, n) > rate


def test_no_trials_allow_nothing() -> None:
    assert allowed_hits(0, 0.5) == -1
