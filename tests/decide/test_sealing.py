"""Rows that move from an owner's memory to the store, and leave it."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from streams.decide.checkpoint import Superseded
from streams.decide.things import row_key
from streams.events import LogRecord
from tests.decide.installation import (
    CONFIG,
    INDEXES,
    Broken,
    Installation,
    breaking,
    design,
    feed,
    items,
    until_sealed,
)
from tests.logs import LOG_ID


@pytest.mark.parametrize("index", INDEXES)
async def test_sealing_moves_live_rows_only_and_dead_ones_are_collected(tmp_path: Path, index: str) -> None:
    deletes = [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=100 + n) for n in range(30)]
    log = [CONFIG, *items(40, 2), *deletes[:10], *items(40, 2, 40), *deletes[10:]]
    here = Installation(tmp_path, log, seal_rows=10**6)
    async with here.owner(index=index) as shard:
        await shard.process(here.entries[:51])
        await shard._sealer.now()
        assert len(here.stored()) == 60, "rows that died in the tail are never written"
        await shard.process(here.entries[51:])
        assert len(here.checkpoint()[3]) == 40
        await shard._sealer.now()
    head, live, tail, garbage = here.checkpoint()
    assert (head.sealed, tail, garbage) == (len(log), [], [])
    assert here.stored() == sorted(row_key(0, row, n) for row in live.values() for n in (0, 1))
    assert here.calls["deleted"] == 40


async def test_a_thing_is_never_cut_in_two_by_a_seal(tmp_path: Path) -> None:
    log = [CONFIG, *items(400, 7)]
    here = Installation(tmp_path, log, seal_rows=10**6)
    async with here.owner() as shard:
        await shard.process(here.entries)
        sealed = []
        while here.checkpoint()[2]:
            await shard._sealer.now()
            head, _, tail, _ = here.checkpoint()
            sealed.append(head.sealed)
            assert not tail or tail[0] == row_key(0, head.sealed)
            assert len(here.stored()) + len(tail) == 2800
    assert sealed == sorted(set(sealed))
    assert len(sealed) == 3


async def test_what_dies_while_it_is_sealed_is_collected(tmp_path: Path) -> None:
    log = [CONFIG, *items(30), *(LogRecord(kind="delete", id=f"i{n}", source="c/0", src=50 + n) for n in range(30))]
    here = Installation(tmp_path, log, seal_rows=20)
    hold = threading.Event()
    here.hook = lambda name: (hold.wait(5), None)[1] if name == "before write" else None
    async with here.owner() as shard:
        await shard.process(here.entries[:31])
        await asyncio.sleep(0.02)
        await shard.process(here.entries[31:])
        hold.set()
        await until_sealed(shard)
        assert len(here.stored()) == 30
        await shard._sealer.now()
    assert here.stored() == []


async def test_rows_of_a_seal_that_a_crash_broke_off_are_collected_too(tmp_path: Path) -> None:
    log = [CONFIG, *items(30), *(LogRecord(kind="delete", id=f"i{n}", source="c/0", src=50 + n) for n in range(30))]
    here = Installation(tmp_path, log, seal_rows=20)
    here.hook = breaking("after write")
    async with here.owner() as shard:
        await shard.process(here.entries[:31])
        with pytest.raises(Broken):
            await until_sealed(shard)
    assert len(here.stored()) == 30
    assert here.checkpoint()[0].sealed == 0
    here.hook = lambda _: None
    async with here.owner(31, seal_rows=10**6) as shard:
        await shard.process(here.entries[31:])
        await shard._sealer.now()
    assert here.stored() == []


async def test_an_idle_seal_is_checkpointed_and_not_repeated(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(300)], seal_rows=1024)
    async with here.owner() as shard:
        await shard.process(here.entries[:200])
        await shard.idle()
        assert here.calls["write"] == 0, "too few to be worth a seal"
        await shard.process(here.entries[200:])
        await shard.idle()
        await until_sealed(shard)
        assert here.checkpoint()[0].sealed == 301
    written = here.calls["write"]
    async with here.owner(301) as shard:
        await shard.idle()
        await until_sealed(shard)
    assert here.calls["write"] == written == 2


async def test_nothing_is_sealed_while_records_keep_coming(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(300)], seal_rows=1024)
    async with here.owner(seal_idle_s=60.0) as shard:
        await shard.process(here.entries)
        await shard.idle()
        assert shard._sealer._task is None


async def test_deletes_alone_are_collected_when_idle(tmp_path: Path) -> None:
    deletes = [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=1000 + n) for n in range(300)]
    here = Installation(tmp_path, [CONFIG, *items(300), *deletes], seal_rows=256)
    async with here.owner() as shard:
        await shard.process(here.entries[:301])
        await until_sealed(shard)
        await shard.process(here.entries[301:])
        await shard.idle()
        await until_sealed(shard)
    assert here.stored() == []


async def test_an_error_of_a_seal_comes_out_once(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(40)])
    here.hook = breaking("before write")
    async with here.owner() as shard:
        await shard.process(here.entries[:30])
        with pytest.raises(Broken):
            await until_sealed(shard)
        await shard.idle()


async def test_closing_in_the_middle_of_a_seal_leaves_no_thread_behind(tmp_path: Path) -> None:
    log = [CONFIG, *items(700)]
    here = Installation(tmp_path, log, seal_rows=16)
    here.hook = lambda name: time.sleep(0.03) if name == "before write" else None
    async with here.owner() as shard:
        await shard.process(here.entries)
        await asyncio.sleep(0.02)
        assert here.calls["write"] == 1
    written = here.calls["write"]
    await asyncio.sleep(0.1)
    assert here.calls["write"] == written <= 2
    assert here.checkpoint()[0].sealed == 0
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("seal-0", "shard-0"))]
    here.hook = lambda _: None
    async with here.owner(len(log)) as shard:
        await shard.idle()
        await until_sealed(shard)
    assert here.checkpoint()[0].sealed == len(log)


async def test_a_seal_that_another_owner_made_vain_is_reported(tmp_path: Path) -> None:
    log = [CONFIG, *items(40)]
    here = Installation(tmp_path, log)
    hold = threading.Event()
    here.hook = lambda name: (hold.wait(5), None)[1] if name == "before write" else None
    async with here.owner(seal_rows=20) as zombie:
        await zombie.process(here.entries[:31])
        async with here.owner(31, seal_rows=1000) as owner:
            await owner.process(here.entries[31:])
            hold.set()
            with pytest.raises(Superseded):
                await until_sealed(zombie)
        await zombie.take_over(LOG_ID, 41)
    head, live, tail, _ = here.checkpoint()
    assert head.next == 41
    assert sorted(tail) == sorted(row_key(0, row) for row in live.values() if row >= head.sealed)


async def test_a_seal_and_a_replay_at_once_lose_no_row(tmp_path: Path) -> None:
    """A rebalance away and back: a seal is under way when the log that another machine worked through is replayed."""
    log = [CONFIG, *items(400, 2), *(design(f"d{n}", n % 400 + 2, n) for n in range(100))]
    here = Installation(tmp_path, log, seal_rows=16)
    async with here.owner(folder=tmp_path / "a") as shard:
        here.hook = lambda name: time.sleep(0.02) if name == "before write" else None
        await shard.process(here.entries[:200])
        async with here.owner(0, folder=tmp_path / "b", seal_rows=10**6) as other:
            await other.process(here.entries[:401])
        await shard.take_over(LOG_ID, 401)
        await until_sealed(shard)
        await feed(shard, here.entries[401:], (25,))
    assert here.differences() == []
