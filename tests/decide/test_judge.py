"""The rules of the judge, one by one, over a tiny world."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.decide.judge import judge, may_need_hits
from streams.decide.things import (
    NOWHERE,
    POSITIONS,
    ROWS,
    Context,
    Entry,
    Found,
    Hits,
    Key,
    Ledger,
    Missing,
    Outcome,
    Thing,
    name_of,
    order_of,
    place_at,
    place_of,
    position_of,
    row_key,
)
from streams.errors import Fatal
from streams.events import (
    REVISIONS,
    UNIT,
    LogRecord,
    Picture,
    Policy,
    Step,
    Verdict,
    decode_verdict,
    encode_event,
    verdict_id,
)

EAST, NORTH, NEAR_EAST, WEST = (2048, 0, 0), (0, 2048, 0), (2000, 441, 0), (-2048, 0, 0)
POLICY = Policy(similarity=0.9, hash_distance=8, hash_colour=10, hash_quality=50, neighbours=2, revisions=0)


def pic(
    name: str, vector: Sequence[int] = EAST, *, bits: int | None = None, quality: int = 90, colour: int = 0
) -> Picture:
    """A picture called `name`. bits: how many bits its hash is away from every other one's that says so."""
    digest = hashlib.sha256(name.encode()).digest()
    hashed = digest if bits is None else ((1 << bits) - 1).to_bytes(32, "big")
    return Picture(digest, hashed, quality, bytes([100 + colour] * 48), np.array(vector, "<i2").tobytes())


