"""Promise 1: whatever happens between two effects, the verdicts are the oracle's. To see one schedule again:

python -m tests.faults.simulation SEED
"""

import os
import subprocess
import sys

import pytest

from tests.faults.conftest import Figure
from tests.faults.simulation.many import first_failures, simulate_many
from tests.faults.simulation.mutants import MUTANTS
from tests.faults.simulation.schedules import simulate, small

SCHEDULES, LONG_SCHEDULES = 2_000, 100_000
MOST_SEEDS = 600
"""In so many schedules every mutant is caught; most in the first few."""


def chosen(long: bool) -> range:
    """SIMULATE=FIRST:LAST is for a part of the long version."""
    first, _, last = os.environ.get("SIMULATE", "").partition(":")
    return range(int(first), int(last)) if last else range(LONG_SCHEDULES if long else SCHEDULES)


@pytest.mark.timeout(20_000)
def test_no_schedule_breaks_a_promise(long: bool, figure: Figure) -> None:
    told = simulate_many(chosen(long))
    assert not told.failed, str(told.failed[0])
    for kind in ("crash", "freeze", "rebalance", "retry", "delay", "stop", "late append", "part of an append"):
        assert told.counts[kind] > told.schedules / 100, told.counts
    assert told.counts["verdicts contradicted by lies"] > 0
    counts = ", ".join(
        f"{told.counts[kind]:,} {words}"
        for kind, words in (
            ("crash", "crashes"),
            ("freeze", "frozen and woken"),
            ("rebalance", "rebalances"),
            ("retry", "retryable errors"),
            ("late append", "late appends"),
            ("part of an append", "appends in part"),
            ("stop", "stops"),
            ("delay", "delays"),
        )
    )
    figure(1, f"{told.schedules:,} schedules of {told.steps:,} steps, 0 differ from the oracle; {counts}")


def test_a_rule_that_is_left_out_is_caught(long: bool, figure: Figure) -> None:
    found = first_failures(list(MUTANTS), MOST_SEEDS, remembered=not long)
    assert [name for name, outcome in found.items() if outcome is None] == []
    rules = sorted({mutant.rule for mutant in MUTANTS.values()})
    assert rules == [
        *range(1, 12),
        13,
    ]  # rule 12, the wait for the catalogue, is left out in tests/e2e/test_verdicts.py
    caught = {name: outcome.seed for name, outcome in found.items() if outcome is not None}
    print("to be remembered:", {name: seed for name, seed in caught.items() if seed != MUTANTS[name].seed})
    figure(1, f"{len(MUTANTS)} of {len(MUTANTS)} rules left out are caught, each by schedule {max(caught.values())}")


def test_a_seed_replays_to_the_same_step() -> None:
    """In this process, in another order, and in another process with other hashes."""
    seeds = range(6)
    with small():
        digests = [simulate(seed).digest for seed in seeds]
        assert [simulate(seed).digest for seed in reversed(seeds)] == digests[::-1]
    assert len(set(digests)) == len(digests)
    told = subprocess.run(
        [sys.executable, "-m", "tests.faults.simulation", *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.rsplit(" ", 1)[1] for line in told.stdout.splitlines() if line.startswith("seed ")] == digests
