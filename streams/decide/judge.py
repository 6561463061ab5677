"""The verdict. Pure: state + hits + policy + records -> verdicts and what exists now. No I/O, clock or randomness.

The rules are numbered as in infra/adr/0001-two-stages-one-log.md. What a similarity is, on the integer scale of
`UNIT` = 1.0, for one thing that exists against one design, strongest signal first:

    digest   a picture of both has the same bytes                          UNIT
    hash     a pair of pictures fires the perceptual-hash rule             at least the threshold
    vector   the largest dot product over pairs of pictures of the same encoder version

So a design is a duplicate exactly when its best similarity reaches the threshold, whichever signal it was.

A change of the catalogue revises what was said of designs before it (rule 13): a new picture those that exist and that
it reaches, a delete those that the item alone blocked. Each is judged afresh just behind the record.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from streams.decide.things import (
    NOWHERE,
    Context,
    Entry,
    Hits,
    Key,
    Ledger,
    Missing,
    Outcome,
    Revived,
    Said,
    Thing,
    World,
    digests_of,
    key_of,
    order_of,
    place_at,
    place_of,
)
from streams.events import UNIT, LogRecord, Neighbour, Policy, Signal, Verdict, decode_verdict, encode_event, verdict_id

_SILENCE: Final[Mapping[str, bytes]] = {}
_NOTHING: Final[Mapping[str, tuple[LogRecord, Hits]]] = {}


class _Overlay:
    """The world as it is between two records of a batch."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.outcome = Outcome()
        self.live_rows, self.live_designs = world.live_rows, world.live_designs
        self._at: dict[int, Key | None] = {}
        self._holders: dict[bytes, list[int]] = {}

    def thing(self, key: Key) -> Thing | None:
        return self.outcome.things.get(key) or self._world.thing(key)

    def at(self, place: int) -> Key | None:
        return self._at[place] if place in self._at else self._world.at(place)

    def holders(self, digest: bytes) -> Iterable[int]:
        return (*self._world.holders(digest), *self._holders.get(digest, ()))

    def value(self, key: Key) -> bytes:
        return self.outcome.values[key] if key in self.outcome.values else self._world.value(key)

    def blocked(self, item: str) -> set[str]:
        changed = self.outcome.things
        before = {name for name in self._world.blocked(item) if ("design", name) not in changed}
        return before | {key[1] for key, thing in changed.items() if thing.blocked_by == item != ""}

    def put(self, key: Key, thing: Thing) -> None:
        """`thing` takes the place of what `key` was."""
        before = self.thing(key)
        if before is not None and before.row not in (NOWHERE, thing.row):
            self._at[before.row] = None
            self.live_rows -= len(before.digests)
            self.live_designs -= key[0] == "design"
        if thing.row != NOWHERE and self.at(thing.row) is None:
            self._at[thing.row] = key
            self.live_rows += len(thing.digests)
            self.live_designs += key[0] == "design"
            for digest in thing.digests:
                self._holders.setdefault(digest, []).append(thing.row)
        self.outcome.things[key] = thing

    def born(self, entries: Sequence[Entry]) -> list[int]:
        return [i for i, entry in enumerate(entries) if self._at.get(entry.position)]


def may_need_hits(world: World, entries: Sequence[Entry], said: Ledger, policy: Policy) -> list[int]:
    """Indexes of the designs that may be judged afresh, and of the items that may revise. A resubmission is told apart
    only while its id is met for the first time in the batch; hits that turn out not to be needed cost time and change
    nothing."""
    wanted, met, designs = [], set[Key](), world.live_designs > 0
    for i, (entry, key) in enumerate((entry, key_of(entry.record)) for entry in entries):
        record, thing = entry.record, world.thing(key)
        is_new = key in met or thing is None or thing.src < record.src
        if record.kind == "design" and record.id not in said.get(entry.position, _SILENCE):
            settled = thing is not None and thing.word != "" and thing.digests == digests_of(record)
            if key in met or (is_new and not settled):
                wanted.append(i)
        elif record.kind == "upsert" and is_new and designs and policy.revisions:
            wanted.append(i)
        met.add(key)
        designs = designs or record.kind == "design"
    return wanted