class World:
    """What exists, and every picture that ever came by, searched by looking at all of them."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.things: dict[Key, Thing] = {}
        self.values: dict[Key, bytes] = {}
        self.entries: list[Entry] = []
        self.floods: list[tuple[str, int]] = []
        self.src = self.position = 0

    def thing(self, key: Key) -> Thing | None:
        return self.things.get(key)

    def at(self, position: int) -> Key | None:
        return next((key for key, thing in self.things.items() if thing.row == position != NOWHERE), None)

    def holders(self, digest: bytes) -> Iterable[int]:
        return [thing.row for thing in self.things.values() if thing.row != NOWHERE and digest in thing.digests]

    @property
    def live_rows(self) -> int:
        return sum(len(thing.digests) for thing in self.things.values() if thing.row != NOWHERE)

    def entry(self, kind: Any, name: str, *pictures: Picture, **more: Any) -> Entry:
        """The next record of the log."""
        self.src += 1
        given: dict[str, Any] = {"src": self.src, "encoder": "one", "pictures": pictures} | more
        self.position += 1
        entry = Entry(self.position, LogRecord(kind=kind, id=name, tenant="t", source="s/0", **given))
        self.entries.append(entry)
        return entry

    def hits(self, record: LogRecord) -> Hits:
        near = []
        for picture in record.pictures:
            found = [
                (int(np.dot(_vector(picture), _vector(other))), row_key(0, entry.position, n))
                for entry in self.entries
                for n, other in enumerate(entry.record.pictures)
                if entry.record.encoder == record.encoder
            ]
            scores, keys = np.array(found, np.int64).reshape(-1, 2).T
            near.append(Found(scores, keys, None))
        fired = [
            (distance, entry.position)
            for entry in self.entries
            for one in record.pictures
            for other in entry.record.pictures
            if (distance := self._fires(one, other)) is not None
        ]
        return Hits(tuple(near), tuple(fired))

    def _fires(self, one: Picture, other: Picture) -> int | None:
        bits = (int.from_bytes(one.hash) ^ int.from_bytes(other.hash)).bit_count()
        alike = bits <= self.policy.hash_distance and min(one.quality, other.quality) >= self.policy.hash_quality
        return bits if self.policy.use_hash and alike else None

    def value(self, key: Key) -> bytes:
        return self.values.get(key, b"")

    def blocked(self, item: str) -> Iterable[str]:
        return [key[1] for key, thing in self.things.items() if thing.blocked_by == item != ""]

    @property
    def live_designs(self) -> int:
        return sum(key[0] == "design" and thing.row != NOWHERE for key, thing in self.things.items())

    def fold(self, *entries: Entry, said: Ledger | None = None) -> list[bytes]:
        """One batch; returns what is published."""
        wanted = may_need_hits(self, entries, said or {}, self.policy)
        hits = {i: self.hits(entries[i].record) for i in wanted}
        context = Context("log", 0, self.policy)
        outcome = judge(self, entries, hits, said or {}, context)
        if isinstance(outcome, Missing):
            assert not outcome.entries
            for name, place in outcome.designs.items():
                record = next(e.record for e in reversed(self.entries) if e.record.id == name and e.record.pictures)
                self.entries.append(Entry(place, record))
            again = {e.record.id: (e.record, self.hits(e.record)) for e in self.entries[-len(outcome.designs) :]}
            outcome = judge(self, entries, hits, said or {}, context, again)
        assert isinstance(outcome, Outcome)
        self.floods += outcome.floods
        published = [self.values[word.key] if word.value is None else word.value for word in outcome.said]
        assert [word.position for word in outcome.said] == [name_of(value).position for value in published]
        self.things |= outcome.things
        self.values |= outcome.values
        rest = entries[outcome.count :]
        return published + (self.fold(*rest, said=said) if rest else [])

    def say(self, name: str, *pictures: Picture, **more: Any) -> Verdict:
        """The verdict of a design that is published now."""
        (value,) = self.fold(self.entry("design", name, *pictures, **more))
        return decode_verdict(value)

    def list_item(self, name: str, *pictures: Picture, **more: Any) -> None:
        assert self.fold(self.entry("upsert", name, *pictures, **more)) == []


def _vector(picture: Picture) -> Any:
    return np.frombuffer(picture.vector, "<i2").astype(np.int64)


def names(verdict: Verdict) -> list[str]:
    return [neighbour.id for neighbour in verdict.neighbours]


# What a verdict is


def test_the_first_design_is_accepted_and_exists() -> None:
    world = World()
    verdict = world.say("d", pic("a"), category="hat", title="T", generator="g", submitted_at_ms=7)
    assert verdict == Verdict(
        verdict_id=verdict_id("log", 0, 1), design_id="d", verdict="accept", similarity=0.0, threshold=0.9,
        neighbours=(), category="hat", title="T", tenant="t", generator="g", encoder_version="one",
        policy_version=POLICY.version, image_digests=(hashlib.sha256(b"a").hexdigest(),), position=1, shard=0,
        submitted_at_ms=7, advisory=False,
    )  # fmt: skip
    assert world.at(1) == ("design", "d")


def test_a_duplicate_names_its_neighbour_and_exists_nowhere() -> None:
    world = World()
    world.list_item("i", pic("a", EAST))
    verdict = world.say("d", pic("b", NEAR_EAST))
    assert (verdict.verdict, verdict.similarity) == ("duplicate", 2048 * 2000 / UNIT)
    assert [(n.id, n.kind, n.signal) for n in verdict.neighbours] == [("i", "item", "vector")]
    assert world.things["design", "d"].row == NOWHERE
    assert world.say("e", pic("c", NEAR_EAST)).neighbours[0].id == "i"


def test_the_similarity_is_that_of_the_best_pair_of_pictures() -> None:
    world = World()
    world.list_item("i", pic("a", NORTH), pic("b", (0, 0, 2048)), pic("c", WEST))
    verdict = world.say("d", pic("e", EAST), pic("f", (300, 0, 2000)))
    assert verdict.similarity == 2000 * 2048 / UNIT


def test_the_best_similarity_may_be_negative() -> None:
    world = World()
    world.list_item("i", pic("a", EAST))
    assert world.say("d", pic("b", WEST)).similarity == -1.0


def test_a_rounded_vector_is_never_more_than_equal() -> None:
    world = World()
    world.list_item("i", pic("a", (2047, 65, 0)))
    assert 2047**2 + 65**2 - UNIT > 0
    assert world.say("d", pic("b", (2047, 65, 0))).similarity == 1.0


@pytest.mark.parametrize(("less", "word"), [(0, "duplicate"), (1, "accept")])
def test_the_threshold_itself_is_a_duplicate(less: int, word: str) -> None:
    world = World(Policy(similarity=2000 * 2048 / UNIT))
    world.list_item("i", pic("a", (2048, 0, 1)))
    assert world.say("d", pic("b", (2000, 441, -less))).verdict == word


def test_a_threshold_between_two_scores_is_rounded_up() -> None:
    world = World(Policy(similarity=(2000 * 2048 + 0.5) / UNIT))
    world.list_item("i", pic("a", EAST))
    assert world.say("d", pic("b", NEAR_EAST)).verdict == "accept"


def test_a_category_has_its_own_threshold() -> None:
    world = World(msgspec.structs.replace(POLICY, categories={"strict": 0.99}))
    world.list_item("i", pic("a", EAST))
    accepted = world.say("d", pic("b", NEAR_EAST), category="strict")
    assert (accepted.verdict, accepted.threshold) == ("accept", 0.99)
    assert world.say("e", pic("c", NEAR_EAST), category="other").verdict == "duplicate"


STEPS = (Step(rows=2, similarity=0.99), Step(rows=4, similarity=0.95, categories={"strict": 1.0}))
STEPPED = msgspec.structs.replace(POLICY, categories={"strict": 0.97}, steps=STEPS)


@pytest.mark.parametrize(("rows", "threshold"), [(0, 0.9), (1, 0.9), (2, 0.99), (3, 0.99), (4, 0.95), (9, 0.95)])
def test_the_last_step_that_is_reached_has_the_threshold(rows: int, threshold: float) -> None:
    world = World(STEPPED)
    for n in range(rows):
        world.list_item(f"i{n}", pic(f"i{n}", NORTH))
    assert world.say("d", pic("d")).threshold == threshold


@pytest.mark.parametrize(("rows", "threshold"), [(1, 0.97), (2, 0.99), (4, 1.0)])
def test_a_step_replaces_the_thresholds_of_categories_too(rows: int, threshold: float) -> None:
    world = World(STEPPED)
    for n in range(rows):
        world.list_item(f"i{n}", pic(f"i{n}", NORTH))
    assert world.say("d", pic("d"), category="strict").threshold == threshold


def test_pictures_are_counted_not_things_and_what_is_gone_no_more() -> None:
    world = World(STEPPED)
    world.list_item("i", *(pic(f"i{n}", NORTH) for n in range(4)))
    assert world.say("d", pic("d")).threshold == 0.95
    world.list_item("i", pic("j", NORTH), version=1)
    assert world.say("e", pic("e", (0, 0, 2048))).threshold == 0.99  # the item's picture and the design's
    world.fold(world.entry("withdraw", "d"), world.entry("withdraw", "e"))
    assert world.say("f", pic("f", WEST)).threshold == 0.9


def test_a_hash_is_worth_the_threshold_of_its_step() -> None:
    world = World(msgspec.structs.replace(POLICY, steps=(Step(rows=1, similarity=0.999),)))
    world.list_item("i", pic("a", EAST, bits=0))
    verdict = world.say("d", pic("b", WEST, bits=3))
    assert (verdict.verdict, verdict.similarity) == ("duplicate", math.ceil(0.999 * UNIT) / UNIT)


def test_a_step_is_reached_within_a_batch_and_left_again() -> None:
    """One batch, and the same records one by one: births and deaths of earlier records count, the design's own not."""
    records = [
        ("design", "a", (pic("a", EAST),)),
        ("design", "b", (pic("b1", NORTH), pic("b2", NORTH))),
        ("design", "c", (pic("c", WEST),)),
        ("upsert", "i", (pic("i", (0, 0, 2048)),)),
        ("design", "c", (pic("c2", WEST),)),
        ("withdraw", "b", ()),
        ("design", "d", (pic("d", (0, -2048, 0)),)),
        ("delete", "i", ()),
        ("withdraw", "a", ()),
        ("design", "e", (pic("e", (0, 0, -2048)),)),
        ("design", "f", (pic("f", EAST),)),
    ]
    whole, singly = World(STEPPED), World(STEPPED)
    published = whole.fold(*(whole.entry(kind, name, *pictures) for kind, name, pictures in records))
    one_by_one = [singly.fold(singly.entry(kind, name, *pictures)) for kind, name, pictures in records]
    assert published == [value for values in one_by_one for value in values]
    before = [0, 1, 3, 5, 3, 2, 3]
    assert [decode_verdict(value).threshold for value in published] == [STEPPED.threshold("", n) for n in before]
    assert whole.live_rows == singly.live_rows == 4


