"""What a shard's owner refuses to work with, and what it only waits for."""

from pathlib import Path

import msgspec
import pytest

from streams.decide.checkpoint import Checkpoint
from streams.errors import Fatal, Retryable
from streams.events import LogRecord
from tests.decide.installation import CONFIG, INDEXES, Installation, design, feed, items, until_sealed
from tests.logs import LOG_ID


async def test_a_lost_store_is_refused(tmp_path: Path) -> None:
    log = [CONFIG, *items(60)]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await feed(shard, here.entries, (20,))
        await until_sealed(shard)
    here.rows.drop()
    for index in INDEXES:
        shard = here.shard(index=index)
        with pytest.raises(Fatal, match="rebuild"):
            await shard.take_over(LOG_ID, len(log))
        assert not shard.is_open
        await shard.close()


async def test_a_store_that_lost_its_newest_rows_is_refused_though_it_holds_as_many_dead_ones(tmp_path: Path) -> None:
    """After a power loss; what waits to be collected must not be counted in the place of what is lost."""
    gone = [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=100 + n) for n in range(20)]
    here = Installation(tmp_path, [CONFIG, *items(40), *gone], seal_rows=1024)
    async with here.owner() as shard:
        await shard.process(here.entries[:41])
        shard._sealer.begin(shard.lock)
        await until_sealed(shard)
        await shard.process(here.entries[41:])
    assert len(here.stored()) == 40
    here.rows.delete("one", here.stored()[20:])
    shard = here.shard()
    with pytest.raises(Fatal, match="holds 0 rows of shard 0 where 20 are live"):
        await shard.take_over(LOG_ID, len(here.entries))
    await shard.close()


async def test_a_store_that_is_lost_while_it_is_used_is_refused(tmp_path: Path) -> None:
    log = [CONFIG, *items(60), *(design(f"d{n}", n + 2, n) for n in range(20))]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await feed(shard, here.entries[:61], (20,))
        await until_sealed(shard)
        here.rows.drop()
        failures = iter([Retryable("collection not found")])

        def hook(name: str) -> None:
            if name == "before search" and (error := next(failures, None)):
                raise error

        here.hook = hook
        with pytest.raises(Fatal, match="rebuild"):
            await shard.process(here.entries[61:])
    assert here.ledger.values == []


async def test_a_store_that_was_only_away_is_asked_again(tmp_path: Path) -> None:
    log = [CONFIG, *items(60), *(design(f"d{n}", n + 2, n) for n in range(20))]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await feed(shard, here.entries[:61], (20,))
        await until_sealed(shard)
        failures = iter([Retryable("down")] * 3)

        def hook(name: str) -> None:
            if name in ("before search", "before count") and (error := next(failures, None)):
                raise error

        here.hook = hook
        await shard.process(here.entries[61:])
    assert here.differences() == []


async def test_with_the_index_in_memory_verdicts_go_on_while_the_store_is_down(tmp_path: Path) -> None:
    log = [CONFIG, *items(60), *(design(f"d{n}", n + 2, n) for n in range(40))]
    here = Installation(tmp_path, log)
    async with here.owner(index="memory") as shard:
        await feed(shard, here.entries[:41], (20,))

        def hook(name: str) -> None:
            if name.startswith("before ") and name.split()[1] in ("write", "search", "count", "delete"):
                raise Retryable("down")

        await until_sealed(shard)
        here.hook = hook
        await feed(shard, here.entries[41:], (10,))
        here.hook = lambda _: None
        await until_sealed(shard)
    assert here.differences() == []


async def test_with_the_index_in_memory_a_restart_reads_nothing_from_the_store(tmp_path: Path) -> None:
    gone = [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=900 + n) for n in (3, 25)]
    designs = [design(f"d{n}", n + 2, n) for n in range(40)]
    here = Installation(tmp_path, [CONFIG, *items(60), *gone, *items(30, first=100), *designs])
    owners = ("memory", 30, 0), ("memory", 63, 0), ("milvus", 83, 0), ("memory", 93, 1), ("memory", 133, 0)
    first = 0
    for index, last, scans in owners:
        here.calls.clear()
        async with here.owner(first, index=index) as shard:
            await feed(shard, here.entries[first:last], (9,))
            await until_sealed(shard)
            assert here.calls["scan"] == scans, (index, first)
            held = Checkpoint(here.path)
            waiting = {key for key, _ in held.garbage(10**6)}
            assert {row.key for row in held.body()} - waiting == (
                set(here.stored()) - waiting if index == "memory" else set()
            )
            held.close()
        first = last
    assert here.differences() == []


async def test_a_checkpoint_ahead_of_the_log_is_refused(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(10)])
    async with here.owner() as shard:
        await shard.process(here.entries)
    here.log.entries = here.entries[:9]
    shard = here.shard()
    for _ in range(2):
        with pytest.raises(Fatal, match="rebuild"):
            await shard.take_over(LOG_ID, 9)
    await shard.close()


async def test_a_checkpoint_of_another_log_is_refused(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG])
    async with here.owner() as shard:
        await shard.process(here.entries)
    shard = here.shard()
    with pytest.raises(Fatal, match="belongs to log a-log, the topic holds other; run `design-dedup rebuild`"):
        await shard.take_over("other", 1)
    await shard.close()


async def test_a_log_of_another_name_is_refused(tmp_path: Path) -> None:
    here = Installation(tmp_path, [msgspec.structs.replace(CONFIG, log_id="other")])
    async with here.owner() as shard:
        with pytest.raises(Fatal, match="names log other"):
            await shard.process(here.entries)


async def test_a_log_that_jumps_is_refused(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(10)])
    async with here.owner() as shard:
        with pytest.raises(Fatal, match="jumps from 0 to 1"):
            await shard.process(here.entries[1:])
        await shard.process(here.entries[:3])
        with pytest.raises(Fatal, match="jumps from 3"):
            await shard.process([*here.entries[3:5], *here.entries[6:8]])
        await shard.process(here.entries[1:])
        assert shard.next == 11


async def test_a_log_without_a_policy_is_refused(tmp_path: Path) -> None:
    here = Installation(tmp_path, items(3))
    async with here.owner() as shard:
        with pytest.raises(Fatal, match="config"):
            await shard.process(here.entries)


async def test_a_missing_verdict_is_refused(tmp_path: Path) -> None:
    """The log says it was decided, the ledger does not."""
    here = Installation(tmp_path, [CONFIG, design("d", 2, 0)])
    shard = here.shard()
    with pytest.raises(Fatal, match="lacks the verdict of position 1"):
        await shard.take_over(LOG_ID, 2)
    await shard.close()


@pytest.mark.parametrize("damage", ["not a database", "the head", "the things"])
async def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    here = Installation(tmp_path, [CONFIG, *items(5)])
    async with here.owner() as shard:
        await shard.process(here.entries)
    if damage == "not a database":
        here.path.write_bytes(b"x" * 5000)
    else:
        checkpoint = Checkpoint(here.path)
        checkpoint._db.execute(
            {"the head": "UPDATE head SET value = x'c1'", "the things": "UPDATE thing SET fields = x'c1'"}[damage]
        )
        checkpoint.close()
    shard = here.shard()
    with pytest.raises(Fatal, match="rebuild"):
        await shard.take_over(LOG_ID, 6)
    await shard.close()
