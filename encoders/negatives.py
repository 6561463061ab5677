"""Negatives that nobody labelled: of every product of a catalogue, the nearest picture of another one.

Among them may be true duplicates (one thing under two ids). They are found by eye and never by their score, or the
threshold would be measured on what it keeps out: `pair_id` names a pair for the person who looks at it.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import LARGEST, Negatives, cuts
from encoders.described import Described, HashRule, nearest_unrelated, numbered


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest pair of each of n products that have one. names: of the products.

    Shape: picture, other (n,), rows of the pictures that were given.
    """

    negatives: Negatives
    names: Sequence[str]
    picture: NDArray[np.intp]
    other: NDArray[np.intp]


def nearest_products(
    designs: Described,
    gallery: Described,
    products: Sequence[str],
    files: Sequence[object],
    categories: Sequence[str],
    rule: HashRule | None,
    seed: int,
    same: Mapping[str, Collection[str]] | None = None,
    largest: int = LARGEST,
) -> Neighbours:
    """Search a catalogue with its own products, in galleries of growing size. A product's category is that of its first
    picture.

    designs, gallery: the same pictures, as the encoder sees either. files: equal for equal bytes. same: products that
    are one thing. The smaller galleries are the first products of an order that the seed gives.
    """
    product = numbered(products)
    count = int(product.max()) + 1 if len(product) else 0
    if count < 2:
        return Neighbours(Negatives([1], np.empty((1, 0)), np.array([], np.str_)), [], product[:0], product[:0])
    order = np.argsort(np.random.default_rng(seed).permutation(count)[product], kind="stable")
    sizes = cuts(len(product), widest := int(np.bincount(product).max()), largest)
    number = {name: int(i) for name, i in zip(products, product, strict=True)}
    one_thing = {
        number[a]: {number[b] for b in others if b in number} for a, others in (same or {}).items() if a in number
    }
    found = nearest_unrelated(
        designs.at(order), gallery.at(order), product[order], numbered(files)[order], sizes, rule, one_thing
    )
    has_one = np.isfinite(found.scores[-1])
    first = np.unique(product, return_index=True)[1]
    return Neighbours(
        Negatives(
            [max(1, size - widest) for size in sizes],
            found.scores[:, has_one],
            np.array(categories, np.str_)[first[has_one]],
        ),
        [products[i] for i in first[has_one]],
        order[found.picture[has_one]],
        order[found.other[has_one]],
    )


def pair_id(a: str, b: str) -> str:
    """The name of a pair of products, whichever comes first; the same in every run."""
    return "-".join(sorted(map(name_id, (a, b))))


def name_id(name: str) -> str:
    """Twelve hexadecimal digits for a name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def pairs_of(ids: Collection[str], names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Which two of the names each `pair_id` stands for; without those that stand for none."""
    known = {name_id(name): name for name in names}
    halves = {pair: pair.split("-") for pair in ids}
    return {
        pair: (known[half[0]], known[half[1]])
        for pair, half in halves.items()
        if len(half) == 2 and all(one in known for one in half)
    }
