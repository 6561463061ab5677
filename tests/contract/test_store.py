"""What every store of rows does: the dictionary and Milvus alike, to the last digit."""

import time
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pymilvus import MilvusClient

from streams.decide.store import MOST_HITS, MemoryStore, MilvusStore, Row, Store
from streams.decide.things import row_key
from streams.errors import Retryable
from streams.events import UNIT, lattice
from streams.local import LocalStack
from streams.settings import load_settings
from streams.transport import milvus_options
from tests.standalone_milvus import settings_of_it

DIM = 16
Make = Callable[..., Store]


STORES = ["standalone"] if settings_of_it() else ["memory", pytest.param("milvus", marks=pytest.mark.stack)]


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A maker of clients of one log's rows; another name is another log."""
    patience_s = 30.0  # how patient a worker is, is not asked here
    monkeypatch.setattr("streams.decide.store._FIRST_S", patience_s)
    logs: dict[str, MemoryStore] = {}
    made: list[Store] = []
    own = uuid.uuid4().hex[:8]
    match request.param:
        case "memory":
            values = {}
        case "milvus":
            values = {"milvus_uri": request.getfixturevalue("milvus").endpoints.milvus}
        case _:
            values = settings_of_it()
    settings = load_settings(**values)

    def make_one(log: str = "") -> Store:
        store = (
            MilvusStore(
                settings.milvus_uri, settings.milvus_token.get_secret_value(), patience_s, own + log,
                milvus_options(settings),
            )
            if values
            else logs.setdefault(log, MemoryStore())
        )  # fmt: skip
        made.append(store)
        return store

    yield make_one
    for store in made:
        store.drop()
        store.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


