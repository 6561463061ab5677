"""Rows against a plain list, through every way of growing and shrinking."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streams.decide.rows import Rows, merge
from streams.decide.things import Found

DIM = 16


def _vectors(rng: np.random.Generator, count: int) -> NDArray[np.int16]:
    """Lattice vectors from few values, so that many scores are equal."""
    return rng.integers(-2, 3, (count, DIM)).astype("<i2") * 200


def _check(found: Found, keys: NDArray[np.int64], scores: NDArray[np.int64], limit: int) -> None:
    """`found` is a right answer over rows `keys` (n,) of `scores` (n,)."""
    score = dict(zip(keys.tolist(), scores.tolist(), strict=True))
    assert len(set(found.keys.tolist())) == len(found.keys) == min(limit, len(keys))
    assert found.scores.dtype == found.keys.dtype == np.int64
    assert [score[key] for key in found.keys.tolist()] == found.scores.tolist()
    best = np.sort(scores)[::-1]
    assert sorted(found.scores.tolist(), reverse=True) == best[:limit].tolist()
    left_out = best[limit:]
    assert (found.floor is None) == (len(left_out) == 0)
    assert found.floor is None or left_out[0] <= found.floor <= best[limit - 1]


@pytest.mark.parametrize("seed", range(4))
def test_any_history_gives_the_rows_and_answers_of_a_list(seed: int) -> None:
    rng, rows = np.random.default_rng(seed), Rows(DIM)
    keys, vectors, dropped = np.zeros(0, np.int64), np.zeros((0, DIM), "<i2"), -1
    for _ in range(120):
        match rng.choice(["append", "append", "append", "drop", "truncate", "retry"]):
            case "append":
                count = int(rng.choice([0, 1, 7, 4096, 3000, 5000]))
                first = max(dropped, int(keys.max(initial=-1)) + int(rng.integers(1, 9)))
                new, more = np.arange(first, first + count), _vectors(rng, count)
                rows.append(new, more)
                keys, vectors = np.concatenate([keys, new]), np.vstack([vectors, more])
            case "drop":
                # Of a key that is there, between two, above all, or below all.
                key = int(rng.choice([int(rng.choice(keys)) if len(keys) else 3, -1, int(keys.max(initial=0)) // 3]))
                key = int(keys[-1]) + 1 if len(keys) and rng.random() < 0.1 else key
                rows.drop_below(key)
                dropped = max(dropped, key)
                keys, vectors = keys[keys >= key], vectors[keys >= key]
            case "truncate":
                size = int(rng.integers(0, len(keys) + 1)) if rng.random() < 0.7 else 0
                rows.truncate(size)
                keys, vectors = keys[:size], vectors[:size]
            case "retry":  # a batch is searched and taken back
                size = len(rows)
                rows.append(np.arange(10**9, 10**9 + 4100), _vectors(rng, 4100))
                rows.truncate(size)
        assert len(rows) == len(keys)
        if rng.random() < 0.2:
            queries, limit = _vectors(rng, 3), int(rng.choice([1, 6, 50, 4096, 10**6]))
            scores = vectors.astype(np.int64) @ queries.T.astype(np.int64)
            for i, found in enumerate(rows.search(queries, limit)):
                _check(found, keys, scores[:, i], limit)
    held = [block for block, _ in rows.blocks()]
    assert np.array_equal(np.concatenate([np.zeros(0, np.int64), *held]), keys)
    assert np.array_equal(np.vstack([np.zeros((0, DIM)), *(block for _, block in rows.blocks())]), vectors)


def test_rows_are_exact_up_to_the_largest_lattice_vectors() -> None:
    rows, rng = Rows(256), np.random.default_rng(0)
    unit = rng.normal(size=(300, 256))
    vectors = np.rint(2048 * unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype("<i2")
    rows.append(np.arange(300), vectors)
    for i, found in enumerate(rows.search(vectors, 300)):
        _check(found, np.arange(300), vectors.astype(np.int64) @ vectors[i].astype(np.int64), 300)


def test_no_rows_answer_with_nothing() -> None:
    assert [len(found.keys) for found in Rows(DIM).search(np.zeros((2, DIM), "<i2"), 5)] == [0, 0]
    assert [found.floor for found in Rows(DIM).search(np.zeros((2, DIM), "<i2"), 5)] == [None, None]


def test_no_question_has_no_answer() -> None:
    rows = Rows(DIM)
    rows.append(np.arange(9), np.ones((9, DIM), "<i2"))
    assert rows.search(np.zeros((0, DIM), "<i2"), 5) == []


def _found(scores: list[int], floor: int | None) -> Found:
    return Found(np.array(scores, np.int64), np.arange(len(scores)), floor)


@pytest.mark.parametrize(("floors", "expected"), [((3, 5), 5), ((3, None), 3), ((None, -2), -2), ((None, None), None)])
def test_a_merged_answer_leaves_out_what_either_did(floors: tuple[Any, Any], expected: int | None) -> None:
    merged = merge(_found([9, 8], floors[0]), _found([7], floors[1]))
    assert (merged.scores.tolist(), merged.keys.tolist(), merged.floor) == ([9, 8, 7], [0, 1, 0], expected)


def test_a_larger_limit_never_raises_the_floor() -> None:
    rng, rows = np.random.default_rng(1), Rows(DIM)
    rows.append(np.arange(9000), _vectors(rng, 9000))
    floors = [rows.search(_vectors(np.random.default_rng(2), 1), limit)[0].floor for limit in (1, 6, 18, 500, 9000)]
    assert floors[-1] is None
    assert all(a is not None and (b is None or b <= a) for a, b in pairwise(floors))
