"""The synthetic catalogue and its stream of designs: repeatable, distinct, and true to their own labels."""

import io
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoders.synthetic import (
    EDITS,
    Garment,
    Sample,
    catalogue,
    design,
    designs,
    edit,
    garment,
    near_miss,
    photo,
)

SEVERAL = range(0, 70, 7)


def pixels(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image.convert("RGB"), np.float32)


def difference(a: Image.Image, b: Image.Image) -> float:
    """The mean absolute difference of two pictures of one size, of 255."""
    return float(np.abs(pixels(a) - pixels(b)).mean())


def decoded(sample: Sample) -> Image.Image:
    with Image.open(io.BytesIO(sample.image)) as image:
        return image.convert("RGB")


def worn(g: Garment) -> NDArray[Any]:
    """Where a small clean design shows the garment rather than its ground."""
    shown: NDArray[Any] = pixels(design(g, 96)).min(2) < 200
    return shown


class TestGarment:
    def test_is_the_same_for_the_same_seed(self) -> None:
        assert [garment(seed) for seed in range(40)] == [garment(seed) for seed in range(40)]

    def test_no_two_of_500_seeds_look_alike(self) -> None:
        garments = [garment(seed) for seed in range(500)]
        assert len(set(garments)) == 500
        small = np.stack([pixels(design(g, 64).reduce(2)).ravel() for g in garments])
        nearest = [np.abs(small[i + 1 :] - small[i]).mean(1).min() for i in range(499)]
        assert min(nearest) > 3.0

    def test_every_kind_print_and_neckline_occurs(self) -> None:
        garments = [garment(seed) for seed in range(500)]
        assert len({g.kind for g in garments}) == 9
        assert len({g.print for g in garments}) == 10
        assert {g.neckline for g in garments} == {"none", "round", "V", "boat", "turtle", "collar"}
        assert {g.sleeves for g in garments} == {"none", "short", "long"}

    def test_title_and_category_say_what_it_is(self) -> None:
        g = next(g for g in map(garment, range(1000)) if (g.kind, g.print, g.sleeves) == ("shirt", "stripes", "short"))
        assert g.title == f"Striped short-sleeved shirt, {g.colours[0].name} and {g.colours[1].name}"
        assert g.category == "shirts"

    def test_categories_are_the_nine_shelves(self) -> None:
        assert {garment(seed).category for seed in range(200)} == {
            "t-shirts", "shirts", "sweaters", "hoodies", "dresses", "skirts", "trousers", "shorts", "jackets",
        }  # fmt: skip


class TestPictures:
    @pytest.mark.parametrize("seed", SEVERAL)
    def test_same_seeds_give_the_same_bytes(self, seed: int) -> None:
        g = garment(seed)
        assert design(g).tobytes() == design(g).tobytes()
        assert photo(g, 5).tobytes() == photo(g, 5).tobytes()

    @pytest.mark.parametrize("size_px", [64, 200, 384])
    def test_have_the_size_that_was_asked_for(self, size_px: int) -> None:
        g = garment(3)
        for picture in (design(g, size_px), photo(g, 1, size_px)):
            assert (picture.mode, picture.size) == ("RGB", (size_px, size_px))

    @pytest.mark.parametrize("seed", SEVERAL)
    def test_a_design_is_clean_and_fills_the_picture(self, seed: int) -> None:
        image = pixels(design(garment(seed)))
        border = np.concatenate([image[:4].ravel(), image[-4:].ravel(), image[:, :4].ravel(), image[:, -4:].ravel()])
        assert border.min() > 225
        assert 0.1 < (np.ptp(image, 2) + (245 - image.mean(2)) > 12).mean() < 0.75

    @pytest.mark.parametrize("seed", SEVERAL)
    def test_the_two_domains_differ(self, seed: int) -> None:
        g = garment(seed)
        assert difference(design(g), photo(g, seed)) > 20

    def test_two_photographs_of_one_garment_differ(self) -> None:
        g = garment(8)
        assert difference(photo(g, 1), photo(g, 2)) > 10

    @pytest.mark.parametrize("seed", range(40))
    def test_a_near_miss_keeps_the_cut_and_changes_the_look(self, seed: int) -> None:
        g = garment(seed)
        other = near_miss(g, seed)
        assert (other.kind, other.neckline, other.sleeves, other.length, other.fit, other.flare, other.trim) == (
            g.kind, g.neckline, g.sleeves, g.length, g.fit, g.flare, g.trim,
        )  # fmt: skip
        assert other.print != g.print or other.colours != g.colours
        shown = worn(g) | worn(other)
        assert np.abs(pixels(design(g, 96)) - pixels(design(other, 96)))[shown].mean() > 20


