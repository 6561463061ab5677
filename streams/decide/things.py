"""What the fold is made of: what it is given, what it remembers and what it answers. The rules are in judge.py."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.events import MAX_IMAGES, MAX_WINDOWS, REVISIONS, Kind, LogRecord, Picture, Policy

Key = tuple[Kind, str]
"""What a thing is called: its kind and its id."""

NOWHERE: Final = -1
ROWS: Final = 128
"""So many rows, at most, stand at one place: of each picture one, and one of each of its windows."""
POSITIONS: Final = 1 << 37
"""A log has fewer."""

_PLACES: Final = 128
assert MAX_IMAGES * (1 + MAX_WINDOWS) <= ROWS  # noqa: S101 - the arithmetic of keys rests on it
assert REVISIONS < _PLACES  # noqa: S101
_SHARD_ROWS: Final = POSITIONS * _PLACES * ROWS


def place_at(position: int, turn: int = 0) -> int:
    """Where something stands with its rows: at the position of its record, which is this number itself, or as one of
    the designs (`turn` from 1 on) that a delete at that position let exist again."""
    return turn * POSITIONS + position


def position_of(place: int) -> int:
    """The position of a place."""
    return place % POSITIONS


def order_of(place: int) -> tuple[int, int]:
    """Places in the order of the log."""
    return place % POSITIONS, place // POSITIONS


def row_key(shard: int, place: int, number: int = 0) -> int:
    """The key of a row: shard, place and its number there in one non-negative INT64, in the order of the log."""
    position, turn = order_of(place)
    return shard * _SHARD_ROWS + (position * _PLACES + turn) * ROWS + number


def place_of(key: int) -> int:
    """The place in a row's key."""
    return place_at(*divmod(key % _SHARD_ROWS // ROWS, _PLACES))


@dataclass(frozen=True, slots=True)
class Thing:
    """What the fold remembers of one id. It exists (is compared with) while `row`, its place, is not NOWHERE.

    src: the source offset last applied. position: of its verdict or upsert. digests: of its current pictures; empty
    after a delete or withdrawal. word: the current revision's verdict, empty for items. made_from: the design an item
    was made from. blocked_by: the item that alone makes a design a duplicate.
    """

    src: int
    position: int = NOWHERE
    row: int = NOWHERE
    digests: tuple[bytes, ...] = ()
    encoder: str = ""
    made_from: str = ""
    version: int = 0
    word: str = ""
    blocked_by: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A log record at its position; `appended_ms` is the broker's time, for measuring only."""

    position: int
    record: LogRecord
    appended_ms: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Rows near one vector: scores and row keys, both (n,) int64. No row left out scores above `floor`; None: none is
    left out."""

    scores: NDArray[np.int64]
    keys: NDArray[np.int64]
    floor: int | None


@dataclass(frozen=True, slots=True)
class Hits:
    """What was proposed for one design or item: rows near each vector, and (distance, place) of every hash that fires.
    For an item only designs count."""

    near: tuple[Found, ...] = ()
    hashes: tuple[tuple[int, int], ...] = ()


class World(Protocol):
    """What exists and what was judged, before the batch."""

    def thing(self, key: Key) -> Thing | None:
        """What is remembered of an id."""

    def at(self, place: int) -> Key | None:
        """Who exists with its rows at a place."""

    def holders(self, digest: bytes) -> Iterable[int]:
        """The places of what exists and has a picture of these bytes."""

    def value(self, key: Key) -> bytes:
        """The JSON of a design's current verdict; empty when there is none."""

    def blocked(self, item: str) -> Iterable[str]:
        """The designs whose `blocked_by` it is."""

    @property
    def live_rows(self) -> int:
        """How many pictures what exists has."""

    @property
    def live_designs(self) -> int:
        """How many designs exist."""


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict to publish: `value` is its JSON, or None for the one that is stored for `key`. cause: the new item that
    revises it."""

    key: Key
    value: bytes | None
    first: bool
    position: int
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Revived:
    """A design that exists again, with its rows at `place`."""

    place: int
    record: LogRecord


@dataclass(slots=True)
class Outcome:
    """Everything that the first `count` entries of a batch change; a record that revises is a batch of its own.

    pictures: of each thing whose pictures are others now. rows: indexes of the entries whose pictures exist after it.
    revived: what else exists after it. floods: (item, designs) where too many would have been revised. searched: rows
    were looked for, and what was not found counts too.
    """

    count: int = 0
    said: list[Said] = field(default_factory=list)
    things: dict[Key, Thing] = field(default_factory=dict)
    values: dict[Key, bytes] = field(default_factory=dict)
    pictures: dict[Key, tuple[Picture, ...]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    revived: list[Revived] = field(default_factory=list)
    floods: list[tuple[str, int]] = field(default_factory=list)
    searched: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What holds for a whole batch: a batch is cut where the policy changes. is_closed: the records were dealt with
    before, so what stands in the ledger of them is all that is said of them."""

    log_id: str
    shard: int
    policy: Policy
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What the judge lacks: entries (by index) and designs to be revised whose hits do not settle the answer. Ask again
    with a larger limit. designs: each with the place where it may come to stand; they are near one another too."""

    entries: tuple[int, ...] = ()
    designs: Mapping[str, int] = field(default_factory=dict)


Ledger = Mapping[int, Mapping[str, bytes]]
"""Verdicts that stand in the ledger: by position and design the JSON of the first one."""


def key_of(record: LogRecord) -> Key:
    """The id a record speaks of."""
    return ("design" if record.kind in ("design", "withdraw") else "item", record.id)


def digests_of(record: LogRecord) -> tuple[bytes, ...]:
    """The digests of a record's pictures, in order."""
    return tuple(picture.digest for picture in record.pictures)


class Named(msgspec.Struct):
    """Which verdict some JSON is."""

    position: int
    verdict_id: str
    design_id: str
    revises: str = ""


_named = msgspec.json.Decoder(Named)


def name_of(value: bytes) -> Named:
    """Which verdict some JSON is."""
    return _named.decode(value)
