"""Recoloured twins, print swaps and colourways: what is changed, what is left alone, and what is left out."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from encoders import synthetic
from encoders.evaluation import colours, foreground, prints, recolour, unrelated
from encoders.evaluation.sources import Item, Limits, Sources
from encoders.evaluation.suites import Picture

LIMITS = Limits(gallery=90, queries=12, of_a_kind=4, largest=0)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(None, LIMITS, seed=0)


def luminance(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), float)


def test_a_twin_keeps_ground_and_brightness_of_hsv(sources: Sources) -> None:
    suite = recolour.twins(sources, "synthetic", sources.garments, "garments")
    assert len(suite.queries) == LIMITS.queries
    assert {query.kind for query in suite.queries} == {
        f"hue by {low} to {high} degrees" for low, high in recolour.TURNS
    }
    for query in suite.queries:
        original, twin = suite.gallery[query.rivals[0]].make(), query.picture.make()
        garment = foreground.of(suite.gallery[query.rivals[0]])
        assert garment is not None
        outside = ~np.asarray(Image.fromarray(garment).convert("L").filter(ImageFilter.MaxFilter(9)), bool)
        assert (np.asarray(original)[outside] == np.asarray(twin)[outside]).all()
        assert colours.difference(np.asarray(original), np.asarray(twin), garment) >= recolour.VISIBLE
        inside = foreground.inner(foreground.inner(garment))
        value = [np.asarray(image.convert("HSV"), float)[..., 2][inside].mean() for image in (original, twin)]
        assert value[0] == pytest.approx(value[1], abs=2)


def test_grey_garments_have_no_twin() -> None:
    grey = synthetic.garment(3)
    pixels = np.asarray(synthetic.design(grey, 200).convert("L").convert("RGB"))
    assert not recolour.colourful(Picture("grey", lambda: Image.fromarray(pixels)))


def test_a_swap_keeps_outline_and_folds_and_takes_the_print(sources: Sources) -> None:
    suite = prints.swaps(sources, "synthetic", sources.garments, "garments")
    assert len(suite.queries) == LIMITS.queries
    for query in suite.queries:
        original = suite.gallery[query.rivals[0]]
        garment = foreground.of(original)
        assert garment is not None
        before, after = np.asarray(original.make()), np.asarray(query.picture.make())
        outside = ~np.asarray(Image.fromarray(garment).convert("L").filter(ImageFilter.MaxFilter(9)), bool)
        assert (before[outside] == after[outside]).all()
        assert colours.difference(before, after, garment) >= prints.VISIBLE


def test_a_dyed_swap_keeps_the_mean_colour(sources: Sources) -> None:
    shop = [item for item in sources.garments if foreground.of(item.picture) is not None]
    one = shop[0]
    other = next(i for i in shop if i.group != one.group and prints._has_print(i.picture))
    garment = foreground.of(one.picture)
    assert garment is not None
    inside = foreground.inner(foreground.inner(garment))
    own = np.asarray(one.picture.make(), float)[inside].mean(axis=0)
    dyed = np.asarray(prints.printed(one.picture, other.picture, dyed=True), float)[inside].mean(axis=0)
    taken = np.asarray(prints.printed(one.picture, other.picture), float)[inside].mean(axis=0)
    assert np.abs(dyed - own).max() < np.abs(taken - own).max() / 2


def test_folds_come_from_the_garment() -> None:
    """A garment with a dark left and a bright right half gives that light to a plain print."""
    canvas = np.full((120, 120, 3), 250, np.uint8)
    canvas[20:100, 20:60], canvas[20:100, 60:100] = 60, 150
    garment = Picture("halves", lambda: Image.fromarray(canvas))
    plain = canvas.copy()
    plain[20:100, 20:100] = (90, 110, 130)
    worn = np.asarray(prints.printed(garment, Picture("plain", lambda: Image.fromarray(plain))), float)
    assert worn[40:80, 30:40].mean() < 0.75 * worn[40:80, 80:90].mean()
    ratios = worn[60, 30] / worn[60, 90]
    assert ratios.max() - ratios.min() < 0.03  # light, not colour


def test_the_patch_is_the_largest_square_inside() -> None:
    canvas = np.full((100, 100, 3), 250, np.uint8)
    canvas[10:90, 20:40] = 30
    canvas[30:70, 20:80] = 60
    image = Image.fromarray(canvas)
    garment = foreground.mask(image)
    assert garment is not None
    patch = prints.cloth(image, garment)
    assert 36 <= len(patch) <= 40
    assert (patch != 250).all()


def test_one_print_on_two_kinds(sources: Sources) -> None:
    suite = prints.shared(sources, "synthetic", sources.garments, "garments")
    kinds = {item.picture.name: item.label for item in sources.garments}
    assert suite.queries
    for query in suite.queries:
        first, cloth = query.picture.name.split(" in the print of ")
        second, same_cloth = suite.gallery[query.rivals[0]].name.split(" in the print of ")
        assert cloth == same_cloth
        assert kinds[first] != kinds[second]


def test_colourways_are_near_misses_and_the_article_is_the_truth(sources: Sources) -> None:
    suite = recolour.colourways(sources, "synthetic", sources.garments, "garments")
    assert len(suite.queries) == LIMITS.queries
    for query in suite.queries:
        truth, rival = (suite.gallery[at].name for (at,) in (query.truth, query.rivals))
        assert query.picture.name.startswith(truth)
        assert truth != rival
        assert truth.split("-")[0] == rival.split("-")[0]


def test_unrelated_halves_share_no_product(sources: Sources) -> None:
    halves = [
        {q.cluster for q in unrelated.neighbours(sources, "x", sources.garments, "", choosing=half).queries}
        for half in (True, False)
    ]
    assert halves[0]
    assert halves[1]
    assert not halves[0] & halves[1]


def test_silhouettes_are_of_other_products() -> None:
    def shape(width: int, colour: int) -> Picture:
        canvas = np.full((128, 96, 3), 250, np.uint8)
        canvas[20:110, 48 - width : 48 + width] = colour
        return Picture(f"{width} {colour}", lambda: Image.fromarray(canvas))

    shapes = [(30, 40, "a"), (30, 90, "a"), (30, 140, "b"), (15, 40, "c")]
    items = [Item(shape(w, c), group, "", "top", "", f"{w} {c}") for w, c, group in shapes]
    suite = unrelated.silhouettes(Sources(None, LIMITS, 0), "x", items, "")
    assert {q.picture.name: q.rivals for q in suite.queries} == {"30 40": (2,), "30 90": (2,), "30 140": (0, 1)}
    assert suite.pairs_only
