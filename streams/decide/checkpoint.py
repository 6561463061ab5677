"""The checkpoint of one shard: a SQLite file, one transaction a batch, each a compare-and-swap on the next position.

It only saves time: lost, it is made again from log and verdicts. Two processes may hold the same file open while a
shard moves from one to the other; the swap lets only one of them go on.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from streams.decide.judge import NOWHERE, Key, Thing
from streams.errors import Fatal
from streams.events import Kind, Picture, Policy

_FORMAT: Final = 1
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL, next INTEGER)",
    "CREATE TABLE IF NOT EXISTS thing (kind TEXT, id TEXT, fields BLOB, value BLOB, marks BLOB, PRIMARY KEY (kind, id))"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tail (key INTEGER PRIMARY KEY, encoder TEXT, vector BLOB)",
    "CREATE TABLE IF NOT EXISTS garbage (key INTEGER PRIMARY KEY, encoder TEXT)",
)


class Superseded(Fatal):
    """Another owner has gone on from here: what this one holds in memory is out of date."""


class Head(msgspec.Struct, kw_only=True):
    """Where the fold stands.

    next: the first position not applied. ledger: the first offset of the shard's verdicts not read. sealed: rows below
    this position are in the store.
    """

    log_id: str = ""
    next: int = 0
    ledger: int = 0
    sealed: int = 0
    policy: Policy | None = None
    encoder: str = ""
    ready: bool = False
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Change:
    """One thing as a batch left it. value: the JSON of its current verdict. marks: its pictures without vectors."""

    key: Key
    thing: Thing
    value: bytes
    marks: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class TailRow:
    """A row that is not sealed yet. vector: int16 little-endian."""

    key: int
    encoder: str
    vector: bytes


class Checkpoint:
    """One open file. Not thread-safe: the shard's thread uses it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *_TABLES):
                self._db.execute(statement)
            self.head = self._read_head()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise Fatal(
                f"the checkpoint {path} cannot be read ({error}); delete it or run `design-dedup rebuild`"
            ) from error
        self._base = self.head.next

    def _read_head(self) -> Head:
        row = self._db.execute("SELECT value FROM head").fetchone()
        head = msgspec.msgpack.decode(row[0], type=Head) if row else Head()
        if head.format != _FORMAT:
            raise Fatal(f"the checkpoint {self.path} has format {head.format}; run `design-dedup rebuild`")
        return head

    def is_current(self) -> bool:
        """Whether nobody has gone on from here since this process last wrote or read."""
        row = self._db.execute("SELECT next FROM head").fetchone()
        return (row[0] if row else 0) == self._base

    def things(self) -> Iterator[tuple[Key, Thing, tuple[Picture, ...]]]:
        """Everything remembered: key, thing and, of what exists, its pictures without vectors."""
        kind: Kind
        for kind, name, fields, marks in self._db.execute("SELECT kind, id, fields, marks FROM thing"):
            thing = msgspec.msgpack.decode(fields, type=Thing)
            yield (kind, name), thing, msgspec.msgpack.decode(marks, type=tuple[Picture, ...]) if marks else ()

    def value(self, key: Key) -> bytes:
        """The stored JSON of a design's current verdict; empty when there is none."""
        row = self._db.execute("SELECT value FROM thing WHERE kind = ? AND id = ?", key).fetchone()
        return bytes(row[0]) if row and row[0] else b""

    def marks(self, key: Key) -> tuple[Picture, ...]:
        """The pictures, without vectors, of something that exists."""
        row = self._db.execute("SELECT marks FROM thing WHERE kind = ? AND id = ?", key).fetchone()
        return msgspec.msgpack.decode(row[0], type=tuple[Picture, ...])

    def tail(self, limit: int = -1) -> list[TailRow]:
        """The rows that are not sealed, by key; at most `limit` of them."""
        rows = self._db.execute("SELECT key, encoder, vector FROM tail ORDER BY key LIMIT ?", (limit,))
        return [TailRow(*row) for row in rows]

    def tail_size(self) -> int:
        """How many rows are not sealed."""
        size: int = self._db.execute("SELECT count(*) FROM tail").fetchone()[0]
        return size

    def garbage(self, limit: int) -> list[tuple[int, str]]:
        """(key, encoder) of sealed rows of what no longer exists."""
        return self._db.execute("SELECT key, encoder FROM garbage LIMIT ?", (limit,)).fetchall()

    def commit(
        self, changes: Iterable[Change] = (), tail: Iterable[TailRow] = (), garbage: Iterable[tuple[int, str]] = ()
    ) -> None:
        """Write `head` and what changed in one transaction. Superseded: someone else has gone on from here."""
        rows = [
            (*change.key, msgspec.msgpack.encode(change.thing), change.value,
             msgspec.msgpack.encode([_mark(p) for p in change.marks]) if change.thing.row != NOWHERE else b"")
            for change in changes
        ]  # fmt: skip
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO thing VALUES (?, ?, ?, ?, ?)", rows)
            self._db.executemany(
                "INSERT OR REPLACE INTO tail VALUES (?, ?, ?)", [(r.key, r.encoder, r.vector) for r in tail]
            )
            self._db.executemany("INSERT OR REPLACE INTO garbage VALUES (?, ?)", garbage)

    def sealed(self, below: int, collected: Iterable[tuple[int, str]] = ()) -> None:
        """Write `head` after a seal: tail rows with a smaller key than `below` are in the store now."""
        with self._transaction():
            self._db.execute("DELETE FROM tail WHERE key < ?", (below,))
            self._db.executemany("DELETE FROM garbage WHERE key = ?", [(key,) for key, _ in collected])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction that goes through only if the head is still the one that was read."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if not self.is_current():
                raise Superseded(f"the checkpoint {self.path} was moved on from {self._base} by another owner")
            self._db.execute(
                "INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (msgspec.msgpack.encode(self.head), self.head.next)
            )
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._base = self.head.next

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _mark(picture: Picture) -> Picture:
    return Picture(picture.digest, picture.hash, picture.quality, picture.colour, b"")
