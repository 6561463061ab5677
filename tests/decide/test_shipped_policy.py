"""The shipped policies are those that were measured, for the encoder that is shipped."""

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from encoders.preprocess import encoder_version
from streams.decide.policy import RECOLOUR, SHIPPED, load_policy
from streams.embed.encoder import model_path
from streams.events import Step
from streams.local import REPOSITORY


@pytest.mark.parametrize("shipped", [SHIPPED, RECOLOUR], ids=lambda path: path.stem)
def test_a_shipped_policy_is_the_measured_one(shipped: Path) -> None:
    record = tomllib.loads(shipped.read_text())["record"]
    version = encoder_version(model_path(REPOSITORY / "triton_models"))
    measured = json.loads((REPOSITORY / record["file"]).read_text())
    policy = load_policy(shipped)
    assert record["encoder_version"] == measured["encoder_version"] == version
    assert (REPOSITORY / f"encoders/records/{version}.json").is_file()
    for name in ("similarity", "hash_distance", "hash_colour", "hash_quality", "leave_out"):
        assert getattr(policy, name) == measured[name], name
    assert policy.steps == msgspec.convert(measured["steps"], tuple[Step, ...])


def test_the_other_policy_has_a_name_and_leaves_out_the_colour_block() -> None:
    colour = 64  # the last ones of 256, as encoders/training/network.py has them
    assert load_policy(Path("recolour")) == load_policy(RECOLOUR)
    assert load_policy(RECOLOUR).leave_out == colour
    assert load_policy(None).leave_out == 0
