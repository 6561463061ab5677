"""Many schedules, on several processors."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from tests.faults.simulation.mutants import MUTANTS, left_out
from tests.faults.simulation.schedules import Outcome, simulate, small

_SHARE: Final = 100


@dataclass(slots=True)
class Told:
    """What many schedules told. failed: those that are not as promised."""

    schedules: int = 0
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, other: "Told") -> None:
        """Put two together."""
        self.schedules += other.schedules
        self.steps += other.steps
        self.counts += other.counts
        self.failed += other.failed


def _share(seeds: range) -> Told:
    told = Told()
    with small():
        for seed in seeds:
            outcome = simulate(seed)
            told.add(Told(1, outcome.steps, outcome.counts, [outcome] if outcome.problems else []))
    return told


def simulate_many(seeds: range) -> Told:
    """All of these seeds; stops soon after the first that fails."""
    told = Told()
    shares = [range(first, min(first + _SHARE, seeds.stop)) for first in range(seeds.start, seeds.stop, _SHARE)]
    with _pool() as pool:
        answers = [pool.submit(_share, share) for share in shares]
        for answer in answers:
            told.add(answer.result())
            if told.failed:
                pool.shutdown(cancel_futures=True)
                break
    return told


def first_failures(names: Sequence[str], most: int, *, remembered: bool) -> dict[str, Outcome | None]:
    """For each mutant by its name, the first of `most` schedules that fails; None: it is not caught. remembered: begin
    with the schedule in which it was caught when last looked for, which saves nearly all of the time."""
    with _pool() as pool:
        answers = pool.map(_first_failure, names, [most] * len(names), [remembered] * len(names))
        return dict(zip(names, answers, strict=True))


def _first_failure(name: str, most: int, remembered: bool) -> Outcome | None:
    mutant = MUTANTS[name]
    seeds = (*((mutant.seed,) if remembered else ()), *range(most))
    with small(), left_out(mutant):
        return next((outcome for outcome in map(simulate, seeds) if outcome.problems), None)


def _pool() -> ProcessPoolExecutor:
    # Not forked: the tests' own process has threads and connections.
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
