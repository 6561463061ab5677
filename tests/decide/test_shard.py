"""A shard's owner over in-memory Kafka and store: whatever breaks, wherever, the ledger says what the oracle says."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.decide.checkpoint import Checkpoint, Head, Superseded
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore
from streams.decide.things import NOWHERE, Entry, Key, name_of, row_key
from streams.errors import Fatal, Retryable
from streams.events import LogRecord, Policy, decode_verdict, encode_record
from tests import oracle
from tests.doubles import MemoryLedger, MemoryLog, SpyStore
from tests.logs import LOG_ID, Step, build, logs, picture, random_log

INDEXES = ("milvus", "memory")
DIM = 8


class Broken(Exception):
    """What a test lets happen in the middle of something."""


class Installation:
    """Everything that outlives an owner: log, ledger, rows, and the folder with the checkpoint."""

    def __init__(self, folder: Path, log: Sequence[LogRecord], seal_rows: int = 16) -> None:
        self.folder = folder
        self.log, self.ledger, self.rows = MemoryLog(log), MemoryLedger(), MemoryStore()
        self.calls: Counter[str] = Counter()
        self.hook: Callable[[str], None] = lambda _: None
        self.ledger.hook = self._call_hook
        self.options = DecideOptions(folder, "milvus", seal_rows, seal_idle_s=0.0)

    def _call_hook(self, effect: str) -> None:
        self.hook(effect)

    def shard(self, folder: Path | None = None, **options: Any) -> Shard:
        """A new owner; on another machine if `folder` is given."""
        chosen = replace(self.options, data_dir=folder or self.folder, **options)
        return Shard(0, chosen, lambda _: SpyStore(self.rows, self.calls, self._call_hook), self.ledger, self.log)

    @asynccontextmanager
    async def owner(self, first: int = 0, **options: Any) -> AsyncIterator[Shard]:
        """One that has taken over."""
        shard = self.shard(**options)
        try:
            await shard.take_over(LOG_ID, first)
            yield shard
        finally:
            await shard.close()

    @property
    def entries(self) -> list[Entry]:
        return self.log.entries

    @property
    def path(self) -> Path:
        return self.folder / "shard-0.sqlite"

    def checkpoint(self) -> tuple[Head, dict[Key, int], list[int], list[int]]:
        """From the file: the head, where the rows of what exists stand, the keys of the tail and of the garbage."""
        checkpoint = Checkpoint(self.path)
        live = {key: thing.row for key, thing, _ in checkpoint.things() if thing.row != NOWHERE}
        tail, garbage = [row.key for row in checkpoint.tail()], [key for key, _ in checkpoint.garbage(10**6)]
        checkpoint.close()
        return checkpoint.head, live, tail, garbage

    def lose_checkpoint(self) -> None:
        for file in self.folder.glob("shard-0.sqlite*"):
            file.unlink()

    def differences(self, end: int | None = None) -> list[str]:
        """What the ledger says differently from the oracle about the log up to `end`."""
        records = [(e.position, encode_record(e.record)) for e in self.entries[:end]]
        return oracle.compare(oracle.fold(records), self.ledger.values)

    def stored(self) -> list[int]:
        """The keys of every row in the store."""
        return sorted(key for rows in self.rows._rows.values() for key in rows)


def folded(log: Sequence[LogRecord]) -> oracle.Folded:
    return oracle.fold((position, encode_record(record)) for position, record in enumerate(log))


async def feed(shard: Shard, entries: Sequence[Entry], sizes: Iterable[int]) -> None:
    """The entries in batches of `sizes`, again and again."""
    chosen = list(sizes)
    start = turn = 0
    while start < len(entries):
        end = start + chosen[turn % len(chosen)]
        await shard.process(entries[start:end])
        start, turn = end, turn + 1


async def until_sealed(shard: Shard) -> None:
    """Wait for the seal in the background."""
    if shard._sealer._task is not None:
        await asyncio.wait([shard._sealer._task])
    shard._sealer.reap()


def items(count: int, pictures: int = 1, first: int = 0) -> list[LogRecord]:
    """Upserts of different items."""
    return [
        LogRecord(
            kind="upsert", id=f"i{n}", source="c/0", src=n, encoder="one", tenant="t",
            pictures=tuple(picture(n + 2, v, "one", DIM) for v in range(pictures)),
        )
        for n in range(first, first + count)
    ]  # fmt: skip


def design(name: str, look: int, src: int, variant: int = 0, encoder: str = "one") -> LogRecord:
    return LogRecord(
        kind="design", id=name, source="d/0", src=src, encoder=encoder, tenant="t",
        pictures=(picture(look, variant, encoder, DIM),),
    )  # fmt: skip


CONFIG = LogRecord(
    kind="config", policy=Policy(similarity=0.9, hash_distance=8, hash_colour=12, hash_quality=50), log_id=LOG_ID,
    encoder="one",
)  # fmt: skip


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

        def fail(name: str) -> None:
            if name == effect:
                raise Broken

        here.hook = fail
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


# Refusals


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


# Two owners


async def test_the_owner_whose_checkpoint_was_moved_on_is_superseded_and_can_take_over_again(tmp_path: Path) -> None:
    log = random_log(1, 200)
    here = Installation(tmp_path, log, seal_rows=1000)  # a seal behind a batch would supersede the other one too
    async with here.owner() as zombie, here.owner() as owner:
        await feed(owner, here.entries[:80], (20,))
        with pytest.raises(Superseded):
            await zombie.process(here.entries[:30])
        await zombie.take_over(LOG_ID, 60)
        await feed(zombie, here.entries[60:150], (30,))
        with pytest.raises(Superseded):
            await owner.process(here.entries[80:120])
        await owner.take_over(LOG_ID, 150)
        await feed(owner, here.entries[150:], (50,))
    assert here.differences() == []
    assert here.checkpoint()[1] == folded(log).live


async def test_a_seal_supersedes_as_well(tmp_path: Path) -> None:
    """A zombie that knows nothing of a seal would forget rows that have left the tail."""
    log = [CONFIG, *items(60), *(design(f"d{n}", n + 2, n) for n in range(60))]
    here = Installation(tmp_path, log, seal_rows=1000)
    async with here.owner() as zombie:
        await feed(zombie, here.entries[:61], (20,))
        async with here.owner(61, seal_rows=20) as owner:
            await owner.idle()
            await until_sealed(owner)
            assert here.checkpoint()[0].sealed == 61
            with pytest.raises(Superseded):
                await zombie.process(here.entries[61:70])
            await zombie.take_over(LOG_ID, 61)
            await zombie.process(here.entries[61:])
    assert here.differences() == []
    assert here.checkpoint()[2] == [
        row_key(0, e.position) for e in here.entries[61:] if e.position in folded(log).live.values()
    ]


async def test_owners_on_two_machines_take_turns(tmp_path: Path) -> None:
    """Each has an old checkpoint when its turn comes; rows that died meanwhile may have left the store."""
    log = random_log(9, 500)
    here = Installation(tmp_path, log)
    position = turn = 0
    while position < len(log):
        index = INDEXES[turn // 2 % 2]
        async with here.owner(position, folder=tmp_path / f"machine{turn % 2}", index=index) as shard:
            end = min(len(log), position + 64)
            await feed(shard, here.entries[position:end], (16,))
            await until_sealed(shard)
            position, turn = end, turn + 1
    assert here.calls["deleted"] > 10
    assert here.differences() == []


async def test_two_machines_at_once_contradict_nothing(tmp_path: Path) -> None:
    log = random_log(11, 300)
    here = Installation(tmp_path, log)
    rng = random.Random(11)
    async with here.owner(folder=tmp_path / "a") as one, here.owner(folder=tmp_path / "b") as two:
        for _ in range(60):
            await _owner_would(rng.choice((one, two)), here, rng.randint(1, 20))
        for shard in (one, two):
            await _owner_would(shard, here, len(log))
    # One that lags, with a checkpoint of its own, may miss rows that the other has collected. What it says then was
    # said before: the first event of a verdict_id binds, and that one is right.
    assert [d for d in here.differences() if "a later copy differs" not in d] == []


async def _owner_would(shard: Shard, here: Installation, count: int) -> None:
    """Process some records; when the other one has gone on, take up again as the agents do."""
    end = min(shard.next + count, len(here.entries))
    while shard.next < end:
        try:
            await shard.process(here.entries[shard.next : end])
        except Superseded:
            await shard.take_over(LOG_ID, 0)


def _other(value: bytes) -> bytes:
    """The other word about the same position."""
    said = decode_verdict(value)
    word = {"accept": "duplicate", "duplicate": "accept"}[said.verdict]
    return msgspec.json.encode(msgspec.structs.replace(said, verdict=word))


async def test_another_owners_earlier_different_verdict_binds(tmp_path: Path) -> None:
    log = [CONFIG, design("d0", 2, 0), design("d1", 2, 1), design("d2", 2, 2)]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await shard.process(here.entries[:2])
        # What it would say of position 2, and what another one says just before.
        async with here.owner(2, folder=tmp_path / "other") as zombie:
            await zombie.process(here.entries[2:3])
        mine = here.ledger.values.pop()
        assert decode_verdict(mine).verdict == "duplicate"
        here.ledger.values.append(_other(mine))
        with pytest.raises(Superseded, match="said position 2 first"):
            await shard.process(here.entries[2:])
        await shard.take_over(LOG_ID, 2)
        await shard.process(here.entries[2:])
        assert await shard.verdict("d1") == _other(mine)
    accepted = [key for key in here.checkpoint()[1] if key[0] == "design"]
    assert sorted(accepted) == [("design", "d0"), ("design", "d1")]
    # d2 was said before it was known that d1 exists, and that stands.
    first: dict[int, bytes] = {}
    for value in here.ledger.values:
        first.setdefault(name_of(value).position, value)
    assert [decode_verdict(first[n]).verdict for n in (1, 2, 3)] == ["accept", "accept", "duplicate"]


async def test_another_owners_later_verdict_does_not_bind(tmp_path: Path) -> None:
    log = [CONFIG, design("d0", 2, 0), design("d1", 3, 1)]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await shard.process(here.entries[:2])
        here.ledger.values.append(_other(here.ledger.values[0]))
        await shard.process(here.entries[2:])
        assert decode_verdict(await shard.verdict("d0")).verdict == "accept"
    assert here.checkpoint()[0].ledger == 3


async def test_a_verdict_of_another_owner_in_the_gap_is_taken_when_its_record_comes(tmp_path: Path) -> None:
    log = [CONFIG, design("d0", 2, 0), design("d1", 3, 1), design("d2", 4, 2)]
    here = Installation(tmp_path, log)
    async with here.owner() as shard:
        await shard.process(here.entries[:2])
        async with here.owner(2, folder=tmp_path / "other") as faster:
            await faster.process(here.entries[2:])
        foreign = here.ledger.values.pop()
        del here.ledger.values[1:]
        here.ledger.values.append(_other(foreign))
        await shard.process(here.entries[2:3])
        assert here.checkpoint()[0].ledger == 1, "a restart must read the other's verdict again"
        await shard.process(here.entries[3:])
        assert await shard.verdict("d2") == _other(foreign)
    assert len(here.ledger.values) == 3
    assert here.checkpoint()[0].ledger == 3


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


# Sealing


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

    def fail(name: str) -> None:
        if name == "after write":
            raise Broken

    here.hook = fail
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

    def fail(name: str) -> None:
        if name == "before write":
            raise Broken

    here.hook = fail
    async with here.owner() as shard:
        await shard.process(here.entries[:30])
        with pytest.raises(Broken):
            await until_sealed(shard)
        await shard.idle()


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
