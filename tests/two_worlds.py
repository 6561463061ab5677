"""One log under two sets of rules, as the oracle folds it: where they fall out differently. A design has a verdict in
each world behind every position, its own or one that revised it in that world only.
"""

from typing import Any, NamedTuple

from tests.oracle import Folded

Verdict = dict[str, Any]
Place = tuple[str, int]
"""(design, position)."""


def in_force(world: Folded, design: str, position: int) -> Verdict:
    """The verdict of a design behind a position."""
    mine = (one for one in world.all().values() if one["design_id"] == design and one["position"] <= position)
    return max(mine, key=lambda one: one["position"])


def differing(was: Folded, now: Folded) -> dict[Place, tuple[Verdict, Verdict]]:
    """Both verdicts, wherever one of the worlds says something of a design and its word is another one."""
    touched = {(one["design_id"], one["position"]) for world in (was, now) for one in world.all().values()}
    worlds = {place: (in_force(was, *place), in_force(now, *place)) for place in touched}
    return {place: pair for place, pair in worlds.items() if pair[0]["verdict"] != pair[1]["verdict"]}


class Counts(NamedTuple):
    """Of the verdicts that both worlds say, by name: how many, with the same word, and duplicates in each."""

    decided: int
    same: int
    duplicates_was: int
    duplicates_now: int


def counts(was: Folded, now: Folded) -> Counts:
    """What the summary of a replay must say."""
    both = [(was.all()[name]["verdict"], now.all()[name]["verdict"]) for name in was.all().keys() & now.all().keys()]
    words = list(zip(*both, strict=True)) or [(), ()]
    return Counts(len(both), sum(a == b for a, b in both), *(side.count("duplicate") for side in words))
