"""However a log is cut into batches, the fold gives the oracle's verdicts; with any rule of the judge broken, not."""

import copy
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.decide import judge
from streams.decide.hashes import HashTable
from streams.decide.index import vectors_of
from streams.decide.rows import Rows, merge
from streams.decide.things import NOWHERE, Context, Entry, Hits, Key, Ledger, Missing, Outcome, Thing, key_of, row_key
from streams.errors import Fatal
from streams.events import Kind, LogRecord, Picture, Policy, Step, decode_verdict, encode_record
from tests import oracle
from tests.logs import Action, climbs, logs, random_log

FIRST_LIMIT = 6
"""So small that a first search often does not settle the neighbours."""


class Folding:
    """The fold in plain memory: a World of dicts with the real judge (the module `rules`), rows and hashes."""

    def __init__(self, shard: int = 0, rules: ModuleType = judge) -> None:
        self._shard, self._rules = shard, rules
        self._log_id = ""
        self._policy = Policy(similarity=1.0)
        self._rows: dict[tuple[Kind, str], Rows] = {}
        self._hashes = HashTable()
        self._things: dict[Key, Thing] = {}
        self._at: dict[int, Key] = {}
        self._digests: defaultdict[bytes, set[int]] = defaultdict(set)
        self._values: dict[Key, bytes] = {}
        self._pictures: dict[Key, Sequence[Picture]] = {}
        self.floods: list[tuple[str, int]] = []
        self.searched_again = 0

    def twin(self) -> "Folding":
        """Another one with the same memory."""
        return copy.deepcopy(self, {id(self._rules): self._rules})

    def thing(self, key: Key) -> Thing | None:
        return self._things.get(key)

    def at(self, position: int) -> Key | None:
        return self._at.get(position)

    def holders(self, digest: bytes) -> Iterable[int]:
        return self._digests.get(digest, ())

    def value(self, key: Key) -> bytes:
        return self._values.get(key, b"")

    def blocked(self, item: str) -> Iterable[str]:
        return [name for (_, name), thing in self._things.items() if thing.blocked_by == item != ""]

    @property
    def live_designs(self) -> int:
        return sum(kind == "design" for kind, _ in self._at.values())

    @property
    def live_rows(self) -> int:
        return sum(len(self._things[key].digests) for key in self._at.values())

    def live(self) -> dict[Key, int]:
        return {key: position for position, key in self._at.items()}

    def feed(self, entries: Sequence[Entry], said: Ledger | None = None) -> list[bytes]:
        """One batch of consecutive entries; returns what is published. said: by position, the ledger that was read."""
        published, batch = [], list[Entry]()
        for entry in entries:
            record = entry.record
            if record.kind == "config" and record.policy is not None:
                published += self._feed(batch, said or {})
                batch = []
                self._policy, self._log_id = record.policy, self._log_id or record.log_id
            batch.append(entry)
        return published + self._feed(batch, said or {})

    def _feed(self, entries: Sequence[Entry], said: Ledger) -> list[bytes]:
        published = []
        while entries:
            sizes, hashes = {name: len(rows) for name, rows in self._rows.items()}, len(self._hashes)
            for entry in entries:
                self._add(entry.position, entry.record)
            outcome = self._judged(entries, said)
            for name, rows in self._rows.items():
                rows.truncate(sizes.get(name, 0))
            self._hashes.truncate(hashes)
            for i in outcome.rows:
                self._add(entries[i].position, entries[i].record)
            for revived in outcome.revived:
                self._add(revived.place, revived.record)
            published += self._apply(outcome)
            self.floods += outcome.floods
            entries = entries[outcome.count :]
        return published

    def _judged(self, entries: Sequence[Entry], said: Ledger) -> Outcome:
        context, limit = Context(self._log_id, self._shard, self._policy), FIRST_LIMIT
        wanted = self._rules.may_need_hits(self, entries, said, self._policy)
        missing, hits = Missing(tuple(wanted)), dict[int, Hits]()
        again = dict[str, tuple[LogRecord, Hits]]()
        while True:
            hits |= {i: self._hits(entries[i].record, limit) for i in missing.entries}
            records = [self._last(name) for name in missing.designs]
            if not again:
                for place, record in zip(missing.designs.values(), records, strict=True):
                    self._add(place, record)
            again |= {record.id: (record, self._hits(record, limit)) for record in records}
            answer: Any = self._rules.judge(self, entries, hits, said, context, again)
            if not isinstance(answer, self._rules.Missing):
                assert answer.count > 0
                return cast(Outcome, answer)
            missing, limit = answer, 3 * limit
            self.searched_again += len(missing.entries)

    def _last(self, design: str) -> LogRecord:
        key: Key = ("design", design)
        was = decode_verdict(self._values[key])
        return LogRecord(
            kind="design", id=design, pictures=tuple(self._pictures[key]), encoder=self._things[key].encoder,
            category=was.category, title=was.title, tenant=was.tenant, generator=was.generator,
            submitted_at_ms=was.submitted_at_ms,
        )  # fmt: skip

    def _add(self, place: int, record: LogRecord) -> None:
        if record.pictures:
            vectors = vectors_of(record.pictures)
            keys = np.array([row_key(self._shard, place, n) for n in range(len(vectors))])
            name = (key_of(record)[0], record.encoder)
            self._rows.setdefault(name, Rows(vectors.shape[1])).append(keys, vectors)
            self._hashes.add(place, record.pictures)

    def _hits(self, record: LogRecord, limit: int) -> Hits:
        queries = vectors_of(record.pictures)
        queries[:, max(0, queries.shape[1] - self._policy.leave_out) :] = 0
        kinds: tuple[Kind, ...] = ("design",) if record.kind == "upsert" else ("design", "item")
        tables = [self._rows.get((kind, record.encoder), Rows(queries.shape[1])) for kind in kinds]
        near = zip(*(table.search(queries, limit) for table in tables), strict=True)
        return Hits(tuple(merge(*parts) for parts in near), self._hashes.firing(record.pictures, self._policy))

    def _apply(self, outcome: Outcome) -> list[bytes]:
        published = [self._values[word.key] if word.value is None else word.value for word in outcome.said]
        for key, thing in outcome.things.items():
            before = self._things.get(key)
            if before is not None and before.row != NOWHERE:
                del self._at[before.row]
                for digest in before.digests:
                    self._digests[digest].discard(before.row)
            if thing.row != NOWHERE:
                self._at[thing.row] = key
                for digest in thing.digests:
                    self._digests[digest].add(thing.row)
        self._things |= outcome.things
        self._values |= outcome.values
        self._pictures |= outcome.pictures
        return published


