"""Nearest rows: the tail in the owner's memory, searched exactly, and the body in the store (rule 6).

With `index = memory` the owner holds the body too and the store is only searched when it starts.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.decide.checkpoint import TailRow
from streams.decide.rows import Rows, merge
from streams.decide.store import MOST_HITS, Store
from streams.decide.things import ROWS, Found, key_of, row_key
from streams.errors import Retryable
from streams.events import Kind, LogRecord, Picture

_DEAD_ROWS: Final = 1024
"""So many dead rows are not worth the copying."""


def vectors_of(pictures: Sequence[Picture]) -> NDArray[np.int16]:
    """The vectors of some pictures and of their windows, (n, dim) int16."""
    return np.stack([np.frombuffer(vector, "<i2") for picture in pictures for vector in picture.vectors()])


class VectorIndex:
    """Every row of one shard that may exist, by encoder version."""

    def __init__(self, store: Store, shard: int, sealed: int, *, in_memory: bool) -> None:
        self._store = store
        self._low = row_key(shard, 0)
        self._shard = shard
        self._in_memory = in_memory
        # Designs apart, since a new item is compared with nothing else.
        self._tails: dict[tuple[Kind, str], Rows] = {}
        self._kept: dict[str, Rows] = {}
        self.sealed = sealed
        self.is_sure = False
        """Whether the store is known to hold every sealed row that is live."""

    def doubt(self) -> None:
        """The store failed, so it may have lost rows. With `index = memory` they are all here."""
        self.is_sure = self.is_sure and self._in_memory

    def tail_rows(self) -> int:
        """How many rows are held in memory."""
        return sum(len(tail) for tail in self._tails.values())

    def stored(self, encoder: str) -> Iterator[TailRow]:
        """The sealed rows as the store has them, in no order."""
        high = row_key(self._shard, self.sealed)
        for keys, vectors in self._store.scan(encoder, self._low, high):
            yield from (TailRow(int(key), encoder, vector.tobytes()) for key, vector in zip(keys, vectors, strict=True))

    def _tail(self, kind: Kind, encoder: str, dim: int) -> Rows:
        return self._tails.setdefault((kind, encoder), Rows(dim))

    def add(self, kind: Kind, encoder: str, keys: NDArray[np.int64], vectors: NDArray[np.int16]) -> None:
        """Rows younger than all others."""
        self._tail(kind, encoder, vectors.shape[1]).append(keys, vectors)

    def add_at(self, place: int, record: LogRecord) -> None:
        """The pictures of a record, as rows at a place."""
        if record.pictures:
            self.add(key_of(record)[0], record.encoder, *self._rows(place, record))

    def keep(self, placed: Iterable[tuple[int, LogRecord]]) -> None:
        """Rows of designs, instead of those kept before. The store may lack them; they may well be there too."""
        self._kept = {}
        for place, record in placed:
            keys, vectors = self._rows(place, record)
            self._kept.setdefault(record.encoder, Rows(vectors.shape[1])).append(keys, vectors)

    def _rows(self, place: int, record: LogRecord) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        vectors, first = vectors_of(record.pictures), row_key(self._shard, place)
        return np.arange(first, first + len(vectors), dtype=np.int64), vectors

    def drop_dead(self, alive: Collection[int], rows: int) -> None:
        """With `index = memory`: when more than half of the rows are of places that are not among `alive`, whose rows
        are `rows`, let go of those."""
        if not self._in_memory or self.tail_rows() <= 2 * rows + _DEAD_ROWS:
            return
        first_keys = np.array([row_key(self._shard, place) for place in alive], np.int64)
        for name, tail in self._tails.items():
            kept = self._tails[name] = Rows(tail.dim)
            for keys, vectors in tail.blocks():
                stays = np.isin(keys - keys % ROWS, first_keys)
                kept.append(keys[stays], vectors[stays].astype(np.int16))

    def sizes(self) -> dict[tuple[Kind, str], int]:
        """A mark to come back to with `truncate`."""
        return {name: len(tail) for name, tail in self._tails.items()}

    def truncate(self, sizes: dict[tuple[Kind, str], int]) -> None:
        """Take back the rows added since `sizes`."""
        for name, tail in self._tails.items():
            tail.truncate(sizes.get(name, 0))

    def seal(self, position: int) -> None:
        """Rows below `position` are in the store now."""
        self.sealed = position
        if not self._in_memory:
            for tail in self._tails.values():
                tail.drop_below(row_key(self._shard, position))

    def search(self, records: Sequence[LogRecord], limit: int, leave_out: int = 0) -> list[tuple[Found, ...]]:
        """For every record, what is near each of its vectors, of an item's only designs: one call to the store for all
        designs, one for all items, and one matrix product each. leave_out: how many numbers at the end of the vectors
        are not compared."""
        groups: defaultdict[tuple[Kind, str], list[int]] = defaultdict(list)
        for i, record in enumerate(records):
            groups[key_of(record)[0], record.encoder].append(i)
        answers: list[tuple[Found, ...]] = [()] * len(records)
        for (kind, encoder), members in groups.items():
            asking = [vectors_of(records[i].pictures) for i in members]
            queries = np.concatenate(asking)
            queries[:, max(0, queries.shape[1] - leave_out) :] = 0
            found, start = self._search(encoder, queries, limit, only="design" if kind == "item" else None), 0
            for i, own in zip(members, asking, strict=True):
                end = start + len(own)
                answers[i], start = tuple(found[start:end]), end
        return answers

    def _search(self, encoder: str, queries: NDArray[np.int16], limit: int, only: Kind | None) -> list[Found]:
        kinds: tuple[Kind, ...] = (only,) if only else ("design", "item")
        parts = [self._tail(kind, encoder, queries.shape[1]).search(queries, limit) for kind in kinds]
        if encoder in self._kept:
            parts.append(self._kept[encoder].search(queries, limit))
        if not self._in_memory and self.sealed:
            high = row_key(self._shard, self.sealed)
            try:
                if limit <= MOST_HITS:
                    parts.append(self._store.search(encoder, queries, limit, self._low, high, only))
                else:
                    parts.append(self._search_all(encoder, queries, limit, high))
            except Retryable:
                self.doubt()
                raise
        return [merge(*found) for found in zip(*parts, strict=True)]

    def _search_all(self, encoder: str, queries: NDArray[np.int16], limit: int, high: int) -> list[Found]:
        """More rows than the store gives in one answer stand equal (one placeholder picture on thousands of items)."""
        rows = Rows(queries.shape[1])
        for keys, vectors in self._store.scan(encoder, self._low, high):
            rows.append(keys, vectors)
        return rows.search(queries, limit)
