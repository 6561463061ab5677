"""The oracle itself, on logs whose verdicts are plain to see, and the logs it is used on."""

import ast
import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.events import LogRecord, Policy, Verdict, encode_record
from tests import oracle
from tests.logs import climbs, random_log
from tests.oracle import UNIT, Folded, account, compare, fold

POLICY = {
    "similarity": 0.9,
    "categories": {"b": 0.5, "a": 1.0},
    "hash_distance": 8,
    "hash_colour": 10,
    "hash_quality": 50,
    "revisions": 0,
}
EAST, NORTH, NEAR_EAST = (2048, 0), (0, 2048), (2000, 441)


def pic(name: str, vector: tuple[int, ...] = EAST, flips: int | None = None, colour: int = 0, quality: int = 90) -> Any:
    digest = hashlib.sha256(name.encode()).digest()
    hashed = digest if flips is None else ((1 << flips) - 1).to_bytes(32, "big")
    return [digest, hashed, quality, bytes([100 + colour] * 48), np.array(vector, "<i2").tobytes()]


def log(*records: dict[str, Any], policy: dict[str, Any] | None = None) -> list[tuple[int, bytes]]:
    """Records after the first one, which names the log; their source offsets count up where not given."""
    first: dict[str, Any] = {"kind": "config", "log_id": "L", "policy": POLICY | (policy or {})}
    rest = [{"src": i, "source": "s/0", "encoder": "one"} | record for i, record in enumerate(records)]
    return [(i, msgspec.msgpack.encode(record)) for i, record in enumerate([first, *rest])]


def design(name: str, *pictures: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "design", "id": name, "pictures": pictures} | more


def item(name: str, *pictures: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "upsert", "id": name, "pictures": pictures} | more


def words(folded: Folded) -> dict[int, str]:
    return {position: verdict["verdict"][0] for position, verdict in folded.verdicts.items()}


def near(verdict: dict[str, Any]) -> list[tuple[str, float, str]]:
    return [(n["id"], n["similarity"], n["signal"]) for n in verdict["neighbours"]]


def json_of(verdict: dict[str, Any]) -> bytes:
    return msgspec.json.encode(verdict)


def test_the_oracle_shares_no_code_with_the_service() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "msgspec", "numpy"}


def test_the_best_window_of_an_item_counts_but_it_is_one_picture() -> None:
    digest, hashed, quality, colour, whole = pic("shop", NORTH)
    seen = [digest, hashed, quality, colour, whole + pic("x", (-2048, 0))[4] + pic("y", NEAR_EAST)[4], 2]
    folded = fold(log(item("shop", seen), design("d", pic("d", EAST))))
    assert near(folded.verdicts[2]) == [("shop", 2000 * 2048 / UNIT, "vector")]
    assert folded.rows[2] == 1
    assert folded.vectors == {("item", "shop"): 3}


def test_logs_are_judged_otherwise_without_windows() -> None:
    changed = 0
    for seed in range(5):
        records = random_log(seed, 120)
        shut = [
            msgspec.structs.replace(
                record,
                pictures=tuple(
                    msgspec.structs.replace(picture, vector=picture.vectors()[0], windows=0)
                    for picture in record.pictures
                ),
            )
            for record in records
        ]
        with_them, without = (fold(enumerate(map(encode_record, some))) for some in (records, shut))
        changed += sum(
            one["verdict"] != without.verdicts[position]["verdict"] for position, one in with_them.verdicts.items()
        )
    assert changed > 10


