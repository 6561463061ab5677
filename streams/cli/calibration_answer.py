"""What `calibrate` says in the end: a table, the policy file, and the record in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from encoders.binomial import CONFIDENCE, trials_needed
from encoders.calibration import Bucket, Calibration
from encoders.described import HashRule
from encoders.policy_toml import NO_GUARANTEE, Rest, render
from streams.cli.calibrating import Found, Measured
from streams.cli.console import line, out, plain
from streams.cli.writing import whole_file
from streams.decide.policy import parse_policy
from streams.events import Policy

_NAMED: Final = 10


def hash_rule(policy: Policy) -> HashRule | None:
    """The perceptual-hash rule of a policy, if it is on."""
    rule = HashRule(policy.hash_distance, policy.hash_colour, policy.hash_quality)
    return rule if policy.use_hash else None


def answer(made: Calibration, measured: Measured, base: Policy, origin: Mapping[str, str], target: Path | None) -> None:
    """Print the table and write the file. origin: the command and the encoder's version. Fatal when it cannot be."""
    rest = Rest(hash_rule(base), base.use_digest, base.neighbours, base.advisory, base.leave_out, base.revisions)
    text = render(made, rest, record(made, measured, origin))
    policy = parse_policy(text)
    out().print(_table(made, measured, policy))
    for remark in _remarks(made, measured):
        line(plain(remark))
    if target:
        with whole_file(target) as file:
            file.write(text.encode())
        line(f"wrote {target}: policy {policy.version}; a worker takes it with DESIGN_DEDUP_POLICY_FILE={target}")


def record(made: Calibration, measured: Measured, origin: Mapping[str, str]) -> dict[str, Any]:
    """How the thresholds were chosen, for the file."""
    negatives = measured.negatives
    there = made.at(negatives.sizes[-1])
    return {
        **origin,
        "rate": made.rate,
        "confidence": CONFIDENCE,
        "clusters": len(negatives.category),
        "clusters_needed": trials_needed(made.rate),
        "rows": negatives.sizes[-1],
        **measured.facts,
        "removed": list(measured.removed),
        "pooled_categories": dict(made.too_few),
        "buckets": [row for bucket in made.buckets for row in _bucket(bucket)],
        "duplicates_found": [
            {
                "kind": kind,
                "similarity": there.pooled.similarity,
                "found": _reached(found, there),
                "of": len(found.scores),
            }
            for kind, found in measured.duplicates.items()
        ],
    }


def _bucket(bucket: Bucket) -> list[dict[str, Any]]:
    """A row for the pooled threshold, and one for each category of its own."""
    return [
        {"rows": bucket.rows, "end": bucket.end, "category": name, **choice._asdict()}
        for name, choice in ((None, bucket.pooled), *bucket.categories.items())
    ]


def _reached(found: Found, bucket: Bucket) -> int:
    """How many duplicates reach the threshold of their category."""
    least = [bucket.threshold(category) for category in found.category.tolist()]
    return int((found.scores >= least).sum())


def _table(made: Calibration, measured: Measured, policy: Policy) -> Table:
    categories = sorted(policy.categories)
    kinds = list(measured.duplicates)
    table = Table("live rows", "similarity", *(plain(name) for name in categories), "false duplicates", *kinds, "")
    for bucket in made.buckets:
        bound = bucket.pooled.bound
        table.add_row(
            f"{bucket.rows:,} to {bucket.end:,}",
            *(f"{policy.threshold(name, bucket.rows):.4f}" for name in ("", *categories)),
            "" if bound is None else f"at most {bound:.3%}",
            *(f"{_reached(found, bucket) / len(found.scores):.1%}" for found in measured.duplicates.values()),
            NO_GUARANTEE if bucket.extrapolated else "",
        )
    return table


def _remarks(made: Calibration, measured: Measured) -> list[str]:
    negatives, needed = measured.negatives, trials_needed(made.rate)
    remarks = [
        f"{len(negatives.category):,} clusters, one negative each, in {negatives.sizes[-1]:,} rows; wished: at most"
        f" {made.rate:.3%} false duplicates, at {CONFIDENCE:.0%}"
    ]
    if made.too_few:
        largest = sorted(made.too_few.items(), key=lambda item: (-item[1], item[0]))
        names = ", ".join(f"{name} ({n})" for name, n in largest[:_NAMED])
        more = f" and {len(largest) - _NAMED} more" if len(largest) > _NAMED else ""
        remarks.append(f"too few clusters ({needed} are needed), so they have the pooled threshold: {names}{more}")
    if measured.removed:
        remarks.append(f"{len(measured.removed)} pairs were taken out as true duplicates, by eye")
    return remarks
