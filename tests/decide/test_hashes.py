"""The hash table against a loop over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.decide.hashes import HashTable
from streams.events import Picture, Policy

POLICY = Policy(similarity=0.9, hash_distance=8, hash_colour=12, hash_quality=50)
BASE = bytes(range(32))


def _picture(flips: tuple[int, ...] = (), quality: int = 90, cell: int = 0, level: int = 100) -> Picture:
    """The base picture with bits of its hash flipped and one colour cell at another level than 100."""
    hashed = int.from_bytes(BASE)
    for bit in flips:
        hashed ^= 1 << bit
    colour = bytes(level if i == cell else 100 for i in range(48))
    return Picture(b"d" * 32, hashed.to_bytes(32), quality, colour, b"")


def _fires(one: Picture, other: Picture, policy: Policy) -> int | None:
    bits = sum((a ^ b).bit_count() for a, b in zip(one.hash, other.hash, strict=True))
    colour = max(abs(a - b) for a, b in zip(one.colour, other.colour, strict=True))
    good = min(one.quality, other.quality) >= policy.hash_quality
    return bits if good and bits <= policy.hash_distance and colour <= policy.hash_colour else None


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (_picture(), 0),
        (_picture((0, 64, 128, 192, 255, 1, 2, 3)), 8),
        (_picture((0, 64, 128, 192, 255, 1, 2, 3, 4)), None),
        (_picture(tuple(range(9))), None),
        (_picture(tuple(range(247, 256))), None),
        (_picture(level=112), 0),
        (_picture(level=88, cell=47), 0),
        (_picture(level=113, cell=20), None),
        (_picture(level=87, cell=47), None),
        (_picture(level=255), None),
        (_picture(quality=50), 0),
        (_picture(quality=49), None),
    ],
)
def test_the_rule_fires_up_to_its_limits(other: Picture, distance: int | None) -> None:
    expected = () if distance is None else ((distance, 7),)
    for one, held in ((_picture(), other), (other, _picture())):
        table = HashTable()
        table.add(7, [held])
        assert table.firing([one], POLICY) == expected


def test_nothing_fires_when_the_policy_says_so() -> None:
    table = HashTable()
    table.add(7, [_picture()])
    assert table.firing([_picture()], Policy(similarity=0.9, use_hash=False, hash_quality=0)) == ()


def test_every_pair_of_pictures_is_looked_at() -> None:
    table = HashTable()
    assert table.firing([_picture()], POLICY) == ()
    table.add(7, [_picture((9,)), _picture(quality=0), _picture((9, 10))])
    table.add(8, [_picture((9,))])
    fired = table.firing([_picture(quality=0), _picture(), _picture((9,))], POLICY)
    assert sorted(fired) == [(0, 7), (0, 8), (1, 7), (1, 7), (1, 8), (2, 7)]


_bits = st.lists(st.integers(0, 255), max_size=10, unique=True).map(tuple)
_pictures = st.lists(
    st.builds(_picture, _bits, st.sampled_from((0, 49, 50, 100)), st.integers(0, 47), st.integers(85, 115)),
    min_size=1,
    max_size=3,
)


@given(held=st.lists(_pictures, max_size=6), asked=_pictures, distance=st.integers(0, 12), colour=st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_the_table_answers_as_a_loop_does(
    held: list[list[Picture]], asked: list[Picture], distance: int, colour: int
) -> None:
    policy = Policy(similarity=0.9, hash_distance=distance, hash_colour=colour, hash_quality=50)
    table = HashTable()
    for position, pictures in enumerate(held):
        table.add(position, pictures)
    pairs = ((_fires(a, b, policy), i) for a in asked for i, pictures in enumerate(held) for b in pictures)
    assert sorted(table.firing(asked, policy)) == sorted((bits, i) for bits, i in pairs if bits is not None)


def test_a_history_of_growing_and_shrinking_keeps_the_rows() -> None:
    rng, table, rows = np.random.default_rng(3), HashTable(), list[tuple[int, Picture]]()
    flipped = [_picture(tuple(rng.choice(256, n % 12, replace=False).tolist())) for n in range(64)]
    for position in range(1500):
        pictures = [flipped[i] for i in rng.integers(0, 64, rng.integers(1, 9)).tolist()]
        table.add(position, pictures)
        rows += [(position, picture) for picture in pictures]
        if rng.random() < 0.02:
            size = len(rows) - int(rng.integers(0, min(40, len(rows))))
            table.truncate(size)
            rows = rows[:size]
        if rng.random() < 0.01:
            kept = {p for p in range(position + 1) if rng.random() < 0.8}
            table.keep(kept)
            rows = [(p, picture) for p, picture in rows if p in kept]
        assert len(table) == len(rows)
        if position % 100 == 0:
            expected = [(d, p) for p, other in rows if (d := _fires(_picture(), other, POLICY)) is not None]
            assert sorted(table.firing([_picture()], POLICY)) == sorted(expected)
    assert len(table) > 1024
