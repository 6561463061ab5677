"""Dead letters: events that cannot be used, with their original bytes and why, and the limit on how many there may be.

Headers follow Spring Kafka's names, so that existing tools show them. Two markers stand in the same topic: a worker
that stops because of a flood writes one, and no worker starts after it until `dead-letters resume` writes the other,
which names the source offsets up to which a person has seen it. A flood's marker names the offsets that made it, so one
`resume` answers every worker that stopped for them, also one that says so only later.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from streams.errors import Fatal, Invalid
from streams.events import Unreadable
from streams.kafka.producer import Message

if TYPE_CHECKING:  # the command line reads dead letters, and an encoder takes long to import
    from streams.embed.stage import SourceEvent

TOPIC: Final = "kafka_dlt-original-topic"
PARTITION: Final = "kafka_dlt-original-partition"
OFFSET: Final = "kafka_dlt-original-offset"
TIMESTAMP: Final = "kafka_dlt-original-timestamp"
CLASS: Final = "kafka_dlt-exception-fqcn"
MESSAGE: Final = "kafka_dlt-exception-message"
REASON: Final = "dedup-reason"
RESUME: Final = "dedup-resume"
FLOOD: Final = "dedup-flood"
FLOOD_ENDS: Final = "dedup-flood-ends"
POINTER: Final = "dedup-pointer"
MESSAGE_CHARS: Final = 1000
MOST_KEY_BYTES: Final = 1024
"""Of an id: 256 characters of four bytes."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter as it stands in the topic. `offset` is its own, the source's are `source` and `source_offset`."""

    offset: int
    source: str
    source_offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    message: str
    timestamp_ms: int


def to_message(event: "SourceEvent", error: Invalid, max_bytes: int) -> Message:
    """The dead letter of an event; above `max_bytes` of value, or without one that can be read, it only points to the
    original. A key that is longer than that of any id stays there too, or the letter could be too large to be sent."""
    topic, _, partition = event.source.rpartition("/")
    headers = {
        TOPIC: topic.encode(),
        PARTITION: partition.encode(),
        OFFSET: str(event.offset).encode(),
        TIMESTAMP: str(event.timestamp_ms).encode(),
        CLASS: f"{type(error).__module__}.{type(error).__qualname__}".encode(),
        MESSAGE: str(error)[:MESSAGE_CHARS].encode(errors="replace"),
        REASON: error.reason.encode(),
    }
    key, value = event.key, event.value
    if key is not None and len(key) > MOST_KEY_BYTES:
        key = None
    if value is not None and (len(value) > max_bytes or isinstance(value, Unreadable)):
        headers[POINTER], value = b"true", None
    if key is None and value is None:  # aiokafka sends no record without both
        headers[POINTER], value = b"true", b""
    return Message(key, value, 0, headers)


def from_record(record: Any) -> DeadLetter | None:
    """A dead letter from its record; None for a marker."""
    headers = dict(record.headers)
    if TOPIC not in headers:
        return None
    return DeadLetter(
        offset=record.offset,
        source=f"{headers[TOPIC].decode()}/{headers[PARTITION].decode()}",
        source_offset=int(headers[OFFSET]),
        key=record.key,
        value=record.value,
        reason=headers[REASON].decode(),
        message=headers[MESSAGE].decode(),
        timestamp_ms=record.timestamp,
    )


def resume_message(ends: Mapping[str, int]) -> Message:
    """The marker that lets every dead letter below these source offsets through."""
    return Message(None, b"", 0, {RESUME: msgspec.json.encode(dict(ends))})


def flood_message(error: "Flood") -> Message:
    """The marker that keeps workers from starting again."""
    return Message(None, b"", 0, {FLOOD: str(error).encode(), FLOOD_ENDS: msgspec.json.encode(dict(error.ends))})


class Markers:
    """What the markers of the topic say, read in its order."""

    def __init__(self) -> None:
        self.resumed: dict[str, int] = {}
        """The source offsets below which dead letters are let through."""
        self._floods: list[tuple[str, Mapping[str, int]]] = []

    @property
    def flood(self) -> str:
        """The message of the latest flood after which nobody has said `resume`; empty when there is none."""
        return self._floods[-1][0] if self._floods else ""

    def see(self, record: Any) -> None:
        """The next record of the topic."""
        headers = dict(record.headers)
        if RESUME in headers:
            for source, end in msgspec.json.decode(headers[RESUME], type=dict[str, int]).items():
                self.resumed[source] = max(end, self.resumed.get(source, 0))
            self._floods = [flood for flood in self._floods if not self._is_seen(flood[1])]
        elif FLOOD in headers:
            ends = msgspec.json.decode(headers.get(FLOOD_ENDS, b"{}"), type=dict[str, int])
            if not ends or not self._is_seen(ends):
                self._floods.append((headers[FLOOD].decode(), ends))

    def _is_seen(self, ends: Mapping[str, int]) -> bool:
        """Whether a person has let everything below these offsets through."""
        return all(end <= self.resumed.get(source, 0) for source, end in ends.items())


class Flood(Fatal):
    """Too many events cannot be used. ends: of every source the offset after the last of them."""

    def __init__(self, message: str, ends: Mapping[str, int]) -> None:
        super().__init__(message)
        self.ends = ends


class FloodGate:
    """Stops the worker when more than `share` of the last `window` events were bad: a wrong deployment must not turn a
    topic into dead letters. Asked before anything is published or acknowledged."""

    def __init__(self, share: float, window: int, resumed: Mapping[str, int]) -> None:
        self._share = share
        self._resumed = resumed
        self._recent: deque[_Seen] = deque(maxlen=window)

    def admit(self, outcomes: Iterable[tuple["SourceEvent", str]]) -> None:
        """Count a batch of (event, reason why it is bad, or nothing). Flood when the share is above the limit."""
        for event, reason in outcomes:
            if event.offset >= self._resumed.get(event.source, 0):
                self._recent.append(_Seen(event.source, event.offset, reason))
        bad = [one for one in self._recent if one.reason]
        if len(self._recent) == self._recent.maxlen and len(bad) > self._share * len(self._recent):
            raise _flood(bad, len(self._recent))


class _Seen(NamedTuple):
    """Where an event stands and why it is bad; not the event, which may be large."""

    source: str
    offset: int
    reason: str


def _flood(bad: Sequence[_Seen], of: int) -> Flood:
    ends: dict[str, int] = {}
    for one in bad:
        ends[one.source] = max(one.offset + 1, ends.get(one.source, 0))
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in bad).most_common())
    return Flood(
        f"{len(bad)} of the last {of} events could not be used ({reasons}), the last one was {bad[-1].source} at offset"
        f" {bad[-1].offset}; none of the last batch was acknowledged. When the cause is understood, run"
        " `design-dedup dead-letters resume` once, for all workers, and start them again",
        ends,
    )
