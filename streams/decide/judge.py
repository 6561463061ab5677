"""The verdict. Pure: state + hits + policy + records -> verdicts and what exists now. No I/O, clock or randomness.

The rules are numbered as in infra/adr/0001-two-stages-one-log.md. What a similarity is, on the integer scale of
`UNIT` = 1.0, for one thing that exists against one design, strongest signal first:

    digest   a picture of both has the same bytes                          UNIT
    hash     a pair of pictures fires the perceptual-hash rule             at least the threshold
    vector   the largest dot product over pairs of pictures of the same encoder version

So a design is a duplicate exactly when its best similarity reaches the threshold, whichever signal it was.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.events import (
    UNIT,
    Kind,
    LogRecord,
    Neighbour,
    Policy,
    Signal,
    Verdict,
    decode_verdict,
    encode_event,
    verdict_id,
)

Key = tuple[Kind, str]
"""What a thing is called: its kind and its id."""

NOWHERE: Final = -1
PICTURES: Final = 8
_SHARD_ROWS: Final = 1 << 48


def row_key(shard: int, position: int, picture: int = 0) -> int:
    """The key of a row: shard, position and picture in one non-negative INT64."""
    return shard * _SHARD_ROWS + position * PICTURES + picture


def position_of(key: int) -> int:
    """The position in a row's key."""
    return key % _SHARD_ROWS // PICTURES


@dataclass(frozen=True, slots=True)
class Thing:
    """What the fold remembers of one id. It exists (is compared with) while `row` is not NOWHERE.

    src: the source offset last applied. position: of its verdict or upsert. digests: of its current pictures; empty
    after a delete or withdrawal. word: the current revision's verdict, empty for items. made_from: the design an item
    was made from.
    """

    src: int
    position: int = NOWHERE
    row: int = NOWHERE
    digests: tuple[bytes, ...] = ()
    encoder: str = ""
    made_from: str = ""
    version: int = 0
    word: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A log record at its position; `appended_ms` is the broker's time, for measuring only."""

    position: int
    record: LogRecord
    appended_ms: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Rows near one picture: scores and row keys, both (n,) int64. No row left out scores above `floor`; None: none is
    left out."""

    scores: NDArray[np.int64]
    keys: NDArray[np.int64]
    floor: int | None


@dataclass(frozen=True, slots=True)
class Hits:
    """What was proposed for one design: rows near each picture, and (distance, position) of every hash that fires."""

    near: tuple[Found, ...] = ()
    hashes: tuple[tuple[int, int], ...] = ()


class World(Protocol):
    """What exists and what was judged, before the batch."""

    def thing(self, key: Key) -> Thing | None:
        """What is remembered of an id."""

    def at(self, position: int) -> Key | None:
        """Who exists with its rows at a position."""

    def holders(self, digest: bytes) -> Iterable[int]:
        """The positions of what exists and has a picture of these bytes."""

    @property
    def live_rows(self) -> int:
        """How many pictures what exists has."""


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict to publish: `value` is its JSON, or None for the one that is stored for `key`."""

    key: Key
    value: bytes | None
    first: bool
    position: int


@dataclass(slots=True)
class Outcome:
    """Everything a batch changes. `rows`: indexes of the entries whose pictures exist after it."""

    said: list[Said] = field(default_factory=list)
    things: dict[Key, Thing] = field(default_factory=dict)
    values: dict[Key, bytes] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Context:
    """What holds for a whole batch: a batch is cut where the policy changes."""

    log_id: str
    shard: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Missing:
    """Entries (by index) whose hits do not settle their neighbours: ask again with a larger limit."""

    entries: tuple[int, ...]