def test_a_verdict_has_every_field_of_the_published_one() -> None:
    pictures = [pic("a"), pic("b")]
    folded = fold(log(design("d", *pictures, category="b", title="T", tenant="t", generator="g", submitted_at_ms=7)), 3)
    assert folded.verdicts[1] == {
        "verdict_id": hashlib.sha256(b"L/3/1").hexdigest()[:32],
        "design_id": "d", "verdict": "accept", "similarity": 0.0, "threshold": 0.5, "neighbours": [], "category": "b",
        "title": "T", "tenant": "t", "generator": "g", "encoder_version": "one",
        "policy_version": msgspec.convert(POLICY, Policy).version,
        "image_digests": [hashlib.sha256(name).hexdigest() for name in (b"a", b"b")],
        "position": 1, "shard": 3, "submitted_at_ms": 7, "advisory": False,
    }  # fmt: skip
    assert list(Verdict.__struct_fields__) == [*msgspec.json.decode(_published(folded.verdicts[1])), "revises", "cause"]
    assert folded.live == {("design", "d"): 1}


def _published(verdict: dict[str, Any]) -> bytes:
    return msgspec.json.encode(msgspec.convert(verdict, Verdict))


def test_twins_and_what_became_of_them() -> None:
    folded = fold(
        log(
            item("i", pic("a")),
            design("d", pic("b", NEAR_EAST)),  # 2: near the item
            design("e", pic("c", NORTH)),  # 3: new
            design("f", pic("c", EAST)),  # 4: the bytes of e
            design("e", pic("c", NORTH)),  # 5: again
            {"kind": "delete", "id": "i"},
            design("d", pic("b", NEAR_EAST)),  # 7: rejected, and stays so
            design("d", pic("g", NEAR_EAST)),  # 8: other bytes, and the item is gone
            design("x", pic("h", EAST)),  # 9: near d's revision
            {"kind": "withdraw", "id": "d"},
            design("d", pic("g", NEAR_EAST)),  # 11: judged afresh
        )
    )
    assert words(folded) == {2: "d", 3: "a", 4: "d", 8: "a", 9: "d", 11: "a"}
    assert folded.owed == {folded.verdicts[position]["verdict_id"]: 1 for position in (3, 2)}
    assert near(folded.verdicts[2]) == [("i", 2000 * 2048 / UNIT, "vector")]
    assert near(folded.verdicts[4]) == [("i", 1.0, "vector"), ("e", 1.0, "digest")]
    assert folded.live == {("design", "e"): 3, ("design", "d"): 11}
    assert folded.counts["duplicate by vector"] == 3


def test_a_hash_fires_within_its_limits_and_outdoes_the_vector() -> None:
    def verdict(flips: int, **more: Any) -> list[tuple[str, float, str]]:
        held = item("i", pic("a", EAST, 0), pic("b", EAST, 0, 60))
        return near(fold(log(held, design("d", pic("c", EAST, flips, **more)), policy={"neighbours": 1})).verdicts[2])

    assert verdict(3) == [("i", 1 - 3 / 256, "hash")]
    assert verdict(8, colour=10) == [("i", 1 - 8 / 256, "hash")]
    for more in ({"flips": 9}, {"flips": 0, "colour": 11}, {"flips": 0, "quality": 49}):
        assert verdict(**more) == [("i", 1.0, "vector")]


def test_a_hash_is_worth_the_threshold_at_least() -> None:
    records = [item("i", pic("a", NORTH, 0)), design("d", pic("b", EAST, 4), category="a")]
    assert near(fold(log(*records)).verdicts[2]) == [("i", 1.0, "hash")]


def test_own_revisions_and_items_made_from_a_design_are_not_compared_with() -> None:
    folded = fold(
        log(design("d", pic("a")), item("i", pic("a"), design_id="d"), design("d", pic("b")), design("e", pic("c")))
    )
    assert (folded.verdicts[3]["neighbours"], len(folded.verdicts[4]["neighbours"])) == ([], 2)


def test_ties_go_to_the_oldest_and_other_encoders_are_no_neighbours() -> None:
    items = [item(f"i{n}", pic(f"a{n}"), encoder="two" if n == 3 else "one") for n in range(9)]
    folded = fold(log(*items, design("d", pic("z"))))
    assert [name for name, _, _ in near(folded.verdicts[10])] == ["i0", "i1", "i2", "i4", "i5"]
    assert folded.counts["tied"] == 1