def vectors(seed: int, count: int, dim: int = DIM) -> NDArray[np.int16]:
    """Lattice vectors of unit vectors, (count, dim)."""
    drawn = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return lattice(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def fill(store: Store, rows: NDArray[np.int16], first: int = 0, encoder: str = "one") -> None:
    store.prepare(encoder, rows.shape[1])
    store.write(encoder, [Row(first + i, "item", f"n{i}", row) for i, row in enumerate(rows)])


def retried(call: Callable[[], object], attempts: int = 40) -> object:
    """The answer of `call` when it is Retryable no more."""
    for _ in range(attempts):
        try:
            return call()
        except Retryable:
            time.sleep(0.1)
    raise AssertionError(f"not one answer in {attempts} attempts")


def test_a_collection_may_be_prepared_again(make: Make) -> None:
    for store in (make(), make()):
        store.prepare("one", DIM)
        store.prepare("one", DIM)
    fill(store, vectors(1, 3))
    store.prepare("one", DIM)
    assert make().count("one", 0, 10) == 3


def test_where_there_is_no_collection_nothing_is_found(store: Store) -> None:
    assert store.count("none", 0, 10) == 0
    assert list(store.scan("none", 0, 10)) == []
    store.delete("none", [1, 2])
    found = store.search("none", vectors(1, 2), 5, 0, 10)
    assert [(len(f.keys), f.floor) for f in found] == [(0, None), (0, None)]


def test_only_prepared_collections_are_written_to(store: Store) -> None:
    with pytest.raises(Retryable):
        store.write("none", [Row(1, "item", "x", vectors(1, 1)[0])])


def test_what_was_written_is_seen_at_once_by_every_client(make: Make) -> None:
    first, second = make(), make()
    for n, row in enumerate(vectors(2, 20)):
        fill(first, row[None], n)
        assert second.count("one", 0, 100) == n + 1
        assert second.search("one", row[None], 1, 0, 100)[0].keys.tolist() == [n]


def test_a_row_written_twice_is_one_row(store: Store) -> None:
    rows = vectors(3, 5)
    fill(store, rows)
    fill(store, rows)
    assert store.count("one", 0, 10) == 5
    assert sorted(store.search("one", rows[:1], 10, 0, 10)[0].keys.tolist()) == [0, 1, 2, 3, 4]


def test_a_range_includes_its_low_end_and_not_its_high_one(store: Store) -> None:
    rows = vectors(4, 10)
    fill(store, rows, row_key(3, 0))
    low, high = row_key(3, 0) + 2, row_key(3, 0) + 6
    expected = list(range(low, high))
    assert store.count("one", low, high) == 4
    assert sorted(store.search("one", rows[:1], 10, low, high)[0].keys.tolist()) == expected
    assert sorted(key for keys, _ in store.scan("one", low, high) for key in keys.tolist()) == expected
    assert store.count("one", row_key(2, 0), row_key(3, 0)) == store.count("one", row_key(4, 0), row_key(5, 0)) == 0


def test_the_largest_keys_are_kept_exactly(store: Store) -> None:
    keys = [row_key(4095, (1 << 44) - 1, number) for number in range(120, 128)]
    assert keys[-1] == 2**63 - 1
    store.prepare("one", DIM)
    store.write("one", [Row(key, "design", "x", row) for key, row in zip(keys, vectors(5, 8), strict=True)])
    assert sorted(store.search("one", vectors(5, 1), 10, keys[0], keys[-1])[0].keys.tolist()) == keys[:-1]


def test_a_search_takes_the_best_and_says_what_it_left_out(store: Store) -> None:
    rows = vectors(6, 30)
    fill(store, rows)
    query = vectors(7, 1)
    scores = np.sort(rows.astype(np.int64) @ query[0].astype(np.int64))[::-1]
    (few,) = store.search("one", query, 10, 0, 100)
    assert sorted(few.scores.tolist(), reverse=True) == scores[:10].tolist()
    assert few.floor == scores[9]
    (exactly,) = store.search("one", query, 30, 0, 100)
    assert exactly.floor in (scores[-1], None)
    for limit in (31, MOST_HITS):
        (all_of_them,) = store.search("one", query, limit, 0, 100)
        assert len(all_of_them.keys) == 30
        assert all_of_them.floor is None


def test_scores_are_exact_negative_and_beyond_one(store: Store) -> None:
    rows = vectors(8, 40)
    # Rounding makes some vectors a little longer than 1: their similarity with themselves is above UNIT.
    rows[0] = 513
    rows[1], rows[2] = -rows[0], 0
    fill(store, rows)
    found = store.search("one", rows, 40, 0, 100)
    for query, hits in zip(rows, found, strict=True):
        assert hits.scores.dtype == hits.keys.dtype == np.int64
        expected = rows.astype(np.int64) @ query.astype(np.int64)
        assert dict(zip(hits.keys.tolist(), hits.scores.tolist(), strict=True)) == dict(enumerate(expected.tolist()))
    own = found[0].scores.max()
    assert own > UNIT
    assert found[0].scores.min() == -own


def test_any_number_of_queries_gives_the_same_scores(store: Store) -> None:
    rows, queries = vectors(9, 300, 256), vectors(10, 65, 256)
    fill(store, rows)
    together = store.search("one", queries, 300, 0, 1000)
    for i in (0, 7, 64):
        (alone,) = store.search("one", queries[i : i + 1], 300, 0, 1000)
        assert dict(zip(alone.keys, alone.scores, strict=True)) == dict(
            zip(together[i].keys, together[i].scores, strict=True)
        )


def test_deleted_rows_are_gone_and_others_are_not(store: Store) -> None:
    rows = vectors(11, 10)
    fill(store, rows)
    store.delete("one", [2, 3, 77])
    store.delete("one", [])
    assert store.count("one", 0, 100) == 8
    assert sorted(store.search("one", rows[:1], 20, 0, 100)[0].keys.tolist()) == [0, 1, 4, 5, 6, 7, 8, 9]
    fill(store, rows[2:3], 2)
    assert store.count("one", 0, 100) == 9


def test_a_scan_of_many_slices_gives_every_row_once(store: Store) -> None:
    rows = vectors(12, 9000)
    for start in range(0, 9000, 3000):
        fill(store, rows[start : start + 3000], start)
    slices = list(store.scan("one", 5, 8990))
    keys = np.concatenate([part[0] for part in slices])
    found = np.concatenate([part[1] for part in slices])
    order = np.argsort(keys)
    assert found.dtype == np.int16
    assert np.array_equal(keys[order], np.arange(5, 8990))
    assert np.array_equal(found[order], rows[5:8990])


def test_a_scan_may_be_left_in_the_middle(store: Store) -> None:
    fill(store, vectors(12, 5000))
    for _ in store.scan("one", 0, 5000):
        break
    assert store.count("one", 0, 5000) == 5000


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "x" * 256,
        "é" * 256,
        "\U0001f9e5" * 256,
        "'\"\\%{}[]()",
        "a b\u2028c\u202e",
        "id in [1] or pk > 0 --",
        "日本語",
    ],
    ids=["one", "longest", "two bytes each", "four bytes each", "quotes", "spaces", "a filter", "japanese"],
)
def test_any_id_may_be_written(store: Store, name: str) -> None:
    rows = vectors(13, 2)
    store.prepare("one", DIM)
    store.write("one", [Row(5, "design", name, rows[0]), Row(6, "item", name, rows[1])])
    assert sorted(store.search("one", rows[:1], 5, 0, 10)[0].keys.tolist()) == [5, 6]


def test_encoders_and_logs_are_apart(make: Make) -> None:
    mine, other = make(), make("other")
    fill(mine, vectors(14, 3))
    fill(mine, vectors(14, 4, 8), encoder="two")
    fill(other, vectors(14, 5))
    assert [mine.count("one", 0, 9), mine.count("two", 0, 9), other.count("one", 0, 9)] == [3, 4, 5]
    mine.drop()
    assert [mine.count("one", 0, 9), mine.count("two", 0, 9), other.count("one", 0, 9)] == [0, 0, 5]
    fill(mine, vectors(14, 2))
    assert mine.count("one", 0, 9) == 2


