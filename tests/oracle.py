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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

UNIT = 2048 * 2048  # the similarity 1.0, in whole numbers
Key = tuple[str, str]  # ("design" or "item", id)
Record = dict[str, Any]


@dataclass
class Folded:
    """verdicts: by position. live: where the pictures stand of what exists at the end. owed: how often a verdict is
    published again, at least, by its position. rows: how many pictures existed just before each verdict. counts: what
    happened in the log."""

    verdicts: dict[int, dict[str, Any]] = field(default_factory=dict)
    live: dict[Key, int] = field(default_factory=dict)
    owed: Counter[int] = field(default_factory=Counter)
    rows: dict[int, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class _Thing:
    """What is known of one id. at: the record (its index) whose pictures are compared with; None: it does not exist."""

    src: int = -1
    at: int | None = None
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
        self.vector = _bytes([row[5] for row in rows], "<i2").astype(np.float32)
        self.dim = np.array([len(row[5]) // 2 for row in rows], int)
        # So no sum on the way to a dot product exceeds 2^24, and float32 is exact.
        assert ((self.vector.astype(float) ** 2).sum(axis=1) < 2**24).all()
        self.encoder = np.array([self.names[log[row[0]].get("encoder", "")] for row in rows], int)
        self.owner = np.array([self.names[_key(log[row[0]])] for row in rows], int)
        self.made_from = np.full(len(rows), -1)
        self.exists = np.zeros(len(rows), bool)

    def rows(self, index: int) -> slice:
        return slice(self.start[index], self.start[index + 1])

    def place(self, thing: _Thing, index: int | None, made_from: str = "") -> None:
        """From now on the pictures of record `index`, and no others, stand for `thing`."""
        if thing.at is not None:
            self.exists[self.rows(thing.at)] = False
        if index is not None:
            self.exists[self.rows(index)] = True
            self.made_from[self.rows(index)] = self.names["design", made_from]
        thing.at = index

    def near(self, index: int, policy: Record, least: int) -> list[tuple[int, int, str]]:
        """(score, record, signal) of everything the design of record `index` is compared with, best first."""
        mine = self.rows(index)
        me = self.owner[mine][0]
        rows = np.flatnonzero(self.exists & (self.owner != me) & (self.made_from != me))
        if not len(rows):
            return []
        asking = self.vector[mine].copy()
        asking[:, max(0, self.dim[mine][0] - policy.get("leave_out", 0)) :] = 0
        vector = np.einsum("rd,qd->rq", self.vector[rows], asking).max(axis=1).astype(float)
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
        best = np.argsort(-score, kind="stable")[: policy["neighbours"] + 1]
        return [(int(score[i]), int(things[i]), str(signal[i])) for i in best if score[i] > -np.inf]


def _bytes(values: list[bytes], kind: Any) -> Any:
    longest = max(map(len, values), default=0)
    padded = b"".join(value.ljust(longest, b"\0") for value in values)
    return np.frombuffer(padded, kind).reshape(len(values), longest // np.dtype(kind).itemsize)


def _key(record: Record) -> Key:
    return ("design" if record["kind"] in ("design", "withdraw") else "item", record.get("id", ""))


def _policy(given: Record) -> Record:
    """The complete policy, in the order of its fields (the last two only if any), with its version: its JSON's hash."""
    policy: Record = {"similarity": 0.0, "categories": {}, "use_digest": True, "use_hash": True, "hash_distance": 0}
    policy |= {"hash_colour": 0, "hash_quality": 100, "neighbours": 5, "advisory": False}
    policy |= given
    steps, leave_out = policy.pop("steps", ()), policy.pop("leave_out", 0)
    if steps:
        policy["steps"] = [{"rows": 0, "similarity": 0.0, "categories": {}, "extrapolated": False} | s for s in steps]
    if leave_out:
        policy["leave_out"] = leave_out
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
        elif kind == "upsert":
            version, made_from = record.get("version", 0), record.get("design_id", "")
            if thing.at is not None and version < thing.version:
                counts["late"] += 1
                continue
            kept = thing.at is not None and (thing.digests, thing.encoder) == (digests, encoder)
            counts["kept" if kept else "superseded" if thing.at is not None else "born"] += 1
            shelf.place(thing, thing.at if kept else i, made_from)
            thing.digests, thing.encoder, thing.version = digests, encoder, version
        elif thing.verdict and thing.digests == digests:
            counts["repeated"] += 1
            folded.owed[thing.verdict["position"]] += 1
            if thing.at is not None and thing.encoder != encoder:
                counts["moved"] += 1
                shelf.place(thing, i)
                thing.encoder = encoder
        else:
            name = hashlib.sha256(f"{log_id}/{shard}/{position}".encode()).hexdigest()[:32]
            verdict = {"verdict_id": name, "position": position, "shard": shard} | _judge(shelf, i, policy, counts)
            folded.rows[position] = int(shelf.exists.sum())
            counts["revised"] += thing.verdict is not None
            folded.verdicts[position] = thing.verdict = verdict
            shelf.place(thing, i if verdict["verdict"] == "accept" else None)
            thing.digests, thing.encoder = digests, encoder
    folded.live = {key: positions[thing.at] for key, thing in things.items() if thing.at is not None}
    return folded


def _judge(shelf: _Shelf, index: int, policy: Record, counts: Counter[str]) -> dict[str, Any]:
    record = shelf.log[index]
    category, rows = record.get("category", ""), shelf.exists.sum()
    rule = policy
    for step in policy.get("steps", ()):
        if step["rows"] <= rows:
            rule = step
    threshold = rule["categories"].get(category, rule["similarity"])
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
    for position, verdict in folded.verdicts.items():
        values = said.pop(verdict["verdict_id"], [])
        if not values:
            differences.append(f"{position}: missing")
            continue
        first = msgspec.json.decode(values[0])
        names = sorted(name for name in verdict.keys() | first.keys() if _text(verdict, name) != _text(first, name))
        differences += [f"{position}: {n} is {_text(first, n)}, should be {_text(verdict, n)}" for n in names]
        if any(value != values[0] for value in values):
            differences.append(f"{position}: a later copy differs from the first")
        if len(values) <= folded.owed[position]:
            differences.append(f"{position}: published {len(values)} times, {1 + folded.owed[position]} are owed")
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
