"""Thresholds, shares and the rule by which an encoder is kept, against slow hand-written ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoders.adaptation.figures import Figures, compare, figures, nearest_strangers, threshold
from encoders.adaptation.pictures import Picture, described
from encoders.described import HashRule

COPIES = {"edited": (1, 2), "cut out": (3,)}
NEAR = {"dyed": (0, 4)}
RULE = HashRule(8, 4, 50)


def pictures(hashes: list[int]) -> list[Picture]:
    """With a hash that has so many bits, and no colour."""
    return [
        Picture(Path(str(n)), "catalog", "", hashlib.sha256(str(n).encode()).digest(),
                np.packbits(np.arange(256) < bits).tobytes(), 100, bytes(48))
        for n, bits in enumerate(hashes)
    ]  # fmt: skip


def unit(rng: np.random.Generator, n: int, dim: int = 8) -> NDArray[np.float32]:
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def test_the_nearest_stranger_is_neither_itself_nor_what_the_hash_rule_knows() -> None:
    rng = np.random.default_rng(0)
    hashes = [0, 4, *(20 * n for n in range(1, 11))]  # the first two are one picture
    vectors = unit(rng, 12)
    vectors[1] = vectors[0]
    seen = described(pictures(hashes), vectors)
    found, alike = nearest_strangers(seen, 5, RULE)
    lattice = np.rint(vectors * 2048).astype(np.int64)
    for i in range(5):
        same = {0, 1} if i in (0, 1) else {i}
        expected = max(min(1.0, int(lattice[i] @ lattice[j]) / 2048**2) for j in range(12) if j not in same)
        assert found[i] == pytest.approx(expected, abs=1e-6)
    assert alike.tolist() == [True, True, False, False, False]
    without, nothing = nearest_strangers(seen, 5, None)
    assert without[0] > 0.999
    assert not nothing.any()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=400))
def test_the_threshold_is_the_lowest_that_few_enough_reach(scores: list[float]) -> None:
    nearest = np.array(scores, np.float32)
    limit = threshold(nearest)
    assert sum(one >= limit for one in nearest.tolist()) <= 0.01 * len(scores)
    lower = round(limit - 1e-4, 4)
    assert lower <= 0 or sum(one >= lower for one in nearest.tolist()) > 0.01 * len(scores)


def test_shares_are_counted_of_what_is_there() -> None:
    similarity = np.array([[0.1, 0.9, 0.5, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9, 0.2], [0.9, 0.2, 0.9, 0.9, 0.9]])
    there = np.ones((3, 5), bool)
    there[2, 3:] = False
    made = figures("v", similarity, there, 0.8, COPIES, NEAR)
    assert made.found == {"edited": (4, 6), "cut out": (2, 2)}
    assert made.mistaken == {"dyed": (3, 5)}
    assert made.recall == 6 / 8
    assert made.false_duplicates == 3 / 5
    assert made.as_object()["copies_found"]["edited"] == {"found": 4, "of": 6}


def of(found: int, mistaken: int, n: int = 40) -> Figures:
    """So many of n pictures' copies, and of their near misses, reach the threshold."""
    similarity = np.zeros((n, 5))
    similarity[:found, 1:4] = similarity[:mistaken, (0, 4)] = 1
    similarity[:mistaken, 0] = 1
    return figures(f"{found} {mistaken}", similarity, np.ones((n, 5), bool), 0.5, COPIES, NEAR)


@pytest.mark.parametrize(
    ("base", "new", "kept"),
    [((20, 5), (21, 5), True), ((20, 5), (30, 4), True), ((20, 5), (20, 5), False), ((20, 5), (20, 4), False),
     ((20, 5), (40, 6), False), ((20, 5), (19, 0), False)],
)  # fmt: skip
def test_kept_when_recall_rises_and_near_misses_do_not(base: tuple[int, int], new: tuple[int, int], kept: bool) -> None:
    assert compare(of(*base), of(*new), np.ones((40, 5), bool), 0, COPIES, NEAR).kept is kept


def test_the_change_has_an_interval_that_resamples_pictures() -> None:
    there = np.ones((40, 5), bool)
    change = compare(of(10, 4), of(30, 4), there, 0, COPIES, NEAR)
    assert change.recall.value == pytest.approx(0.5)
    assert change.false_duplicates.value == change.false_duplicates.low == change.false_duplicates.high == 0
    # The three copies of a picture fall together: as wide as 40 coins, not 120.
    half = 1.96 * np.sqrt(0.25 / 40)
    assert change.recall.low == pytest.approx(0.5 - half, abs=0.05)
    assert change.recall.high == pytest.approx(0.5 + half, abs=0.05)
