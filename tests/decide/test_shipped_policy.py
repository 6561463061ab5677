"""The shipped policy is the one that was measured, for the encoder that is shipped."""

import json
import tomllib

import msgspec

from encoders.preprocess import encoder_version
from streams.decide.policy import SHIPPED, load_policy
from streams.embed.encoder import model_path
from streams.events import Step
from streams.local import REPOSITORY


def test_the_shipped_policy_is_the_measured_one() -> None:
    record = tomllib.loads(SHIPPED.read_text())["record"]
    version = encoder_version(model_path(REPOSITORY / "triton_models"))
    measured = json.loads((REPOSITORY / record["file"]).read_text())
    policy = load_policy(None)
    assert record["encoder_version"] == measured["encoder_version"] == version
    assert (REPOSITORY / f"encoders/records/{version}.json").is_file()
    for name in ("similarity", "hash_distance", "hash_colour", "hash_quality"):
        assert getattr(policy, name) == measured[name], name
    assert policy.steps == msgspec.convert(measured.get("steps", []), tuple[Step, ...])
