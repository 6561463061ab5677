"""Two owners of one shard, one after the other and at once."""

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from streams.decide.checkpoint import Superseded
from streams.decide.stage import Shard
from streams.decide.things import Entry, name_of, row_key
from streams.events import LogRecord, Policy, decode_verdict
from tests.decide.installation import CONFIG, INDEXES, Installation, design, feed, folded, items, until_sealed
from tests.faults.simulation.mutants import Mutant, left_out
from tests.logs import LOG_ID, random_log


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


async def test_what_a_superseded_owner_cannot_understand_is_no_error(tmp_path: Path) -> None:
    """It believes that a design exists whose verdict, in the checkpoint of both, is gone."""
    withdrawal = LogRecord(kind="withdraw", id="d0", source="d/0", src=1)
    here = Installation(tmp_path, [CONFIG, design("d0", 2, 0), withdrawal, *items(1)])
    async with here.owner() as zombie:
        await zombie.process(here.entries[:2])
        async with here.owner(2) as owner:
            await owner.process(here.entries[2:3])
            late = Entry(2, here.entries[3].record)
            with pytest.raises(Superseded):
                await zombie.process([late])
            await owner.process(here.entries[3:])
    assert here.differences() == []


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


_VECTORS_ONLY = msgspec.structs.replace(CONFIG, policy=Policy(similarity=0.9, use_hash=False, use_digest=False))
_GONE = LogRecord(kind="delete", id="i0", source="c/0", src=1)
LAGGING = {
    "a duplicate": ([_VECTORS_ONLY, *items(1), design("d0", 2, 0), _GONE], 4),
    "a revision": ([_VECTORS_ONLY, design("d0", 2, 0), *items(1), _GONE, design("d1", 2, 1)], 3),
}
"""Logs, and how far that owner is who collects rows before the other one, who has seen two records, looks for them."""


@pytest.mark.parametrize("name", LAGGING)
async def test_an_owner_that_lags_behind_another_machine_listens(tmp_path: Path, name: str) -> None:
    """Also where it finds nothing to say: it would go on with a design whose verdict was revised, and take that along
    into its next time as the owner."""
    log, here = await _lagged(tmp_path, name)
    assert here.differences() == []
    assert here.checkpoint()[1] == folded(log).live


@pytest.mark.parametrize("name", LAGGING)
async def test_an_owner_that_does_not_listen_is_wrong(tmp_path: Path, name: str) -> None:
    """Rule 10 is needed. The simulation meets this in one of some thousand schedules."""
    with left_out(Mutant(10, "streams.decide.stage", "not (heard := await self._read_ledger())", "True")):
        log, here = await _lagged(tmp_path, name)
    assert here.differences() or here.checkpoint()[1] != folded(log).live


async def _lagged(folder: Path, name: str) -> tuple[list[LogRecord], Installation]:
    """Two owners on two machines over one log, one ahead; the checkpoint looked at is that of the other one."""
    log, ahead = LAGGING[name]
    here = Installation(folder / "a", log, seal_rows=1)
    async with here.owner(folder=folder / "a") as lags, here.owner(folder=folder / "b") as goes_on:
        for shard in (lags, goes_on):
            await shard.process(here.entries[:2])
            await until_sealed(shard)
        await goes_on.process(here.entries[2:ahead])
        await goes_on.idle()
        await until_sealed(goes_on)
        assert row_key(0, 1) not in here.stored()
        while lags.next < len(log):
            await _owner_would(lags, here, 1)
    return log, here


COLLECTED = (11, 17, 23)
"""Logs in which an item reaches too many designs to revise them, and one owner has collected some of those when the
other one, which lags behind, comes to that item: nothing that was said tells it."""


@pytest.mark.parametrize("seed", [*COLLECTED, 5])
async def test_two_machines_at_once_contradict_nothing(tmp_path: Path, seed: int) -> None:
    """The one that lags, with a checkpoint of its own, misses rows that the other has collected, and hears what it
    said."""
    assert (await _two_machines(tmp_path, seed)).differences() == []


@pytest.mark.parametrize("seed", COLLECTED)
async def test_an_owner_that_does_not_look_for_collected_rows_contradicts(tmp_path: Path, seed: int) -> None:
    with left_out(Mutant(10, "streams.decide.memory", "any(said.cause for said in answer.said)", "False")):
        here = await _two_machines(tmp_path, seed)
    assert here.differences()


async def _two_machines(folder: Path, seed: int) -> Installation:
    log = random_log(seed, 300)
    here = Installation(folder, log)
    rng = random.Random(11)
    async with here.owner(folder=folder / "a") as one, here.owner(folder=folder / "b") as two:
        for _ in range(60):
            await _owner_would(rng.choice((one, two)), here, rng.randint(1, 20))
        for shard in (one, two):
            await _owner_would(shard, here, len(log))
    return here


async def _owner_would(shard: Shard, here: Installation, count: int) -> None:
    """Process some records; when the other one has gone on, take up again as the agents do."""
    end = min(shard.next + count, len(here.entries))
    while shard.next < end:
        try:
            await shard.process(here.entries[shard.next : end])
        except Superseded:
            await shard.take_over(LOG_ID, 0)


def _once(here: Installation, effect: str, happens: Callable[[], None]) -> None:
    """Let something happen the next time before or after an effect."""

    def hook(now: str) -> None:
        if now == effect:
            here.hook = lambda _: None
            happens()

    here.hook = hook


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
        # After this one has listened for the last time.
        _once(here, "before publish", lambda: here.ledger.values.append(_other(mine)))
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
