"""What the agents refuse, and whose position they begin from."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams.decide.stage import Shard
from streams.decide.things import Entry
from streams.errors import Fatal
from streams.kafka.agents import DecideWork
from streams.kafka.delivery import Stale
from tests.decide.installation import CONFIG, Installation, items
from tests.logs import LOG_ID


async def test_a_source_topic_that_was_made_anew_is_refused() -> None:
    """Its events would look as if they had been applied long ago (rule 5)."""
    ends = {("designs.generated", 0): 10, ("designs.generated", 1): 3}

    async def end(topic: str, partition: int) -> int:
        return ends[topic, partition]

    unused: Any = None
    work = DecideWork(unused, "dedup.log", unused, {}, frozenset({"designs.generated"}), end)
    shard: Any = SimpleNamespace(sources={"designs.generated/0": 9, "elsewhere/0": 9})
    await work._check_sources(shard)
    shard.sources["designs.generated/1"] = 3
    with pytest.raises(Fatal, match="made anew"):
        await work._check_sources(shard)


class Group:
    """What DecideWork asks of its app."""

    def __init__(self) -> None:
        self.consumer_generation_id = 0
        self.gate = asyncio.Event()
        self.first = 0

    def assigned(self) -> dict[tuple[str, int], int | None]:
        return {("dedup.log", 0): self.first} if self.first else {}

    def is_current(self, event: Any) -> bool:
        return bool(event.message.generation_id == self.consumer_generation_id)

    def turns(self, first: int) -> None:
        """Another generation, in which the shard is ours from this position on, or not."""
        self.consumer_generation_id, self.first = self.consumer_generation_id + 1, first


class SlowLog:
    """A log that answers when it may."""

    def __init__(self, log: Any) -> None:
        self.may, self._log = asyncio.Event(), log

    async def end(self) -> int:
        await self.may.wait()
        return int(await self._log.end())

    def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        entries: AsyncIterator[list[Entry]] = self._log.read(low, high)
        return entries


def event(generation: int, offset: int) -> Any:
    return SimpleNamespace(
        message=SimpleNamespace(generation_id=generation, partition=0, offset=offset, topic="dedup.log")
    )


async def test_a_shard_is_not_taken_over_from_the_position_of_an_earlier_generation(tmp_path: Path) -> None:
    """Ours, another one's on another machine, ours again, while the first take-over still waits."""
    here, group = Installation(tmp_path, [CONFIG, *items(40)]), Group()
    log = SlowLog(here.log)

    def make(_: int) -> Shard:
        shard = here.shard(tmp_path / "x")
        shard._log = log
        return shard

    async def end(topic: str, partition: int) -> int:
        return 1 << 60

    app: Any = group
    work = DecideWork(app, "dedup.log", make, {0: LOG_ID}, frozenset(), end)
    group.turns(1)
    tending = asyncio.create_task(work.tend())
    await asyncio.sleep(0.05)
    deciding = asyncio.create_task(work.finish([event(1, n) for n in range(1, 6)], here.entries[1:6]))
    await asyncio.sleep(0.05)
    group.turns(0)
    async with here.owner(1, folder=tmp_path / "y") as other:
        await other.process(here.entries[1:30])
    group.turns(30)
    log.may.set()
    _, decided = await asyncio.gather(tending, deciding, return_exceptions=True)
    assert isinstance(decided, Stale)
    await work.finish([event(3, n) for n in range(30, 41)], here.entries[30:])
    assert here.differences() == []
    await work.close()
