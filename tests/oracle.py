"""What the service must say: the log folded by the simplest means, one record at a time, every pair of pictures looked
at. Slow, short, and imports nothing from the service, so that it cannot be wrong in the same way.

    fold(records)               the verdicts, what exists at the end, and how many copies are owed
    compare(folded, published)  what `designs.verdicts` says differently
    account(sources, ...)       source offsets that are neither in the log nor a dead letter
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

UNIT = 2048 * 2048  # the similarity 1.0, in whole numbers
Key = tuple[str, str]  # ("design" or "item", id)
Record = dict[str, Any]


@dataclass
class Folded:
    """verdicts: by position. revised: those that revise one, by verdict_id. live: where the pictures stand of what
    exists at the end (see `_Thing.place`); vectors: how many they have. owed: how often a verdict is published again,
    at least, by its id. floods: how many verdicts a change of the catalogue would have revised where that were too
    many, by position. rows: how many pictures existed just before each position's verdict. counts: what happened in the
    log."""

    verdicts: dict[int, dict[str, Any]] = field(default_factory=dict)
    revised: dict[str, dict[str, Any]] = field(default_factory=dict)
    live: dict[Key, int] = field(default_factory=dict)
    vectors: dict[Key, int] = field(default_factory=dict)
    owed: Counter[str] = field(default_factory=Counter)
    floods: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def all(self) -> dict[str, dict[str, Any]]:
        """Every verdict, by verdict_id."""
        return {verdict["verdict_id"]: verdict for verdict in self.verdicts.values()} | self.revised


@dataclass
class _Thing:
    """What is known of one id. at: the record (its index) whose pictures are compared with; None: it does not exist.
    place: where it stands: the position of that record; for the n-th design that another record let exist again, that
    one's position and n * 2^37. last: the record of its latest pictures."""

    src: int = -1
    at: int | None = None
    place: int = -1
    last: int = -1
    digests: tuple[bytes, ...] = ()
    encoder: str = ""
    version: int = 0
    verdict: dict[str, Any] | None = None


