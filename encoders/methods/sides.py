"""What a method learns from: unpaired rows of two domains, and pairs of rows that show one thing.

Plain arrays; where they come from is told by `photo_sides`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.methods.heads import Affine

Rows = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Sides:
    """Unpaired rows of the two domains, and pairs made without labels.

    Row i of both `pairs` shows one thing: on a clean ground, and in a scene. `pair_groups` is equal where two pairs
    show the same item.
    Shape: catalog (n, width), generated (m, width), pairs two of (k, width), pair_groups (k,).
    """

    catalog: Rows
    generated: Rows
    pairs: tuple[Rows, Rows]
    pair_groups: NDArray[np.int64]

    def through(self, shared: Affine) -> "Sides":
        """All rows mapped alike: for a method on top of another."""
        return Sides(
            shared(self.catalog), shared(self.generated), (shared(self.pairs[0]), shared(self.pairs[1])),
            self.pair_groups,
        )  # fmt: skip

    def shuffled(self, seed: int) -> "Sides":
        """Domain labels drawn by lot, as many of each as before: what is gained like this is not adaptation."""
        both = np.concatenate([self.catalog, self.generated])
        both = both[np.random.default_rng(seed).permutation(len(both))]
        return Sides(both[: len(self.catalog)], both[len(self.catalog) :], self.pairs, self.pair_groups)

    def both(self) -> NDArray[np.float64]:
        """The rows of the two domains together.

        Shape: (n + m, width).
        """
        return np.concatenate([self.catalog, self.generated]).astype(np.float64)
