"""The policy file: what may stand in it, and what is said of anything else."""

from pathlib import Path

import msgspec
import pytest

from streams.decide.policy import SHIPPED, load_policy
from streams.errors import Fatal
from streams.events import LogRecord, Policy, Step, decode_record, encode_record


def _written(folder: Path, text: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(text)
    return file


def test_the_shipped_policy_is_one() -> None:
    policy = load_policy(None)
    assert policy == load_policy(SHIPPED)
    assert 0.5 < policy.similarity <= 1
    assert policy.use_digest


def test_every_field_is_read(tmp_path: Path) -> None:
    text = """
    similarity = 0.9
    use_digest = false
    neighbours = 7
    advisory = true
    leave_out = 64
    categories = { Shoes = 0.95, "é" = 1 }
    hash = { distance = 12, colour = 20, quality = 60 }
    steps = [
        { rows = 1024, similarity = 0.92, categories = { Shoes = 0.96, "é" = 1, Hats = 0.5 } },
        { rows = 4096, similarity = 0.93, categories = { Shoes = 0.97, "é" = 1, Hats = 0.6 }, extrapolated = true },
    ]
    record = { chosen_by = "anything", at = [1, 2] }
    """
    assert load_policy(_written(tmp_path, text)) == Policy(
        similarity=0.9,
        categories={"Shoes": 0.95, "é": 1.0},
        use_digest=False,
        hash_distance=12,
        hash_colour=20,
        hash_quality=60,
        neighbours=7,
        advisory=True,
        leave_out=64,
        steps=(
            Step(rows=1024, similarity=0.92, categories={"Shoes": 0.96, "é": 1.0, "Hats": 0.5}),
            Step(rows=4096, similarity=0.93, categories={"Shoes": 0.97, "é": 1.0, "Hats": 0.6}, extrapolated=True),
        ),
    )


def test_a_step_holds_from_its_rows_on() -> None:
    steps = (Step(rows=8, similarity=0.8, categories={"a": 0.7}), Step(rows=32, similarity=0.6))
    policy = Policy(similarity=0.9, categories={"a": 1.0}, steps=steps)
    expected = {0: (0.9, 1.0), 7: (0.9, 1.0), 8: (0.8, 0.7), 31: (0.8, 0.7), 32: (0.6, 0.6), 1 << 40: (0.6, 0.6)}
    assert {rows: (policy.threshold("b", rows), policy.threshold("a", rows)) for rows in expected} == expected


def test_a_policy_without_steps_is_the_one_it_was_before_there_were_any() -> None:
    """The record, its bytes and its version as they were written by the release before."""
    old = bytes.fromhex(
        "de0002a46b696e64a6636f6e666967a6706f6c69637989aa73696d696c6172697479cb3feccccccccccccdaa63617465676f7269657381a1"
        "61cb3fe0000000000000aa7573655f646967657374c3a87573655f68617368c3ad686173685f64697374616e636508ab686173685f63"
        "6f6c6f75720aac686173685f7175616c69747932aa6e65696768626f75727305a861647669736f7279c2"
    )
    policy = decode_record(old).policy
    expected = Policy(similarity=0.9, categories={"a": 0.5}, hash_distance=8, hash_colour=10, hash_quality=50)
    assert policy == expected
    assert policy is not None
    assert policy.steps == ()
    assert policy.version == "86f399af9ad5"


def test_steps_are_part_of_the_version() -> None:
    flat = Policy(similarity=0.9)
    versions = {
        flat.version,
        Policy(similarity=0.9, steps=(Step(rows=2, similarity=0.9),)).version,
        Policy(similarity=0.9, steps=(Step(rows=4, similarity=0.9),)).version,
        Policy(similarity=0.9, steps=(Step(rows=4, similarity=0.8),)).version,
        Policy(similarity=0.9, steps=(Step(rows=4, similarity=0.8, categories={"a": 0.8}),)).version,
    }
    assert len(versions) == 5
    assert msgspec.structs.replace(flat, similarity=0.8).version == Policy(similarity=0.8).version != flat.version


def test_what_is_left_out_is_part_of_the_version() -> None:
    assert len({Policy(similarity=0.9, leave_out=n).version for n in (0, 1, 64)}) == 3
    assert Policy(similarity=0.9, leave_out=0).version == Policy(similarity=0.9).version


def test_a_policy_with_steps_is_the_same_after_a_journey_through_the_log() -> None:
    steps = (Step(rows=2, similarity=0.8, categories={"b": 0.5, "a": 0.7}), Step(rows=4, similarity=0.6))
    record = LogRecord(kind="config", policy=Policy(similarity=0.9, steps=steps))
    again = decode_record(encode_record(record)).policy
    assert again == record.policy
    assert again is not None
    assert again.version == msgspec.structs.replace(again, steps=steps).version


@pytest.mark.parametrize("rows", [(3,), (4, 4), (8, 4), (2, 6)])
def test_steps_ascend_in_powers_of_two(rows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="powers of two and ascend"):
        Policy(similarity=0.9, steps=tuple(Step(rows=n, similarity=0.9) for n in rows))


def test_without_a_hash_table_the_hash_rule_is_off(tmp_path: Path) -> None:
    assert not load_policy(_written(tmp_path, "similarity = 0.9\nuse_hash = true")).use_hash


def test_the_record_does_not_change_the_version(tmp_path: Path) -> None:
    with_record = load_policy(_written(tmp_path, "similarity = 0.9\n[record]\nwhy = 'x'"))
    assert with_record.version == load_policy(_written(tmp_path, "similarity = 0.90")).version
    assert with_record.version != load_policy(_written(tmp_path, "similarity = 0.91")).version


def test_a_policy_is_the_same_after_a_journey_through_the_log() -> None:
    policy = load_policy(None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy).version == policy.version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "similarity = 0",
        "similarity = 1.01",
        "similarity = nan",
        "similarity = '0.9'",
        "similarity = 0.9\nunknown = 1",
        "similarity = 0.9\nneighbours = 0",
        "similarity = 0.9\nneighbours = 21",
        "similarity = 0.9\ncategories = { a = 0 }",
        "similarity = 0.9\nhash = { distance = 1 }",
        "similarity = 0.9\nhash = { distance = 257, colour = 1, quality = 1 }",
        "similarity = 0.9\nhash = { distance = 1, colour = -1, quality = 1 }",
        "similarity = 0.9\nhash = { distance = 1, colour = 1, quality = 101 }",
        "similarity = ",
        "similarity = 0.9\nsteps = [{ rows = 3, similarity = 0.9 }]",
        "similarity = 0.9\nsteps = [{ rows = 0, similarity = 0.9 }]",
        "similarity = 0.9\nsteps = [{ rows = 4, similarity = 1.1 }]",
        "similarity = 0.9\nsteps = [{ rows = 4 }]",
        "similarity = 0.9\nsteps = [{ rows = 4, similarity = 0.9, row = 8 }]",
        "similarity = 0.9\nsteps = [{ rows = 8, similarity = 0.9 }, { rows = 4, similarity = 0.9 }]",
        "similarity = 0.9\ncategories = { a = 0.5 }\nsteps = [{ rows = 8, similarity = 0.9 }]",
    ],
)
def test_what_is_no_policy_is_fatal_and_names_the_file(tmp_path: Path, text: str) -> None:
    file = _written(tmp_path, text)
    with pytest.raises(Fatal, match="policy file") as failure:
        load_policy(file)
    assert str(file) in str(failure.value)


def test_a_file_that_cannot_be_read_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"missing\.toml"):
        load_policy(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Fatal, match=r"binary\.toml"):
        load_policy(tmp_path / "binary.toml")
