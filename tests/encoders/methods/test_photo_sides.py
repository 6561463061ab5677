"""Parts never share an item, pairs show one thing, suites know the right answer: on a drawn folder."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from encoders.data import load
from encoders.methods.compare_suites import suites
from encoders.methods.photo_sides import (
    Part,
    cut_outs,
    packshots,
    part_of,
    pastable,
    photo_sides,
    pixel_batches,
    street_photos,
)
from tests.encoders.methods.photo_folder import Shades, make

PARTS: tuple[Part, ...] = get_args(Part)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def features(tmp_path: Path) -> Shades:
    return Shades(tmp_path)


def test_parts_share_no_photo_and_no_product_and_leave_nothing_out(data: Path) -> None:
    photos = [set(street_photos(cut_outs(data, part))) for part in PARTS]
    products = [set(packshots(data, part, 1000)) for part in PARTS]
    for parts in (photos, products):
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    shares = [np.mean([part_of(str(name)) == part for name in range(20_000)]) for part in PARTS]
    assert shares == pytest.approx([0.5, 0.15, 0.35], abs=0.02)


def test_a_box_is_where_the_garment_is_worn(data: Path) -> None:
    for one in cut_outs(data, "test"):
        worn = np.asarray(load(one.photo).crop(one.box), np.int16)
        cut = np.asarray(load(one.path), np.int16)[10:-10, 10:-10]
        assert np.abs(worn[5:-5, 5:-5].mean(axis=(0, 1)) - cut[5:-5, 5:-5].mean(axis=(0, 1))).max() < 5


def test_one_packshot_a_product_and_the_same_ones_again(data: Path) -> None:
    few = packshots(data, "train", 5)
    assert len(few) == 5
    assert few == packshots(data, "train", 5)
    assert all(path.stem == f"{product}000" for product, path in few.items())


def test_sides_as_they_look_and_as_the_role_they_play(data: Path, features: Shades) -> None:
    street = photo_sides(data, "train", features, "street", 8, with_pairs=True)
    items = cut_outs(data, "train")
    assert np.array_equal(street.catalog, features.of_paths(packshots(data, "train", 8).values()))
    assert np.array_equal(street.generated, features.of_paths(street_photos(items)))
    assert len(street.pairs[0]) == len(street.pairs[1]) == len(street.pair_groups) > 8
    roles = photo_sides(data, "train", features, "cut-outs", 8, with_pairs=False)
    assert np.array_equal(roles.catalog, np.concatenate([street.catalog, street.generated]))
    assert len(roles.generated) == 8
    assert roles.pairs[0].shape == roles.pairs[1].shape == (0, 1280)


def test_pairs_of_pixels_follow_their_seed_and_know_their_items(data: Path) -> None:
    clean, scenes = pastable(data, "train", 8)
    first, again, other = (list(pixel_batches(clean, scenes, 6, 2, seed)) for seed in (0, 0, 1))
    for left, right in zip(first, again, strict=True):
        assert [array.tobytes() for array in left] == [array.tobytes() for array in right]
    assert not np.array_equal(first[0][1], other[0][1])
    assert first[0][0].shape == first[0][1].shape == (len(first[0][2]), 224, 224, 3)


def test_suites_are_answered_by_their_truth(data: Path, features: Shades) -> None:
    street, scene, worn = suites(data, "test", features, "street", 20)
    items = cut_outs(data, "test")
    photos = street_photos(items)
    assert [photos[at].stem for at in street.truth] == [one.photo.stem for one in items] == street.clusters
    assert (street.query_domain, street.gallery_domain) == ("catalog", "generated")
    assert len(scene.queries) == len(scene.truth) > 5
    coats = [one for one in items if one.label == "coat"]
    assert len(worn.queries) == len(worn.gallery) == len(coats)  # shoes are nothing to wear instead of a coat
    assert worn.clusters == [coats[at].photo.stem for at in worn.truth]
    assert not worn.ignored[np.arange(len(worn.truth)), worn.truth].any()
    roles = suites(data, "test", features, "cut-outs", 20)[0]
    assert (roles.query_domain, roles.gallery_domain) == ("generated", "catalog")


def test_a_missing_set_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ccp/items\.csv"):
        cut_outs(tmp_path, "train")
