"""Nearness as the service counts it, against slow loops and against the service's own hash table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoders import described
from encoders.described import (
    FIRES,
    LATTICE,
    Described,
    HashRule,
    distances,
    nearest_unrelated,
    numbered,
    pair_scores,
    scores,
    similarity,
)
from streams.decide.hashes import HashTable
from streams.events import Picture, Policy


def pictures(n: int, seed: int, dim: int = 8) -> Described:
    """Random ones, of which many are near each other."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim))
    bits = np.where(rng.random((3, 256)) < 0.5, 1, -1)[rng.integers(3, size=n)]
    bits = np.where(rng.random((n, 256)) < 0.01, -bits, bits)
    windows = rng.integers(0, 3, n)
    return Described(
        _lattice(vectors),
        bits.astype(np.int8),
        rng.choice([20, 50, 90], n).astype(np.int16),
        (100 + rng.integers(0, 9, (n, 48))).astype(np.int16),
        _lattice(rng.normal(size=(windows.sum(), dim))),
        np.repeat(np.arange(n), windows),
    )


def _lattice(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(np.rint(LATTICE * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)), np.float32)


def test_the_best_window_of_a_catalogue_picture_counts() -> None:
    asked, kept = pictures(20, 3), pictures(30, 4)
    expected = [
        [
            min(1.0, max(int(one @ other) for other in (own, *kept.windows[kept.window_of == j])) / LATTICE**2)
            for j, own in enumerate(kept.vectors)
        ]
        for one in asked.vectors
    ]
    assert similarity(asked, kept).tolist() == np.array(expected, np.float32).tolist()
    rows = np.array([7, 2, 7])
    assert (similarity(asked, kept.at(rows)) == similarity(asked, kept)[:, rows]).all()


def test_distances_and_similarities_are_exact() -> None:
    bits = np.array([[1] * 256, [-1] * 256, [1] * 250 + [-1] * 6], np.int8)
    three = pictures(3, 0, dim=4)._replace(vectors=np.full((3, 4), 1024, np.float32), bits=bits)
    three = three._replace(windows=np.empty((0, 4), np.float32), window_of=np.empty(0, np.intp))
    assert distances(three.at(slice(2)), three.at(slice(2, 3))).tolist() == [[6], [250]]
    assert similarity(three, three).tolist() == [[1.0] * 3] * 3


def test_a_rounded_vector_is_never_more_than_equal() -> None:
    one = pictures(1, 0, dim=4)._replace(vectors=np.array([[2047, 65, 0, 0]], np.float32))
    assert similarity(one, one).tolist() == [[1.0]]


@pytest.mark.parametrize("rule", [HashRule(4, 8, 50), HashRule(6, 6, 20), HashRule(0, 255, 0), HashRule(256, 255, 100)])
def test_the_hash_rule_is_that_of_the_service(rule: HashRule) -> None:
    many = pictures(60, 1)
    table, policy = (
        HashTable(),
        Policy(similarity=0.9, hash_distance=rule.distance, hash_colour=rule.colour, hash_quality=rule.quality),
    )
    kept = [
        Picture(b"", np.packbits(bits > 0).tobytes(), int(quality), colour.astype(np.uint8).tobytes(), b"")
        for bits, quality, colour in zip(many.bits, many.quality, many.colour, strict=True)
    ]
    for position, picture in enumerate(kept):
        table.add(position, [picture])
    service = [[where in {p for _, p in table.firing([picture], policy)} for where in range(60)] for picture in kept]
    assert (scores(many, many, rule) == FIRES).tolist() == service
    assert (scores(many, many, None) <= 1).all()


def test_scores_of_pairs_are_the_diagonal() -> None:
    a, b, rule = pictures(20, 2), pictures(20, 3), HashRule(120, 255, 0)
    table = scores(a, b, rule)
    assert pair_scores(a, b, rule).tolist() == [table[i, i] for i in range(20)]
    assert (table == FIRES).any()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_nearest_unrelated_is_that_of_a_slow_search(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 24))
    seed, block = data.draw(st.integers(0, 999)), data.draw(st.integers(1, 9))
    queries, gallery = pictures(n, seed), pictures(n, seed + 1000)
    product = numbered(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    file = numbered(data.draw(st.lists(st.integers(0, 30), min_size=n, max_size=n)))
    cuts = sorted({*data.draw(st.lists(st.integers(1, n), max_size=3)), n})
    same = {0: {1}, 1: {0}} if data.draw(st.booleans()) else {}
    rule = data.draw(st.sampled_from([None, HashRule(5, 7, 50)]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(described, "_BLOCK", block)
        found = nearest_unrelated(queries, gallery, product, file, cuts, rule, same)
    table = scores(queries, gallery, rule)
    for p in range(product.max() + 1):
        allowed = {
            (i, j): float(table[i, j])
            for i in range(n)
            for j in range(n)
            if product[i] == p != product[j] and file[i] != file[j] and product[j] not in same.get(p, ())
        }
        for cut, score in zip(cuts, found.scores[:, p], strict=True):
            assert score == max((value for (_, j), value in allowed.items() if j < cut), default=-np.inf)
        if allowed:
            assert allowed[int(found.picture[p]), int(found.other[p])] == max(allowed.values())


@pytest.mark.parametrize("cuts", [[2, 2, 3], [3, 2], [2], [0, 3], [2, 4]])
def test_cuts_ascend_to_all_rows(cuts: list[int]) -> None:
    three = pictures(3, 0)
    with pytest.raises(ValueError, match="cuts must ascend from 1 to 3"):
        nearest_unrelated(three, three, np.arange(3), np.arange(3), cuts)


def test_names_are_numbered_in_their_order() -> None:
    assert numbered("hello").tolist() == [0, 1, 2, 2, 3]