def test_an_advisory_policy_says_so() -> None:
    assert World(msgspec.structs.replace(POLICY, advisory=True)).say("d", pic("a")).advisory


# Neighbours


def test_neighbours_are_the_best_few_and_the_oldest_first_among_equals() -> None:
    world = World()
    for name in ("far", "first", "second", "third"):
        world.list_item(name, pic(name, NORTH if name == "far" else EAST))
    assert names(world.say("d", pic("z", EAST))) == ["first", "second"]


def test_a_later_upsert_makes_an_item_young_again() -> None:
    world = World()
    world.list_item("first", pic("a"))
    world.list_item("second", pic("b"))
    world.list_item("first", pic("c"), version=1)
    assert names(world.say("d", pic("z"))) == ["second", "first"]


# Signals


def test_equal_bytes_are_a_duplicate_whatever_the_vectors() -> None:
    world = World()
    world.list_item("i", pic("a", EAST), pic("b", EAST))
    verdict = world.say("d", pic("c", WEST), pic("b", WEST))
    assert (verdict.similarity, verdict.neighbours[0].signal) == (1.0, "digest")


def test_equal_bytes_do_not_count_when_the_policy_says_so() -> None:
    world = World(msgspec.structs.replace(POLICY, use_digest=False, use_hash=False))
    world.list_item("i", pic("a", EAST))
    verdict = world.say("d", pic("a", NORTH))
    assert (verdict.verdict, verdict.neighbours[0].signal) == ("accept", "vector")


