"""The checkpoint of one shard: a SQLite file, one transaction a batch, each a compare-and-swap on how often it was
written.

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
from msgspec.structs import replace

from streams.decide.things import NOWHERE, Key, Thing
from streams.errors import Fatal
from streams.events import Kind, Picture, Policy

_FORMAT: Final = 4
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL, writes INTEGER)",
    "CREATE TABLE IF NOT EXISTS thing (kind TEXT, id TEXT, fields BLOB, value BLOB, pictures BLOB,"
    " PRIMARY KEY (kind, id)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tail (key INTEGER PRIMARY KEY, encoder TEXT, vector BLOB)",
    "CREATE TABLE IF NOT EXISTS body (key INTEGER PRIMARY KEY, encoder TEXT, vector BLOB)",
    "CREATE TABLE IF NOT EXISTS garbage (key INTEGER PRIMARY KEY, encoder TEXT)",
)


class Superseded(Fatal):
    """Another owner has gone on from here, or a batch broke off: what this owner holds in memory is out of date."""


class Head(msgspec.Struct, kw_only=True):
    """Where the fold stands.

    next: the first position not applied. ledger: no verdict of a position from `next` on stands before this offset of
    the shard's verdicts. sealed: rows below this position are in the store. has_body: and here too. sources: the
    highest offset applied of every source partition.
    """

    log_id: str = ""
    next: int = 0
    ledger: int = 0
    sealed: int = 0
    has_body: bool = False
    policy: Policy | None = None
    encoder: str = ""
    ready: bool = False
    sources: dict[str, int] = {}
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Change:
    """One thing as a batch left it. value: the JSON of its current verdict. pictures: its current ones; a design's are
    kept with their vectors, since what is said of it may be revised, an item's without."""

    key: Key
    thing: Thing
    value: bytes
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class TailRow:
    """A row that is not sealed yet, or of the body. vector: int16 little-endian."""

    key: int
    encoder: str
    vector: bytes


