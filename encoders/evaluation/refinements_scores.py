"""Arithmetic on vectors and similarities that could follow an encoder: whitening, normalisation against a background,
averaging with the mirror image, a second look with local features.

NumPy on arrays only: no picture, suite or model is known here (`refinements` measures what each is worth).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.metrics import Floats, Matrix

Tokens = NDArray[np.float16]

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Affine:
    """x -> (x - mean) @ matrix. Shape: mean (d,), matrix (d, e)."""

    mean: Floats
    matrix: Floats

    def __call__(self, x: NDArray[np.floating]) -> Floats:
        """Shape: (..., d) -> (..., e)."""
        moved: Floats = (x.astype(np.float64) - self.mean) @ self.matrix
        return moved


def whitening(background: Matrix, shrinkage: float) -> Affine:
    """What gives the background mean 0 and, without shrinkage, covariance 1 (ZCA: the least change that does).

    The covariance C is first drawn to a multiple of the identity: (1 - shrinkage) C + shrinkage tr(C) / d (Ledoit, Wolf
    2004, with a given intensity). At shrinkage 1 only the mean is taken away. ValueError for a shrinkage outside 0 to 1
    or a background that does not vary. Shape: (n, d).
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"a shrinkage of {shrinkage}, expected 0 to 1")
    x = background.astype(np.float64)
    mean = x.mean(axis=0)
    values, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    values = (1 - shrinkage) * values.clip(min=0) + shrinkage * values.mean()
    if values.min() <= _TINY:
        raise ValueError(f"the background's covariance is singular: {len(x)} rows of {x.shape[1]} numbers; shrink it")
    return Affine(mean, (axes / np.sqrt(values)) @ axes.T)


def principal(background: Matrix, dimensions: int) -> Affine:
    """The first principal axes, centred, each of its own variance. Shape: (n, d) -> d to `dimensions`."""
    x = background.astype(np.float64)
    mean = x.mean(axis=0)
    _, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    return Affine(mean, axes[:, ::-1][:, :dimensions])


def unit(x: Floats) -> Floats:
    """Rows of norm 1; zeros stay zeros. Shape: (..., d)."""
    rows: Floats = x / np.sqrt(np.square(x).sum(axis=-1, keepdims=True)).clip(min=_TINY)
    return rows


def by_block(parts: Sequence[Floats], like: Matrix) -> Matrix:
    """One vector of several blocks, each block brought to the mean norm it has in `like`.

    So a policy that leaves a block out goes on meaning the same. Shape: parts of (n, d1), (n, d2) ..., like
    (m, d1 + d2 + ...) -> (n, d1 + d2 + ...).
    """
    ends = np.cumsum([0, *(part.shape[1] for part in parts)])
    shares = [np.linalg.norm(like[:, a:b], axis=1).mean() for a, b in pairwise(ends)]
    whole = unit(np.concatenate([share * unit(part) for share, part in zip(shares, parts, strict=True)], axis=1))
    return whole.astype(np.float32)


def whitened(vectors: Matrix, background: Matrix, shrinkage: float, cut: int) -> Matrix:
    """Unit vectors whitened by `whitening` of the background, the blocks before and from `cut` on each for itself.

    Shape: vectors (n, d), background (m, d) -> (n, d); `cut` is d for a vector of one block.
    """
    parts = [whitening(background[:, at], shrinkage)(vectors[:, at]) for at in blocks(vectors.shape[1], cut)]
    return by_block(parts, background)


def averaged(vectors: Matrix, mirrored: Matrix, cut: int) -> Matrix:
    """The mean of the vectors of a picture and of its mirror image, block by block. Shape: each (n, d)."""
    parts = [(vectors[:, at] + mirrored[:, at]).astype(np.float64) for at in blocks(vectors.shape[1], cut)]
    return by_block(parts, vectors)


def blocks(length: int, cut: int) -> list[slice]:
    """Where the blocks of a vector lie."""
    return [slice(0, cut), slice(cut, length)] if cut < length else [slice(0, length)]


def crowding(vectors: Matrix, background: Matrix, k: int) -> Matrix:
    """How near the background is: the mean similarity to its k nearest pictures.

    A picture that is near to everything is crowded. Shape: (n, d), (m, d) -> (n,).
    """
    near = np.partition(vectors @ background.T, len(background) - k, axis=1)[:, len(background) - k :]
    return np.asarray(near.mean(axis=1), np.float32)


def normalised(similarity: Matrix, query: Matrix, item: Matrix, strength: float) -> Matrix:
    """The similarity minus `strength` times the crowding of the query and of the item, whose means come back.

    With the query alone as in SSCD (Pizzi et al. 2022), with half of each as in CSLS (Conneau et al. 2018). Shape:
    similarity (n, m), query (n,) and item (m,), zeros where a side is not used.
    """
    return np.asarray(similarity - strength * (query[:, None] + item[None, :]), np.float32)


def chamfer(query: Tokens, items: Tokens) -> Matrix:
    """How well each token of one side is matched by its best on the other, averaged over both sides.

    Unit tokens. Shape: (t, d), (m, u, d) -> (m,), from -1 to 1.
    """
    pairs = _pairs(query, items)
    return np.asarray((pairs.max(axis=2).mean(axis=1) + pairs.max(axis=1).mean(axis=1)) / 2, np.float32)


def mutual(query: Tokens, items: Tokens) -> Matrix:
    """The summed similarity of the pairs of tokens that are each other's best, a share of what all pairs could give.

    Of equals the first is the best; a pair below 0 counts nothing. Shape: (t, d), (m, u, d) -> (m,), from 0 to 1.
    """
    pairs = _pairs(query, items)
    best, back = pairs.argmax(axis=2), pairs.argmax(axis=1)
    each_other = np.take_along_axis(back, best, axis=1) == np.arange(pairs.shape[1])
    summed = (pairs.max(axis=2).clip(min=0) * each_other).sum(axis=1)
    return np.asarray(summed / min(pairs.shape[1:]), np.float32)


def _pairs(query: Tokens, items: Tokens) -> Matrix:
    """Shape: (t, d), (m, u, d) -> (m, t, u)."""
    one = np.asarray(query, np.float32)
    return np.asarray(one @ np.asarray(items, np.float32).transpose(0, 2, 1), np.float32)


def first(similarity: Matrix, k: int) -> NDArray[np.intp]:
    """The places of the k most similar entries of each row, best first. Shape: (n, m) -> (n, min(k, m))."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def second_look(similarity: Matrix, places: NDArray[np.intp], local: Matrix, weight: float) -> Matrix:
    """The similarities of the first k moved to (1 - weight) similarity + weight local; all others fall below them.

    What was not looked at again keeps its order and its distance to the k-th, counted from the lowest of the k; an
    entry of -inf stays out. Shape: similarity (n, m), places and local (n, k) -> (n, m).
    """
    before = np.take_along_axis(similarity, places, axis=1)
    there = np.isfinite(before)
    before = np.where(there, before, 0)
    after = (1 - weight) * before + weight * local
    lowest, last = (np.where(there, x, np.inf).min(axis=1) for x in (after, before))
    some = there.any(axis=1)
    moved = similarity + np.subtract(lowest, last, where=some, out=np.zeros(len(similarity)))[:, None]
    np.put_along_axis(moved, places, np.where(there, after, -np.inf), axis=1)
    return np.asarray(moved, np.float32)
