"""Why a verdict is another one when the log is decided again: one word for each difference. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from streams.events import Neighbour, Verdict


class Reason(StrEnum):
    """What made the difference."""

    THRESHOLD = "threshold"  # the neighbour is as near as it was, the threshold is another
    SIMILARITY = "similarity"  # the neighbour is nearer, or farther
    SIGNAL = "signal"  # bytes or hash speak for the neighbour in one of the two, and not in the other
    NEW = "new neighbour"  # the neighbour was a duplicate, and is accepted now
    GONE = "neighbour gone"  # the neighbour was accepted, and is a duplicate now
    REVISED = "revised"  # a change of the catalogue revised it in one of the two only
    UNREAD = "unread neighbour"  # its pictures cannot be read again, so no new vector can be compared
    # Of the ledger itself:
    MISSING = "missing"  # it was never said
    UNEXPECTED = "unexpected"  # it was said, and the log does not lead to it
    CONTRADICTED = "contradicted"  # it was said twice, and differently
    WORDS = "words"  # it is not what the log leads to, word for word


@dataclass(frozen=True, slots=True)
class Difference:
    """One verdict in two worlds. said, new: None where it does not exist. near: the neighbour that made the difference,
    and how near it was and is; None where it is not among the neighbours. fields: what of the verdict differs."""

    said: Verdict | None
    new: Verdict | None
    reason: Reason
    near: Neighbour | None = None
    near_said: float | None = None
    near_new: float | None = None
    fields: tuple[str, ...] = ()

    @property
    def position(self) -> int:
        """From where on they differ."""
        return max(one.position for one in (self.said, self.new) if one is not None)

    @property
    def either(self) -> Verdict:
        """One that exists: they speak of the same design."""
        verdict = self.new or self.said
        assert verdict is not None  # noqa: S101 - one of the two there always is
        return verdict


Standing = Callable[[Neighbour], Reason | None]
"""NEW, GONE or UNREAD when that holds of a neighbour; else it stood, and stands, in both worlds alike."""


def explain(said: Verdict, new: Verdict, standing: Standing) -> Difference:
    """Why one is `accept` and the other `duplicate`. It is the nearest of the duplicate that makes the difference: in
    the other world it does not exist, is farther away, or is not near enough."""
    was, other = (new, said) if new.verdict == "duplicate" else (said, new)
    if not was.neighbours:
        return Difference(said, new, Reason.SIMILARITY)
    near = was.neighbours[0]
    twin = next((one for one in other.neighbours if (one.kind, one.id) == (near.kind, near.id)), None)
    there = None if twin is None else twin.similarity
    sides = (there, near.similarity) if was is new else (near.similarity, there)
    reason = standing(near) if twin is None else None
    return Difference(said, new, reason or _reason(near, was, twin, other), near, *sides)


def _reason(near: Neighbour, was: Verdict, twin: Neighbour | None, other: Verdict) -> Reason:
    if (twin is None and near.signal != "vector") or (twin is not None and twin.signal != near.signal):
        return Reason.SIGNAL
    if twin is None:  # not among the nearest: others were nearer, or it was farther away
        farthest = other.neighbours[-1].similarity if other.neighbours else 0.0
        return Reason.THRESHOLD if near.similarity <= farthest else Reason.SIMILARITY
    if twin.similarity == near.similarity:
        return Reason.THRESHOLD
    # Both moved: the one that would do alone.
    return Reason.SIMILARITY if near.similarity >= other.threshold else Reason.THRESHOLD


def differing(said: Verdict, new: Verdict) -> tuple[str, ...]:
    """The names of the fields that differ."""
    return tuple(name for name in said.__struct_fields__ if getattr(said, name) != getattr(new, name))