def entries_of(log: Sequence[LogRecord]) -> list[Entry]:
    return [Entry(position, record) for position, record in enumerate(log)]


def oracle_of(log: Sequence[LogRecord]) -> oracle.Folded:
    return oracle.fold((position, encode_record(record)) for position, record in enumerate(log))


def cut(entries: Sequence[Entry], sizes: Iterable[int]) -> list[Sequence[Entry]]:
    """The entries in batches of these sizes, again and again."""
    batches, start, size = [], 0, cycle(sizes)
    while start < len(entries):
        end = start + next(size)
        batches.append(entries[start:end])
        start = end
    return batches


def differences(folded: oracle.Folded, log: Sequence[LogRecord], folding: Folding, sizes: Iterable[int]) -> list[str]:
    """How the fold of `log` in batches of `sizes` differs from the oracle: verdicts, copies and what exists."""
    published = [value for batch in cut(entries_of(log), sizes) for value in folding.feed(batch)]
    told = Counter(msgspec.json.decode(value)["verdict_id"] for value in published)
    owed = Counter(folded.all().keys()) + folded.owed
    found = oracle.compare(folded, published)
    found += [f"{name}: said {told[name]} times" for name in told if told[name] != owed[name]]
    if [count for _, count in folding.floods] != list(folded.floods.values()):
        found.append("other floods")
    return found if folding.live() == folded.live else [*found, "other things exist"]


