"""A shard's owner over in-memory Kafka and store: whatever breaks, wherever, the ledger says what the oracle says."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.decide.checkpoint import Checkpoint, Superseded
from streams.decide.things import Entry, name_of
from streams.errors import Fatal, Retryable
from streams.events import LogRecord, Policy, decode_verdict
from tests.decide.installation import (
    CONFIG,
    DIM,
    INDEXES,
    Broken,
    Installation,
    breaking,
    design,
    feed,
    folded,
    items,
    until_sealed,
)
from tests.logs import LOG_ID, Step, build, logs, random_log

# Whole logs


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("seed", range(3))
async def test_a_long_log_gives_the_verdicts_of_the_oracle(tmp_path: Path, seed: int, index: str) -> None:
    log = random_log(seed, 400)
    here = Installation(tmp_path, log)
    async with here.owner(index=index) as shard:
        await feed(shard, here.entries, (1, 7, 40, 3, 120))
        await until_sealed(shard)
    head, live, _, _ = here.checkpoint()
    assert here.differences() == []
    assert live == folded(log).live
    assert (head.next, head.ledger) == (len(log), len(here.ledger.values))
    assert here.calls["write"] > 4
    assert here.calls["deleted"] > 4


@given(log=logs(dim=DIM), data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_log_through_any_restarts_gives_the_verdicts_of_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord], data: st.DataObject
) -> None:
    here = Installation(tmp_path_factory.mktemp("any"), log, seal_rows=data.draw(st.sampled_from([1, 4, 16]), "seal"))
    position = 0
    while position < len(log):
        index = data.draw(st.sampled_from(INDEXES), "index")
        if data.draw(st.booleans(), "other machine"):
            here.lose_checkpoint()
        async with here.owner(position, index=index) as shard:
            end = data.draw(st.integers(position + 1, len(log)), "until")
            await feed(shard, here.entries[position:end], [data.draw(st.integers(1, 9), "batch")])
            position = end
    assert here.differences() == []
    assert here.checkpoint()[1] == folded(log).live


# Crashes

EFFECTS = ("before publish", "after publish", "before save", "after save", "before write", "after write", "before seal",
           "after seal", "before delete")  # fmt: skip


def _around(monkeypatch: pytest.MonkeyPatch, here: Installation, method: str, effect: str) -> None:
    """The checkpoint's writes call the hook too."""
    original = getattr(Checkpoint, method)

    def hooked(self: Checkpoint, *args: Any) -> None:
        here.hook(f"before {effect}")
        original(self, *args)
        here.hook(f"after {effect}")

    monkeypatch.setattr(Checkpoint, method, hooked)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_crash_at_any_effect_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str, index: str
) -> None:
    """Every third time that the effect comes, the owner dies there; the next one starts from what is left."""
    log = random_log(7, 260)
    here = Installation(tmp_path, log)
    _around(monkeypatch, here, "commit", "save")
    _around(monkeypatch, here, "seal", "seal")
    seen, crashes = 0, 0

    def hook(name: str) -> None:
        nonlocal seen, crashes
        if name == effect:
            seen += 1
            if seen % 3 == 0:
                crashes += 1
                raise Broken

    here.hook = hook
    committed = 0
    for _ in range(400):
        shard = here.shard(index=index)
        try:
            await shard.take_over(LOG_ID, committed)
            while committed < len(log):
                await shard.process(here.entries[committed : committed + 9])
                committed = min(committed + 9, len(log))
                await until_sealed(shard)
            break
        except Broken:
            pass
        finally:
            with suppress(Broken):
                await shard.close()
    assert crashes > 1
    here.hook = lambda _: None
    assert here.differences() == []
    async with here.owner(len(log)):
        pass
    assert here.checkpoint()[1] == folded(log).live