def test_late_versions_and_stale_offsets_change_nothing() -> None:
    folded = fold(
        log(
            item("i", pic("a", NORTH), version=2, src=5),
            item("i", pic("b", EAST), version=1, src=6),  # late
            item("i", pic("b", EAST), version=3, src=6),  # stale: 6 was applied
            item("i", pic("a", NORTH), version=4, src=7, design_id="d"),  # keeps its row
            item("i", pic("b", EAST), version=3, src=8),  # late
            design("e", pic("c", EAST)),
            {"kind": "delete", "id": "i", "src": 9},
            item("i", pic("b", EAST), version=0, src=9),  # stale
            design("f", pic("g", NORTH)),
            item("i", pic("b", NORTH), version=0, src=10),  # a delete clears the version
        )
    )
    assert words(folded) == {6: "a", 9: "a"}
    assert folded.live == {("item", "i"): 10, ("design", "e"): 6, ("design", "f"): 9}
    assert {name: folded.counts[name] for name in ("late", "stale", "kept", "ended")} == {
        "late": 2, "stale": 2, "kept": 1, "ended": 1,
    }  # fmt: skip


def test_a_resubmission_moves_to_its_new_encoder() -> None:
    again = design("d", pic("a"), encoder="two")
    folded = fold(log(design("d", pic("a")), again, design("e", pic("b")), design("f", pic("c"), encoder="two")))
    assert words(folded) == {1: "a", 3: "a", 4: "d"}
    assert folded.live[("design", "d")] == 2


def test_a_policy_holds_from_its_record_on() -> None:
    records = [item("i", pic("a")), design("d", pic("b", (1900, 764)))]
    loose = {"kind": "config", "policy": {"similarity": 0.95, "advisory": True}}
    folded = fold(log(*records, loose, design("e", pic("c", (1900, 764)), category="b"), design("f", pic("g", NORTH))))
    assert words(folded) == {2: "d", 4: "a", 5: "a"}
    assert [folded.verdicts[i]["advisory"] for i in (2, 4)] == [False, True]
    assert folded.verdicts[4]["policy_version"] == Policy(similarity=0.95, advisory=True).version


@pytest.mark.parametrize(("before", "threshold"), [(3, 0.5), (4, 0.8), (15, 0.8), (16, 0.25), (20, 0.25)])
def test_the_last_step_that_was_reached_chooses_the_threshold(before: int, threshold: float) -> None:
    steps = [{"rows": 4, "similarity": 0.8}, {"rows": 16, "similarity": 0.7, "categories": {"b": 0.25}}]
    others = [item(f"i{n}", pic(f"i{n}", NORTH)) for n in range(before - 1)]
    pair = item("two", pic("one", NORTH), pic("two", NORTH))
    gone = [pair, {"kind": "delete", "id": "two"}, item("last", pic("last", NORTH))]
    folded = fold(log(*others, *gone, design("d", pic("a"), category="b"), policy={"steps": steps}))
    (verdict,) = folded.verdicts.values()
    assert verdict["threshold"] == threshold
    assert list(folded.rows.values()) == [before]


def test_the_version_of_a_policy_with_steps_is_the_one_of_the_service() -> None:
    steps = [{"rows": 4, "similarity": 0.8}, {"rows": 8, "similarity": 0.7, "categories": {"b": 0.25, "a": 0.5}}]
    policy: dict[str, Any] = {"similarity": 0.95, "categories": {"z": 0.5, "y": 1.0}}
    folded = fold(log(design("d", pic("a")), policy=policy | {"steps": steps}))
    given = msgspec.convert(POLICY | policy | {"steps": steps}, Policy)
    assert folded.verdicts[1]["policy_version"] == given.version
    assert given.version != msgspec.convert(POLICY | policy, Policy).version


@pytest.fixture
def folded() -> Folded:
    return fold(log(design("d", pic("a")), design("d", pic("a")), design("e", pic("b"))))


