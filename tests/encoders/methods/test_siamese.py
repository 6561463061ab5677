"""The siamese head learns from pairs what to overlook; the seed settles it; both domains share it."""

import numpy as np

from encoders.methods import plain, siamese
from encoders.methods.heads import Head
from encoders.methods.sides import Sides
from tests.encoders.methods.toys import Floats, items

DIM = 6
WIDTH = 24


def nuisance(rows: Floats, seed: int) -> Floats:
    """The same items in a scene: six directions are filled with something else, loudly."""
    scene = rows.copy()
    scene[:, :6] = np.random.default_rng(seed).normal(size=(len(rows), 6)) * 3
    return scene


def test_it_learns_to_overlook_what_differs_within_pairs() -> None:
    clean = items(500, 0)
    sides = Sides(items(200, 1), nuisance(items(200, 2), 3), (clean, nuisance(clean, 4)), np.arange(500))
    unseen = items(200, 5)
    queries = nuisance(unseen, 6)

    def recall(head: Head) -> float:
        similarity = head.vectors(queries, "generated") @ head.vectors(unseen, "catalog").T
        return float((similarity.argmax(axis=1) == np.arange(200)).mean())

    head = siamese.fit(sides, 0, DIM, siamese.Settings(steps=200, batch=64, learning_rate=1e-2))
    assert recall(plain.pooled(sides, DIM)) < 0.2
    assert recall(head) > 0.6
    assert head.catalog is head.generated


def test_one_seed_gives_one_head() -> None:
    clean = items(100, 0)
    sides = Sides(clean, clean + 1, (clean, nuisance(clean, 4)), np.arange(100))
    settings = siamese.Settings(steps=5, batch=32)
    first, again, other = (siamese.fit(sides, seed, DIM, settings).catalog for seed in (1, 1, 2))
    assert first.weight.tobytes() == again.weight.tobytes()
    assert first.weight.tobytes() != other.weight.tobytes()