def judge(
    world: World,
    entries: Sequence[Entry],
    hits: Mapping[int, Hits],
    said: Ledger,
    context: Context,
    again: Mapping[str, tuple[LogRecord, Hits]] = _NOTHING,
) -> Outcome | Missing:
    """Fold `entries`, in order, over `world`; not all of them where one revises.

    hits: for every index that `may_need_hits` names. said: what stands in the ledger already is taken, never decided
    again (rule 9). again: designs to be revised, as they were submitted last, with their hits.
    """
    now = _Overlay(world)
    missing, lacking = [], dict[str, int]()
    for i, entry in enumerate(entries):
        record, key = entry.record, key_of(entry.record)
        before = now.thing(key)
        if record.kind in ("config", "ready") or (before is not None and before.src >= record.src):
            continue  # rule 5: already applied
        if record.kind in ("upsert", "delete"):
            affected = _affected(now, before, entry, hits.get(i), said, context)
            if affected is None:
                missing.append(i)
            elif affected and i:
                entries = entries[:i]
                break
        match record.kind:
            case "delete" | "withdraw":
                now.put(key, Thing(src=record.src))
                now.outcome.values[key] = b""
            case "upsert":
                now.put(key, after := _upsert(before, entry))
                if after.row == entry.position:
                    now.outcome.pictures[key] = record.pictures
            case "design" if before is not None and before.word and before.digests == digests_of(record):
                _repeat(now, key, before, entry)
            case "design" if not _say(now, key, entry, hits.get(i), said, context):
                missing.append(i)
        if record.kind in ("upsert", "delete") and affected:
            lacking = _revise(now, entry, affected, said, context, again)
            entries = entries[: i + 1]
            break
    if missing or lacking:
        return Missing(tuple(missing), lacking)
    now.outcome.count = len(entries)
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


def _affected(
    now: _Overlay, before: Thing | None, entry: Entry, hits: Hits | None, said: Ledger, context: Context
) -> list[str] | None:
    """The designs that a change of the catalogue revises, in the order of their positions (rule 13); None while rows
    that nobody looked at could be among them."""
    record, most = entry.record, context.policy.revisions
    found = set(said.get(entry.position, _SILENCE))
    if most and not context.is_closed:
        mine = now.blocked(record.id) if record.kind == "delete" else _reached(now, before, entry, hits, context)
        if mine is None:
            return None
        if len(mine) <= most:
            found |= mine
        else:
            now.outcome.floods.append((record.id, len(mine)))
    designs = [(thing.position, name) for name in found if (thing := now.thing(("design", name))) and thing.word]
    return [name for _, name in sorted(designs)]


def _reached(now: _Overlay, before: Thing | None, entry: Entry, hits: Hits | None, context: Context) -> set[str] | None:
    """The designs that exist and to which the new pictures of an item are near enough."""
    record, policy, after = entry.record, context.policy, _upsert(before, entry)
    if hits is None or after.row != entry.position:
        return set()
    gone = len(before.digests) if before is not None and before.row != NOWHERE else 0
    rows = now.live_rows - gone + len(after.digests)
    lowest = policy.lowest(rows)
    best: dict[str, int] = {}

    def propose(place: int, score: int) -> None:
        kind, name = now.at(place) or ("item", "")
        if kind == "design" and name != record.design_id and score >= lowest * UNIT:
            best[name] = max(score, best.get(name, score))

    for found in hits.near:
        for score, key in zip(found.scores.tolist(), found.keys.tolist(), strict=True):
            propose(place_of(key), score)
    if policy.use_digest:
        for digest in after.digests:
            for place in now.holders(digest):
                propose(place, UNIT)
    for _, place in hits.hashes:
        propose(place, UNIT)  # a hash that fires reaches any threshold
    reached = {name for name, score in best.items() if score >= _least(now, name, rows, policy)}
    floor = max((found.floor for found in hits.near if found.floor is not None), default=None)
    if floor is not None and floor >= lowest * UNIT and len(reached) <= policy.revisions:
        return None
    return reached


def _least(now: _Overlay, design: str, rows: int, policy: Policy) -> float:
    return policy.threshold(decode_verdict(now.value(("design", design))).category, rows) * UNIT


def _revise(
    now: _Overlay,
    entry: Entry,
    affected: Sequence[str],
    said: Ledger,
    context: Context,
    again: Mapping[str, tuple[LogRecord, Hits]],
) -> dict[str, int]:
    """Judge the affected designs afresh, one after the other; returns those whose hits are lacking."""
    places = {name: place_at(entry.position, turn) for turn, name in enumerate(affected, start=1)}
    if not again.keys() >= places.keys():
        return places
    lacking = {}
    for name, place in places.items():
        key: Key = ("design", name)
        before, was = now.thing(key), decode_verdict(now.value(key))
        assert before is not None  # noqa: S101 - only what was judged is affected
        record, hits = again[name]
        value = said.get(entry.position, _SILENCE).get(name)
        if value is not None:
            verdict: Verdict | None = decode_verdict(value)
        else:
            verdict = _judge_one(now, Entry(entry.position, record), hits, context)
        if verdict is None:
            lacking[name] = place
            continue
        if value is None:
            if verdict.verdict == was.verdict == "accept":
                continue  # those before it have changed what holds
            verdict = msgspec.structs.replace(
                verdict,
                verdict_id=verdict_id(context.log_id, context.shard, entry.position, name),
                revises=was.verdict_id,
                cause=entry.record.id,
            )
            value = encode_event(verdict)
            cause = entry.record.id if entry.record.kind == "upsert" else ""
            now.outcome.said.append(Said(key, value, first=True, position=entry.position, cause=cause))
        row = before.row
        if verdict.verdict == "duplicate":
            row = NOWHERE
        elif row == NOWHERE:
            row = place
            now.outcome.revived.append(Revived(place, record))
        after = replace(before, position=entry.position, row=row, word=verdict.verdict, blocked_by=_blocker(verdict))
        now.put(key, after)
        now.outcome.values[key] = value
    return lacking


