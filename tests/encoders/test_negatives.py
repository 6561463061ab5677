"""The nearest unrelated product of each one, against a slow search; and the names of pairs."""

import numpy as np
import pytest

from encoders.calibration import LARGEST
from encoders.described import HashRule, scores
from encoders.negatives import name_id, nearest_products, pair_id, pairs_of
from tests.encoders.test_described import pictures

RULE = HashRule(5, 7, 50)


@pytest.mark.parametrize("seed", range(4))
def test_every_product_has_the_nearest_picture_of_another_one(seed: int) -> None:
    n, rng = 40, np.random.default_rng(seed)
    designs, gallery = pictures(n, seed), pictures(n, seed + 100)
    products = [f"p{rng.integers(15)}" for _ in range(n)]
    files = rng.integers(30, size=n).tolist()
    categories = [f"c{name[-1]}" for name in products]
    same = {"p1": ["p2", "gone"], "p2": ["p1"], "away": ["p3"]}
    found = nearest_products(designs, gallery, products, files, categories, RULE, seed, same)
    table = scores(designs, gallery, RULE)
    assert set(found.names) == set(products)
    assert found.negatives.category.tolist() == [f"c{name[-1]}" for name in found.names]
    for place, name in enumerate(found.names):
        allowed = {
            (i, j): table[i, j]
            for i in range(n)
            for j in range(n)
            if products[i] == name != products[j] and files[i] != files[j] and products[j] not in same.get(name, ())
        }
        best = max(allowed.values())
        assert found.negatives.scores[-1, place] == best
        assert allowed[int(found.picture[place]), int(found.other[place])] == best


def test_smaller_galleries_are_parts_of_the_larger_ones() -> None:
    many = pictures(5000, 7)
    products = [str(n // 2) for n in range(5000)]
    found = nearest_products(many, many, products, range(5000), [""] * 5000, None, 1)
    assert found.negatives.sizes == [1023, 2047, 4095, 4998]
    assert (np.diff(found.negatives.scores, axis=0) >= 0).all()
    assert (np.diff(found.negatives.scores, axis=0) > 0).any()
    again = nearest_products(many, many, products, range(5000), [""] * 5000, None, 1)
    other = nearest_products(many, many, products, range(5000), [""] * 5000, None, 2)
    assert (again.negatives.scores == found.negatives.scores).all()
    assert (other.negatives.scores[0] != found.negatives.scores[0]).any()
    assert (other.negatives.scores[-1] == found.negatives.scores[-1]).all()
    # The first cut holds the first products of the order: a search by hand among them gives its scores.
    order = np.argsort(np.random.default_rng(1).permutation(2500)[np.arange(5000) // 2], kind="stable")[:1025]
    table = scores(many.at(slice(2)), many.at(order), None)
    table[:, order < 2] = -np.inf
    assert found.negatives.scores[0, 0] == table.max()


def test_a_product_alone_has_no_negative() -> None:
    three = pictures(3, 0)
    alone = nearest_products(three, three, ["a", "a", "a"], [1, 2, 3], [""] * 3, None, 0)
    assert len(alone.names) == alone.negatives.scores.shape[1] == len(alone.picture) == 0
    related = nearest_products(three, three, ["a", "b", "c"], [1, 1, 2], [""] * 3, None, 0, {"a": ["c"], "c": ["a"]})
    assert related.names == ["b", "c"]
    none = nearest_products(three.at(slice(0)), three.at(slice(0)), [], [], [], None, 0, largest=LARGEST)
    assert len(none.names) == 0


def test_a_pair_has_one_name() -> None:
    assert (
        pair_id("a", "b") == pair_id("b", "a") == f"{min(name_id('a'), name_id('b'))}-{max(name_id('a'), name_id('b'))}"
    )
    assert len({pair_id(a, b) for a in "abcd" for b in "abcd" if a < b}) == 6
    assert pair_id("\udcff", "é") == pair_id("é", "\udcff")


def test_names_of_pairs_are_found_again() -> None:
    names = ["a", "b", "c"]
    ids = [pair_id("c", "a"), pair_id("a", "x"), "nonsense", "", f"{name_id('a')}", f"{name_id('a')}-{name_id('b')}-x"]
    assert {pair: set(two) for pair, two in pairs_of(ids, names).items()} == {pair_id("a", "c"): {"a", "c"}}