@pytest.mark.parametrize("effect", ["after publish", "before save"])
async def test_what_was_published_before_a_crash_is_not_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str
) -> None:
    log = [CONFIG, *(design(f"d{n}", n + 2, n) for n in range(30))]
    here = Installation(tmp_path, log)
    _around(monkeypatch, here, "commit", "save")

    async with here.owner() as shard:
        await shard.process(here.entries[:11])
        here.hook = breaking(effect)
        with pytest.raises(Broken):
            await shard.process(here.entries[11:])
    here.hook = lambda _: None
    assert len(here.ledger.values) == 30
    async with here.owner(11) as shard:
        await feed(shard, here.entries[11:], (5,))  # the offsets beyond 11 were never committed
    assert len(here.ledger.values) == 30
    assert here.differences() == []


async def test_the_ledger_is_read_again_until_all_that_it_says_is_applied(tmp_path: Path) -> None:
    """A checkpoint that forgets verdicts it has read but not applied would decide them again."""
    log = [CONFIG, *(design(f"d{n}", n + 2, n) for n in range(30))]
    here = Installation(tmp_path, log, seal_rows=4)
    async with here.owner() as shard:
        await feed(shard, here.entries, (5,))
    here.lose_checkpoint()
    for end in (1, 9, 20, 31):
        async with here.owner() as shard:
            await feed(shard, here.entries[:end], (4,))
            await until_sealed(shard)
    assert len(here.ledger.values) == 30
    assert here.differences() == []


@pytest.mark.parametrize("broken_at", [1, 600, 1100])
async def test_a_replay_that_broke_off_goes_on(tmp_path: Path, broken_at: int) -> None:
    log = [CONFIG, *(design(f"d{n}", n % 40 + 2, n) for n in range(1200))]
    here = Installation(tmp_path, log, seal_rows=64)
    async with here.owner() as shard:
        await feed(shard, here.entries, (300,))
    said = len(here.ledger.values)
    here.lose_checkpoint()
    here.log.slice_size = 512

    async def read(low: int, high: int) -> AsyncIterator[list[Entry]]:
        for start in range(low, high, 512):
            if start + 512 > broken_at >= start:
                raise Broken
            yield here.entries[start : min(high, start + 512)]

    original, here.log.read = here.log.read, read  # type: ignore[method-assign]
    shard = here.shard()
    with pytest.raises(Broken):
        await shard.take_over(LOG_ID, len(log))
    await shard.close()
    here.log.read = original  # type: ignore[method-assign]
    async with here.owner(len(log)):
        pass
    assert len(here.ledger.values) == said
    assert here.differences() == []


@pytest.mark.parametrize("index", INDEXES)
async def test_a_lost_checkpoint_is_made_again_without_a_search_or_a_verdict(tmp_path: Path, index: str) -> None:
    log = random_log(3, 400)
    here = Installation(tmp_path, log)
    async with here.owner(index=index) as shard:
        await feed(shard, here.entries[:350], (60,))
    before, said = folded(log[:350]).live, len(here.ledger.values)
    here.lose_checkpoint()
    here.calls.clear()
    here.log.breaks.update({120: 2, 350 - 1: 1})
    async with here.owner(350, index=index) as shard:
        assert here.calls["search"] == 0
        assert len(here.ledger.values) == said
        assert here.checkpoint()[1] == before
        await feed(shard, here.entries[350:], (11,))
    assert here.differences() == []


async def test_a_replay_seals_as_it_goes(tmp_path: Path) -> None:
    log = [CONFIG, *items(500, 3)]
    here = Installation(tmp_path, log, seal_rows=64)
    async with here.owner(len(log)):
        head, _, tail, _ = here.checkpoint()
        assert len(tail) < 64
        assert head.sealed > 450


# Cancellation