def test_a_hash_is_worth_its_distance() -> None:
    world = World()
    world.list_item("i", pic("a", EAST, bits=0))
    verdict = world.say("d", pic("b", WEST, bits=3))
    assert (verdict.verdict, verdict.similarity) == ("duplicate", 1 - 3 / 256)
    assert verdict.neighbours[0].signal == "hash"


def test_a_hash_is_worth_the_threshold_at_least() -> None:
    world = World(msgspec.structs.replace(POLICY, similarity=0.999))
    world.list_item("i", pic("a", EAST, bits=0))
    verdict = world.say("d", pic("b", WEST, bits=3))
    assert (verdict.verdict, verdict.similarity) == ("duplicate", math.ceil(0.999 * UNIT) / UNIT)


def test_the_smallest_distance_of_a_hash_counts() -> None:
    world = World()
    world.list_item("i", pic("a", bits=0), pic("b", bits=4))
    assert world.say("d", pic("c", bits=6), pic("e", bits=5)).similarity == 1 - 1 / 256


def test_a_stronger_signal_replaces_a_better_vector() -> None:
    world = World()
    world.list_item("i", pic("a", EAST, bits=0))
    verdict = world.say("d", pic("b", EAST, bits=8))
    assert (verdict.similarity, verdict.neighbours[0].signal) == (1 - 8 / 256, "hash")


def test_equal_bytes_come_before_an_equal_hash() -> None:
    world = World()
    world.list_item("i", pic("a", bits=0))
    assert world.say("d", pic("a", bits=0)).neighbours[0].signal == "digest"


def test_vectors_of_two_encoders_are_not_compared_but_bytes_are() -> None:
    world = World()
    world.list_item("i", pic("a"), encoder="two")
    assert world.say("d", pic("b")).neighbours == ()
    assert names(world.say("e", pic("a")))[0] == "i"


# Rule 1: what a design is compared with


def test_a_design_is_not_compared_with_its_own_revision() -> None:
    world = World()
    world.say("d", pic("a"))
    assert world.say("d", pic("b")).neighbours == ()


def test_a_design_is_not_compared_with_an_item_made_from_it() -> None:
    world = World()
    world.say("d", pic("a"))
    world.list_item("i", pic("a"), design_id="d")
    assert world.say("d", pic("b"), pic("a")).neighbours == ()
    assert names(world.say("e", pic("c"))) == ["i", "d"]


def test_an_item_of_the_same_name_is_something_else() -> None:
    world = World()
    world.list_item("d", pic("a"))
    assert world.say("d", pic("b")).verdict == "duplicate"


def test_a_withdrawn_design_and_a_deleted_item_do_not_exist() -> None:
    world = World()
    world.list_item("i", pic("a"))
    world.say("d", pic("b", NORTH))
    assert world.fold(world.entry("delete", "i"), world.entry("withdraw", "d")) == []
    assert world.say("e", pic("a", EAST), pic("b", NORTH)).neighbours == ()


def test_twins_of_one_batch_are_not_both_accepted() -> None:
    world = World()
    entries = [world.entry("design", name, pic(name)) for name in ("d", "e", "f")]
    verdicts = [decode_verdict(value) for value in world.fold(*entries)]
    assert [(v.verdict, names(v)) for v in verdicts] == [("accept", []), ("duplicate", ["d"]), ("duplicate", ["d"])]


def test_equal_bytes_of_one_batch_are_seen() -> None:
    world = World()
    entries = [world.entry("design", "d", pic("a", EAST)), world.entry("design", "e", pic("a", WEST))]
    assert decode_verdict(world.fold(*entries)[1]).neighbours[0].signal == "digest"