@given(log=logs(), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_log_cut_into_any_batches_gives_the_verdicts_of_the_oracle(log: list[LogRecord], sizes: list[int]) -> None:
    assert differences(oracle_of(log), log, Folding(), sizes) == []


_SIMILARITIES = st.sampled_from((0.4, 0.86, 0.9, 0.94, 0.98, 1.0))
_COMING_AND_GOING: tuple[Action, ...] = (
    "publish", "publish", "publish", "upsert", "upsert", "withdraw", "withdraw", "delete", "delete", "made", "earlier",
    "policy", "encoder",
)  # fmt: skip


def _step(rows: int) -> st.SearchStrategy[Step]:
    categories = st.dictionaries(st.sampled_from(("", "edge", "loose")), _SIMILARITIES)
    return st.builds(Step, rows=st.just(rows), similarity=_SIMILARITIES, categories=categories)


@st.composite
def stepped_logs(draw: st.DrawFn) -> list[LogRecord]:
    """A log that comes and goes, whose policies have steps at a few rows, so that it passes them up and down."""
    log, ladders = draw(logs(min_size=16, actions=_COMING_AND_GOING)), list[tuple[Step, ...]]()
    for _ in range(2):
        rows = draw(st.lists(st.sampled_from((1, 2, 4, 8, 16)), min_size=3, unique=True))
        ladders.append(tuple(draw(_step(n)) for n in sorted(rows)))
    ladder = cycle(ladders)
    replace = msgspec.structs.replace
    return [r if r.policy is None else replace(r, policy=replace(r.policy, steps=next(ladder))) for r in log]


def test_thresholds_that_change_with_the_rows_are_those_of_the_oracle() -> None:
    """As above, with policies whose steps the log passes in both directions, also in the middle of a batch."""
    told = Counter[str]()

    @given(log=stepped_logs(), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5))
    @settings(max_examples=150, deadline=None)
    def check(log: list[LogRecord], sizes: list[int]) -> None:
        folded = oracle_of(log)
        assert differences(folded, log, Folding(), sizes) == []
        turns = climbs(log, folded.rows)
        told.update(all=1, rose=turns["rose"] > 0, fell=turns["fell"] > 0, mattered=_words(folded) != _words(flat(log)))

    check()
    assert told["rose"] > told["all"] / 4, told
    assert told["fell"] > told["all"] / 8, told
    assert told["mattered"] > told["all"] / 4, told


def flat(log: Sequence[LogRecord]) -> oracle.Folded:
    """The fold of the same log with the steps of its policies left out."""
    replace = msgspec.structs.replace
    return oracle_of([r if r.policy is None else replace(r, policy=replace(r.policy, steps=())) for r in log])


def _words(folded: oracle.Folded) -> list[str]:
    return [verdict["verdict"] for verdict in folded.verdicts.values()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(1,), (10_000,), (7, 1, 40, 200, 2)], ids=["singly", "whole", "mixed"])
def test_a_long_log_cut_into_batches_gives_the_verdicts_of_the_oracle(seed: int, sizes: tuple[int, ...]) -> None:
    folding = Folding()
    assert differences(_folded(seed), _log(seed), folding, sizes) == []
    assert folding.searched_again > 20  # so rule 7 was at work