def test_compare_takes_what_was_promised(folded: Folded) -> None:
    first, other = json_of(folded.verdicts[1]), json_of(folded.verdicts[3])
    assert compare(folded, [first, first, other]) == []
    assert compare(folded, [first, other, first, first]) == []


def test_compare_tells_every_difference(folded: Folded) -> None:
    first, other = json_of(folded.verdicts[1]), json_of(folded.verdicts[3])
    wrong = json_of(folded.verdicts[3] | {"similarity": 1, "verdict": "accept"})
    strange = json_of(folded.verdicts[3] | {"verdict_id": "?", "position": 8})
    spaced = first.replace(b'","', b'", "', 1)
    assert compare(folded, [first, first]) == ["3: missing"]
    assert compare(folded, [first, other]) == ["1: published 1 times, 2 are owed"]
    assert compare(folded, [first, spaced, other]) == ["1: a later copy differs from the first"]
    assert compare(folded, [first, first, strange, other]) == ["8: unexpected"]
    assert "3: similarity is 1, should be 1.0" in compare(folded, [first, first, wrong, other])
    del folded.verdicts[3]["advisory"]
    assert compare(folded, [first, first, other]) == ["3: advisory is false, should be absent"]


def test_account_finds_what_was_lost() -> None:
    records = log(design("d", pic("a"), src=0), design("d", pic("a"), src=2), item("i", pic("b"), source="c/1", src=5))
    assert account({"s/0": 3}, records, {("s/0", 1)}) == []
    assert account({"s/0": 4, "c/1": {5, 9}}, records, set()) == [("c/1", 9), ("s/0", 1), ("s/0", 3)]


def test_an_empty_log_folds_to_nothing() -> None:
    assert fold([]) == Folded()
    assert fold(log()).counts == {"config": 1}


# The logs


def _history(records: list[LogRecord]) -> Counter[str]:
    """What only the history of an id tells: earlier digests, publications after a withdrawal."""
    told, revisions, gone = Counter[str](), dict[str, list[tuple[bytes, ...]]](), set[str]()
    for record in records:
        told[record.source] += 1
        told[f"{len(record.pictures)} pictures"] += 1
        if record.kind == "withdraw" and record.id in revisions:
            gone.add(record.id)
        if record.kind == "design":
            digests = tuple(picture.digest for picture in record.pictures)
            before = revisions.setdefault(record.id, [])
            told["after a withdrawal"] += record.id in gone
            told["earlier digests"] += digests in before and before[-1] != digests
            told["another order"] += bool(before) and before[-1] != digests and set(before[-1]) == set(digests)
            gone.discard(record.id)
            before.append(digests)
    return told


def test_the_random_logs_are_full_of_what_is_rare() -> None:
    told = Counter[str]()
    for seed in range(6):
        records = random_log(seed, 300)
        folded = fold((i, encode_record(record)) for i, record in enumerate(records))
        counts = folded.counts + _history(records) + climbs(records, folded.rows) + Counter(floods=len(folded.floods))
        assert counts["duplicate"] >= 0.3 * (counts["duplicate"] + counts["accept"])
        for usual in ("duplicate", "accept", "revised", "superseded", "repeated", "stale", "ended", "late", "kept"):
            assert counts[usual] >= 5, (seed, usual)
        told += counts
    for rare in ("vector", "hash", "digest"):
        assert told[f"duplicate by {rare}"] >= 50, rare
    for rare in ("after a withdrawal", "earlier digests", "another order", "moved", "config", "ready", "tied", "rose"):
        assert told[rare] >= 10, rare
    for rare in ("accept to duplicate", "duplicate to accept", "duplicate to duplicate", "floods"):
        assert told[rare] >= 5, rare
    assert told["fell"] >= 3  # test_fold_properties.py has logs that do so in every third example
    assert all(told[f"{n} pictures"] >= 50 for n in (1, 2, 3, 5, 8))
    assert len([name for name in told if "/" in name]) == 5


def test_a_seed_names_a_log() -> None:
    assert random_log(5, 80) == random_log(5, 80) != random_log(6, 80)