def _blocker(verdict: Verdict) -> str:
    """The item that alone makes a design a duplicate; empty when it is none, or something else does so too."""
    least = verdict.threshold * UNIT
    near = [one for one in verdict.neighbours if round(one.similarity * UNIT) >= least]
    return near[0].id if len(near) == 1 and near[0].kind == "item" else ""


def _repeat(now: _Overlay, key: Key, before: Thing, entry: Entry) -> None:
    """Rule 4: the same pictures again get the same verdict, word for word. Under another encoder version the rows of
    what exists move here, or nothing could be compared with it any more."""
    moved = before.row != NOWHERE and before.encoder != entry.record.encoder
    after = replace(before, src=entry.record.src)
    now.put(key, replace(after, row=entry.position, encoder=entry.record.encoder) if moved else after)
    if moved:
        now.outcome.pictures[key] = entry.record.pictures
    now.outcome.said.append(Said(key, now.outcome.values.get(key), first=False, position=before.position))


def _say(now: _Overlay, key: Key, entry: Entry, hits: Hits | None, said: Ledger, context: Context) -> bool:
    """A design's new revision with its verdict; False while its hits do not settle it, and then one is assumed."""
    record, value = entry.record, said.get(entry.position, _SILENCE).get(entry.record.id)
    if value is not None:
        settled: Verdict | None = decode_verdict(value)
    else:
        assert hits is not None  # noqa: S101 - `may_need_hits` names it
        settled = _judge_one(now, entry, hits, context)
    verdict = settled or _verdict(entry, context, _threshold(now, entry, context), 0, ())
    now.put(
        key,
        Thing(
            src=record.src,
            position=entry.position,
            row=entry.position if verdict.verdict == "accept" else NOWHERE,
            digests=digests_of(record),
            encoder=record.encoder,
            word=verdict.verdict,
            blocked_by=_blocker(verdict),
        ),
    )
    now.outcome.pictures[key] = record.pictures
    if value is None:
        value = encode_event(verdict)
        now.outcome.said.append(Said(key, value, first=True, position=entry.position))
    now.outcome.values[key] = value
    return settled is not None


def _judge_one(now: _Overlay, entry: Entry, hits: Hits, context: Context) -> Verdict | None:
    """The verdict of one design, or None while rows that nobody looked at could be among its neighbours (rule 7)."""
    record, policy = entry.record, context.policy
    threshold = _threshold(now, entry, context)
    least = math.ceil(threshold * UNIT)
    vectors: dict[int, tuple[int, Signal]] = {}
    rules: dict[int, tuple[int, Signal]] = {}

    def propose(to: dict[int, tuple[int, Signal]], place: int, score: int, signal: Signal) -> None:
        key = now.at(place)
        if key is None or key == ("design", record.id) or _made_from(now, key, record.id):
            return  # rules 1 and 7
        if place not in to or to[place][0] < score:
            to[place] = (score, signal)

    for found in hits.near:
        for score, key in zip(found.scores.tolist(), found.keys.tolist(), strict=True):
            propose(vectors, place_of(key), min(score, UNIT), "vector")
    if policy.use_digest:
        for digest in digests_of(record):
            for place in now.holders(digest):
                propose(rules, place, UNIT, "digest")
    for distance, place in hits.hashes:
        propose(rules, place, max(least, UNIT - distance * (UNIT // 256)), "hash")
    ranked = sorted((vectors | rules).items(), key=lambda item: (-item[1][0], order_of(item[0])))[: policy.neighbours]
    floor = max((found.floor for found in hits.near if found.floor is not None), default=None)
    if floor is not None and (len(ranked) < policy.neighbours or ranked[-1][1][0] <= floor):
        return None
    similarity = ranked[0][1][0] if ranked else 0
    neighbours = []
    for place, (score, signal) in ranked:
        kind, name = _living(now, place)
        neighbours.append(Neighbour(name, kind, score / UNIT, signal))
    return _verdict(entry, context, threshold, similarity, tuple(neighbours))


def _threshold(now: _Overlay, entry: Entry, context: Context) -> float:
    """Of the design's category, for as many pictures as exist just before it (rule 8)."""
    return context.policy.threshold(entry.record.category, now.live_rows)


def _made_from(now: _Overlay, key: Key, design_id: str) -> bool:
    thing = now.thing(key) if key[0] == "item" else None
    return thing is not None and thing.made_from == design_id != ""


def _living(now: _Overlay, place: int) -> Key:
    key = now.at(place)
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