class _Overlay:
    """The world as it is between two records of a batch."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.outcome = Outcome()
        self.live_rows = world.live_rows
        self._at: dict[int, Key | None] = {}
        self._holders: dict[bytes, list[int]] = {}

    def thing(self, key: Key) -> Thing | None:
        return self.outcome.things.get(key) or self._world.thing(key)

    def at(self, position: int) -> Key | None:
        return self._at[position] if position in self._at else self._world.at(position)

    def holders(self, digest: bytes) -> Iterable[int]:
        return (*self._world.holders(digest), *self._holders.get(digest, ()))

    def put(self, key: Key, thing: Thing) -> None:
        """`thing` takes the place of what `key` was."""
        before = self.thing(key)
        if before is not None and before.row not in (NOWHERE, thing.row):
            self._at[before.row] = None
            self.live_rows -= len(before.digests)
        if thing.row != NOWHERE and self.at(thing.row) is None:
            self._at[thing.row] = key
            self.live_rows += len(thing.digests)
            for digest in thing.digests:
                self._holders.setdefault(digest, []).append(thing.row)
        self.outcome.things[key] = thing

    def born(self, entries: Sequence[Entry]) -> list[int]:
        return [i for i, entry in enumerate(entries) if self._at.get(entry.position)]


def key_of(record: LogRecord) -> Key:
    """The id a record speaks of."""
    return ("design" if record.kind in ("design", "withdraw") else "item", record.id)


def digests_of(record: LogRecord) -> tuple[bytes, ...]:
    """The digests of a record's pictures, in order."""
    return tuple(picture.digest for picture in record.pictures)


def may_need_hits(world: World, entries: Sequence[Entry], said: Mapping[int, bytes]) -> list[int]:
    """Indexes of the designs that may be judged afresh. A resubmission is told apart only while its id is met for the
    first time in the batch; hits that turn out not to be needed cost time and change nothing."""
    wanted, met = [], set[Key]()
    for i, (entry, key) in enumerate((entry, key_of(entry.record)) for entry in entries):
        if entry.record.kind == "design" and entry.position not in said:
            thing = world.thing(key)
            settled = thing is not None and (
                thing.src >= entry.record.src or (thing.word != "" and thing.digests == digests_of(entry.record))
            )
            if key in met or not settled:
                wanted.append(i)
        met.add(key)
    return wanted


def judge(
    world: World, entries: Sequence[Entry], hits: Mapping[int, Hits], said: Mapping[int, bytes], context: Context
) -> Outcome | Missing:
    """Fold `entries`, in order, over `world`.

    hits: for every index that `may_need_hits` names. said: verdicts that stand in the ledger already, by position; they
    are taken, never decided again (rule 9).
    """
    now = _Overlay(world)
    missing = []
    for i, entry in enumerate(entries):
        record, key = entry.record, key_of(entry.record)
        before = now.thing(key)
        if record.kind in ("config", "ready") or (before is not None and before.src >= record.src):
            continue  # rule 5: already applied
        match record.kind:
            case "delete" | "withdraw":
                now.put(key, Thing(src=record.src))
                now.outcome.values[key] = b""
            case "upsert":
                now.put(key, _upsert(before, entry))
            case "design" if before is not None and before.word and before.digests == digests_of(record):
                _repeat(now, key, before, entry)
            case "design":
                value = said.get(entry.position)
                verdict = decode_verdict(value) if value else _judge_one(now, entry, hits[i], context)
                if verdict is None:
                    missing.append(i)
                    verdict = _verdict(entry, context, _threshold(now, entry, context), 0, ())  # holds the place
                _say(now, key, entry, verdict, value)
    if missing:
        return Missing(tuple(missing))
    now.outcome.rows = now.born(entries)
    return now.outcome


def _upsert(before: Thing | None, entry: Entry) -> Thing:
    record = entry.record
    if before is not None and before.row != NOWHERE:
        if record.version < before.version:
            return replace(before, src=record.src)  # a late older version
        if before.digests == digests_of(record) and before.encoder == record.encoder:
            return replace(before, src=record.src, made_from=record.design_id, version=record.version)
    return Thing(
        src=record.src,
        position=entry.position,
        row=entry.position,
        digests=digests_of(record),
        encoder=record.encoder,
        made_from=record.design_id,
        version=record.version,
    )


def _repeat(now: _Overlay, key: Key, before: Thing, entry: Entry) -> None:
    """Rule 4: the same pictures again get the same verdict, word for word. Under another encoder version the rows of
    what exists move here, or nothing could be compared with it any more."""
    moved = before.row != NOWHERE and before.encoder != entry.record.encoder
    after = replace(before, src=entry.record.src)
    now.put(key, replace(after, row=entry.position, encoder=entry.record.encoder) if moved else after)
    now.outcome.said.append(Said(key, now.outcome.values.get(key), first=False, position=before.position))


