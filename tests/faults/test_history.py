"""Promise 7: after a position no answer shows what was deleted before it, and every answer shows what exists."""

import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from streams.decide.checkpoint import Checkpoint
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore, MilvusStore, Store
from streams.decide.things import NOWHERE, row_key
from streams.events import LogRecord
from streams.local import LocalStack
from tests import oracle
from tests.doubles import MemoryLedger, MemoryLog, SpyStore
from tests.faults.comings_and_goings import History, Question, answers
from tests.faults.conftest import Figure
from tests.faults.simulation.mutants import MUTANTS, left_out
from tests.logs import LOG_ID

OPERATIONS, LONG_OPERATIONS = 4_000, 100_000
IDS, LONG_IDS = 300, 2_000
SEAL_ROWS, LONG_SEAL_ROWS = 64, 512
OWNERS: Final = 6
_EVERYTHING: Final = 1 << 60
SHOWN: Final = ("verdict", "similarity", "threshold", "neighbours")


@dataclass
class Lived:
    """A history as an owner lived it: what was asked, and what it said."""

    log: list[LogRecord] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    calls: Counter[str] = field(default_factory=Counter)

    def stale_answers(self) -> list[str]:
        """How the answers differ from the oracle's."""
        folded, owed = answers(self.log, self.asked)
        differences = oracle.compare(folded, self.ledger.values)
        for question, told, due in zip(self.asked, self.told, owed, strict=True):
            wrong = [name for name in SHOWN if told.get(name) != due.get(name)]
            differences += [
                f"asked at {question.position}: {n} is {told.get(n)}, should be {due.get(n)}" for n in wrong
            ]
        return differences


async def live(
    history: History, operations: int, folder: Path, store: Callable[[str], Store], seal_rows: int, owners: int
) -> Lived:
    """The operations in batches of any size; the owner changes now and then, once with its checkpoint lost."""
    lived, log = Lived(), MemoryLog()
    turns, rng, batch = history.turns(operations), history.rng, list[Any]()

    def spied(log_id: str) -> Store:
        return SpyStore(store(log_id), lived.calls)

    def owner() -> Shard:
        return Shard(0, DecideOptions(folder, "milvus", seal_rows), spied, lived.ledger, log)

    async def decide() -> None:
        nonlocal batch
        await shard.process(batch)
        batch = []

    shard = owner()
    await shard.take_over(LOG_ID, 0)
    size = 1
    for turn in turns:
        if isinstance(turn, Question):
            if batch:
                await decide()
            lived.asked.append(turn)
            lived.told.append(await _answer(shard, turn))
        else:
            log.entries.append(turn)
            lived.log.append(turn.record)
            batch.append(turn)
            if len(batch) >= size:
                await decide()
                size = rng.choice((1, 8, 64, 256))
        if not batch and owners > 1 and rng.random() < owners / operations * 8:
            owners -= 1
            await shard.close()
            if owners == 2:
                for file in folder.glob("shard-0.sqlite*"):
                    file.unlink()
            shard = owner()
            await shard.take_over(LOG_ID, len(log.entries))
    if batch:
        await decide()
    await shard.close()
    return lived


async def _answer(shard: Shard, question: Question) -> dict[str, Any]:
    if question.pictures is not None:
        answer: dict[str, Any] = msgspec.to_builtins(await shard.check(question.pictures))
        return {**answer, "neighbours": list(answer["neighbours"])}
    value = await shard.verdict(question.design)
    return dict(msgspec.json.decode(value)) if value else {}


@pytest.mark.stack
async def test_no_answer_is_stale(tmp_path: Path, milvus: LocalStack, long: bool, figure: Figure) -> None:
    operations, ids, seal_rows = (LONG_OPERATIONS, LONG_IDS, LONG_SEAL_ROWS) if long else (OPERATIONS, IDS, SEAL_ROWS)
    name = uuid.uuid4().hex[:8]

    def store(_: str) -> MilvusStore:
        return MilvusStore(milvus.endpoints.milvus, "", 30.0, name)

    history, began = History(7, ids), time.monotonic()
    lived = await live(history, operations, tmp_path, store, seal_rows, OWNERS)
    took_s = time.monotonic() - began
    assert lived.stale_answers() == []
    live_rows, sealed, held = _rows(lived, tmp_path, store(""))
    assert live_rows <= held, "rows of what exists are not in Milvus"
    assert sealed > 0.8 * len(lived.log), "the body in Milvus was hardly searched"
    assert lived.calls["deleted"] > operations / 20
    store("").drop()
    counts = history.counts
    figure(
        7,
        f"{operations:,} operations on Milvus Lite ({counts['item'] + counts['same item'] + counts['made']:,} upserts,"
        f" {counts['delete'] + counts['withdraw']:,} deletes and withdrawals,"
        f" {counts['late item'] + counts['stale']:,} stale,"
        f" {counts['again'] + counts['earlier']:,} submitted again, {len(lived.asked):,} questions,"
        f" {len(live_rows):,} sealed rows live at the end): 0 stale answers in {took_s:.0f} s",
    )


def _rows(lived: Lived, folder: Path, store: MilvusStore) -> tuple[set[int], int, set[int]]:
    """The rows that must be in Milvus, by the oracle; the position they are sealed up to; and those that are there."""
    checkpoint = Checkpoint(folder / "shard-0.sqlite")
    live = {key: thing for key, thing, _ in checkpoint.things() if thing.row != NOWHERE}
    sealed = checkpoint.head.sealed
    checkpoint.close()
    assert {key: thing.row for key, thing in live.items()} == answers(lived.log, ())[0].live
    keys = {row_key(0, thing.row, n) for thing in live.values() for n in range(len(thing.digests))}
    held = {int(key) for slice_keys, _ in store.scan("one", 0, _EVERYTHING) for key in slice_keys}
    assert max(held) < row_key(0, len(lived.log))
    store.close()
    return {key for key in keys if key < row_key(0, sealed)}, sealed, held


@pytest.mark.parametrize(
    "mutant",
    [
        "a superseded revision goes on existing",
        "a design is compared with its own revisions",
        "the body is not searched",
    ],
)
async def test_a_stale_answer_would_be_found(tmp_path: Path, mutant: str) -> None:
    """The same with a rule left out, on the double of the store."""
    rows = MemoryStore()
    with left_out(MUTANTS[mutant]):
        lived = await live(History(7, 40), 400, tmp_path, lambda _: rows, 16, 1)
    assert lived.stale_answers() != []


async def test_the_double_gives_no_stale_answer_either(tmp_path: Path) -> None:
    rows = MemoryStore()
    lived = await live(History(7, 40), 400, tmp_path, lambda _: rows, 16, 3)
    assert lived.stale_answers() == []
