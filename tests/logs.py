"""Logs worth folding: small, and full of what is rare in a real one. A test asserts that they are (test_oracle.py).

A log is built from `Step`s, tuples of small numbers: drawn from a seed (`random_log`) or by Hypothesis (`logs`), which
then shrinks a failing log to the few steps that matter.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams import events
from streams.events import UNIT, LogRecord, Picture, Policy, lattice

LOG_ID: Final = "a-log"
PLACEHOLDER: Final = 0
EDGE: Final = 1

_EDGE: Final = (2047, 64, 1)
_NEAR_EDGE: Final = 1945
_ON_EDGE: Final = _EDGE[0] * _NEAR_EDGE

_CATEGORIES: Final = {"edge": _ON_EDGE / UNIT, "half": (_ON_EDGE - 0.5) / UNIT, "strict": 1.0, "loose": 0.4, "é": 0.95}
_CATEGORY_NAMES: Final = ("", "", "edge", "half", "strict", "loose", "é", "unknown")


def _climbing(*similarities: float) -> tuple[events.Step, ...]:
    """Steps at rows that logs pass up and down; every second one has other thresholds for the categories too."""
    others = {"loose": 0.6, "strict": 0.99, "half": _CATEGORIES["half"], "edge": _CATEGORIES["half"]}
    return tuple(
        events.Step(rows=rows, similarity=similarity, categories=_CATEGORIES if i % 2 else others)
        for i, (rows, similarity) in enumerate(zip((2, 4, 8, 32, 64, 128), similarities, strict=True))
    )


_POLICIES: Final = (
    Policy(
        similarity=0.9,
        categories=_CATEGORIES,
        hash_distance=8,
        hash_colour=12,
        hash_quality=50,
        steps=_climbing(0.95, 0.86, 0.94, 0.86, 0.92, 0.86),
        revisions=2,
    ),
    Policy(
        similarity=0.92,
        categories=_CATEGORIES,
        use_digest=False,
        hash_distance=8,
        hash_colour=12,
        hash_quality=50,
        neighbours=3,
        steps=_climbing(0.91, 0.98, 0.92, 0.88, 0.995, 0.86),
    ),
    Policy(
        similarity=0.9,
        categories={"half": (_ON_EDGE - 0.5) / UNIT},
        use_hash=False,
        neighbours=20,
        steps=_climbing(0.9, 0.8, 0.95, 0.9, 0.85, 0.8),
    ),
    Policy(similarity=0.96, hash_distance=2, hash_colour=255, hash_quality=0, neighbours=1, advisory=True),
    Policy(similarity=0.9, use_digest=False, use_hash=False, neighbours=2, revisions=1),
    Policy(similarity=0.8, categories=_CATEGORIES, hash_distance=8, hash_colour=12, hash_quality=50, leave_out=3),
    Policy(similarity=0.85, hash_distance=8, hash_colour=12, hash_quality=50, revisions=0),
)


class _Variant(NamedTuple):
    """How a picture differs from its look: cosine (None: an unrelated vector), bits of the hash (None: unrelated),
    levels of one colour cell, and its quality."""

    cosine: float | None
    bits: int | None
    colour: int
    quality: int


_VARIANTS: Final = (
    _Variant(1.0, 0, 0, 90),
    _Variant(0.99, None, 0, 90),
    _Variant(0.93, None, 0, 90),
    _Variant(0.87, None, 0, 90),
    _Variant(1.0, None, 0, 90),
    _Variant(None, 2, 12, 50),
    _Variant(None, 8, 3, 90),
    _Variant(None, 0, 0, 90),
    _Variant(None, 9, 0, 90),
    _Variant(None, 1, 13, 90),
    _Variant(None, 1, 0, 49),
    _Variant(0.995, 7, 5, 90),
)
VARIANTS: Final = len(_VARIANTS)


@cache
def picture(look: int, variant: int, encoder: str, dim: int) -> Picture:
    """The picture (look, variant) as `encoder` sees it: always the same one.

    Look PLACEHOLDER: every variant is another file with the same vector, as empty pictures are. Look EDGE: against
    variant 0 the others score just below, on and just above the threshold of the category "edge", in turn.
    """
    digest = hashlib.sha256(f"{look}/{variant}".encode()).digest()
    own = np.random.default_rng(list(digest))
    of_look = np.random.default_rng([look, 7])
    of_encoder = np.random.default_rng([look, *encoder.encode()])
    vector = _direction(of_encoder, dim)
    unrelated = _direction(np.random.default_rng([*digest, *encoder.encode()]), dim)
    if look in (PLACEHOLDER, EDGE):
        whole = lattice(vector)
        if look == EDGE:
            whole = np.zeros(dim, "<i2")
            family, beyond = divmod(variant - 1, 3)
            whole[:3] = (_NEAR_EDGE, 0, beyond - 1) if variant else _EDGE
            whole[3 + family // 2 % (dim - 3)] = (640, -640)[family % 2] if variant else 0
        return Picture(digest, own.bytes(32), 0, own.bytes(48), whole.tobytes())
    how = _VARIANTS[variant % VARIANTS]
    if how.cosine is not None:
        aside = unrelated - (unrelated @ vector) * vector
        unrelated = how.cosine * vector + float(np.sqrt(1 - how.cosine**2)) * aside / np.linalg.norm(aside)
    hashed = np.frombuffer(of_look.bytes(32), np.uint8).copy()
    colours = of_look.integers(40, 200, 48).astype(np.uint8)
    if how.bits is None:
        hashed = np.frombuffer(own.bytes(32), np.uint8)
    else:
        for bit in own.choice(256, how.bits, replace=False).tolist():
            hashed[bit // 8] ^= 1 << bit % 8
        colours[own.integers(48)] += how.colour
    return Picture(digest, hashed.tobytes(), how.quality, colours.tobytes(), lattice(unrelated).tobytes())


def in_catalog(look: int, variant: int, encoder: str, dim: int) -> Picture:
    """The same picture as an item has it: through some, other looks are seen as well."""
    seen = picture(look, variant, encoder, dim)
    if look in (PLACEHOLDER, EDGE) or not (windows := (look + variant) % 3):
        return seen
    others = [picture(look + n, (variant + n) % VARIANTS, encoder, dim).vector for n in range(1, 1 + windows)]
    return msgspec.structs.replace(seen, vector=b"".join([seen.vector, *others]), windows=windows)


def _direction(rng: np.random.Generator, dim: int) -> NDArray[np.float32]:
    vector = rng.normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


Action = Literal[
    "publish", "resubmit", "reorder", "earlier", "withdraw", "upsert", "keep", "late", "delete", "made",
    "redeliver", "policy", "encoder", "lose", "flood", "edge", "ready", "block",
]  # fmt: skip
Looks = tuple[tuple[int, int], ...]


class Step(NamedTuple):
    """What happens to the design or item `who`, with the pictures `looks`; `extra` as the action needs it."""

    action: Action
    who: int = 0
    looks: Looks = ((2, 0),)
    extra: int = 0


class _Maker:
    """What the services upstream would have known while they wrote the log."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._encoder = "one"
        self._offsets: dict[str, int] = {}
        self._designs: dict[str, list[Looks]] = {}
        self._items: dict[str, tuple[int, Looks]] = {}
        self._sent: list[tuple[LogRecord, Looks]] = []
        self.log = [LogRecord(kind="config", policy=_POLICIES[0], log_id=LOG_ID, encoder="one", tenant="t")]

    def _offset(self, source: str) -> int:
        offset = self._offsets.get(source, 0)
        self._offsets[source] = offset + 1
        return offset

    def _send(
        self,
        kind: Literal["design", "withdraw", "upsert", "delete"],
        name: str,
        looks: Looks = (),
        *,
        category: str = "",
        version: int = 0,
        design_id: str = "",
    ) -> None:
        topic, partitions = ("designs.generated", 3) if kind in ("design", "withdraw") else ("catalog.updates", 2)
        source = f"{topic}/{sum(name.encode()) % partitions}"
        record = LogRecord(
            kind=kind,
            id=name,
            source=source,
            src=self._offset(source),
            pictures=self._pictures(kind, looks),
            encoder=self._encoder if looks else "",
            category=category,
            title=f"{name} “{category}”" if looks else "",
            tenant="t",
            generator="g" if len(looks) > 1 else "",
            version=version,
            design_id=design_id,
            submitted_at_ms=1_700_000_000_000 + len(self.log),
        )
        self._sent.append((record, looks))
        self.log.append(record)

    def _pictures(self, kind: str, looks: Looks) -> tuple[Picture, ...]:
        see = in_catalog if kind == "upsert" else picture
        return tuple(see(*look, self._encoder, self._dim) for look in looks)

    def _publish(self, name: str, looks: Looks, extra: int) -> None:
        self._designs.setdefault(name, []).append(looks)
        self._send("design", name, looks, category=_CATEGORY_NAMES[extra % len(_CATEGORY_NAMES)])

    def _upsert(self, name: str, looks: Looks, version: int, design_id: str = "") -> None:
        self._items[name] = (version, looks)
        self._send("upsert", name, looks, version=version, design_id=design_id)

    def take(self, step: Step) -> None:
        action, name, looks, extra = step.action, f"n{step.who}", step.looks, step.extra
        history = self._designs.get(name, [looks])
        version, listed = self._items.get(name, (0, looks))
        match action:
            case "publish":
                self._publish(name, looks, extra)
            case "resubmit":
                self._publish(name, history[-1], extra)
            case "reorder":
                self._publish(name, history[-1][::-1], extra)
            case "earlier":
                self._publish(name, history[extra % len(history)], extra)
            case "withdraw":
                self._send("withdraw", name)
                self._redeliver(extra, name)
            case "upsert":
                self._upsert(name, looks, version + extra % 3)
            case "keep":
                self._upsert(name, listed, version + extra % 3, f"n{extra % 5}")
            case "late":
                self._send("upsert", name, looks, version=max(0, version - 1 - extra // 2 % 2))
            case "delete":
                self._items.pop(name, None)
                self._send("delete", name)
                self._redeliver(extra, name)
            case "made":
                self._upsert(f"n{extra % 7}", history[-1], self._items.get(f"n{extra % 7}", (0, ()))[0] + 1, name)
            case "redeliver":
                self._redeliver(extra)
            case "policy":
                self.log.append(LogRecord(kind="config", policy=_POLICIES[extra % len(_POLICIES)], tenant="t"))
            case "encoder":
                self._encoder = "two" if self._encoder == "one" else "one"
                self.log.append(LogRecord(kind="config", encoder=self._encoder, tenant="t"))
            case "lose":
                self._offset(f"designs.generated/{extra % 3}")
            case "flood":
                for i in range(extra % 8 + 1):
                    self._upsert(f"p{step.who}.{i}", ((PLACEHOLDER, 8 * step.who + i),), 0)
            case "edge":
                self._upsert("edge", ((EDGE, 0),), 0)
                self._designs.setdefault(name, []).append(((EDGE, 1 + extra % 30),))
                self._send("design", name, self._designs[name][-1], category=("edge", "half")[extra // 30 % 2])
            case "block":
                self._block(name, looks[0], extra)
            case "ready":
                self.log.append(LogRecord(kind="ready", tenant="t"))

    def _block(self, item: str, look: tuple[int, int], extra: int) -> None:
        """An item, some designs near it, not always others, and its end."""
        self._upsert(item, (look,), self._items.get(item, (0, ()))[0] + 1)
        for i in range(1 + extra % 4):
            self._publish(f"b{extra % 9}.{i}", ((look[0], (look[1] + i) % VARIANTS),), extra // 4)
        if extra % 3:
            self._items.pop(item, None)
            self._send("delete", item)

    def _redeliver(self, extra: int, name: str = "") -> None:
        """A source event (of `name`, if given, and not always) comes again, by chance encoded by the encoder of now."""
        sent = [(record, looks) for record, looks in self._sent[-60:] if name in ("", record.id)]
        if not sent or (name and extra % 2):
            return
        old, looks = sent[-1 - extra % len(sent)]
        if extra % 3 == 0 and looks:
            old = msgspec.structs.replace(old, pictures=self._pictures(old.kind, looks), encoder=self._encoder)
        self.log.append(old)


def build(steps: Sequence[Step], dim: int = 8) -> list[LogRecord]:
    """The log of `steps`; its offsets are its indexes."""
    maker = _Maker(dim)
    for step in steps:
        maker.take(step)
    return maker.log


_WEIGHTS: Final[dict[Action, int]] = {
    "publish": 45, "resubmit": 8, "reorder": 6, "earlier": 7, "withdraw": 5, "upsert": 10, "keep": 6, "late": 6,
    "delete": 4, "made": 5, "redeliver": 8, "policy": 1, "encoder": 1, "lose": 2, "flood": 1, "edge": 2, "ready": 1,
    "block": 5,
}  # fmt: skip


def random_log(seed: int, n: int, dim: int = 8) -> list[LogRecord]:
    """About `n` records, the same for the same seed."""
    rng = random.Random(seed)
    people, looks = max(6, n // 6), max(12, n // 3)

    def step() -> Step:
        # Half of the steps speak of few ids, so that an id has a history.
        action = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        who = rng.randrange(people if rng.random() < 0.5 and action not in ("keep", "late") else 6)
        count = rng.choice((1, 1, 1, 2, 2, 3, 5, 8))
        shown = tuple((min(rng.randrange(looks), rng.randrange(looks)), rng.randrange(VARIANTS)) for _ in range(count))
        return Step(action, who, shown, rng.randrange(240))

    # Half of the logs begin with more equal pictures than a first search returns.
    start = [Step("flood", 100 + i, extra=7) for i in range(3)] if seed % 2 else []
    steps = start + [step() for _ in range(n - 1 - 8 * len(start))]
    return build(steps, dim)


def _steps(actions: Sequence[Action]) -> st.SearchStrategy[Step]:
    look = st.tuples(st.integers(0, 4), st.integers(0, VARIANTS - 1))
    looks = st.lists(look, min_size=1, max_size=3).map(tuple)
    return st.builds(Step, st.sampled_from(actions), st.integers(0, 3), looks, st.integers(0, 239))


def logs(
    dim: int = 4, max_size: int = 40, min_size: int = 0, actions: Sequence[Action] = get_args(Action)
) -> st.SearchStrategy[list[LogRecord]]:
    """Any log of `min_size` to `max_size` steps over four ids."""
    return st.lists(_steps(actions), min_size=min_size, max_size=max_size).map(lambda steps: build(steps, dim))


def climbs(records: Sequence[LogRecord], rows: Mapping[int, int]) -> Counter[str]:
    """How often a verdict stood on a higher ("rose") or lower ("fell") step of a policy than the one before it. rows:
    how many pictures existed before each verdict, by position."""
    told, steps, before = Counter[str](), tuple[events.Step, ...](), None
    for position, record in enumerate(records):
        if record.policy is not None:
            steps, before = record.policy.steps, None
        if position in rows:
            height = sum(step.rows <= rows[position] for step in steps)
            told["rose"] += before is not None and height > before
            told["fell"] += before is not None and height < before
            before = height
    return told
