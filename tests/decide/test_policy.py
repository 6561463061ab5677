"""The policy file: what may stand in it, and what is said of anything else."""

from pathlib import Path

import msgspec
import pytest

from streams.decide.policy import SHIPPED, load_policy
from streams.errors import Fatal
from streams.events import Policy


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
    categories = { Shoes = 0.95, "é" = 1 }
    hash = { distance = 12, colour = 20, quality = 60 }
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
    )


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