@pytest.mark.parametrize("seed", range(8))
async def test_cancelled_anywhere_the_same_owner_goes_on(tmp_path: Path, seed: int) -> None:
    log, rng = random_log(20 + seed, 220), random.Random(seed)
    here = Installation(tmp_path, log)

    def linger(_: str) -> None:  # so that a cancellation meets every effect
        if rng.random() < 0.3:
            time.sleep(0.002)

    here.hook = linger
    cancelled = 0
    async with here.owner(index=INDEXES[seed % 2]) as shard:
        position = 0
        while position < len(log):
            batch = here.entries[position : position + 15]
            task = asyncio.create_task(shard.process(batch))
            await asyncio.wait([task], timeout=rng.choice((None, rng.random() / 50, rng.random() / 200)))
            task.cancel()
            try:
                await task
                position = min(position + 15, len(log))
            except asyncio.CancelledError:
                cancelled += 1
            except Superseded:
                await shard.take_over(LOG_ID, position)
            if rng.random() < 0.1:
                await shard.idle()
            if rng.random() < 0.05:
                taking = asyncio.create_task(shard.take_over(LOG_ID, position))
                await asyncio.sleep(rng.random() / 300)
                taking.cancel()
                with suppress(asyncio.CancelledError):
                    await taking
                await shard.take_over(LOG_ID, position)
        await until_sealed(shard)
    assert cancelled > 3
    assert here.differences() == []
    assert here.checkpoint()[1] == folded(log).live


async def test_a_cancelled_commit_is_over_before_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [CONFIG, *items(20)]
    here = Installation(tmp_path, log)
    _around(monkeypatch, here, "commit", "save")
    here.hook = lambda name: time.sleep(0.1) if name == "before save" else None
    async with here.owner() as shard:
        await shard.process(here.entries[:1])
        task = asyncio.create_task(shard.process(here.entries[1:11]))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        assert shard.lock.locked()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert shard.next == 11
        await shard.process(here.entries[1:])
    assert here.checkpoint()[1] == folded(log).live


# With `index = memory`


async def test_after_a_restart_the_body_comes_from_the_checkpoint(tmp_path: Path) -> None:
    log = [CONFIG, *items(100), *(design(f"d{n}", n + 2, n, 1) for n in range(100))]
    here = Installation(tmp_path, log)
    async with here.owner(index="memory") as shard:
        await feed(shard, here.entries[:101], (30,))
        await until_sealed(shard)
    assert here.checkpoint()[0].sealed > 60
    async with here.owner(101, index="memory") as shard:
        assert shard._memory.index.tail_rows() == 100
        await feed(shard, here.entries[101:], (30,))
    assert here.calls["search"] == here.calls["scan"] == 0
    assert here.differences() == []


async def test_rows_of_what_is_gone_leave_the_memory(tmp_path: Path) -> None:
    log = [CONFIG, *items(1500)]
    log += [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=2000 + n) for n in range(1400)]
    log += [design(f"d{n}", n + 1400, n, 1) for n in range(90)]
    here = Installation(tmp_path, log, seal_rows=512)
    async with here.owner(index="memory") as shard:
        sizes = []
        for start in range(0, len(log), 100):
            await shard.process(here.entries[start : start + 100])
            sizes.append(shard._memory.index.tail_rows())
    assert max(sizes) == 1500
    assert sizes[-1] < 1300
    assert here.differences() == []


# Records with a meaning of their own


async def test_a_config_in_the_middle_of_a_batch_holds_from_there_on(tmp_path: Path) -> None:
    strict = LogRecord(kind="config", policy=Policy(similarity=1.0, use_hash=False, use_digest=False))
    log = [CONFIG, *items(1), design("d0", 2, 0, 1), strict, design("d1", 2, 1, 1), design("d2", 2, 2, 1)]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await shard.process(here.entries)
    said = [decode_verdict(value) for value in here.ledger.values]
    assert [v.verdict for v in said] == ["duplicate", "accept", "accept"] or here.differences() == []
    assert said[0].policy_version != said[1].policy_version
    assert here.differences() == []
    assert here.checkpoint()[0].policy == strict.policy