def test_a_batch_sees_only_what_stands_before_a_record() -> None:
    world = World()
    entries = [
        world.entry("design", "d", pic("a", EAST)),
        world.entry("withdraw", "d"),
        world.entry("design", "e", pic("b", EAST)),
        world.entry("upsert", "i", pic("c", NORTH)),
        world.entry("delete", "i"),
        world.entry("design", "f", pic("d", NORTH)),
        world.entry("upsert", "j", pic("e", NORTH)),
    ]
    assert [decode_verdict(value).verdict for value in world.fold(*entries)] == ["accept"] * 3


# Rule 4: the same again


def test_a_resubmission_gets_its_verdict_again_word_for_word() -> None:
    world = World()
    first = world.fold(world.entry("design", "d", pic("a"), pic("b")))
    world.list_item("i", pic("a"))
    world.policy = msgspec.structs.replace(POLICY, similarity=0.5)
    assert world.fold(world.entry("design", "d", pic("a"), pic("b"), title="other")) == first
    assert name_of(first[0]).position == 1


def test_a_resubmission_within_a_batch_gets_its_verdict_again() -> None:
    world = World()
    first, again = world.fold(world.entry("design", "d", pic("a")), world.entry("design", "d", pic("a")))
    assert first == again


def test_a_rejected_resubmission_stays_rejected() -> None:
    world = World()
    world.list_item("i", pic("a"))
    first = world.say("d", pic("b"))
    world.fold(world.entry("delete", "i"))
    assert world.say("d", pic("b")) == first
    assert world.things["design", "d"].row == NOWHERE


def test_other_pictures_or_another_order_are_judged_afresh() -> None:
    world = World()
    assert world.say("d", pic("a"), pic("b")).position == 1
    assert world.say("d", pic("b"), pic("a")).position == 2
    assert world.say("d", pic("b")).position == 3
    assert world.say("d", pic("a"), pic("b")).position == 4


def test_a_withdrawn_design_is_judged_afresh() -> None:
    world = World()
    world.say("d", pic("a"))
    world.fold(world.entry("withdraw", "d"))
    assert world.values["design", "d"] == b""
    world.list_item("i", pic("a"))
    assert world.say("d", pic("a")).verdict == "duplicate"


def test_a_revision_ends_its_predecessor_even_when_it_is_rejected() -> None:
    world = World()
    world.list_item("i", pic("a", NORTH))
    world.say("d", pic("b", EAST))
    assert world.say("d", pic("c", NORTH)).verdict == "duplicate"
    assert world.say("e", pic("f", EAST)).verdict == "accept"


def test_a_resubmission_moves_to_a_new_encoder() -> None:
    world = World()
    first = world.say("d", pic("a", EAST))
    assert world.say("d", pic("a", NORTH), encoder="two") == first
    assert world.say("d", pic("a", NORTH), encoder="two") == first
    assert (world.things["design", "d"].row, world.things["design", "d"].position) == (2, 1)
    assert world.say("e", pic("b", NORTH), encoder="two").verdict == "duplicate"
    assert world.say("f", pic("c", EAST)).neighbours == ()


def test_a_rejected_resubmission_does_not_begin_to_exist_with_a_new_encoder() -> None:
    world = World()
    world.list_item("i", pic("a"))
    world.say("d", pic("b"))
    world.say("d", pic("b"), encoder="two")
    assert world.say("e", pic("c"), encoder="two").neighbours == ()


# Rule 5: what is stale


@pytest.mark.parametrize("late", [0, 1])
def test_a_record_at_or_below_the_last_source_offset_changes_nothing(late: int) -> None:
    world = World()
    world.say("d", pic("a"), src=10)
    before = dict(world.things)
    for kind in ("design", "withdraw"):
        assert world.fold(world.entry(kind, "d", pic("b"), src=10 - late)) == []
    assert world.things == before


@pytest.mark.parametrize(("kind", "end"), [("design", "withdraw"), ("upsert", "delete")])
def test_an_end_is_not_undone_by_a_redelivery(kind: str, end: str) -> None:
    world = World()
    old = world.entry(kind, "x", pic("a"))
    world.fold(old)
    world.fold(world.entry(end, "x"))
    assert world.fold(replace(old, position=9)) == []
    assert world.holders(pic("a").digest) == []


def test_source_offsets_of_an_item_and_a_design_of_one_name_are_apart() -> None:
    world = World()
    world.list_item("x", pic("a", EAST), src=10)
    assert world.say("x", pic("b", NORTH), src=1).verdict == "accept"


