"""The log of one shard decided again (`silent_shard.py`), and what it says beside what was said.

Under other terms a verdict that falls out differently changes what exists for all that follow, so this is another
world from there on, not the old one with another label on one verdict.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from msgspec.structs import replace

from streams.cli.explaining import Difference, Reason, differing, explain
from streams.cli.said import Said
from streams.cli.silent_shard import SilentShard
from streams.decide.things import Entry, Key, Named, key_of, name_of
from streams.events import LogRecord, Neighbour, Policy, Word, decode_verdict


class NewVectors(Protocol):
    """The pictures of the source topics as another encoder sees them."""

    @property
    def version(self) -> str:
        """That encoder's."""

    def of(self, record: LogRecord) -> LogRecord | str:
        """The record with the vectors of that encoder, or one word that says why a picture cannot be read again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is to hold from the beginning of the log on, instead of what held. None: as it was."""

    policy: Policy | None = None
    vectors: NewVectors | None = None

    @property
    def are_others(self) -> bool:
        """Whether anything is to be different."""
        return self.policy is not None or self.vectors is not None


@dataclass(frozen=True, slots=True)
class Unread:
    """A record whose pictures cannot be read again. A design's verdict stays as it was said."""

    key: Key
    position: int
    reason: str


@dataclass(slots=True)
class Tally:
    """How many verdicts were decided again, and how they fell out. moved: of the equal ones, with another similarity,
    threshold or neighbour. pending: the worker has not said them yet. duplicates: as said, and now."""

    decided: int = 0
    same: int = 0
    moved: int = 0
    pending: int = 0
    duplicates_said: int = 0
    duplicates_new: int = 0
    differ: Counter[Reason] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """That of another shard."""
        for name in ("decided", "same", "moved", "pending", "duplicates_said", "duplicates_new"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differ += other.differ
        self.unread += other.unread


@dataclass(frozen=True, slots=True)
class _Pair:
    """The verdicts of a design that are in force, as said and now, where they are not the same."""

    said: bytes
    new: bytes

    @property
    def words(self) -> tuple[Word, Word]:
        return decode_verdict(self.said).verdict, decode_verdict(self.new).verdict


class Replay:
    """One shard's log, decided again from its first record on."""

    def __init__(self, shard: int, log_id: str, folder: Path, said: Said, terms: Terms) -> None:
        """folder: for the checkpoint; it must be empty."""
        self.tally = Tally()
        self._log_id = log_id
        self._said = said
        self._terms = terms
        self._owner = SilentShard(shard, folder)
        self._apart: dict[str, _Pair] = {}
        self._kept: set[str] = set()
        self._unread: set[Key] = set()
        self._missing: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._owner.take_over(self._log_id, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._owner.close()

    async def decide(self, entries: Sequence[Entry], decided: int) -> list[Difference | Unread]:
        """Decide the next records of the log. decided: from this position on a verdict need not have been said yet."""
        seen = [self._under_the_terms(entry) for entry in entries]
        low, high = entries[0].position, entries[-1].position + 1
        in_force = await self._in_force(low, high)
        spoken = await self._owner.say(
            [
                entry if isinstance(one, Unread) else Entry(entry.position, one, entry.appended_ms)
                for entry, one in zip(entries, seen, strict=True)
            ]
        )
        values: defaultdict[int, list[bytes]] = defaultdict(list)
        names = set[str]()
        for value in spoken:
            named = name_of(value)
            values[max(low, named.position)].append(value)  # copies of older ones: nowhere in particular
            names.add(named.verdict_id)
        alone: defaultdict[int, list[bytes]] = defaultdict(list)
        if self._terms.are_others:
            for value in self._said.unmet(low, high):
                named = name_of(value)
                if named.revises and named.verdict_id not in names:
                    alone[named.position].append(value)
        findings: list[Difference | Unread] = []
        for entry, one in zip(entries, seen, strict=True):
            findings += self._keep_in_mind(key_of(entry.record), one)
            for value in values[entry.position]:
                in_force[name_of(value).design_id] = value
                findings += self._counted(self._compare(value, decided))
            for value in alone[entry.position]:
                findings += self._counted(self._only_said(value, in_force))
        return findings

    def left(self, end: int) -> Iterator[Difference]:
        """What was said of positions below `end` and the log does not lead to; and what was said twice, differently."""
        for value in self._said.unmet(0, end):
            yield from self._counted(Difference(decode_verdict(value), None, Reason.UNEXPECTED))
        for value in self._said.others():
            other = decode_verdict(value)
            first = decode_verdict(self._said.named(other.verdict_id) or b"")
            yield from self._counted(Difference(first, other, Reason.CONTRADICTED, fields=differing(first, other)))

    def _counted(self, difference: Difference | None) -> list[Difference]:
        if difference is None:
            return []
        self.tally.differ[difference.reason] += 1
        return [difference]

    # What is decided again

    def _under_the_terms(self, entry: Entry) -> LogRecord | Unread:
        record, vectors = entry.record, self._terms.vectors
        if record.policy is not None and self._terms.policy is not None:
            record = replace(record, policy=self._terms.policy)
        if vectors is None:
            return record
        if record.kind == "config" and record.encoder:
            return replace(record, encoder=vectors.version)
        seen = vectors.of(record) if record.pictures else record
        if record.kind == "design":
            (self._kept.add if isinstance(seen, str) else self._kept.discard)(record.id)
        for value in self._said.unmet(entry.position, entry.position + 1):
            named = name_of(value)
            if named.design_id in self._kept:
                self._said.meet(named.verdict_id)
                self._owner.hear(value)
        return Unread(key_of(record), entry.position, seen) if isinstance(seen, str) else seen

    async def _in_force(self, low: int, high: int) -> dict[str, bytes]:
        """The verdicts, decided again, of the designs of which a revision was said in this stretch of the log."""
        if not self._terms.are_others:
            return {}
        named = [name_of(value) for value in self._said.unmet(low, high)]
        return {one.design_id: await self._owner.verdict(one.design_id) for one in named if one.revises}

    def _keep_in_mind(self, key: Key, seen: LogRecord | Unread) -> list[Unread]:
        """Whether the pictures of an id can be read; returns it when they cannot."""
        if isinstance(seen, Unread):
            self.tally.unread[seen.reason] += 1
            self._unread.add(key)
            if key[0] == "design":
                self._apart.pop(key[1], None)
            return [seen]
        if seen.pictures:
            self._unread.discard(key)
        return []

    # And compared

    def _compare(self, value: bytes, decided: int) -> Difference | None:
        """One verdict beside what was said under its name. The first of a name counts, the rest are copies."""
        named = name_of(value)
        first = self._said.named(named.verdict_id)
        if first is None:
            return self._not_said(named, value, decided)
        if not self._said.meet(named.verdict_id):
            return None
        said, new, tally = decode_verdict(first), decode_verdict(value), self.tally
        tally.decided += 1
        tally.duplicates_said += said.verdict == "duplicate"
        tally.duplicates_new += new.verdict == "duplicate"
        if not self._terms.are_others and first != value:
            return Difference(said, new, Reason.WORDS, fields=differing(said, new))
        if said.verdict != new.verdict:
            self._apart[new.design_id] = _Pair(first, value)
            return explain(said, new, self._standing)
        self._apart.pop(new.design_id, None)
        tally.same += 1
        tally.moved += any(
            getattr(said, part) != getattr(new, part) for part in ("similarity", "threshold", "neighbours")
        )
        return None

    def _not_said(self, named: Named, value: bytes, decided: int) -> Difference | None:
        if named.verdict_id in self._missing:
            return None
        self._missing.add(named.verdict_id)
        if named.position >= decided:
            self.tally.pending += 1
            return None
        if not (named.revises and self._terms.are_others):
            return Difference(None, decode_verdict(value), Reason.MISSING)
        pair = self._apart.get(named.design_id)
        return self._revised(named.design_id, pair.said if pair else self._said.named(named.revises), value)

    def _only_said(self, value: bytes, in_force: Mapping[str, bytes]) -> Difference | None:
        """A revision that nothing leads to under other terms."""
        named = name_of(value)
        self._said.meet(named.verdict_id)
        return self._revised(named.design_id, value, in_force.get(named.design_id))

    def _revised(self, design: str, said: bytes | None, new: bytes | None) -> Difference | None:
        """One of these two took the place of another one just now."""
        if not (said and new):
            return None
        pair = self._apart[design] = _Pair(said, new)
        if pair.words[0] == pair.words[1]:
            return None
        return Difference(decode_verdict(said), decode_verdict(new), Reason.REVISED)

    def _standing(self, near: Neighbour) -> Reason | None:
        if (near.kind, near.id) in self._unread:
            return Reason.UNREAD
        pair = self._apart.get(near.id) if near.kind == "design" else None
        if pair is None or pair.words[0] == pair.words[1]:
            return None
        return Reason.GONE if pair.words[0] == "accept" else Reason.NEW
