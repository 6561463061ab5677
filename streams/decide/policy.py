"""The policy file: thresholds with the record of how they were chosen (TOML)."""

import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.errors import Fatal
from streams.events import Policy

SHIPPED: Final = Path(__file__).with_name("policy.toml")


class _Hash(msgspec.Struct, forbid_unknown_fields=True):
    distance: int
    colour: int
    quality: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    similarity: float
    hash: _Hash | None = None
    categories: dict[str, float] = {}
    use_digest: bool = True
    use_hash: bool = True
    neighbours: int = 5
    advisory: bool = False
    record: dict[str, Any] = {}


def load_policy(path: Path | None) -> Policy:
    """The policy in a TOML file; none: the shipped one. Fatal when it is not one."""
    path = path or SHIPPED
    try:
        file = msgspec.convert(tomllib.loads(path.read_text()), _File)
        rule = file.hash or _Hash(0, 0, 100)
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
            },
            Policy,
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Fatal(f"policy file {path}: {error}") from error
