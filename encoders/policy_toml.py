"""A calibrated policy as the text of a file that the service reads: thresholds, steps, and the record of how they were
chosen. Only writing; what a policy may hold is said by the service (`streams/decide/policy.py`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from encoders.calibration import Bucket, Calibration
from encoders.described import HashRule

NO_GUARANTEE: Final = "extrapolated, no guarantee"
"""Stands in the file beside every threshold that is not a measured one."""


class Rest(NamedTuple):
    """What of a policy is not calibrated. hash_rule None: it is off."""

    hash_rule: HashRule | None
    use_digest: bool = True
    neighbours: int = 5
    advisory: bool = False
    leave_out: int = 0
    revisions: int = 100


def render(calibration: Calibration, rest: Rest, record: Mapping[str, Any]) -> str:
    """The whole file. `record` may hold text, numbers and booleans, and lists and tables of them; None is left out."""
    parts = [_plain(calibration, rest), _categories(calibration), _steps(calibration), _hash_rule(rest)]
    return "\n\n".join("\n".join(lines) for part in (*parts, _record(record)) if (lines := list(part))) + "\n"


def steps(calibration: Calibration) -> list[dict[str, Any]]:
    """The buckets after the first as the steps of a policy, plain enough for JSON."""
    return [
        {
            "rows": bucket.rows,
            "similarity": bucket.pooled.similarity,
            "categories": _own(bucket),
            "extrapolated": bucket.extrapolated,
        }
        for bucket in calibration.buckets[1:]
    ]


def _own(bucket: Bucket) -> dict[str, float]:
    return {name: choice.similarity for name, choice in bucket.categories.items()}


def _plain(calibration: Calibration, rest: Rest) -> Iterator[str]:
    first = calibration.buckets[0]
    yield f"# Similarity (0 to 1) from which a design is a duplicate, while fewer than {first.end + 1:,} rows live."
    yield f"similarity = {first.pooled.similarity}"
    for name, default in Rest._field_defaults.items():
        if (value := getattr(rest, name)) != default:
            yield f"{name} = {_value(value)}"


def _categories(calibration: Calibration) -> Iterator[str]:
    if own := _own(calibration.buckets[0]):
        yield "# Categories with a threshold of their own; every other one has that above."
        yield "[categories]"
        yield from (f"{_text(name)} = {similarity}" for name, similarity in own.items())


def _steps(calibration: Calibration) -> Iterator[str]:
    if len(calibration.buckets) > 1:
        yield "# The same from so many live rows on: the larger the catalogue, the more there is to be mistaken for."
    for bucket in calibration.buckets[1:]:
        yield "[[steps]]"
        yield f"rows = {bucket.rows}"
        yield f"similarity = {bucket.pooled.similarity}"
        if bucket.categories:
            yield f"categories = {_value(_own(bucket))}"
        if bucket.extrapolated:
            yield f"extrapolated = true  # {NO_GUARANTEE}"


def _hash_rule(rest: Rest) -> Iterator[str]:
    if rest.hash_rule is not None:
        yield "# The perceptual-hash rule: at most so many of 256 bits differ, no cell of a 4 x 4 colour grid differs"
        yield "# by more than `colour` of 255 levels, and both pictures have at least this PDQ quality."
        yield "[hash]"
        yield from (f"{name} = {value}" for name, value in rest.hash_rule._asdict().items())


def _record(record: Mapping[str, Any]) -> Iterator[str]:
    yield "# How these were chosen."
    yield "[record]"
    for name, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{_key(name)} = ["
            yield from (f"    {_value(one)}," for one in value)
            yield "]"
        elif value is not None:
            yield f"{_key(name)} = {_value(value)}"


def _value(value: Any) -> str:
    match value:
        case dict():
            inside = ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items() if one is not None)
            return f"{{ {inside} }}" if inside else "{}"
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case bool() | int() | float():
            return json.dumps(value, allow_nan=False)
    return _text(str(value))


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").isalnum() else _text(name)


def _text(text: str) -> str:
    """As JSON has it, which is TOML too, except for DEL; what is no Unicode (a file's name need not be) as a mark."""
    clean = text.encode("utf-8", "replace").decode()
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
