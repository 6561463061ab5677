"""How near pictures are, as the service counts it: vectors on its lattice, and the perceptual-hash rule.

For measuring many pictures against many; the service itself asks of one at a time (`streams/decide`). NumPy only, no
picture is opened here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

LATTICE: Final = 2048
"""The service rounds the coordinates of unit vectors to this grid."""

FIRES: Final = 2.0
"""The score of a pair that fires the hash rule: above every threshold, since no threshold keeps such a pair apart."""

_BLOCK: Final = 256  # queries at a time: flat memory whatever the gallery


class Described(NamedTuple):
    """What the service knows of n pictures. As a catalogue they have m windows too, their small copies among them
    (`encoders.preprocess.as_in_catalog`): `window_of` says of which picture each is, ascending.

    Shape: vectors (n, dim) float32 lattice values, bits (n, 256) int8 of -1 and 1, quality (n,), colour (n, 48) int16,
    windows (m, dim), window_of (m,).
    """

    vectors: NDArray[np.float32]
    bits: NDArray[np.int8]
    quality: NDArray[np.int16]
    colour: NDArray[np.int16]
    windows: NDArray[np.float32]
    window_of: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        vectors: Sequence[NDArray[Any]],
        hashes: Sequence[bytes],
        quality: Sequence[int],
        colours: Sequence[bytes],
    ) -> "Described":
        """From what log records hold. Shape: n arrays of vectors (1 + windows, dim), lattice values; n hashes of 32
        bytes, colours of 48."""
        n = len(hashes)
        bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(n, 256)
        return cls(
            np.array([own[0] for own in vectors], np.float32).reshape(n, -1 if n else 0),
            2 * bits.astype(np.int8) - 1,
            np.array(quality, np.int16),
            np.frombuffer(b"".join(colours), np.uint8).reshape(n, 48).astype(np.int16),
            np.concatenate([own[1:] for own in vectors] or [np.empty((0, 0))]).astype(np.float32),
            np.repeat(np.arange(n), [len(own) - 1 for own in vectors]),
        )

    def at(self, rows: NDArray[np.intp] | slice) -> "Described":
        """Some of the pictures."""
        chosen = np.arange(len(self.quality))[rows]
        begin, end = (np.searchsorted(self.window_of, chosen, side) for side in ("left", "right"))
        windows = np.concatenate([np.arange(0), *map(np.arange, begin, end)])
        return Described(self.vectors[rows], self.bits[rows], self.quality[rows], self.colour[rows],
                         self.windows[windows], np.repeat(np.arange(len(chosen)), end - begin))  # fmt: skip

    def asking(self, leave_out: int) -> "Described":
        """As designs under a policy that does not compare so many numbers at the end of their vectors."""
        vectors = self.vectors.copy()
        vectors[:, max(0, vectors.shape[1] - leave_out) :] = 0
        return self._replace(vectors=vectors)


class HashRule(NamedTuple):
    """Fires for a pair when at most `distance` of 256 bits differ, no cell of the colours differs by more than `colour`
    levels, and both pictures have at least this `quality`."""

    distance: int
    colour: int
    quality: int


def similarity(a: Described, b: Described) -> NDArray[np.float32]:
    """Exact lattice cosines of a's pictures with b's or their best window, at most 1. Shape: (n, m)."""
    products = a.vectors @ b.vectors.T
    np.maximum.at(products.T, b.window_of, b.windows @ a.vectors.T)
    return np.minimum(products / LATTICE**2, 1)


def distances(a: Described, b: Described) -> NDArray[np.int16]:
    """Hamming distances of the hashes, in bits. Shape: (n, m)."""
    return ((256 - a.bits.astype(np.float32) @ b.bits.T.astype(np.float32)) / 2).astype(np.int16)


def scores(a: Described, b: Described, rule: HashRule | None) -> NDArray[np.float32]:
    """What the decision goes by: the cosine, or FIRES where the rule does. Shape: (n, m)."""
    score = similarity(a, b)
    if rule is not None:
        good = (a.quality >= rule.quality)[:, None] & (b.quality >= rule.quality)
        i, j = np.nonzero((distances(a, b) <= rule.distance) & good)
        alike = np.abs(a.colour[i] - b.colour[j]).max(axis=1, initial=0) <= rule.colour
        score[i[alike], j[alike]] = FIRES
    return score


def pair_scores(a: Described, b: Described, rule: HashRule | None) -> NDArray[np.float32]:
    """The scores of a's first picture with b's first, of the second with the second, and so on. Shape: (n,)."""
    one = [scores(a.at(slice(i, i + 1)), b.at(slice(i, i + 1)), rule)[0, 0] for i in range(len(a.quality))]
    return np.array(one, np.float32)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest unrelated picture of every product, with s cuts and p products.

    Shape: scores (s, p), within the first `cuts[s]` rows of the gallery; picture and other (p,), the pair that has the
    score of the last cut, as rows.
    """

    scores: NDArray[np.float32]
    picture: NDArray[np.intp]
    other: NDArray[np.intp]


def nearest_unrelated(
    queries: Described,
    gallery: Described,
    product: NDArray[np.intp],
    file: NDArray[np.intp],
    cuts: Sequence[int],
    rule: HashRule | None = None,
    same: Mapping[int, Collection[int]] | None = None,
) -> Nearest:
    """The most similar picture of another product, for every product 0..p-1: exact, every pair is looked at.

    `queries` and `gallery` are the same n pictures, seen as designs and as the catalogue. Pairs of one product, of one
    `file` (the same bytes) and of products that `same` names for each other are never counted. cuts: ascending, the
    last one is n. A product with no such picture has -inf.

    Shape: product and file (n,).
    """
    n, edges = len(product), [0, *cuts]
    if any(a >= b for a, b in pairwise(edges)) or edges[-1] != n:
        raise ValueError(f"cuts must ascend from 1 to {n}, not {list(cuts)}")
    best = np.empty((len(cuts), n), np.float32)
    other = np.empty(n, np.intp)
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        score = scores(queries.at(rows), gallery, rule)
        related = (product[rows, None] == product) | (file[rows, None] == file)
        for i, mine in enumerate(product[rows].tolist()):
            if same and mine in same:
                related[i] |= np.isin(product, list(same[mine]))
        score[related] = -np.inf
        parts = np.stack([score[:, a:b].max(axis=1) for a, b in pairwise(edges)])
        best[:, rows] = np.maximum.accumulate(parts, axis=0)
        other[rows] = score.argmax(axis=1)
    return _by_product(best, other, product)


def _by_product(best: NDArray[np.float32], other: NDArray[np.intp], product: NDArray[np.intp]) -> Nearest:
    """From pictures to products: the best of each one's pictures."""
    order = np.lexsort((-best[-1], product))  # the best picture of a product comes first
    first = np.searchsorted(product[order], np.arange(product.max() + 1))
    return Nearest(np.maximum.reduceat(best[:, order], first, axis=1), order[first], other[order[first]])


def numbered(names: Iterable[object]) -> NDArray[np.intp]:
    """Equal names get equal numbers, from 0 in the order they first appear."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], np.intp)