@pytest.mark.parametrize("index", INDEXES)
async def test_encoders_are_never_mixed(tmp_path: Path, index: str) -> None:
    steps = [
        *(Step("upsert", n, ((n + 2, 0),)) for n in range(40)),
        Step("encoder"),
        *(Step("publish", n, ((n + 2, 4),)) for n in range(40)),
        *(Step("keep", n) for n in range(40)),
        *(Step("publish", n + 50, ((n + 2, 4),)) for n in range(40)),
        Step("encoder"),
        *(Step("publish", n + 100, ((n + 2, 4),)) for n in range(40)),
    ]
    here = Installation(tmp_path, build(steps, DIM))
    async with here.owner(index=index) as shard:
        await feed(shard, here.entries[:120], (11,))
        await until_sealed(shard)
    async with here.owner(120, index=index) as shard:
        await feed(shard, here.entries[120:], (11,))
        await until_sealed(shard)
    assert set(here.rows._rows) == {"one", "two"}
    assert here.differences() == []


async def test_ready_is_remembered(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG, *items(2), LogRecord(kind="ready"), *items(2, first=2)])
    async with here.owner() as shard:
        await shard.process(here.entries[:3])
        assert not here.checkpoint()[0].ready
        await shard.process(here.entries[3:4])
        assert here.checkpoint()[0].ready
        await shard.process(here.entries[4:])
    assert here.checkpoint()[0].ready


# Questions


@pytest.mark.parametrize("index", INDEXES)
async def test_a_check_says_what_would_be_said_and_records_nothing(tmp_path: Path, index: str) -> None:
    log = [CONFIG, *items(50), design("d0", 7, 0, 1), design("d1", 300, 1)]
    here = Installation(tmp_path, log)
    async with here.owner(index=index) as shard:
        await feed(shard, here.entries[:51], (20,))
        await until_sealed(shard)
        before = here.checkpoint()
        for entry in here.entries[51:]:
            asked = msgspec.structs.replace(entry.record, id="", src=-1)
            answers = [await shard.check(asked) for _ in range(2)]
            assert answers[0] == answers[1]
            assert here.checkpoint() == before
            said_before = len(here.ledger.values)
            await shard.process([entry])
            said = decode_verdict(here.ledger.values[said_before])
            assert answers[0] == msgspec.structs.replace(said, design_id="", verdict_id="")
            before = here.checkpoint()
    assert here.differences() == []


async def test_a_verdict_is_that_of_the_current_revision(tmp_path: Path) -> None:
    log = [
        CONFIG, design("d", 2, 0), design("d", 3, 1), design("d", 3, 2),
        LogRecord(kind="withdraw", id="d", source="d/0", src=3),
    ]  # fmt: skip
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        assert await shard.verdict("d") == b""
        positions = []
        for entry in here.entries:
            await shard.process([entry])
            value = await shard.verdict("d")
            positions.append(name_of(value).position if value else None)
        assert positions == [None, 1, 2, 2, None]
        assert await shard.verdict("other") == b""


async def test_who_is_not_the_owner_answers_no_question_and_decides_nothing(tmp_path: Path) -> None:
    here = Installation(tmp_path, [CONFIG])
    shard = here.shard()
    for _ in range(2):
        assert (shard.is_open, shard.next) == (False, 0)
        with pytest.raises(Retryable):
            await shard.check(design("", 2, -1))
        with pytest.raises(Retryable):
            await shard.verdict("d")
        with pytest.raises(Superseded):
            await shard.process(here.entries)
        await shard.idle()
        await shard.close()


async def test_after_a_failed_write_only_the_checkpoint_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [CONFIG, *items(60), *(design(f"d{n}", n + 2, n) for n in range(60))]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await shard.process(here.entries[:40])
        shard._memory.checkpoint._db.execute("PRAGMA query_only = 1")
        with pytest.raises(Fatal, match="cannot be written"):
            await shard.process(here.entries[40:])
        with pytest.raises(Superseded):
            await shard.process(here.entries[40:])
        with pytest.raises(Retryable):
            await shard.verdict("d0")
        await shard.idle()
        await shard.take_over(LOG_ID, 40)
        await shard.process(here.entries[40:])
    assert here.differences() == []
