"""The three suites that ask for adaptation, as features: cut-out and street photo, packshot and scene, garment worn.

Smaller than those of `encoders.evaluation`, and made of a part of the photographs that no method has learnt from. The
scenes of the packshots are pasted by the code that makes the siamese method's pairs (other garments, other streets), so
that suite flatters the siamese arms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.data import load
from encoders.methods.features import FrozenFeatures, Rows
from encoders.methods.photo_sides import CutOut, Generated, Part, cut_outs, packshots, pairs, sample, street_photos
from encoders.methods.rendering import cut_out, onto_person
from encoders.preprocess import Domain

WORN: Final = frozenset({
    "blazer", "blouse", "cape", "cardigan", "coat", "dress", "hoodie", "jacket", "jeans", "jumper", "pants", "shirt",
    "shorts", "skirt", "suit", "sweater", "sweatshirt", "t-shirt", "top", "vest",
})  # fmt: skip
"""Labels of ccp that one garment can take over from another."""

_SMALLEST_PX: Final = 40  # side of a garment in the stored photo, below which nothing can be seen of it


@dataclass(frozen=True, slots=True)
class Suite:
    """Queries against a gallery. `truth` is the place of the one right entry, `ignored` leaves entries out.

    Shape: queries (n, 1280), gallery (m, 1280), truth (n,), ignored (n, m); one cluster a query: what queries share
    that are not independent.
    """

    name: str
    queries: Rows
    gallery: Rows
    truth: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    clusters: Sequence[str]
    query_domain: Domain
    gallery_domain: Domain


def suites(data: Path, part: Part, features: FrozenFeatures, generated: Generated, limit: int) -> list[Suite]:
    """All three. `limit` is of packshots and of garments put onto people; cut-outs are all there are."""
    items = cut_outs(data, part)
    return [
        _in_the_street(items, features, generated),
        _in_a_scene(packshots(data, part, limit), street_photos(items), features),
        _worn(items, features, limit),
    ]


def _in_the_street(items: Sequence[CutOut], features: FrozenFeatures, generated: Generated) -> Suite:
    """(b): every cut-out against the street photos."""
    photos = street_photos(items)
    place = {photo: at for at, photo in enumerate(photos)}
    domains: tuple[Domain, Domain] = ("catalog", "generated") if generated == "street" else ("generated", "catalog")
    return Suite(
        "b cut-out / photo",
        features.of_paths(one.path for one in items),
        features.of_paths(photos),
        np.array([place[one.photo] for one in items]),
        np.zeros((len(items), len(photos)), bool),
        [one.photo.stem for one in items],
        *domains,
    )


def _in_a_scene(shots: dict[str, Path], photos: Sequence[Path], features: FrozenFeatures) -> Suite:
    """(c): every packshot pasted into a street photo, against the packshots."""
    products = list(shots)
    asked: list[str] = []

    def scenes() -> Iterator[Image.Image]:
        for pair in pairs([(shots[product], product) for product in products], photos, seed=1):
            asked.append(pair.group)
            yield pair.scene

    queries = features.of_images(scenes())
    place = {product: at for at, product in enumerate(products)}
    return Suite(
        "c packshot / scene",
        queries,
        features.of_paths(shots.values()),
        np.array([place[product] for product in asked], np.int64),
        np.zeros((len(asked), len(products)), bool),
        asked,
        "generated",
        "catalog",
    )


def _worn(items: Sequence[CutOut], features: FrozenFeatures, limit: int) -> Suite:
    """(h): a garment put onto another person who wears its kind, against all such garments.

    The garment that the person wears underneath stays in the gallery as the decoy, the rest of what the person wears
    is left out: it is in the picture.
    """
    garments = [
        one
        for one in items
        if one.label in WORN and min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= _SMALLEST_PX
    ]
    asked: list[tuple[int, int]] = []

    def worn() -> Iterator[Image.Image]:
        for at in sample(range(len(garments)), limit):
            garment = cut_out(load(garments[at].path))
            rng = np.random.default_rng([2, at])
            others = [
                i
                for i, one in enumerate(garments)
                if one.label == garments[at].label and one.photo != garments[at].photo
            ]
            if garment is not None and others:
                person = others[rng.integers(len(others))]
                asked.append((at, person))
                yield onto_person(garment, load(garments[person].photo), garments[person].box, rng)

    queries = features.of_images(worn())
    photo = np.array([one.photo.stem for one in garments])
    truth, under = np.array(asked, np.int64).reshape(-1, 2).T
    ignored = photo[under][:, None] == photo[None, :]
    ignored[np.arange(len(under)), under] = False
    return Suite(
        "h worn by another",
        queries,
        features.of_paths(one.path for one in garments),
        truth,
        ignored,
        [str(name) for name in photo[truth]],
        "generated",
        "catalog",
    )