def test_config_and_ready_concern_no_id() -> None:
    world = World()
    assert world.fold(world.entry("ready", ""), world.entry("config", "", policy=POLICY)) == []
    assert world.things == {}


# Upserts


def test_a_late_older_version_changes_only_the_source_offset() -> None:
    world = World()
    world.list_item("i", pic("a"), version=2)
    before = world.things["item", "i"]
    world.list_item("i", pic("b"), version=1)
    assert world.things["item", "i"] == replace(before, src=2)
    world.list_item("i", pic("b"), version=2)
    assert world.things["item", "i"].row == 3


def test_a_delete_clears_the_version() -> None:
    world = World()
    world.list_item("i", pic("a"), version=5)
    world.fold(world.entry("delete", "i"))
    world.list_item("i", pic("b"), version=1)
    assert names(world.say("d", pic("c"))) == ["i"]


def test_equal_pictures_keep_their_row_and_take_the_rest() -> None:
    world = World()
    world.list_item("i", pic("a"), pic("b"), version=1)
    world.list_item("i", pic("a"), pic("b"), version=2, design_id="d")
    thing = world.things["item", "i"]
    assert (thing.row, thing.src, thing.version, thing.made_from) == (1, 2, 2, "d")
    assert world.say("d", pic("a")).neighbours == ()


@pytest.mark.parametrize(
    ("pictures", "encoder"),
    [(("b", "a"), "one"), (("a",), "one"), (("a", "b"), "two")],
    ids=["order", "one", "encoder"],
)
def test_other_pictures_are_born_anew(pictures: tuple[str, ...], encoder: str) -> None:
    world = World()
    world.list_item("i", pic("a"), pic("b"))
    world.list_item("i", *(pic(name) for name in pictures), encoder=encoder)
    assert world.things["item", "i"].row == 2
    assert world.at(1) is None


def test_rows_are_named_for_what_exists_after_the_batch() -> None:
    world = World()
    entries = [
        world.entry("upsert", "i", pic("a")),
        world.entry("upsert", "i", pic("b", NORTH)),
        world.entry("design", "d", pic("c", NORTH)),
        world.entry("design", "e", pic("d", EAST)),
        world.entry("ready", ""),
    ]
    hits = {i: world.hits(entries[i].record) for i in may_need_hits(world, entries, {}, POLICY)}
    outcome = judge(world, entries, hits, {}, Context("log", 0, POLICY))
    assert isinstance(outcome, Outcome)
    assert outcome.rows == [1, 3]


# Rule 7: hits


def found(*hits: tuple[int, int], floor: int | None) -> Found:
    """(score, position) of rows near a picture."""
    return Found(
        np.array([score for score, _ in hits]), np.array([row_key(0, position, 3) for _, position in hits]), floor
    )


@pytest.mark.parametrize(
    ("near", "settled"),
    [
        ([found((UNIT, 1), (900, 2), floor=899)], True),
        ([found((UNIT, 1), (900, 2), floor=900)], False),
        ([found((UNIT, 1), (900, 2), floor=None)], True),
        ([found((UNIT, 1), floor=10)], False),
        ([found((UNIT, 1), (UNIT, 99), floor=10)], False),
        ([found((UNIT, 1), (UNIT, 3), floor=10)], False),
        ([found((UNIT, 1), floor=10), found((5, 2), floor=4)], False),
        ([found((UNIT, 1), floor=None), found((5, 2), floor=4)], True),
        ([], True),
    ],
    ids=[
        "above the floor", "on the floor", "no floor", "too few", "one is not there", "one is a duplicate",
        "floor of the other picture", "one picture searched whole", "nothing proposed",
    ],
)  # fmt: skip
def test_hits_settle_when_the_last_neighbour_is_above_what_was_left_out(near: list[Found], settled: bool) -> None:
    world = World()
    world.list_item("i", pic("a", EAST))
    world.list_item("j", pic("b", NORTH))
    world.say("rejected", pic("c", NORTH))
    entry = world.entry("design", "d", pic("z", (0, 0, 1)))
    outcome = judge(world, [entry], {0: Hits(tuple(near))}, {}, Context("log", 0, POLICY))
    assert (outcome == Missing((0,), {})) is not settled


def test_nothing_takes_effect_before_every_record_has_its_hits() -> None:
    world = World()
    entries = [world.entry("design", name, pic(name)) for name in "abc"]
    few, enough = Hits((found((900, 1), floor=5),)), Hits((found(floor=None),))
    hits = {0: few, 1: enough, 2: few}
    assert judge(world, entries, hits, {}, Context("log", 0, POLICY)) == Missing((0, 2), {})
    assert world.things == {}


