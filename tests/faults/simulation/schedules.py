"""Schedules: one by its seed, or many on several processors."""

import asyncio
import gc
import logging
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import structlog

from streams.decide import hashes, index, memory, rows, sealing, stage, state
from tests.faults.simulation.liars import lying
from tests.faults.simulation.loop import SimulatedLoop
from tests.faults.simulation.verify import verify
from tests.faults.simulation.world import World

# So small that twenty records fill tails, seals, searches and replays as twenty thousand do.
_SMALL: Final[tuple[tuple[Any, str, int], ...]] = (
    (rows, "_BLOCK", 8),
    (hashes, "_ROOM", 4),
    (memory, "FIRST_LIMIT", 3),
    (sealing, "LOAD_ROWS", 6),
    (sealing, "SLICE_ROWS", 2),
    (stage, "SLICE_ROWS", 2),
    (stage, "_REPLAY_BATCH", 4),
    (state, "_DEAD_ROWS", 4),
    (index, "_DEAD_ROWS", 4),
    (index, "MOST_HITS", 12),
)


@dataclass(slots=True)
class Outcome:
    """One schedule. digest: of its steps. trace: what went wrong in it, by step."""

    seed: int
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    digest: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return "\n".join(
            [f"seed {self.seed}, {self.steps} steps, digest {self.digest}", *self.problems, "faults:", *self.trace]
        )


@contextmanager
def small() -> Iterator[None]:
    """Small limits, and no log lines."""
    with ExitStack() as stack:
        for module, name, value in _SMALL:
            stack.enter_context(mock.patch.object(module, name, value))
        before = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        stack.callback(lambda: structlog.configure(**before))
        # A schedule makes many objects; what was there before need not be looked through each time.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield


def fast_folder() -> Path:
    """A folder in memory, where there is one."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="simulation-", dir=shared if shared.is_dir() else None))


def simulate(seed: int) -> Outcome:
    """One schedule. Call it within `small`."""
    folder = fast_folder()
    state_of_random = random.getstate()
    random.seed(seed)  # the retries' jitter is drawn from it
    outcome = Outcome(seed)
    world: World | None = None
    try:
        loop = SimulatedLoop(random.Random(seed))
        try:
            outcome.problems += loop.run_until_complete(_live(world := World(seed, folder)))
        finally:
            _bury(loop, world)
    except Exception as error:  # noqa: BLE001 - a finding like any other
        outcome.problems.append("".join(traceback.format_exception(error)[-3:]))
    finally:
        random.setstate(state_of_random)
        shutil.rmtree(folder, ignore_errors=True)
    if world is not None:
        outcome.trace, outcome.steps, outcome.digest = world.faults.trace, world.faults.steps, world.faults.digest
        outcome.counts = world.faults.counts + world.counts
    return outcome


async def _live(world: World) -> list[str]:
    with lying(world.rng) if world.lies else nullcontext():
        await world.live()
    return world.problems + await verify(world)


def _bury(loop: SimulatedLoop, world: World | None) -> None:
    """End what still runs, so that nothing is left for the next schedule."""
    try:
        if world is not None:
            loop.run_until_complete(world.end())
        for _ in range(50):
            tasks = loop.unfinished()
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
