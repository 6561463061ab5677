"""A new owner whose checkpoint is older than what a former one collected in the store: nothing is lost there."""

from collections import Counter
from pathlib import Path

import pytest

from streams.decide.checkpoint import Superseded
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore
from streams.decide.things import row_key
from streams.errors import Fatal
from streams.events import LogRecord, Policy, encode_record
from tests import oracle
from tests.doubles import MemoryLedger, MemoryLog, SpyStore
from tests.logs import LOG_ID, picture

DIM, ITEMS, GONE = 8, 20, 8


def _item(n: int) -> LogRecord:
    pictures = (picture(n + 2, 0, "one", DIM),)
    return LogRecord(kind="upsert", id=f"i{n}", source="c/0", src=n, encoder="one", pictures=pictures)


LOG = [
    LogRecord(kind="config", policy=Policy(similarity=0.9), log_id=LOG_ID, encoder="one"),
    *(_item(n) for n in range(ITEMS)),
    *(LogRecord(kind="delete", id=f"i{n}", source="c/0", src=ITEMS + n) for n in range(GONE)),
    *(
        LogRecord(
            kind="design", id=f"d{n}", source="d/0", src=n, encoder="one", pictures=(picture(n + 2, 0, "one", DIM),)
        )
        for n in range(ITEMS)
    ),
]
BEFORE, AFTER = 1 + ITEMS, 1 + ITEMS + GONE
"""Before and after the deletes."""


class Installation:
    def __init__(self) -> None:
        self.log, self.ledger, self.rows = MemoryLog(LOG), MemoryLedger(), MemoryStore()

    def owner(self, folder: Path) -> Shard:
        options = DecideOptions(folder, "milvus", seal_rows=1, seal_idle_s=0.0)
        return Shard(0, options, lambda _: SpyStore(self.rows, Counter()), self.ledger, self.log)

    async def decide(self, folder: Path, low: int, high: int) -> Shard:
        shard = self.owner(folder)
        await shard.take_over(LOG_ID, low)
        for position in range(shard.next, high):
            await shard.process(self.log.entries[position : position + 1])
            await _sealed(shard)
        return shard

    def differences(self) -> list[str]:
        folded = oracle.fold((position, encode_record(record)) for position, record in enumerate(LOG))
        return oracle.compare(folded, self.ledger.values)


async def _sealed(shard: Shard) -> None:
    await shard.idle()
    while (task := shard._sealer._task) is not None:
        await task
        await shard.idle()


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("said", [0, 2], ids=["nothing said", "something said"])
async def test_rows_that_died_later_are_not_missed(tmp_path: Path, batch: int, said: int) -> None:
    """The former owner, on another machine, applied deletes and collected; its offsets were never committed."""
    here, mine = Installation(), tmp_path / "mine"
    await (await here.decide(mine, 0, BEFORE)).close()
    await (await here.decide(tmp_path / "other", BEFORE, AFTER + said)).close()
    assert len(here.rows._rows["one"]) >= ITEMS - GONE
    assert not {row_key(0, 1 + n) for n in range(GONE)} & set(here.rows._rows["one"])
    owner = here.owner(mine)
    await owner.take_over(LOG_ID, BEFORE)
    position = owner.next
    while position < len(LOG):
        await owner.process(here.log.entries[position : position + batch])
        position = owner.next
    await owner.close()
    assert here.differences() == []


async def test_an_owner_that_another_one_overtook_finds_out(tmp_path: Path) -> None:
    """On one machine, with one checkpoint: it has to take over again, and nothing is wrong with the store."""
    here = Installation()
    first = await here.decide(tmp_path, 0, BEFORE)
    await (await here.decide(tmp_path, BEFORE, AFTER)).close()
    first._memory.index.is_sure = False  # as after an error of the store
    with pytest.raises(Superseded):
        await first.process(here.log.entries[BEFORE:])
    await first.take_over(LOG_ID, BEFORE)
    await first.process(here.log.entries[first.next :])
    await first.close()
    assert here.differences() == []


async def test_rows_that_are_lost_are_missed(tmp_path: Path) -> None:
    here = Installation()
    await (await here.decide(tmp_path / "mine", 0, BEFORE)).close()
    await (await here.decide(tmp_path / "other", BEFORE, AFTER)).close()
    here.rows.delete("one", [max(here.rows._rows["one"])])
    with pytest.raises(Fatal, match="rebuild"):
        await here.owner(tmp_path / "mine").take_over(LOG_ID, BEFORE)
