"""What exists and what was judged, in the owner's memory; checkpoint.py keeps it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Final

from streams.decide.checkpoint import Change, Checkpoint, TailRow
from streams.decide.hashes import HashTable
from streams.decide.things import NOWHERE, Entry, Key, Outcome, Thing, position_of, row_key
from streams.events import Kind, Picture

_DEAD_ROWS: Final = 1024


class State:
    """The fold's memory of one shard: a World for the judge.

    live_rows: how many pictures exist; live_vectors: with their windows. tail_rows, garbage_rows: how many rows wait to
    be sealed, wait to be collected.
    reach: rows under this position may be in the store.
    """

    def __init__(self, checkpoint: Checkpoint, shard: int) -> None:
        self._checkpoint = checkpoint
        self._shard = shard
        self._things: dict[Key, Thing] = {}
        self._rows: dict[int, Key] = {}
        self._vectors: dict[int, int] = {}
        self.live_rows = self.live_vectors = 0
        self.tail_rows, self.garbage_rows = checkpoint.tail_size(), checkpoint.garbage_size()
        # A seal that a crash broke off may have written any of them.
        self.reach = checkpoint.head.next
        self._holders: dict[bytes, tuple[int, ...]] = {}
        self.hashes = HashTable()
        self.counts: defaultdict[Kind, int] = defaultdict(int)
        self._blocked: defaultdict[str, set[str]] = defaultdict(set)
        self._changes: dict[Key, Change] = {}
        self._tail: list[TailRow] = []
        self._garbage: list[tuple[int, str]] = []
        for key, thing, pictures in checkpoint.things():
            self._put(key, thing)
            if thing.row != NOWHERE:
                self._born(key, thing, pictures)

    def thing(self, key: Key) -> Thing | None:
        """What is remembered of an id."""
        return self._things.get(key)

    def at(self, place: int) -> Key | None:
        """Who exists with its rows at a place."""
        return self._rows.get(place)

    def holders(self, digest: bytes) -> Iterable[int]:
        """The places of what exists and has a picture of these bytes."""
        return self._holders.get(digest, ())

    def blocked(self, item: str) -> Iterable[str]:
        """The designs whose `blocked_by` it is."""
        return self._blocked.get(item, ())

    @property
    def live_designs(self) -> int:
        """How many designs exist."""
        return self.counts["design"]

    def value(self, key: Key) -> bytes:
        """The JSON of a design's current verdict; empty when there is none."""
        change = self._changes.get(key)
        return change.value if change else self._checkpoint.value(key)

    def pictures(self, key: Key) -> Sequence[Picture]:
        """The pictures of something that has some; an item's without vectors."""
        change = self._changes.get(key)
        return change.pictures if change else self._checkpoint.pictures(key)

    @property
    def chores(self) -> int:
        """How many rows sealing would move or collect."""
        return max(self.tail_rows, self.garbage_rows)

    def alive(self) -> Collection[int]:
        """The places of what exists."""
        return self._rows.keys()

    def encoders(self) -> set[str]:
        """The encoder versions of what exists."""
        return {self._things[key].encoder for key in self._rows.values()}

    def rows_below(self, position: int, encoder: str, but: Collection[Key] = ()) -> int:
        """How many rows of what exists, `but` for some things, lie below a position."""
        return sum(
            self._vectors[row]
            for row, key in self._rows.items()
            if position_of(row) < position and self._things[key].encoder == encoder and key not in but
        )

    def apply(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """The effects of a batch, in memory; `save` writes them."""
        for key, thing in outcome.things.items():
            before = self._things.get(key)
            moved = before is None or before.row != thing.row
            if before is not None and before.row != NOWHERE and moved:
                self._died(key, before)
            # Looked up first: a later look-up must not see a change without them.
            value = outcome.values[key] if key in outcome.values else self.value(key)
            pictures: Sequence[Picture] = ()
            if thing.digests:
                pictures = outcome.pictures[key] if key in outcome.pictures else self.pictures(key)
            self._put(key, thing)
            self._changes[key] = Change(key, thing, value, pictures)
            if thing.row != NOWHERE and moved:
                self._born(key, thing, pictures)
        places = [(entries[i].position, entries[i].record) for i in outcome.rows]
        places += [(revived.place, revived.record) for revived in outcome.revived]
        born = [
            TailRow(row_key(self._shard, place, n), record.encoder, vector)
            for place, record in places
            for n, vector in enumerate(chain.from_iterable(picture.vectors() for picture in record.pictures))
        ]
        self._tail += born
        self.tail_rows += len(born)
        if len(self.hashes) > 2 * self.live_rows + _DEAD_ROWS:
            self.hashes.keep(set(self._rows))

    def _put(self, key: Key, thing: Thing) -> None:
        before = self._things.get(key)
        if before is not None and before.blocked_by:
            self._blocked[before.blocked_by].discard(key[1])
        if thing.blocked_by:
            self._blocked[thing.blocked_by].add(key[1])
        self._things[key] = thing

    def _born(self, key: Key, thing: Thing, pictures: Sequence[Picture]) -> None:
        self._rows[thing.row] = key
        self._vectors[thing.row] = vectors = sum(1 + picture.windows for picture in pictures)
        self.live_rows += len(pictures)
        self.live_vectors += vectors
        self.counts[key[0]] += 1
        self.hashes.add(thing.row, pictures)
        for digest in set(thing.digests):
            self._holders[digest] = (*self._holders.get(digest, ()), thing.row)

    def _died(self, key: Key, thing: Thing) -> None:
        del self._rows[thing.row]
        vectors = self._vectors.pop(thing.row)
        self.live_rows -= len(thing.digests)
        self.live_vectors -= vectors
        self.counts[key[0]] -= 1
        for digest in set(thing.digests):
            left = tuple(row for row in self._holders[digest] if row != thing.row)
            if left:
                self._holders[digest] = left
            else:
                del self._holders[digest]
        if position_of(thing.row) < self.reach:
            self._garbage += [(row_key(self._shard, thing.row, n), thing.encoder) for n in range(vectors)]
            self.garbage_rows += vectors

    def save(self) -> None:
        """Write what `apply` changed since the last time."""
        self._checkpoint.commit(self._changes.values(), self._tail, self._garbage)
        self._changes, self._tail, self._garbage = {}, [], []