def test_only_designs_that_may_be_judged_afresh_need_hits() -> None:
    world = World()
    world.say("known", pic("a"), src=1)
    world.say("gone", pic("b", NORTH), src=1)
    world.fold(world.entry("withdraw", "gone", src=2))
    world.src = 10
    entries = [
        world.entry("design", "known", pic("a"), src=1),
        world.entry("upsert", "i", pic("a")),
        world.entry("design", "said", pic("x")),
        world.entry("design", "gone", pic("b")),
        world.entry("design", "new", pic("y")),
        world.entry("design", "known", pic("a")),
        world.entry("ready", ""),
        world.entry("design", "known", pic("a")),
    ]
    assert may_need_hits(world, entries, {entries[2].position: {"said": b"{}"}}, POLICY) == [3, 4, 5, 7]
    assert may_need_hits(world, entries[5:], {}, POLICY) == [2]
    assert may_need_hits(world, entries[7:], {}, POLICY) == []


# Rule 9: what was said


def test_what_was_said_is_taken_and_not_said_again() -> None:
    world = World()
    world.list_item("i", pic("a"))
    entry = world.entry("design", "d", pic("b"))
    accepted = World().say("d", pic("b"))
    value = encode_event(msgspec.structs.replace(accepted, position=entry.position))
    assert world.fold(entry, said={entry.position: {"d": value}}) == []
    assert (world.things["design", "d"].word, world.things["design", "d"].row) == ("accept", entry.position)
    assert world.fold(world.entry("design", "d", pic("b"))) == [value]


def test_a_ledger_that_holds_something_else_is_fatal() -> None:
    world = World()
    entry = world.entry("design", "d", pic("a"))
    with pytest.raises(Fatal, match="no verdict"):
        world.fold(entry, said={entry.position: {"d": b'{"position": 1}'}})


def test_the_key_of_a_row_holds_shard_position_and_picture() -> None:
    highest = POSITIONS - 1
    last = row_key(5, highest, ROWS - 1)
    assert place_of(last) == highest
    assert row_key(5, highest) + ROWS - 1 == last < row_key(6, 0)
    assert row_key(5, highest - 1, ROWS - 1) < row_key(5, highest)
    assert row_key((1 << 12) - 1, place_at(highest, REVISIONS), ROWS - 1) < 1 << 63


def test_the_key_of_a_design_that_exists_again_follows_that_of_the_record() -> None:
    places = [5, place_at(5, 1), place_at(5, REVISIONS), 6]
    keys = [row_key(3, place, picture) for place in places for picture in range(ROWS)]
    assert keys == sorted(set(keys))
    assert [place_of(key) for key in keys[::ROWS]] == places
    assert [position_of(place) for place in places] == [5, 5, 5, 6]
    assert sorted(places, key=order_of) == places


# Rule 13: what is said is revised

REVISING = msgspec.structs.replace(POLICY, revisions=3)


def test_a_late_item_revises_what_it_reaches_once() -> None:
    world = World(REVISING)
    first = world.say("d", pic("a"), category="c", title="T", generator="g")
    world.say("other", pic("b", NORTH))
    (value,) = world.fold(world.entry("upsert", "i", pic("c", NEAR_EAST)))
    revised = decode_verdict(value)
    assert (revised.verdict, names(revised)[0], revised.position) == ("duplicate", "i", 3)
    assert (revised.revises, revised.cause) == (first.verdict_id, "i")
    assert revised.verdict_id == verdict_id("log", 0, 3, "d")
    kept = ("category", "title", "generator", "tenant", "image_digests", "submitted_at_ms", "threshold")
    assert [getattr(revised, name) for name in kept] == [getattr(first, name) for name in kept]
    assert world.things["design", "d"].row == NOWHERE
    assert world.fold(world.entry("upsert", "i2", pic("c2", NEAR_EAST))) == []
    assert world.fold(world.entry("design", "d", pic("a"))) == [value]


def test_an_item_made_from_a_design_does_not_revise_it() -> None:
    world = World(REVISING)
    world.say("d", pic("a"))
    assert world.fold(world.entry("upsert", "i", pic("a"), design_id="d")) == []


