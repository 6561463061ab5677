"""Small domains whose truth is known: the same items seen twice, moved and stretched."""

import numpy as np
from numpy.typing import NDArray

from encoders.methods.heads import Head
from encoders.methods.sides import Sides

Floats = NDArray[np.float64]

SHIFT = 20.0


def items(n: int, seed: int, width: int = 24) -> Floats:
    """Items that differ in every direction, in some more than in others. Shape: (n, width)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) * np.linspace(1.5, 0.5, width)


def moved(rows: Floats, seed: int, shift: float = SHIFT) -> Floats:
    """The same items in the other domain: pushed aside along one direction, and a little noise."""
    aside = np.random.default_rng(99).normal(size=rows.shape[1])
    noise = np.random.default_rng(seed).normal(size=rows.shape)
    return rows + shift * aside / np.linalg.norm(aside) + 0.05 * noise


def unpaired(n: int = 600, shift: float = SHIFT) -> Sides:
    """Different items in the two domains, and pairs of yet other items."""
    both = items(n, 3)
    return Sides(items(n, 1), moved(items(n, 2), 4, shift), (both, moved(both, 5, shift)), np.arange(n))


def recall(head: Head, n: int = 300, shift: float = SHIFT) -> float:
    """R@1 of unseen items of the generated domain among the same items of the catalogue."""
    catalog = items(n, 7)
    queries = moved(catalog, 8, shift)
    similarity = head.vectors(queries, "generated") @ head.vectors(catalog, "catalog").T
    return float((similarity.argmax(axis=1) == np.arange(n)).mean())


def mean_gap(head: Head, sides: Sides) -> float:
    """Distance of the mean unit vectors of the two domains."""
    left, right = head.vectors(sides.catalog, "catalog"), head.vectors(sides.generated, "generated")
    return float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)))