class Checkpoint:
    """One open file. Not thread-safe: the shard's thread uses it.

    keeps_body: sealed rows stay here as well, since a store is slow to give them all back.
    is_broken: memory holds something that was not written, so nothing more may be written.
    """

    def __init__(self, path: Path, *, keeps_body: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._keeps_body = keeps_body
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *_TABLES):
                self._db.execute(statement)
            self.head, self._writes = self._read_head()
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            self._db.close()
            raise self._unreadable(error) from error
        self.is_broken = False

    def _unreadable(self, error: Exception) -> Fatal:
        return Fatal(f"the checkpoint {self.path} cannot be read ({error}); run `design-dedup rebuild`")

    def _read_head(self) -> tuple[Head, int]:
        row = self._db.execute("SELECT value, writes FROM head").fetchone()
        if row is None:
            return Head(), 0
        head = msgspec.msgpack.decode(row[0], type=Head)
        if head.format != _FORMAT:
            raise msgspec.ValidationError(f"its format is {head.format}, not {_FORMAT}")
        return head, row[1]

    def is_current(self) -> bool:
        """Whether the file is as this process last read or wrote it."""
        row = self._db.execute("SELECT writes FROM head").fetchone()
        return not self.is_broken and (row[0] if row else 0) == self._writes

    def things(self) -> Iterator[tuple[Key, Thing, tuple[Picture, ...]]]:
        """Everything remembered: key, thing and, of what exists, its pictures."""
        kind: Kind
        try:
            for kind, name, fields, pictures in self._db.execute("SELECT kind, id, fields, pictures FROM thing"):
                thing = _thing.decode(fields)
                yield (kind, name), thing, _pictures.decode(pictures) if thing.row != NOWHERE else ()
        except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
            raise self._unreadable(error) from error

    def value(self, key: Key) -> bytes:
        """The stored JSON of a design's current verdict; empty when there is none."""
        row = self._db.execute("SELECT value FROM thing WHERE kind = ? AND id = ?", key).fetchone()
        return bytes(row[0]) if row and row[0] else b""

    def pictures(self, key: Key) -> tuple[Picture, ...]:
        """The pictures of something that has some; an item's without vectors."""
        row = self._db.execute("SELECT pictures FROM thing WHERE kind = ? AND id = ?", key).fetchone()
        return _pictures.decode(row[0])

    def tail(self, limit: int = -1) -> list[TailRow]:
        """The rows that are not sealed, by key; at most `limit` of them."""
        rows = self._db.execute("SELECT key, encoder, vector FROM tail ORDER BY key LIMIT ?", (limit,))
        return [TailRow(*row) for row in rows]

    def body(self) -> Iterator[TailRow]:
        """The sealed rows, by key; complete only when `head.has_body`."""
        return (TailRow(*row) for row in self._db.execute("SELECT key, encoder, vector FROM body ORDER BY key"))

    def adopt_body(self, rows: Iterable[TailRow]) -> None:
        """Keep the sealed rows, read back from the store, from now on."""
        self.head.has_body = True
        with self._transaction():
            self._insert("body", rows)

    def tail_size(self) -> int:
        """How many rows are not sealed."""
        size: int = self._db.execute("SELECT count(*) FROM tail").fetchone()[0]
        return size

    def garbage(self, limit: int) -> list[tuple[int, str]]:
        """(key, encoder) of sealed rows of what no longer exists."""
        return self._db.execute("SELECT key, encoder FROM garbage LIMIT ?", (limit,)).fetchall()

    def garbage_size(self) -> int:
        """How many sealed rows wait to be collected."""
        size: int = self._db.execute("SELECT count(*) FROM garbage").fetchone()[0]
        return size

    def commit(
        self, changes: Iterable[Change] = (), tail: Iterable[TailRow] = (), garbage: Iterable[tuple[int, str]] = ()
    ) -> None:
        """Write `head` and what changed in one transaction. Superseded: someone else has gone on from here."""
        rows = [(*change.key, msgspec.msgpack.encode(change.thing), change.value, _kept(change)) for change in changes]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO thing VALUES (?, ?, ?, ?, ?)", rows)
            self._insert("tail", tail)
            self._db.executemany("INSERT OR REPLACE INTO garbage VALUES (?, ?)", garbage)

    def seal(
        self, position: int, below: int, collected: Iterable[tuple[int, str]] = (), dead: Iterable[int] = ()
    ) -> None:
        """Write `head` after a seal: rows under `position`, whose keys are under `below`, are in the store now, but for
        the `dead`, which were not written; the `collected` are no longer there."""
        self.head.sealed, self.head.has_body = position, self._keeps_body
        gone = [(key,) for key, _ in collected]
        with self._transaction():
            if self._keeps_body:
                self._db.executemany("DELETE FROM tail WHERE key = ?", [(key,) for key in dead])
                self._db.execute("INSERT OR REPLACE INTO body SELECT * FROM tail WHERE key < ?", (below,))
                self._db.executemany("DELETE FROM body WHERE key = ?", gone)
            else:
                self._db.execute("DELETE FROM body")
            self._db.execute("DELETE FROM tail WHERE key < ?", (below,))
            self._db.executemany("DELETE FROM garbage WHERE key = ?", gone)

    def _insert(self, table: str, rows: Iterable[TailRow]) -> None:
        self._db.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",  # noqa: S608 - one of our two names
            [(row.key, row.encoder, row.vector) for row in rows],
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction that goes through only if the file is as this process knows it. One that fails is the last."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if not self.is_current():
                raise Superseded(f"the checkpoint {self.path} was written by another owner, or a write failed")
            self._db.execute(
                "INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (msgspec.msgpack.encode(self.head), self._writes + 1)
            )
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self.is_broken = True
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise Fatal(f"the checkpoint {self.path} cannot be written: {error}") from error
            raise
        self._writes += 1

    def close(self) -> None:
        """Close the file."""
        self._db.close()


_thing = msgspec.msgpack.Decoder(Thing)
_pictures = msgspec.msgpack.Decoder(tuple[Picture, ...])


def _kept(change: Change) -> bytes:
    with_vectors = change.key[0] == "design"
    return msgspec.msgpack.encode(
        change.pictures if with_vectors else [replace(p, vector=b"") for p in change.pictures]
    )