class _Shelf:
    """Every picture of the log, one row each, in the order of the log; `exists` tells those that are compared with."""

    def __init__(self, log: list[Record]) -> None:
        self.log = log
        rows = [(i, *picture) for i, record in enumerate(log) for picture in record.get("pictures", ())]
        self.record = np.array([row[0] for row in rows], int)
        self.start = np.searchsorted(self.record, range(len(log) + 1))
        self.names: dict[Any, int] = defaultdict(lambda: len(self.names))
        self.digest = np.array([self.names[row[1]] for row in rows], int)
        self.hash = _bytes([row[2] for row in rows], np.uint64)
        self.quality = np.array([row[3] for row in rows], int)
        self.colour = _bytes([row[4] for row in rows], np.uint8).astype(int)
        own = [vectors(row[1:]) for row in rows]
        self.vector = _bytes([vector for each in own for vector in each], "<i2").astype(np.float32)
        self.row_of = np.repeat(np.arange(len(rows)), [len(each) for each in own])
        self.dim = np.array([len(each[0]) // 2 for each in own], int)
        # So no sum on the way to a dot product exceeds 2^24, and float32 is exact.
        assert ((self.vector.astype(float) ** 2).sum(axis=1) < 2**24).all()
        self.encoder = np.array([self.names[log[row[0]].get("encoder", "")] for row in rows], int)
        self.owner = np.array([self.names[_key(log[row[0]])] for row in rows], int)
        self.is_design = np.array([_key(log[row[0]])[0] == "design" for row in rows], bool)
        self.made_from = np.full(len(rows), -1)
        self.place_of = np.zeros(len(rows), int)
        self.exists = np.zeros(len(rows), bool)

    def rows(self, index: int) -> slice:
        return slice(self.start[index], self.start[index + 1])

    def place(self, thing: _Thing, index: int | None, place: int = -1, made_from: str = "") -> None:
        """From now on the pictures of record `index`, and no others, stand for `thing`, at `place`."""
        if thing.at is not None:
            self.exists[self.rows(thing.at)] = False
        if index is not None:
            self.exists[self.rows(index)] = True
            self.place_of[self.rows(index)] = place
            self.made_from[self.rows(index)] = self.names["design", made_from]
        thing.at, thing.place = index, place

    def near(self, index: int, policy: Record, least: int) -> list[tuple[int, int, str]]:
        """(score, record, signal) of everything the design of record `index` is compared with, best first."""
        me = self.owner[self.rows(index)][0]
        score, things, signal, places = self._scores(
            index, policy, least, self.exists & (self.owner != me) & (self.made_from != me)
        )
        best = np.lexsort((places // 2**37, places % 2**37, -score))[: policy["neighbours"] + 1]
        return [(int(score[i]), int(things[i]), str(signal[i])) for i in best if score[i] > -np.inf]

    def designs_near(self, index: int, policy: Record) -> dict[int, float]:
        """By record the score of every design that exists and is compared with the item of record `index`."""
        made_from = self.names["design", self.log[index].get("design_id", "")]
        score, things, *_ = self._scores(index, policy, UNIT, self.exists & self.is_design & (self.owner != made_from))
        return dict(zip(things.tolist(), score.tolist(), strict=True))

    def _scores(self, index: int, policy: Record, least: int, among: Any) -> tuple[Any, Any, Any, Any]:
        """(score, record, signal, place) of every thing whose rows are `among`, compared with record `index`."""
        mine = self.rows(index)
        rows = np.flatnonzero(among)
        if not len(rows):
            return np.zeros(0), np.zeros(0, int), np.zeros(0, str), np.zeros(0, int)
        asking = self.vector[(mine.start <= self.row_of) & (self.row_of < mine.stop)].copy()
        asking[:, max(0, self.dim[mine][0] - policy.get("leave_out", 0)) :] = 0
        seen = among[self.row_of]
        vector = np.full(len(among), -np.inf)
        np.maximum.at(vector, self.row_of[seen], np.einsum("rd,qd->rq", self.vector[seen], asking).max(axis=1))
        vector = vector[rows]
        vector[self.encoder[rows] != self.encoder[mine][0]] = -np.inf
        distance = np.full(len(rows), np.inf)
        good, hashes = self.quality >= policy["hash_quality"], self.hash[rows]
        for picture in range(mine.start, mine.stop):
            if not (policy["use_hash"] and good[picture]):
                continue
            bits = np.bitwise_count(hashes ^ self.hash[picture]).sum(axis=1, dtype=int)
            for i in np.flatnonzero((bits <= policy["hash_distance"]) & good[rows]):
                if np.abs(self.colour[rows[i]] - self.colour[picture]).max() <= policy["hash_colour"]:
                    distance[i] = min(distance[i], bits[i])
        same = np.isin(self.digest[rows], self.digest[mine]) & policy["use_digest"]
        # From pictures to things: the rows of a thing stand together.
        things, first = np.unique(self.record[rows], return_index=True)
        vector, distance = np.maximum.reduceat(vector, first), np.minimum.reduceat(distance, first)
        same, hashed = np.logical_or.reduceat(same, first), distance < np.inf
        score = np.where(hashed, np.maximum(least, UNIT - distance * 16384), np.minimum(vector, UNIT))
        score = np.where(same, UNIT, score)
        signal = np.where(same, "digest", np.where(hashed, "hash", "vector"))
        return score, things, signal, self.place_of[rows][first]


def vectors(picture: Sequence[Any]) -> list[bytes]:
    """The vectors of one picture of a record: its own, and those of its windows."""
    size = len(picture[4]) // (1 + (picture[5] if len(picture) > 5 else 0))
    return [picture[4][start : start + size] for start in range(0, len(picture[4]), size)]


def _bytes(values: list[bytes], kind: Any) -> Any:
    longest = max(map(len, values), default=0)
    padded = b"".join(value.ljust(longest, b"\0") for value in values)
    return np.frombuffer(padded, kind).reshape(len(values), longest // np.dtype(kind).itemsize)


def _key(record: Record) -> Key:
    return ("design" if record["kind"] in ("design", "withdraw") else "item", record.get("id", ""))


def _policy(given: Record) -> Record:
    """The complete policy, in the order of its fields (the last three if unusual), with its JSON's hash."""
    policy: Record = {"similarity": 0.0, "categories": {}, "use_digest": True, "use_hash": True, "hash_distance": 0}
    policy |= {"hash_colour": 0, "hash_quality": 100, "neighbours": 5, "advisory": False}
    policy |= given
    steps, leave_out, revisions = policy.pop("steps", ()), policy.pop("leave_out", 0), policy.pop("revisions", 100)
    if steps:
        policy["steps"] = [{"rows": 0, "similarity": 0.0, "categories": {}, "extrapolated": False} | s for s in steps]
    if leave_out:
        policy["leave_out"] = leave_out
    if revisions != 100:
        policy["revisions"] = revisions
    for rule in (policy, *policy.get("steps", ())):
        rule["categories"] = dict(sorted(rule["categories"].items()))
    return policy | {"version": hashlib.sha256(msgspec.json.encode(policy)).hexdigest()[:12]}


def fold(records: Iterable[tuple[int, bytes]], shard: int = 0) -> Folded:
    """Fold (offset, value) of the log's records from the first one on."""
    positions, log = [], []
    for position, value in records:
        positions.append(position)
        log.append(msgspec.msgpack.decode(value))
    shelf, folded, things = _Shelf(log), Folded(), dict[Key, _Thing]()
    counts, policy, log_id = folded.counts, dict[str, Any](), log[0]["log_id"] if log else ""
    for i, (position, record) in enumerate(zip(positions, log, strict=True)):
        kind, key = record["kind"], _key(record)
        digests, encoder = tuple(picture[0] for picture in record.get("pictures", ())), record.get("encoder", "")
        counts[kind] += 1
        if kind in ("config", "ready"):
            policy = _policy(record["policy"]) if record.get("policy") else policy
            continue
        thing = things.setdefault(key, _Thing())
        if record["src"] <= thing.src:
            counts["stale"] += 1
            continue
        thing.src = record["src"]
        if kind in ("withdraw", "delete"):
            counts["ended"] += thing.at is not None
            shelf.place(thing, None)
            things[key] = _Thing(src=record["src"])
            if kind == "delete":
                alone = [name for (_, name), design in things.items() if _blocker(design.verdict) == record["id"] != ""]
                _revise(shelf, i, position, alone, things, policy, folded, log_id, shard)
        elif kind == "upsert":
            version, made_from = record.get("version", 0), record.get("design_id", "")
            if thing.at is not None and version < thing.version:
                counts["late"] += 1
                continue
            kept = thing.at is not None and (thing.digests, thing.encoder) == (digests, encoder)
            counts["kept" if kept else "superseded" if thing.at is not None else "born"] += 1
            shelf.place(thing, *((thing.at, thing.place) if kept else (i, position)), made_from)
            thing.digests, thing.encoder, thing.version = digests, encoder, version
            if not kept:
                near, rows = shelf.designs_near(i, policy), int(shelf.exists.sum())
                reached = [
                    log[other]["id"]
                    for other, score in near.items()
                    if score >= _least(policy, things[_key(log[other])].verdict, rows)
                ]
                _revise(shelf, i, position, reached, things, policy, folded, log_id, shard)
        elif thing.verdict and thing.digests == digests:
            counts["repeated"] += 1
            folded.owed[thing.verdict["verdict_id"]] += 1
            if thing.at is not None and thing.encoder != encoder:
                counts["moved"] += 1
                shelf.place(thing, i, position)
                thing.encoder, thing.last = encoder, i
        else:
            name = hashlib.sha256(f"{log_id}/{shard}/{position}".encode()).hexdigest()[:32]
            verdict = {"verdict_id": name, "position": position, "shard": shard} | _judge(shelf, i, policy, counts)
            folded.rows[position] = int(shelf.exists.sum())
            counts["revised"] += thing.verdict is not None
            folded.verdicts[position] = thing.verdict = verdict
            shelf.place(thing, i if verdict["verdict"] == "accept" else None, position)
            thing.digests, thing.encoder, thing.last = digests, encoder, i
    existing = {key: thing for key, thing in things.items() if thing.at is not None}
    folded.live = {key: thing.place for key, thing in existing.items()}
    folded.vectors = {
        key: sum(len(vectors(picture)) for picture in log[thing.at]["pictures"])
        for key, thing in existing.items()
        if thing.at is not None
    }
    return folded


def _blocker(verdict: Record | None) -> str:
    """The item that alone makes a design a duplicate."""
    if not verdict or verdict["verdict"] == "accept":
        return ""
    near = [one for one in verdict["neighbours"] if one["similarity"] >= verdict["threshold"]]
    return str(near[0]["id"]) if len(near) == 1 and near[0]["kind"] == "item" else ""


def _revise(
    shelf: _Shelf,
    index: int,
    position: int,
    names: list[str],
    things: dict[Key, _Thing],
    policy: Record,
    folded: Folded,
    log_id: str,
    shard: int,
) -> None:
    """Judge designs again, just behind the catalogue's record `index`."""
    most = policy.get("revisions", 100)
    if len(names) > most:
        if most:
            folded.floods[position] = len(names)
        return
    affected = [(things["design", name], name) for name in names]
    affected.sort(key=lambda one: (one[0].verdict["position"] if one[0].verdict else -1, one[1]))
    for turn, (thing, name) in enumerate(affected, start=1):
        was = thing.verdict
        assert was is not None
        verdict = _judge(shelf, thing.last, policy, Counter(), was["category"])
        if verdict["verdict"] == was["verdict"] == "accept":
            continue
        folded.counts[f"{was['verdict']} to {verdict['verdict']}"] += 1
        named = hashlib.sha256(f"{log_id}/{shard}/{position}/{name}".encode()).hexdigest()[:32]
        # What was submitted with the pictures may have come with other records than the pictures.
        verdict |= {field: was[field] for field in ("category", "title", "tenant", "generator", "submitted_at_ms")}
        verdict |= {"verdict_id": named, "position": position, "shard": shard, "revises": was["verdict_id"]}
        folded.revised[named] = thing.verdict = verdict | {"cause": shelf.log[index]["id"]}
        shelf.place(thing, thing.last if verdict["verdict"] == "accept" else None, position + turn * 2**37)


def _least(policy: Record, verdict: Record | None, rows: int) -> int:
    return math.ceil(_threshold(policy, verdict["category"] if verdict else "", rows) * UNIT)


def _threshold(policy: Record, category: str, rows: int) -> float:
    rule = policy
    for step in policy.get("steps", ()):
        if step["rows"] <= rows:
            rule = step
    return float(rule["categories"].get(category, rule["similarity"]))


def _judge(
    shelf: _Shelf, index: int, policy: Record, counts: Counter[str], category: str | None = None
) -> dict[str, Any]:
    record = shelf.log[index]
    category = record.get("category", "") if category is None else category
    threshold = _threshold(policy, category, int(shelf.exists.sum()))
    least, k = math.ceil(threshold * UNIT), policy["neighbours"]
    ranked = shelf.near(index, policy, least)
    counts["tied"] += len(ranked) > k and ranked[k - 1][0] == ranked[k][0]
    best = ranked[0][0] if ranked else 0
    word = "duplicate" if best >= least else "accept"
    counts[word] += 1
    if word == "duplicate":
        counts[f"duplicate by {ranked[0][2]}"] += 1
    return {
        "design_id": record["id"],
        "verdict": word,
        "similarity": best / UNIT,
        "threshold": threshold,
        "neighbours": [
            {"id": key[1], "kind": key[0], "similarity": score / UNIT, "signal": signal}
            for score, key, signal in ((score, _key(shelf.log[other]), signal) for score, other, signal in ranked[:k])
        ],
        **{name: record.get(name, "") for name in ("category", "title", "tenant", "generator")},
        "encoder_version": record.get("encoder", ""),
        "policy_version": policy["version"],
        "image_digests": [picture[0].hex() for picture in record["pictures"]],
        "submitted_at_ms": record.get("submitted_at_ms", 0),
        "advisory": policy["advisory"],
    }


def compare(folded: Folded, published: Iterable[bytes]) -> list[str]:
    """How `published`, the values of `designs.verdicts` in order, differs from the fold. Nothing: as promised."""
    said: dict[str, list[bytes]] = defaultdict(list)
    for value in published:
        said[msgspec.json.decode(value)["verdict_id"]].append(value)
    differences = []
    for name, verdict in folded.all().items():
        position, values = verdict["position"], said.pop(name, [])
        if not values:
            differences.append(f"{position}: missing")
            continue
        first = msgspec.json.decode(values[0])
        names = sorted(name for name in verdict.keys() | first.keys() if _text(verdict, name) != _text(first, name))
        differences += [f"{position}: {n} is {_text(first, n)}, should be {_text(verdict, n)}" for n in names]
        if any(value != values[0] for value in values):
            differences.append(f"{position}: a later copy differs from the first")
        if len(values) <= folded.owed[name]:
            differences.append(f"{position}: published {len(values)} times, {1 + folded.owed[name]} are owed")
    return differences + [f"{msgspec.json.decode(values[0])['position']}: unexpected" for values in said.values()]


def _text(verdict: Mapping[str, Any], name: str) -> str:
    return json.dumps(verdict[name], sort_keys=True) if name in verdict else "absent"


def account(
    sources: Mapping[str, int | Collection[int]],
    records: Iterable[tuple[int, bytes]],
    dead_letters: Collection[tuple[str, int]],
) -> list[tuple[str, int]]:
    """("topic/partition", offset) of everything sent that is neither in the log nor a dead letter. sources: by
    "topic/partition" the end offset, or the offsets themselves."""
    decoded = (msgspec.msgpack.decode(value) for _, value in records)
    arrived = {(record.get("source", ""), record.get("src", -1)) for record in decoded} | set(dead_letters)
    return [
        (source, offset)
        for source, end in sorted(sources.items())
        for offset in (range(end) if isinstance(end, int) else sorted(end))
        if (source, offset) not in arrived
    ]