def test_a_closed_store_may_be_closed_again_and_used_again(store: Store) -> None:
    fill(store, vectors(15, 3))
    store.close()
    store.close()
    assert store.count("one", 0, 9) == 3
    assert len(store.search("one", vectors(15, 1), 9, 0, 9)[0].keys) == 3


@pytest.mark.stack
def test_a_collection_that_another_client_dropped_is_an_error_and_then_nothing(milvus: LocalStack) -> None:
    rows = vectors(16, 3)
    name = uuid.uuid4().hex[:8]
    store, other = (MilvusStore(milvus.endpoints.milvus, "", 10.0, name) for _ in range(2))
    try:
        fill(store, rows)
        assert len(store.search("one", rows, 3, 0, 9)) == 3
        other.drop()
        with pytest.raises(Retryable):
            store.search("one", rows, 3, 0, 9)
        assert [len(found.keys) for found in store.search("one", rows, 3, 0, 9)] == [0, 0, 0]
        fill(store, rows)
        assert store.count("one", 0, 9) == 3
        store.drop()
    finally:
        store.close()
        other.close()


@pytest.mark.stack
@pytest.mark.parametrize("call", ["search", "count", "scan", "write", "delete"])
def test_a_killed_server_is_retryable_and_then_everything_is_there_again(milvus: LocalStack, call: str) -> None:
    rows = vectors(17, 600)
    store = MilvusStore(milvus.endpoints.milvus, "", 10.0, uuid.uuid4().hex[:8])
    calls: dict[str, Callable[[], object]] = {
        "search": lambda: sorted(store.search("one", rows[:1], 600, 0, 600)[0].keys.tolist()),
        "count": lambda: store.count("one", 0, 600),
        "scan": lambda: sum(len(keys) for keys, _ in store.scan("one", 0, 600)),
        "write": lambda: fill(store, rows),
        "delete": lambda: store.delete("one", [700]),
    }
    try:
        fill(store, rows)
        before = calls[call]()
        milvus.restart_milvus(kill=True)
        assert retried(calls[call]) == before
        assert retried(calls["search"]) == list(range(600))
        assert retried(calls["count"]) == 600
        store.drop()
    finally:
        store.close()


@pytest.mark.stack
@pytest.mark.parametrize("first", ["count", "scan"])
def test_a_new_client_after_a_restart_of_the_server_needs_nobody_to_load(milvus: LocalStack, first: str) -> None:
    name, rows = uuid.uuid4().hex[:8], vectors(18, 5)
    old = MilvusStore(milvus.endpoints.milvus, "", 10.0, name)
    fill(old, rows)
    old.close()
    milvus.restart_milvus()
    store = MilvusStore(milvus.endpoints.milvus, "", 10.0, name)
    try:
        if first == "count":
            assert store.count("one", 0, 9) == 5
        assert sum(len(keys) for keys, _ in store.scan("one", 0, 9)) == 5
        assert len(store.search("one", rows[:1], 9, 0, 9)[0].keys) == 5
        store.drop()
    finally:
        store.close()


@pytest.mark.stack
@pytest.mark.parametrize("call", ["search", "count", "scan"])
def test_a_slow_call_gets_the_time_that_it_takes(
    milvus: LocalStack, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """However quick the calls are that go before it, such as whether there is a collection."""
    rows, name = vectors(19, 4000), uuid.uuid4().hex[:8]
    first, connect = "streams.decide.store._FIRST_S", MilvusStore._connected

    def connected(store: MilvusStore) -> MilvusClient:
        with monkeypatch.context() as patient:
            patient.setattr(first, 3.0)
            return connect(store)

    filler = MilvusStore(milvus.endpoints.milvus, "", 30.0, name)
    fill(filler, rows)
    monkeypatch.setattr(MilvusStore, "_connected", connected)
    monkeypatch.setattr(first, 0.001)
    store = MilvusStore(milvus.endpoints.milvus, "", 30.0, name)
    calls: dict[str, Callable[[], object]] = {
        "search": lambda: len(store.search("one", rows[:500], 1, 0, 4000)),
        "count": lambda: store.count("one", 0, 500),
        "scan": lambda: sum(len(keys) for keys, _ in store.scan("one", 0, 500)),
    }
    try:
        assert retried(calls[call]) == 500
    finally:
        monkeypatch.undo()
        filler.drop()
        filler.close()
        store.close()


def test_a_server_that_is_not_there_is_retryable() -> None:
    store = MilvusStore("http://127.0.0.1:9", "", 0.5, "x")
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:9"):
        store.count("one", 0, 9)
    store.close()