def test_an_update_of_equal_pictures_revises_nothing_and_one_of_others_does() -> None:
    world = World(REVISING)
    world.list_item("i", pic("x", NORTH))
    world.say("d", pic("a"))
    assert world.fold(world.entry("upsert", "i", pic("x", NORTH), version=1)) == []
    (value,) = world.fold(world.entry("upsert", "i", pic("y", EAST), version=2))
    assert decode_verdict(value).verdict == "duplicate"
    # An update is no delete: what the old pictures blocked stays so.
    assert world.say("e", pic("b")).verdict == "duplicate"
    assert world.fold(world.entry("upsert", "i", pic("z", NORTH), version=3)) == []
    assert world.things["design", "e"].word == "duplicate"


def test_a_delete_revises_what_the_item_alone_blocked() -> None:
    world = World(REVISING)
    world.list_item("i", pic("x"))
    first = world.say("d", pic("a"))
    world.list_item("j", pic("y", NORTH))
    world.list_item("k", pic("z", NORTH))
    world.say("e", pic("b", NORTH))  # blocked by two
    values = world.fold(world.entry("delete", "i"), world.entry("delete", "j"))
    revised = [decode_verdict(value) for value in values]
    assert [(v.design_id, v.verdict, v.revises) for v in revised] == [("d", "accept", first.verdict_id)]
    assert world.things["design", "d"].row == place_at(6, 1)
    assert world.say("f", pic("c")).neighbours[0].id == "d"


def test_of_several_that_exist_again_the_later_is_compared_with_the_earlier() -> None:
    """One of them exists; the other is blocked by it from then on, and by no item."""
    world = World(REVISING)
    world.list_item("i", pic("x"))
    for name in "de":
        world.say(name, pic(name))
    values = world.fold(world.entry("delete", "i"))
    assert [(v.design_id, v.verdict, names(v)) for v in map(decode_verdict, values)] == [
        ("d", "accept", []),
        ("e", "duplicate", ["d"]),
    ]
    world.list_item("i", pic("x2", (0, 0, 2048)))
    assert world.fold(world.entry("delete", "i")) == []


def test_one_level_deep() -> None:
    """What a revised design blocked itself stays as it is."""
    world = World(REVISING)
    world.say("d", pic("a"))
    world.say("e", pic("b"))
    values = world.fold(world.entry("upsert", "i", pic("c")))
    assert [decode_verdict(value).design_id for value in values] == ["d"]
    assert world.things["design", "e"].word == "duplicate"


@pytest.mark.parametrize(("most", "revised"), [(0, 0), (1, 0), (2, 2), (100, 2)])
def test_where_too_many_would_be_revised_none_is(most: int, revised: int) -> None:
    world = World(msgspec.structs.replace(POLICY, revisions=most, similarity=1.0, categories={"loose": 0.5}))
    world.say("d", pic("a", NEAR_EAST), category="")
    world.say("e", pic("b", EAST), category="")
    world.policy = msgspec.structs.replace(world.policy, similarity=0.9)
    assert len(world.fold(world.entry("upsert", "i", pic("c", EAST)))) == revised
    assert world.floods == ([("i", 2)] if most == 1 else [])


def test_a_digest_reaches_only_where_the_policy_says_so() -> None:
    for use_digest, revised in ((True, 1), (False, 0)):
        world = World(msgspec.structs.replace(REVISING, use_digest=use_digest, use_hash=False))
        world.say("d", pic("a", EAST))
        assert len(world.fold(world.entry("upsert", "i", pic("a", NORTH)))) == revised


def test_a_revision_that_was_said_is_taken_and_not_said_again() -> None:
    """By an owner that fell over between the two; the second is judged."""

    def world_of_two() -> tuple[World, Entry]:
        world = World(msgspec.structs.replace(REVISING, similarity=1.0))
        world.say("d", pic("a", NEAR_EAST))
        world.say("e", pic("b", EAST))
        world.policy = REVISING
        return world, world.entry("upsert", "i", pic("c", EAST))

    world, entry = world_of_two()
    first, second = world.fold(entry)
    told = encode_event(msgspec.structs.replace(decode_verdict(first), similarity=0.95))
    again, entry = world_of_two()
    assert again.fold(entry, said={entry.position: {"d": told}}) == [second]
    assert again.values["design", "d"] == told
    closed, entry = world_of_two()
    context = Context("log", 0, REVISING, is_closed=True)
    records = {"d": (closed.entries[0].record, Hits())}
    outcome = judge(closed, [entry], {}, {entry.position: {"d": told}}, context, records)
    assert isinstance(outcome, Outcome)
    assert ([*outcome.values.values()], outcome.said) == ([told], [])
