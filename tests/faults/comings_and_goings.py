"""A history of items and designs that come, change and go, as the log has it, with questions in between. From the same
records the oracle says what every verdict and every answer must show.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec.structs import replace

from streams.decide.things import Entry
from streams.events import LogRecord, Policy, encode_record
from tests import oracle
from tests.logs import LOG_ID, picture

DIM: Final = 16
_VARIANTS: Final = 4
_TURNS: Final = {
    "item": 30, "same item": 6, "late item": 6, "delete": 12, "design": 20, "again": 7, "earlier": 3, "withdraw": 5,
    "stale": 6, "made": 3, "check": 5, "verdict": 2,
}  # fmt: skip

CONFIG: Final = LogRecord(
    kind="config",
    policy=Policy(similarity=0.9, categories={"loose": 0.6}, hash_distance=8, hash_colour=12, hash_quality=50),
    log_id=LOG_ID,
    encoder="one",
)

Looks = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked when the log ends at `position`: what these pictures would get, or what `design` has got."""

    position: int
    pictures: LogRecord | None
    design: str = ""


class History:
    """Draws what happens next."""

    def __init__(self, seed: int, ids: int) -> None:
        self.rng = random.Random(seed)
        self._ids = ids
        self._offsets = Counter[str]()
        self._versions: dict[str, int] = {}
        self._listed: dict[str, Looks] = {}
        self._shown: dict[str, list[Looks]] = {}
        self._sent: list[LogRecord] = []
        self.counts = Counter[str]()
        self.position = 0

    def turns(self, count: int) -> Iterator[Entry | Question]:
        """So many operations; the config record that the log begins with stands before them."""
        yield self._entry(CONFIG)
        names, weights = list(_TURNS), list(_TURNS.values())
        for turn in self.rng.choices(names, weights, k=count):
            self.counts[turn] += 1
            if turn == "check":
                yield Question(self.position, self._record("design", "", self._looks(), source=""))
            elif turn == "verdict":
                yield Question(self.position, None, self._name("d"))
            else:
                yield self._entry(self._happens(turn))

    def _entry(self, record: LogRecord) -> Entry:
        self.position += 1
        return Entry(self.position - 1, record)

    def _happens(self, turn: str) -> LogRecord:
        rng, item, design = self.rng, self._name("i"), self._name("d")
        shown = self._shown.get(design, [self._looks()])
        match turn:
            case "item":
                self._versions[item] = self._versions.get(item, 0) + rng.randrange(2)
                return self._upsert(item, self._looks())
            case "same item":
                return self._upsert(item, self._listed.get(item) or self._looks())
            case "late item":
                return self._record("upsert", item, self._looks(), version=max(0, self._versions.get(item, 0) - 1))
            case "made":
                return self._upsert(item, shown[-1], design_id=design)
            case "delete":
                self._versions.pop(item, None)
                return self._record("delete", item)
            case "withdraw":
                return self._record("withdraw", design)
            case "design":
                return self._publish(design, self._looks())
            case "again":
                return self._publish(design, shown[-1])
            case "earlier":
                return self._publish(design, rng.choice(shown))
        return rng.choice(self._sent[-200:]) if self._sent else self._publish(design, shown[-1])

    def _name(self, kind: str) -> str:
        """Half of the time one of few, so that an id has a history."""
        return f"{kind}{self.rng.randrange(self._ids if self.rng.random() < 0.5 else self._ids // 10)}"

    def _looks(self) -> Looks:
        rng = self.rng
        return tuple((2 + rng.randrange(self._ids), rng.randrange(_VARIANTS)) for _ in range(rng.choice((1, 1, 1, 2))))

    def _upsert(self, name: str, looks: Looks, design_id: str = "") -> LogRecord:
        self._listed[name] = looks
        return self._record("upsert", name, looks, version=self._versions.get(name, 0), design_id=design_id)

    def _publish(self, name: str, looks: Looks) -> LogRecord:
        self._shown[name] = [*self._shown.get(name, [])[-5:], looks]
        return self._record("design", name, looks, category=self.rng.choice(("", "loose")))

    def _record(
        self,
        kind: Literal["design", "withdraw", "upsert", "delete"],
        name: str,
        looks: Looks = (),
        source: str | None = None,
        **fields: Any,
    ) -> LogRecord:
        source = f"{'designs' if kind in ('design', 'withdraw') else 'catalog'}/0" if source is None else source
        record = LogRecord(
            kind=kind, id=name, source=source, src=self._offsets[source] if source else -1, tenant="t",
            pictures=tuple(picture(*look, "one", DIM) for look in looks), encoder="one" if looks else "", **fields,
        )  # fmt: skip
        if source:
            self._offsets[source] += 1
            self._sent.append(record)
        return record


_ASKED: Final = 1 << 37
"""Positions from here on belong to questions."""


def answers(log: Sequence[LogRecord], asked: Sequence[Question]) -> tuple[oracle.Folded, list[Mapping[str, Any]]]:
    """The fold of the log, and what each question must be answered: the fields of a verdict that depend on what exists.

    A check is what a design nobody has heard of would get, that is withdrawn at once: so the oracle folds it.
    """
    records: list[tuple[int, bytes]] = []
    place = 0
    for number, question in enumerate(asked):
        records += [(i, encode_record(log[i])) for i in range(place, question.position)]
        place = question.position
        if question.pictures is not None:
            name, at = f"question {number}", _ASKED + 2 * number
            body: dict[str, Any] = {"id": name, "source": "questions", "src": 2 * number}
            records.append((at, encode_record(replace(question.pictures, **body))))
            records.append((at + 1, encode_record(LogRecord(kind="withdraw", **{**body, "src": 2 * number + 1}))))
    records += [(i, encode_record(log[i])) for i in range(place, len(log))]
    folded = oracle.fold(records)
    revised = defaultdict[int, list[Mapping[str, Any]]](list)
    for verdict in folded.revised.values():
        revised[verdict["position"]].append(verdict)
    told: list[Mapping[str, Any]] = []
    current, applied, place = dict[str, Mapping[str, Any]](), dict[str, int](), 0
    for number, question in enumerate(asked):
        for position in range(place, question.position):
            _follow(log[position], position, folded, revised, current, applied)
        place = question.position
        if question.pictures is None:
            told.append(current.get(question.design, {}))
        else:
            told.append(folded.verdicts.pop(_ASKED + 2 * number))
    return folded, told


def _follow(
    record: LogRecord,
    position: int,
    folded: oracle.Folded,
    revised: Mapping[int, Sequence[Mapping[str, Any]]],
    current: dict[str, Mapping[str, Any]],
    applied: dict[str, int],
) -> None:
    """What the current verdicts are after one more record."""
    if record.kind in ("design", "withdraw") and record.src > applied.get(record.id, -1):
        applied[record.id] = record.src
        if record.kind == "withdraw":
            current.pop(record.id, None)
        elif position in folded.verdicts:
            current[record.id] = folded.verdicts[position]
    for verdict in revised.get(position, ()):
        current[verdict["design_id"]] = verdict
