"""Rows in the owner's memory, searched exactly: the tail, or with `index = memory` everything."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.decide.things import Found

_BLOCK: Final = 4096


class Rows:
    """Lattice vectors (n, dim) as float32 with their keys (n,) int64, ascending; appended at the end, dropped from the
    front. Held in blocks, so that growing copies nothing."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._vectors: list[NDArray[np.float32]] = []
        self._keys: list[NDArray[np.int64]] = []
        self._fill = _BLOCK
        self._dropped = 0

    def __len__(self) -> int:
        return (len(self._vectors) - 1) * _BLOCK + self._fill - self._dropped if self._vectors else 0

    def append(self, keys: NDArray[np.int64], vectors: NDArray[np.int16]) -> None:
        """Rows (n,), (n, dim) younger than all that are here."""
        start = 0
        while start < len(keys):
            if self._fill == _BLOCK:
                self._vectors.append(np.zeros((_BLOCK, self.dim), np.float32))
                self._keys.append(np.zeros(_BLOCK, np.int64))
                self._fill = 0
            count = min(_BLOCK - self._fill, len(keys) - start)
            into = slice(self._fill, self._fill + count)
            self._vectors[-1][into] = vectors[start : start + count]
            self._keys[-1][into] = keys[start : start + count]
            self._fill += count
            start += count

    def truncate(self, size: int) -> None:
        """Take back the youngest rows until `size` are left: those of a batch that is being judged."""
        excess = len(self) - size
        while excess > 0:
            take = min(excess, self._fill)
            self._fill -= take
            excess -= take
            if self._fill == 0:
                self._vectors.pop()
                self._keys.pop()
                self._fill = _BLOCK
        if not self._vectors:
            self._dropped = 0

    def drop_below(self, key: int) -> None:
        """Forget the rows under `key`."""
        while self._vectors:
            last = len(self._vectors) == 1
            block = self._keys[0][: self._fill if last else _BLOCK]
            self._dropped = max(self._dropped, int(np.searchsorted(block, key)))
            if self._dropped < len(block):
                return
            self._vectors.pop(0)
            self._keys.pop(0)
            self._dropped = 0
            if last:
                self._fill = _BLOCK

    def blocks(self) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(keys, vectors) of every block, oldest first; views, not copies."""
        last = len(self._vectors) - 1
        return [
            (
                self._keys[i][self._dropped if i == 0 else 0 : self._fill if i == last else _BLOCK],
                self._vectors[i][self._dropped if i == 0 else 0 : self._fill if i == last else _BLOCK],
            )
            for i in range(len(self._vectors))
        ]

    def search(self, queries: NDArray[np.int16], limit: int) -> list[Found]:
        """For every query (n, dim) the `limit` best rows, exactly."""
        wide = np.ascontiguousarray(queries.T, np.float32)
        scores = [np.zeros((len(queries), 0), np.float32)]
        keys = [np.zeros((len(queries), 0), np.int64)]
        cut = False
        floors = np.full(len(queries), -np.inf, np.float32)
        for block_keys, vectors in self.blocks():
            block = (vectors @ wide).T
            chosen, floors, cut = _best(block, np.broadcast_to(block_keys, block.shape), limit, floors, cut)
            scores.append(chosen[0])
            keys.append(chosen[1])
        chosen, floors, cut = _best(np.hstack(scores), np.hstack(keys), limit, floors, cut)
        return [
            Found(s.astype(np.int64), k, int(floor) if cut else None)
            for s, k, floor in zip(*chosen, floors, strict=True)
        ]


def _best(
    scores: NDArray[np.float32], keys: NDArray[np.int64], limit: int, floors: NDArray[np.float32], cut: bool
) -> tuple[tuple[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32], bool]:
    """The `limit` best columns of every row (n, m), and under which score (n,) rows have been left out so far."""
    spare = scores.shape[1] - limit
    if spare <= 0:
        return (scores, keys), floors, cut
    columns = np.argpartition(scores, spare, axis=1)[:, spare:]
    scores, keys = np.take_along_axis(scores, columns, 1), np.take_along_axis(keys, columns, 1)
    return (scores, keys), np.maximum(floors, scores.min(axis=1)), True


def merge(*parts: Found) -> Found:
    """One answer of several; a row may be in more than one of them."""
    floors = [found.floor for found in parts if found.floor is not None]
    return Found(
        np.concatenate([found.scores for found in parts]),
        np.concatenate([found.keys for found in parts]),
        max(floors, default=None),
    )