def _say(now: _Overlay, key: Key, entry: Entry, verdict: Verdict, value: bytes | None) -> None:
    record = entry.record
    now.put(
        key,
        Thing(
            src=record.src,
            position=entry.position,
            row=entry.position if verdict.verdict == "accept" else NOWHERE,
            digests=digests_of(record),
            encoder=record.encoder,
            word=verdict.verdict,
        ),
    )
    if value is None:
        value = encode_event(verdict)
        now.outcome.said.append(Said(key, value, first=True, position=entry.position))
    now.outcome.values[key] = value


def _judge_one(now: _Overlay, entry: Entry, hits: Hits, context: Context) -> Verdict | None:
    """The verdict of one design, or None while rows that nobody looked at could be among its neighbours (rule 7)."""
    record, policy = entry.record, context.policy
    threshold = _threshold(now, entry, context)
    least = math.ceil(threshold * UNIT)
    vectors: dict[int, tuple[int, Signal]] = {}
    rules: dict[int, tuple[int, Signal]] = {}

    def propose(to: dict[int, tuple[int, Signal]], position: int, score: int, signal: Signal) -> None:
        key = now.at(position)
        if key is None or key == ("design", record.id) or _made_from(now, key, record.id):
            return  # rules 1 and 7
        if position not in to or to[position][0] < score:
            to[position] = (score, signal)

    for found in hits.near:
        for score, key in zip(found.scores.tolist(), found.keys.tolist(), strict=True):
            propose(vectors, position_of(key), min(score, UNIT), "vector")
    if policy.use_digest:
        for digest in digests_of(record):
            for position in now.holders(digest):
                propose(rules, position, UNIT, "digest")
    for distance, position in hits.hashes:
        propose(rules, position, max(least, UNIT - distance * (UNIT // 256)), "hash")
    ranked = sorted((vectors | rules).items(), key=lambda item: (-item[1][0], item[0]))[: policy.neighbours]
    floor = max((found.floor for found in hits.near if found.floor is not None), default=None)
    if floor is not None and (len(ranked) < policy.neighbours or ranked[-1][1][0] <= floor):
        return None
    similarity = ranked[0][1][0] if ranked else 0
    neighbours = []
    for position, (score, signal) in ranked:
        kind, name = _living(now, position)
        neighbours.append(Neighbour(name, kind, score / UNIT, signal))
    return _verdict(entry, context, threshold, similarity, tuple(neighbours))


def _threshold(now: _Overlay, entry: Entry, context: Context) -> float:
    """Of the design's category, for as many pictures as exist just before it (rule 8)."""
    return context.policy.threshold(entry.record.category, now.live_rows)


def _made_from(now: _Overlay, key: Key, design_id: str) -> bool:
    thing = now.thing(key) if key[0] == "item" else None
    return thing is not None and thing.made_from == design_id != ""


def _living(now: _Overlay, position: int) -> Key:
    key = now.at(position)
    assert key is not None  # noqa: S101 - only what exists was proposed
    return key


def _verdict(
    entry: Entry, context: Context, threshold: float, similarity: int, neighbours: tuple[Neighbour, ...]
) -> Verdict:
    record, policy = entry.record, context.policy
    return Verdict(
        verdict_id=verdict_id(context.log_id, context.shard, entry.position),
        design_id=record.id,
        verdict="duplicate" if similarity >= math.ceil(threshold * UNIT) else "accept",
        similarity=similarity / UNIT,
        threshold=threshold,
        neighbours=neighbours,
        category=record.category,
        title=record.title,
        tenant=record.tenant,
        generator=record.generator,
        encoder_version=record.encoder,
        policy_version=policy.version,
        image_digests=tuple(picture.digest.hex() for picture in record.pictures),
        position=entry.position,
        shard=context.shard,
        submitted_at_ms=record.submitted_at_ms,
        advisory=policy.advisory,
    )


class _Named(msgspec.Struct):
    position: int
    verdict_id: str


_named = msgspec.json.Decoder(_Named)


def verdict_position(value: bytes) -> int:
    """The position in a verdict's JSON."""
    return _named.decode(value).position


def verdict_name(value: bytes) -> str:
    """The verdict_id in a verdict's JSON."""
    return _named.decode(value).verdict_id
