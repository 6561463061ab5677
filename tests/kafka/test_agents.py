"""What the agents refuse."""

from types import SimpleNamespace
from typing import Any

import pytest

from streams.errors import Fatal
from streams.kafka.agents import DecideWork


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
