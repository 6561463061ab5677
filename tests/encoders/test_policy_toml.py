"""The file that a calibration writes is the policy that was meant, as the service reads it."""

import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from encoders.calibration import Bucket, Calibration, Choice
from encoders.described import HashRule
from encoders.policy_toml import NO_GUARANTEE, Rest, render, steps
from streams.decide.policy import load_policy
from streams.events import Policy, Step


def choice(similarity: float, basis: Any = "measured") -> Choice:
    return Choice(similarity, 1, 500, 0.009, basis)


MADE = Calibration(
    0.01,
    [
        Bucket(0, 255, choice(0.9), {"hats": choice(0.8), 'caps "é"\n': choice(0.85)}),
        Bucket(256, 511, choice(0.91), {"hats": choice(0.82), 'caps "é"\n': choice(0.86)}),
        Bucket(512, 1023, choice(0.95, "tail"), {"hats": choice(0.9, "tail"), 'caps "é"\n': choice(1.0, "tail")}),
    ],
    {"socks": 20},
)


def read(folder: Path, text: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return load_policy(path)


def test_the_service_reads_what_was_meant(tmp_path: Path) -> None:
    rest = Rest(HashRule(12, 10, 50), use_digest=False, neighbours=7, advisory=True, leave_out=64)
    text = render(MADE, rest, {"rate": 0.01})
    assert read(tmp_path, text) == Policy(
        similarity=0.9,
        categories={"hats": 0.8, 'caps "é"\n': 0.85},
        use_digest=False,
        hash_distance=12,
        hash_colour=10,
        hash_quality=50,
        neighbours=7,
        advisory=True,
        leave_out=64,
        steps=(
            Step(rows=256, similarity=0.91, categories={"hats": 0.82, 'caps "é"\n': 0.86}),
            Step(rows=512, similarity=0.95, categories={"hats": 0.9, 'caps "é"\n': 1.0}, extrapolated=True),
        ),
    )
    assert text.count(NO_GUARANTEE) == 1


def test_a_plain_one_is_short(tmp_path: Path) -> None:
    text = render(Calibration(0.01, MADE.buckets[:1], {}), Rest(None), {})
    policy = read(tmp_path, text)
    assert (policy.use_hash, policy.use_digest, policy.advisory, policy.neighbours) == (False, True, False, 5)
    assert "use_digest" not in text
    assert "steps" not in text


def test_steps_are_those_of_the_policy(tmp_path: Path) -> None:
    policy = read(tmp_path, render(MADE, Rest(None), {}))
    assert tuple(Step(**step) for step in steps(MADE)) == policy.steps


_PLAIN = st.text() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.text(), _VALUES))
def test_a_record_comes_back_as_it_was(record: dict[str, Any]) -> None:
    assert tomllib.loads(render(MADE, Rest(None), record))["record"] == record


def test_what_is_no_value_is_left_out_and_what_is_no_text_is_marked() -> None:
    text = render(MADE, Rest(None), {"a": None, "b": {"c": None, "d": "x\udcff"}, "e": [{"f": 1}, {"g": None}]})
    assert tomllib.loads(text)["record"] == {"b": {"d": "x?"}, "e": [{"f": 1}, {}]}
