"""Correlation alignment in closed form, and the deep variant as a loss that does the same by steps."""

import numpy as np

from encoders.methods import coral, plain
from encoders.methods.coral import DeepSettings, aligned, alignment
from tests.encoders.methods.toys import mean_gap, recall, unpaired

DIM = 16


def stretched(n: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)


def test_mean_and_covariance_become_equal() -> None:
    source, target = stretched(200, 0), stretched(300, 1)
    mapped = alignment(source, target, ridge=0.0)(source)
    assert np.abs(mapped.mean(axis=0) - target.mean(axis=0)).max() < 1e-6
    assert np.abs(np.cov(mapped, rowvar=False) - np.cov(target, rowvar=False)).max() < 1e-6


def test_diagonal_covariances_in_closed_form() -> None:
    """Signs and permutations aside, whitening and recolouring a scaled axis is division and multiplication."""
    square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = alignment(square * [2.0, 3.0], square * [10.0, 0.5] + 7, ridge=0.0)
    assert np.allclose(found.weight, np.diag([5.0, 1 / 6]))
    assert np.allclose(found.bias, 7)


def test_a_large_ridge_leaves_covariances_alone_and_aligns_means_still() -> None:
    source, target = stretched(200, 0), stretched(300, 1)
    found = alignment(source, target, ridge=1e6)
    assert np.allclose(found.weight, np.eye(5), atol=1e-3)
    assert np.allclose(found(source).mean(axis=0), target.mean(axis=0))


def test_the_head_maps_the_generated_domain_onto_the_catalogue() -> None:
    sides = unpaired()
    head = aligned(sides, DIM, ridge=0.0)
    catalog, generated = head.catalog(sides.catalog), head.generated(sides.generated)
    assert np.abs(catalog.mean(axis=0) - generated.mean(axis=0)).max() < 1e-6
    assert np.abs(np.cov(catalog, rowvar=False) - np.cov(generated, rowvar=False)).max() < 1e-6
    assert recall(head) > recall(plain.pooled(sides, DIM)) + 0.1


def test_deep_coral_draws_the_domains_together_and_keeps_identities() -> None:
    sides = unpaired()
    before = plain.pooled(sides, DIM)
    head = coral.deep(sides, 0, DIM, DeepSettings(steps=200, learning_rate=3e-3))
    assert mean_gap(head, sides) < mean_gap(before, sides) / 2
    assert recall(head) > recall(before)


def test_deep_coral_without_alignment_stays_where_it_began() -> None:
    sides = unpaired(80)
    head = coral.deep(sides, 0, DIM, DeepSettings(weight=0.0, steps=5, batch=32))
    assert np.allclose(head.generated(sides.generated), plain.pooled(sides, DIM).generated(sides.generated), atol=1e-4)


def test_deep_coral_follows_its_seed() -> None:
    sides = unpaired(80)
    settings = DeepSettings(steps=5, batch=32)
    first, again, other = (coral.deep(sides, seed, DIM, settings) for seed in (1, 1, 2))
    assert first.generated.weight.tobytes() == again.generated.weight.tobytes()
    assert first.generated.weight.tobytes() != other.generated.weight.tobytes()
