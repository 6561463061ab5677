"""The policy file: thresholds with the record of how they were chosen (TOML)."""

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.errors import Fatal
from streams.events import REVISIONS, Policy, Step

SHIPPED: Final = Path(__file__).with_name("policy.toml")

RECOLOUR: Final = Path(__file__).with_name("recolour.toml")
"""The shipped policy under which a garment in another colour is a duplicate; its name is `recolour`."""


class _Hash(msgspec.Struct, forbid_unknown_fields=True):
    distance: int
    colour: int
    quality: int


class _Step(Step, frozen=True, forbid_unknown_fields=True):
    """A step as it stands in a file, where a misspelt name is an error."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    similarity: float
    hash: _Hash | None = None
    categories: dict[str, float] = {}
    use_digest: bool = True
    use_hash: bool = True
    neighbours: int = 5
    advisory: bool = False
    steps: tuple[_Step, ...] = ()
    leave_out: int = 0
    revisions: int = REVISIONS
    record: dict[str, Any] = {}


def policy_path(path: Path | None) -> Path:
    """The file that is meant: "recolour" and none stand for the shipped ones."""
    return RECOLOUR if path == Path("recolour") else path or SHIPPED


def load_policy(path: Path | None) -> Policy:
    """The policy in a TOML file; none: the shipped one; "recolour": the other one. Fatal when it is not one."""
    path = policy_path(path)
    try:
        return parse_policy(path.read_text("utf-8"))
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise Fatal(f"policy file {path}: {error}") from error


def parse_policy(text: str) -> Policy:
    """The policy in the text of such a file. ValueError or msgspec.ValidationError when it is none."""
    file = msgspec.convert(tomllib.loads(text), _File)
    rule = file.hash or _Hash(0, 0, 100)
    _check_categories(file.categories, file.steps)
    # convert() again: it is the constructor that does not check the limits of each field.
    return msgspec.convert(
        {
            "similarity": file.similarity,
            "categories": file.categories,
            "use_digest": file.use_digest,
            "use_hash": file.use_hash and file.hash is not None,
            "hash_distance": rule.distance,
            "hash_colour": rule.colour,
            "hash_quality": rule.quality,
            "neighbours": file.neighbours,
            "advisory": file.advisory,
            "steps": [msgspec.structs.asdict(step) for step in file.steps],
            "leave_out": file.leave_out,
            "revisions": file.revisions,
        },
        Policy,
    )


def _check_categories(first: Collection[str], steps: Sequence[Step]) -> None:
    """ValueError where a step forgets a category that had a threshold of its own: it would lose it there unseen."""
    named = set(first)
    for step in steps:
        if forgotten := sorted(named - set(step.categories)):
            raise ValueError(f"the step from {step.rows} rows on has no threshold for {', '.join(forgotten)}")
        named |= set(step.categories)
