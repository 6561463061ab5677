"""Where the body lies changes no hit and no verdict: in Milvus, in the owner's memory, or between the two."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from streams.decide import index as module
from streams.decide.index import VectorIndex
from streams.decide.rows import Rows
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore, MilvusStore, Row, Store
from streams.decide.things import Entry, Found, row_key
from streams.events import LogRecord, Picture, decode_verdict, encode_record, lattice
from streams.local import LocalStack
from tests import oracle
from tests.doubles import MemoryLedger, MemoryLog
from tests.logs import random_log

DIM, SHARD = 16, 2
Mode = Literal["milvus", "memory"]


@pytest.fixture(params=["memory", pytest.param("milvus", marks=pytest.mark.stack)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Either store of sealed rows."""
    made: Store = MemoryStore()
    if request.param == "milvus":
        stack: LocalStack = request.getfixturevalue("milvus")
        made = MilvusStore(stack.endpoints.milvus, "", 10.0, uuid.uuid4().hex[:8])
    yield made
    made.drop()
    made.close()


def records(count: int, encoder: str = "one", seed: int = 0) -> list[Entry]:
    """Designs with one to three pictures; one vector in four comes again and again."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(count, 3, DIM)).astype(np.float32)
    drawn[rng.random((count, 3)) < 0.25] = drawn[0, 0]
    unit = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    return [
        Entry(position, LogRecord(kind="design", id=f"d{position}", encoder=encoder, pictures=tuple(
            Picture(b"", b"", 0, b"", vector.tobytes()) for vector in lattice(unit[position])[: 1 + position % 3])))
        for position in range(count)
    ]  # fmt: skip


def sealed(store: Store, entries: Sequence[Entry], index: VectorIndex, position: int) -> None:
    """Rows below `position` move into the store."""
    for encoder in sorted({entry.record.encoder for entry in entries}):
        rows = [
            Row(row_key(SHARD, e.position, n), "design", e.record.id, np.frombuffer(p.vector, "<i2"))
            for e in entries
            if e.position < position and e.record.encoder == encoder
            for n, p in enumerate(e.record.pictures)
        ]
        if rows:
            store.prepare(encoder, DIM)
            store.write(encoder, rows)
    index.seal(position)


def hold(index: VectorIndex, entries: Sequence[Entry]) -> None:
    """The pictures of some records, in their order."""
    for entry in entries:
        index.add_at(entry.position, entry.record)


def ask(index: VectorIndex, entries: Sequence[Entry], limit: int, leave_out: int = 0) -> list[tuple[Found, ...]]:
    return index.search([entry.record for entry in entries], limit, leave_out)


def exact(entries: Sequence[Entry], query: Entry) -> Iterator[dict[int, int]]:
    """Key and score of every row of the same encoder, for each picture of `query`."""
    for picture in query.record.pictures:
        mine = np.frombuffer(picture.vector, "<i2").astype(np.int64)
        yield {
            row_key(SHARD, e.position, n): int(mine @ np.frombuffer(p.vector, "<i2").astype(np.int64))
            for e in entries
            if e.record.encoder == query.record.encoder
            for n, p in enumerate(e.record.pictures)
        }


def check(found: Found, scores: dict[int, int], limit: int) -> None:
    """`found` has the best of `scores`, and is right about what it left out."""
    hits = dict(zip(found.keys.tolist(), found.scores.tolist(), strict=True))
    assert len(hits) == len(found.keys)
    assert all(scores[key] == score for key, score in hits.items())
    left_out = [score for key, score in scores.items() if key not in hits]
    assert len(hits) >= min(limit, len(scores))
    assert not left_out or (found.floor is not None and max(left_out) <= found.floor)


@pytest.mark.parametrize("in_memory", [False, True], ids=["body in the store", "body in memory"])
def test_hits_are_exact_however_much_is_sealed(store: Store, in_memory: bool) -> None:
    entries = records(120)
    index = VectorIndex(store, SHARD, 0, in_memory=in_memory)
    hold(index, entries)
    for position in (0, 1, 50, 51, 119, 120):
        sealed(store, entries, index, position)
        for limit in (1, 6, 1000):
            for query, found in zip(entries[::29], ask(index, entries[::29], limit), strict=True):
                for one, scores in zip(found, exact(entries, query), strict=True):
                    check(one, scores, limit)


def test_what_is_left_out_of_a_query_is_not_compared(store: Store) -> None:
    """Whole or sealed in part; and the rows stay as they are."""
    entries = records(90)

    def without(entry: Entry, n: int) -> Entry:
        pictures = [np.frombuffer(p.vector, "<i2").copy() for p in entry.record.pictures]
        for vector in pictures:
            vector[DIM - n :] = 0
        cut = tuple(Picture(b"", b"", 0, b"", vector.tobytes()) for vector in pictures)
        return replace(entry, record=msgspec.structs.replace(entry.record, pictures=cut))

    index = VectorIndex(store, SHARD, 0, in_memory=False)
    hold(index, entries)
    for position in (0, 45):
        sealed(store, entries, index, position)
        for n in (1, 5, 0):
            for query, found in zip(entries[::17], ask(index, entries[::17], 20, n), strict=True):
                for one, scores in zip(found, exact(entries, without(query, n)), strict=True):
                    check(one, scores, 20)
    nothing = ask(index, entries[:1], 20, DIM + 1)
    assert all((found.scores == 0).all() for found in nothing[0])


def test_both_modes_give_the_same_answer(store: Store) -> None:
    entries = records(150, seed=3)
    modes = [VectorIndex(store, SHARD, 0, in_memory=in_memory) for in_memory in (False, True)]
    for index in modes:
        hold(index, entries)
    sealed(store, entries, modes[0], 100)
    modes[1].seal(100)
    for limit in (300, 1000):
        answers = [
            [
                sorted(zip(f.scores.tolist(), f.keys.tolist(), strict=True))
                for found in ask(index, entries[::9], limit)
                for f in found
            ]
            for index in modes
        ]
        assert answers[0] == answers[1]
    assert modes[0].tail_rows() < 110 < modes[1].tail_rows()


def test_encoders_are_searched_apart(store: Store) -> None:
    entries = [
        e if e.position % 2 else replace(e, record=msgspec.structs.replace(e.record, encoder="two"))
        for e in records(60)
    ]
    index = VectorIndex(store, SHARD, 0, in_memory=False)
    hold(index, entries)
    for position in (0, 31):
        sealed(store, entries, index, position)
        for query, found in zip(entries, ask(index, entries, 500), strict=True):
            for one, scores in zip(found, exact(entries, query), strict=True):
                assert dict(zip(one.keys.tolist(), one.scores.tolist(), strict=True)) == scores


def test_more_equal_rows_than_one_answer_holds_are_all_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HITS", 20)
    entries = records(100)
    index = VectorIndex(store, SHARD, 0, in_memory=False)
    hold(index, entries)
    sealed(store, entries, index, 70)
    for query, found in zip(entries[:3], ask(index, entries[:3], 64), strict=True):
        for one, scores in zip(found, exact(entries, query), strict=True):
            check(one, scores, 64)


@pytest.mark.parametrize("sealed_to", [0, 40, 120])
def test_a_body_read_from_the_store_is_the_one_that_was_held(store: Store, sealed_to: int) -> None:
    entries = records(120)
    held = VectorIndex(store, SHARD, 0, in_memory=True)
    hold(held, entries)
    sealed(store, entries, held, sealed_to)
    again = VectorIndex(store, SHARD, sealed_to, in_memory=True)
    for row in sorted(again.stored("one"), key=lambda row: row.key):
        again.add("design", "one", np.array([row.key]), np.frombuffer(row.vector, "<i2")[None])
    hold(again, entries[sealed_to:])
    assert again.tail_rows() == held.tail_rows()
    mine, other = (
        [
            dict(zip(f.keys.tolist(), f.scores.tolist(), strict=True))
            for found in ask(index, entries, 9999)
            for f in found
        ]
        for index in (held, again)
    )
    assert mine == other


def test_rows_of_what_is_gone_leave_the_memory_when_they_are_most(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEAD_ROWS", 10)
    entries = records(120)
    index = VectorIndex(store, SHARD, 0, in_memory=True)
    hold(index, entries)
    alive = set(range(0, 120, 4))
    rows = sum(len(entries[p].record.pictures) for p in alive)
    index.drop_dead(range(120), 240)
    assert index.tail_rows() == 240
    index.drop_dead(alive, rows)
    assert index.tail_rows() == rows
    left = [entry for entry in entries if entry.position in alive]
    for query, found in zip(entries, ask(index, entries, 1000), strict=True):
        for one, scores in zip(found, exact(left, query), strict=True):
            assert dict(zip(one.keys.tolist(), one.scores.tolist(), strict=True)) == scores
    hold(index, records(125)[120:])
    assert index.tail_rows() == rows + 9


def test_a_batch_is_taken_back(store: Store) -> None:
    entries = records(40)
    index = VectorIndex(store, SHARD, 0, in_memory=False)
    hold(index, entries[:20])
    sizes, before = index.sizes(), index.tail_rows()
    hold(index, entries[20:])
    index.add("design", "another", np.array([row_key(SHARD, 99)]), np.ones((1, 4), np.int16))
    index.truncate(sizes)
    assert index.tail_rows() == before
    assert index.sizes() == {**sizes, ("design", "another"): 0}


# Whole logs


async def _verdicts(
    folder: Path, log: Sequence[LogRecord], modes: Sequence[Mode], store: Callable[[str], Store], batch: int
) -> list[bytes]:
    """What owners with these modes, one after the other, say of equal parts of `log`."""
    kafka_log, ledger = MemoryLog(log), MemoryLedger()
    position = 0
    for turn, mode in enumerate(modes):
        shard = Shard(0, DecideOptions(folder, mode, seal_rows=24, seal_idle_s=0.0), store, ledger, kafka_log)
        try:
            await shard.take_over(log[0].log_id, position)
            end = len(log) * (turn + 1) // len(modes)
            for start in range(position, end, batch):
                await shard.process(kafka_log.entries[start : min(end, start + batch)])
            position = end
        finally:
            await shard.close()
    return ledger.values


@pytest.mark.stack
@pytest.mark.parametrize("seed", [0, 1])
async def test_a_log_gives_the_same_verdicts_with_either_index_on_milvus(
    tmp_path: Path, milvus: LocalStack, seed: int
) -> None:
    said = []
    orders: list[list[Mode]] = [["milvus"], ["memory"], ["memory", "milvus", "memory", "milvus"]]
    for number, modes in enumerate(orders):
        log = random_log(seed, 260, DIM)
        # Its own rows for every run: the name of the log is that of its collections.
        name = uuid.uuid4().hex[:16]
        log[0] = msgspec.structs.replace(log[0], log_id=name)

        def store(log_id: str) -> Store:
            return MilvusStore(milvus.endpoints.milvus, "", 10.0, log_id)

        values = await _verdicts(tmp_path / str(number), log, modes, store, (40, 25, 40)[number])
        folded = oracle.fold((position, encode_record(record)) for position, record in enumerate(log))
        assert oracle.compare(folded, values) == []
        said.append([msgspec.structs.replace(v, verdict_id="", revises="") for v in map(decode_verdict, values)])
        rows = store(name)
        rows.drop()
        rows.close()
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("seed", [4, 5])
async def test_owners_that_change_the_index_say_the_same(tmp_path: Path, seed: int) -> None:
    log = random_log(seed, 300, DIM)
    rows = MemoryStore()
    values = await _verdicts(tmp_path, log, ["milvus", "memory", "milvus", "memory"], lambda _: rows, 17)
    folded = oracle.fold((position, encode_record(record)) for position, record in enumerate(log))
    assert oracle.compare(folded, values) == []


def test_rows_and_the_dictionary_agree() -> None:
    """The two exact searches that the others are measured by."""
    entries = records(200)
    rows, store = Rows(DIM), MemoryStore()
    index = VectorIndex(store, SHARD, 0, in_memory=False)
    sealed(store, entries, index, 200)
    for entry in entries:
        vectors = module.vectors_of(entry.record.pictures)
        rows.append(np.arange(len(vectors)) + row_key(SHARD, entry.position), vectors)
    queries = module.vectors_of([entry.record.pictures[0] for entry in entries])
    for one, other in zip(rows.search(queries, 500), store.search("one", queries, 500, 0, 2**63 - 1), strict=True):
        assert dict(zip(one.keys, one.scores, strict=True)) == dict(zip(other.keys, other.scores, strict=True))
