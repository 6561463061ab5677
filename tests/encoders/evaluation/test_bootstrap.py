"""Intervals: against a plain loop over resamples, and that clusters make them wider."""

import math

import numpy as np
import pytest

from encoders.evaluation.bootstrap import Resamples
from encoders.evaluation.metrics import recall_at_rate


def test_recall_in_every_draw_is_that_of_the_drawn_queries() -> None:
    rng = np.random.default_rng(1)
    clusters = [f"c{i // 3}" for i in range(120)]
    truth, unrelated = rng.integers(0, 40, 120) / 40.0, rng.integers(0, 30, 120) / 40.0
    resamples = Resamples(clusters, seed=3, draws=50)
    slow = []
    for weights in resamples.weights:
        drawn = np.repeat(np.arange(120), weights.astype(int))
        slow.append(recall_at_rate(truth[drawn], unrelated[drawn], 0.05))
    interval = resamples.recall_at_rate(truth, unrelated, 0.05)
    assert interval.value == recall_at_rate(truth, unrelated, 0.05)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))))


def test_a_cluster_is_drawn_whole() -> None:
    weights = Resamples(["a", "a", "b", "c", "c", "c"], draws=200).weights
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_the_mean_against_the_closed_form() -> None:
    """For clusters of one, the deviation of a bootstrapped share is that of the binomial distribution."""
    marks = np.array([1.0] * 300 + [0.0] * 700)
    interval = Resamples([str(i) for i in range(1000)], draws=4000).mean(marks)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert interval.value == pytest.approx(0.3)
    assert (interval.low, interval.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_repeating_queries_of_a_cluster_makes_nothing_surer() -> None:
    rng = np.random.default_rng(2)
    marks = (rng.random(100) < 0.5).astype(np.float64)
    once = Resamples([str(i) for i in range(100)]).mean(marks)
    tenfold = Resamples([str(i) for i in range(100) for _ in range(10)]).mean(np.repeat(marks, 10))
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.1)


def test_too_few_queries_for_a_rate_and_none_at_all() -> None:
    few = Resamples(["a", "b"] * 40)
    assert math.isnan(few.recall_at_rate(np.ones(80), np.zeros(80), 0.01).value)
    assert few.recall_at_rate(np.ones(80), np.zeros(80), 0.02).value == 1
    assert math.isnan(Resamples([]).mean(np.empty(0)).value)