@given(log=logs(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_crash_after_publishing_changes_no_verdict(log: list[LogRecord], data: st.DataObject) -> None:
    """Some records are folded and published but never checkpointed; then the owner reads the ledger and goes on."""
    entries, folding = entries_of(log), Folding()
    kept = data.draw(st.integers(0, len(entries)), "checkpointed")
    lost = data.draw(st.integers(kept, len(entries)), "published")
    published = folding.feed(entries[:kept])
    published += folding.twin().feed(entries[kept:lost])
    said = dict[int, dict[str, bytes]]()
    for value in published:
        verdict = msgspec.json.decode(value)
        said.setdefault(verdict["position"], {}).setdefault(verdict["design_id"], value)
    for batch in cut(entries[kept:], [data.draw(st.integers(1, 9), "batch")]):
        published += folding.feed(batch, said)
    assert oracle.compare(oracle_of(log), published) == []
    assert folding.live() == oracle_of(log).live


_LOGS, _LENGTH, _SIZES = 16, 300, (5, 1, 60, 13)


@cache
def _log(seed: int) -> list[LogRecord]:
    return random_log(seed, _LENGTH)


@cache
def _folded(seed: int) -> oracle.Folded:
    return oracle_of(_log(seed))


MUTATIONS = {
    "a design is compared with its own revisions": ('key == ("design", record.id) or ', ""),
    "a design is compared with items made from it": (" or _made_from(now, key, record.id)", ""),
    "an item of the design's name is left out too": ('key == ("design", record.id)', "key[1] == record.id"),
    "a stale record takes effect": ("before.src >= record.src):\n", "False):\n"),
    "a redelivered record takes effect": ("before.src >= record.src):\n", "before.src > record.src):\n"),
    "a delete forgets the source offset": ("now.put(key, Thing(src=record.src))", "now.put(key, Thing(src=-1))"),
    "a late older version takes effect": ("if record.version < before.version:", "if False:"),
    "an equal version is late": ("if record.version < before.version:", "if record.version <= before.version:"),
    "equal pictures keep the version": (", version=record.version)\n    return", ")\n    return"),
    "equal pictures keep what the item was made from": (
        "made_from=record.design_id, version=record.v",
        "version=record.v",
    ),
    "equal pictures get a new row": (
        "if before.digests == digests_of(record) and before.encoder",
        "if before.encoder == 1",
    ),
    "an upsert does not move to a new encoder": (" and before.encoder == record.encoder:", ":"),
    "nothing is repeated": ('case "design" if before is not None and before.word and', 'case "design" if False and'),
    "a withdrawn design is repeated": (
        'now.put(key, Thing(src=record.src))\n                now.outcome.values[key] = b""',
        "now.put(key, replace(before or Thing(0), src=record.src, row=NOWHERE))",
    ),
    "the order of pictures does not matter": (
        "before.word and before.digests == digests_of(record)",
        "before.word and set(before.digests) == set(digests_of(record))",
    ),
    "a repetition does not move to a new encoder": ("moved = before.row", "moved = False and before.row"),
    "a repeated duplicate begins to exist": ("moved = before.row != NOWHERE and", "moved ="),
    "a repetition forgets its source offset": ("after = replace(before, src=entry.record.src)", "after = before"),
    "a repetition within a batch is not found": ("now.outcome.values[key] = value\n    return", "return"),
    "a superseded revision goes on existing": ("self._at[before.row] = None", "pass"),
    "a rejected design exists": ('entry.position if verdict.verdict == "accept" else NOWHERE', "entry.position"),
    "an accepted design does not exist": ('entry.position if verdict.verdict == "accept" else NOWHERE', "NOWHERE"),
    "the threshold is exclusive": (
        "similarity >= math.ceil(threshold * UNIT)",
        "similarity > math.ceil(threshold * UNIT)",
    ),
    "the threshold is rounded down": (
        "similarity >= math.ceil(threshold * UNIT)",
        "similarity >= int(threshold * UNIT)",
    ),
    "the category does not matter": ("threshold(entry.record.category, now", 'threshold("", now'),
    "the rows do not matter": ("(entry.record.category, now.live_rows)", "(entry.record.category)"),
    "the rows before the batch choose": ("record.category, now.live_rows)", "record.category, now._world.live_rows)"),
    "the design itself is among the rows": (
        "record.category, now.live_rows)",
        "record.category, now.live_rows + len(entry.record.pictures))",
    ),
    "births in a batch are not counted": ("self.live_rows += len(thing.digests)", "pass"),
    "deaths in a batch are not counted": ("self.live_rows -= len(before.digests)", "pass"),
    "things are counted, not pictures": ("self.live_rows += len(thing.digests)", "self.live_rows += 1"),
    "a hash is worth its distance alone": (
        "max(least, UNIT - distance * (UNIT // 256))",
        "UNIT - distance * (UNIT // 256)",
    ),
    "a hash is worth the threshold alone": ("max(least, UNIT - distance * (UNIT // 256))", "least"),
    "a vector outdoes a stronger signal": ("vectors | rules", "rules | vectors"),
    "a hash outdoes a digest": ("to[place][0] < score:", "to[place][0] <= score:"),
    "the first pair of pictures counts": (" or to[place][0] < score:", ":"),
    "a digest counts though the policy says no": ("if policy.use_digest:", "if True:"),
    "a digest does not count": ("if policy.use_digest:", "if False:"),
    "a similarity may exceed one": ("min(score, UNIT)", "score"),
    "a similarity is never negative": ("ranked[0][1][0] if ranked else 0", "max(ranked[0][1][0], 0) if ranked else 0"),
    "ties go to the youngest": ("(-item[1][0], order_of(item[0]))", "(-item[1][0], -item[0])"),
    "ties go as found": ("(-item[1][0], order_of(item[0]))", "-item[1][0]"),
    "one neighbour too many": ("[: policy.neighbours]", "[: policy.neighbours + 1]"),
    "hits are never too few": ("    if floor is not None and (", "    if False and ("),
    "ties with the floor are settled": ("ranked[-1][1][0] <= floor", "ranked[-1][1][0] < floor"),
    "fewer neighbours than asked for are settled": ("(len(ranked) < policy.neighbours or ranked", "(ranked and ranked"),
    "one picture's hits settle all": ("floor = max((", "floor = min(("),
    "digests of the batch are not seen": (
        "self._world.holders(digest), *self._holders.get(digest, ())",
        "self._world.holders(digest),",
    ),
    "a met id needs no hits": ("if key in met or (is_new and not settled):", "if is_new and not settled:"),
    "ties go by the place's number": ("(-item[1][0], order_of(item[0]))", "(-item[1][0], item[0])"),
    "an upsert revises nothing": ("else _reached(now, before, entry, hits, context)", "else set()"),
    "a delete revises nothing": (
        'now.blocked(record.id) if record.kind == "delete"',
        'set() if record.kind == "delete"',
    ),
    "an update of equal pictures revises": ("if hits is None or after.row != entry.position:", "if hits is None:"),
    "an item revises the design it was made from": (" and name != record.design_id and", " and"),
    "an item does not count itself among the rows": ("- gone + len(after.digests)", "- gone"),
    "a superseded item still counts": ("now.live_rows - gone + len", "now.live_rows + len"),
    "a late item does not reach by hash": ("propose(place, UNIT)  # a hash", "pass  # a hash"),
    "the designs' categories do not matter": (".category, rows) * UNIT", '.category and "", rows) * UNIT'),
    "the hits of a late item are never too few": (
        "if floor is not None and floor >= lowest",
        "if False and floor >= lowest",
    ),
    "one too many is revised": ("if len(mine) <= most:", "if len(mine) <= most + 1:"),
    "one too few is revised": ("if len(mine) <= most:", "if len(mine) < most:"),
    "a revised duplicate exists": (
        'if verdict.verdict == "duplicate":\n            row = NOWHERE',
        "if False:\n            row = 0",
    ),
    "a revised design does not exist again": ("row = place\n", "row = NOWHERE\n"),
    "what was said is not revised word for word": ("revises=was.verdict_id,", 'revises="",'),
    "revisions do not go by position": (
        "for _, name in sorted(designs)]",
        "for _, name in sorted(designs, reverse=True)]",
    ),
    "two items that block are one": ("if len(near) == 1 and near", "if near and near"),
    "a design that blocks is an item": (' and near[0].kind == "item" else', " else"),
    "a revised design is blocked by the same item": (
        "blocked_by=_blocker(verdict))\n        now.put",
        "blocked_by=before.blocked_by)\n        now.put",
    ),
    "what blocks in a batch is not seen": (
        " | {key[1] for key, thing in changed.items()",
        " | {key[1] for key, thing in dict[Key, Thing]().items()",
    ),
    "a batch goes on behind what revises": ("            entries = entries[: i + 1]\n", "            pass\n"),
    "what revises is not a batch of its own": ("elif affected and i:", "elif False:"),
    "the shard does not name the verdict": (
        "verdict_id(context.log_id, context.shard,",
        "verdict_id(context.log_id, 1,",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_rule_is_caught(mutation: str) -> None:
    rules = _mutant(*MUTATIONS[mutation])
    try:
        caught = any(differences(_folded(seed), _log(seed), Folding(rules=rules), _SIZES) for seed in range(_LOGS))
    except (KeyError, IndexError, AssertionError, Fatal):
        caught = True  # the fold stops: as good
    finally:
        del sys.modules[rules.__name__]
    assert caught


def _first_step(policy: Policy, rows: int) -> Policy | Step:
    return next((step for step in policy.steps if step.rows <= rows), policy)


def _step_after(policy: Policy, rows: int) -> Policy | Step:
    return max((step for step in policy.steps if step.rows < rows), key=lambda step: step.rows, default=policy)


def _next_step(policy: Policy, rows: int) -> Policy | Step:
    return next((step for step in policy.steps if step.rows > rows), policy)


@pytest.mark.parametrize("choice", [_first_step, _step_after, _next_step])
def test_a_wrong_choice_of_the_step_is_caught(
    choice: Callable[[Policy, int], Policy | Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    def threshold(policy: Policy, category: str, rows: int = 0) -> float:
        rule = choice(policy, rows)
        return rule.categories.get(category, rule.similarity)

    monkeypatch.setattr(Policy, "threshold", threshold)
    assert any(differences(_folded(seed), _log(seed), Folding(), _SIZES) for seed in range(_LOGS))


def test_the_unbroken_rules_pass_where_broken_ones_are_caught() -> None:
    """The same logs and cuts, with the judge loaded in the same way."""
    rules = _mutant("", "")
    try:
        for seed in range(_LOGS):
            assert differences(_folded(seed), _log(seed), Folding(rules=rules), _SIZES) == []
    finally:
        del sys.modules[rules.__name__]


def _mutant(old: str, new: str) -> ModuleType:
    """The judge's module with `old` replaced."""
    source = Path(judge.__file__).read_text()
    assert old in source, f"judge.py has changed: {old!r} is not in it any more, so this mutation must change too"
    module = ModuleType(f"mutant{random.randrange(1 << 40)}")
    sys.modules[module.__name__] = module
    exec(compile(source.replace(old, new) if old else source, judge.__file__, "exec"), module.__dict__)  # noqa: S102
    return module
