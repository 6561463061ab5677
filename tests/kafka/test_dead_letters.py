"""Dead letters there and back, and the limit on how many there may be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from streams.embed.stage import SourceEvent
from streams.errors import Fatal, Invalid
from streams.events import Unreadable
from streams.kafka import dead_letters
from streams.kafka.dead_letters import (
    POINTER,
    Flood,
    FloodGate,
    Markers,
    flood_message,
    from_record,
    resume_message,
    to_message,
)
from streams.kafka.producer import Message


def event(offset: int, value: bytes | None = b"{") -> SourceEvent:
    return SourceEvent("design", "designs.generated/2", offset, 1_700_000_000_000, b"d1", value)


def as_record(message: Message, offset: int = 7) -> SimpleNamespace:
    return SimpleNamespace(
        offset=offset, key=message.key, value=message.value, timestamp=5, headers=tuple(message.headers.items())
    )


def test_a_dead_letter_keeps_the_bytes_and_says_where_from_and_why() -> None:
    message = to_message(event(41), Invalid("bad_json", "no JSON"), max_bytes=100)
    letter = from_record(as_record(message))
    assert letter == dead_letters.DeadLetter(7, "designs.generated/2", 41, b"d1", b"{", "bad_json", "no JSON", 5)
    assert message.headers[dead_letters.CLASS] == b"streams.errors.Invalid"


def test_a_large_event_becomes_a_pointer() -> None:
    message = to_message(event(41, b"x" * 101), Invalid("too_large", "?"), max_bytes=100)
    assert message.value is None
    assert message.headers[dead_letters.POINTER] == b"true"


def test_what_could_not_be_sent_as_it_is_becomes_a_pointer() -> None:
    """A key that is longer than an id's, a value that could not be read, and neither of the two, which aiokafka does
    not send."""
    why = Invalid("bad_key", "?")
    longest = replace(event(1), key="\U0001f9e5".encode() * 256)
    assert to_message(longest, why, max_bytes=100).key == longest.key
    long = to_message(replace(event(1), key=b"k" * 1025), why, max_bytes=100)
    assert (long.key, long.value) == (None, b"{")
    unreadable = to_message(event(1, Unreadable(b"why")), why, max_bytes=100)
    assert (unreadable.key, unreadable.value, POINTER in unreadable.headers) == (b"d1", None, True)
    nothing = to_message(replace(event(1, None), key=None), why, max_bytes=100)
    assert (nothing.key, nothing.value, POINTER in nothing.headers) == (None, b"", True)


def test_a_resume_marker_is_no_dead_letter() -> None:
    record = as_record(resume_message({"designs.generated/2": 9}))
    assert from_record(record) is None
    markers = Markers()
    markers.see(record)
    assert markers.resumed == {"designs.generated/2": 9}


def test_after_a_flood_nobody_starts_until_a_person_resumes() -> None:
    markers = Markers()
    markers.see(as_record(flood_message(Flood("6 of 10", {"designs.generated/2": 9}))))
    assert markers.flood == "6 of 10"
    markers.see(as_record(to_message(event(1), Invalid("bad_json", "no JSON"), max_bytes=100)))
    assert markers.flood == "6 of 10"
    markers.see(as_record(resume_message({"designs.generated/2": 8})))
    assert markers.flood == "6 of 10", "what flooded came after what the person let through"
    markers.see(as_record(resume_message({"designs.generated/2": 9})))
    assert markers.flood == ""


def test_one_resume_answers_every_worker_that_flooded() -> None:
    markers = Markers()
    first, late = Flood("6 of 10", {"designs.generated/0": 9}), Flood("7 of 10", {"designs.generated/1": 20})
    markers.see(as_record(flood_message(first)))
    markers.see(as_record(resume_message({"designs.generated/0": 15, "designs.generated/1": 20})))
    markers.see(as_record(flood_message(late)))
    assert markers.flood == "", "its events were let through before it said so"
    markers.see(as_record(resume_message({"designs.generated/0": 12, "designs.generated/1": 20})))
    assert markers.resumed["designs.generated/0"] == 15, "what was let through once stays so"
    markers.see(as_record(flood_message(Flood("8 of 10", {"designs.generated/1": 21, "designs.generated/0": 1}))))
    assert markers.flood == "8 of 10"


def test_the_marker_of_an_earlier_version_blocks_until_any_resume() -> None:
    markers = Markers()
    headers = ((dead_letters.FLOOD, b"6 of 10"),)
    markers.see(SimpleNamespace(offset=1, key=None, value=b"", timestamp=5, headers=headers))
    assert markers.flood == "6 of 10"
    markers.see(as_record(resume_message({})))
    assert markers.flood == ""


def outcomes(*bad: bool, start: int = 0) -> list[tuple[SourceEvent, str]]:
    return [(event(start + n), "bad_json" if one else "") for n, one in enumerate(bad)]


def test_a_flood_is_fatal_before_anything_is_published() -> None:
    gate = FloodGate(0.5, 10, {})
    gate.admit(outcomes(*(n % 2 == 0 for n in range(10))))  # half is not above the limit
    with pytest.raises(Flood, match=r"6 of the last 10 .*6 bad_json.*offset 11.*dead-letters resume") as flood:
        gate.admit(outcomes(True, True, start=10))
    assert isinstance(flood.value, Fatal)
    assert flood.value.ends == {"designs.generated/2": 12}


def test_few_bad_events_are_no_flood() -> None:
    FloodGate(0.5, 10, {}).admit(outcomes(*[True] * 9))


def test_what_a_person_has_seen_is_let_through() -> None:
    gate = FloodGate(0.5, 10, {"designs.generated/2": 50})
    gate.admit(outcomes(*[True] * 50))
    with pytest.raises(Fatal):
        gate.admit(outcomes(*[True] * 10, start=50))


def test_a_message_that_is_no_text_is_kept_all_the_same() -> None:
    message = to_message(event(1), Invalid("not_found", "a\udcff.jpg"), max_bytes=100)
    letter = from_record(as_record(message))
    assert letter is not None
    assert letter.message == "a?.jpg"