class TestEdit:
    @pytest.mark.parametrize("name", EDITS)
    def test_changes_a_little_and_says_how(self, name: str) -> None:
        image = photo(garment(11), 11)
        changed, said = edit(image, 3, [name])
        assert said == name
        assert changed.tobytes() != image.tobytes()
        back = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if name == "mirror" else changed
        assert difference(back.resize((24, 24)), image.resize((24, 24))) < 20

    def test_every_edit_is_drawn_and_repeats(self) -> None:
        image = photo(garment(2), 2, 96)
        assert {edit(image, seed)[1] for seed in range(60)} == set(EDITS)
        assert edit(image, 9)[0].tobytes() == edit(image, 9)[0].tobytes()

    def test_resize_and_crop_make_it_smaller_within_bounds(self) -> None:
        image = photo(garment(2), 2)
        for seed in range(20):
            assert 190 <= edit(image, seed, ["resize"])[0].width <= 347
            assert 352 <= edit(image, seed, ["crop"])[0].width <= 377


class TestCatalogue:
    def test_repeats_and_a_longer_one_begins_with_a_shorter(self) -> None:
        assert list(catalogue(4, 7)) == list(islice(catalogue(1000, 7), 4))

    def test_items_are_named_in_order_and_decode(self) -> None:
        items = list(catalogue(5, 1))
        assert [item.id for item in items] == [f"item-{k:05d}" for k in range(1, 6)]
        assert all(item.kind == "item" and item.truth is None and decoded(item).size == (384, 384) for item in items)

    def test_another_seed_is_another_catalogue(self) -> None:
        assert {item.image for item in catalogue(4, 1)}.isdisjoint(item.image for item in catalogue(4, 2))


@pytest.fixture(scope="module")
def stream() -> list[Sample]:
    return list(designs(120, 20, 4))


@pytest.fixture(scope="module")
def items() -> dict[str, Sample]:
    return {item.id: item for item in catalogue(20, 4)}


class TestDesigns:
    def test_repeats(self, stream: list[Sample]) -> None:
        assert list(islice(designs(900, 20, 4), 20)) == stream[:20]

    def test_holds_the_mix(self, stream: list[Sample]) -> None:
        share = {reason: count / len(stream) for reason, count in Counter(s.reason for s in stream).items()}
        assert share["new"] == pytest.approx(0.55, abs=0.1)
        assert share["exact copy"] == pytest.approx(0.12, abs=0.07)
        assert share["reencode"] + share["resize"] + share["crop"] == pytest.approx(0.18, abs=0.08)
        assert share["twin of an earlier design"] == pytest.approx(0.10, abs=0.07)
        assert {"near miss", "broken file"} <= set(share)
        assert "photograph's own clean design" not in share

    def test_truth_is_an_item_or_an_earlier_design(self, stream: list[Sample], items: dict[str, Sample]) -> None:
        known = set(items)
        for sample in stream:
            assert sample.kind == "design"
            assert sample.truth is None or sample.truth in known
            assert (sample.truth is None) == (sample.reason in ("new", "near miss", "broken file"))
            known.add(sample.id)

    def test_truth_is_never_itself_a_copy_or_broken(self, stream: list[Sample]) -> None:
        reasons = {sample.id: sample.reason for sample in stream}
        twins = [sample for sample in stream if sample.reason == "twin of an earlier design"]
        assert twins
        assert {reasons[str(twin.truth)] for twin in twins} <= {"new", "near miss"}

    def test_copies_have_the_bytes_or_the_look_of_their_item(
        self, stream: list[Sample], items: dict[str, Sample]
    ) -> None:
        for sample in stream:
            if sample.reason == "exact copy":
                assert sample.image == items[str(sample.truth)].image
            elif sample.reason in ("reencode", "resize"):
                original = decoded(items[str(sample.truth)])
                assert sample.image != items[str(sample.truth)].image
                assert difference(decoded(sample).resize(original.size), original) < 10

    def test_new_designs_are_no_garment_of_the_catalogue(self, stream: list[Sample], items: dict[str, Sample]) -> None:
        shown = {(item.title, item.category) for item in items.values()}
        assert all((sample.title, sample.category) not in shown for sample in stream if sample.reason == "new")

    def test_only_broken_files_fail_to_decode(self, stream: list[Sample]) -> None:
        for sample in stream:
            if sample.reason == "broken file":
                with pytest.raises(OSError, match=r"truncated|cannot identify|broken"):
                    decoded(sample)
            else:
                assert decoded(sample).mode == "RGB"

    def test_cross_domain_designs_show_the_items_garment(self, items: dict[str, Sample]) -> None:
        clean = [s for s in designs(30, 20, 4, cross_domain=0.4) if s.reason == "photograph's own clean design"]
        assert clean
        for sample in clean:
            assert sample.title == items[str(sample.truth)].title
            assert sample.image != items[str(sample.truth)].image

    def test_without_a_catalogue_nothing_copies_it(self) -> None:
        assert all(s.truth is None or s.truth.startswith("design-") for s in designs(40, 0, 3))
