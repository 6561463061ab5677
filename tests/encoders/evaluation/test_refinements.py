"""Every piece of arithmetic against a slow reference or a case whose answer is known; recipes on a made-up suite."""

import io
import itertools
import math
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from encoders import synthetic
from encoders.data import HELD_OUT, clothing
from encoders.embedding import Embedder, VectorCache
from encoders.evaluation import refinements, refinements_background, refinements_recipe
from encoders.evaluation import refinements_scores as scores
from encoders.evaluation.bootstrap import Interval
from encoders.evaluation.command import SHIPPED
from encoders.evaluation.refinements import AS_SHIPPED, GRID, TOGETHER, Bench, changed, chosen, described, mark
from encoders.evaluation.refinements_costs import Costs
from encoders.evaluation.refinements_recipe import Recipe, outcome, threshold
from encoders.evaluation.refinements_views import TOKEN_DIM, Side, TokenEmbedder, Views
from encoders.evaluation.sources import SYNTHETIC_SEED, Limits, Sources
from encoders.evaluation.suites import Picture, Query, Suite
from encoders.preprocess import canary_pixels

REPOSITORY = Path(__file__).resolve().parents[3]


def rows(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def skewed(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows of unlike and dependent variances, away from zero."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)).astype(np.float32)


def test_whitening_gives_mean_zero_and_covariance_one() -> None:
    x = skewed(500, 6)
    white = scores.whitening(x, 0)(x)
    assert white.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert white.T @ white / 500 == pytest.approx(np.eye(6), abs=1e-9)


def test_whitening_changes_least() -> None:
    """Of all whitenings the symmetric one has the largest trace of its matrix with the deviations (ZCA)."""
    matrix = scores.whitening(skewed(500, 6), 0).matrix
    assert matrix == pytest.approx(matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_full_shrinkage_only_centres() -> None:
    x = skewed(200, 5)
    moved = scores.whitening(x, 1)(x)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    scale = math.sqrt((centred**2).sum(axis=1).mean() / 5)
    assert moved == pytest.approx(centred / scale)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.7])
def test_shrinkage_of_two_known_variances(shrinkage: float) -> None:
    """Variances 4 and 1, no covariance: each deviation is divided by the root of its shrunk variance."""
    x = np.array([(2 * a, b) for a in (-1, 1) for b in (-1, 1)], np.float32)
    shrunk = (1 - shrinkage) * np.array([4, 1]) + shrinkage * 2.5
    assert scores.whitening(x, shrinkage)(x) == pytest.approx(x / np.sqrt(shrunk))


def test_a_background_that_cannot_be_whitened() -> None:
    flat = np.array([[1, 2, 0], [3, 1, 0], [2, 5, 0], [0, 1, 0]], np.float32)
    with pytest.raises(ValueError, match="singular"):
        scores.whitening(flat, 0)
    assert np.isfinite(scores.whitening(flat, 0.1)(flat)).all()
    with pytest.raises(ValueError, match="expected 0 to 1"):
        scores.whitening(flat, 1.5)


def test_principal_axes_explain_most() -> None:
    """Two numbers of data that has but two: distances are kept."""
    plane = (np.random.default_rng(0).standard_normal((40, 2)) @ rows(2, 7)).astype(np.float32)
    two = scores.principal(plane, 2)(plane)
    for a, b in itertools.combinations(range(10), 2):
        assert np.linalg.norm(two[a] - two[b]) == pytest.approx(np.linalg.norm(plane[a] - plane[b]), rel=1e-5)
    assert two[:, 0].var() >= two[:, 1].var()


def test_blocks_keep_their_norms() -> None:
    structure, colour = rows(30, 6), rows(30, 3, seed=1)
    x = np.concatenate([math.sqrt(0.75) * structure, 0.5 * colour], axis=1)
    for made in (scores.whitened(x, x, 0.1, 6), scores.averaged(x, x[::-1], 6)):
        assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(30), rel=1e-5)
        assert np.linalg.norm(made[:, 6:], axis=1) == pytest.approx(np.full(30, 0.5), rel=1e-5)
    assert scores.averaged(x, x, 6) == pytest.approx(x, abs=1e-6)


def test_a_block_is_whitened_without_the_other() -> None:
    x = rows(60, 9)
    other = x.copy()
    other[:, 6:] = rows(60, 3, seed=2)
    a, b = (scores.unit(scores.whitened(y, y, 0.1, 6)[:, :6].astype(np.float64)) for y in (x, other))
    assert a == pytest.approx(b, abs=1e-6)


def test_averaging_against_a_loop() -> None:
    x, y = rows(5, 4), rows(5, 4, seed=1)
    slow = [(a + b) / np.linalg.norm(a + b) for a, b in zip(x, y, strict=True)]
    assert scores.averaged(x, y, 4) == pytest.approx(np.array(slow), abs=1e-6)


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 99), st.data())
@settings(max_examples=60, deadline=None)
def test_crowding_against_sorting(n: int, m: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, m))
    x, background = rows(n, 5, seed), rows(m, 5, seed + 1)
    slow = [sum(sorted((float(a @ b) for b in background), reverse=True)[:k]) / k for a in x]
    assert scores.crowding(x, background, k) == pytest.approx(np.array(slow), abs=1e-5)


def test_normalisation_of_known_numbers() -> None:
    similarity = np.array([[0.9, 0.5], [0.4, 0.8]], np.float32)
    query, item = np.array([0.2, 0.0], np.float32), np.array([0.1, 0.3], np.float32)
    assert scores.normalised(similarity, query, item, 0.5) == pytest.approx(
        np.array([[0.9 - 0.15, 0.5 - 0.25], [0.4 - 0.05, 0.8 - 0.15]])
    )


def test_crowding_of_the_query_never_changes_its_order() -> None:
    similarity = rows(6, 9)
    moved = scores.normalised(similarity, rows(1, 6)[0], np.zeros(9, np.float32), 1.0)
    assert (np.argsort(moved, axis=1) == np.argsort(similarity, axis=1)).all()


def tokens(n: int, places: int, seed: int) -> scores.Tokens:
    return rows(n * places, 4, seed).reshape(n, places, 4).astype(np.float16)


def slow_chamfer(a: scores.Tokens, b: scores.Tokens) -> float:
    def one_way(x: scores.Tokens, y: scores.Tokens) -> float:
        return sum(max(float(p.astype(np.float64) @ q.astype(np.float64)) for q in y) for p in x) / len(x)

    return (one_way(a, b) + one_way(b, a)) / 2


def slow_mutual(a: scores.Tokens, b: scores.Tokens) -> float:
    s = [[float(p.astype(np.float64) @ q.astype(np.float64)) for q in b] for p in a]
    total = 0.0
    for i, j in itertools.product(range(len(a)), range(len(b))):
        best = s[i][j] == max(s[i]) and s[i][j] == max(row[j] for row in s)
        total += max(s[i][j], 0) * best
    return total / min(len(a), len(b))


@pytest.mark.parametrize("seed", range(8))
def test_local_similarities_against_loops(seed: int) -> None:
    query, items = tokens(1, 4, seed)[0], tokens(3, 6, seed + 50)
    assert scores.chamfer(query, items) == pytest.approx([slow_chamfer(query, i) for i in items], abs=1e-3)
    assert scores.mutual(query, items) == pytest.approx([slow_mutual(query, i) for i in items], abs=1e-3)


def test_local_features_do_not_mind_where_things_are() -> None:
    item = np.eye(4, dtype=np.float16)
    for alike in (scores.chamfer, scores.mutual):
        assert alike(item, item[None, ::-1]) == pytest.approx([1])
        assert alike(item, -item[None])[0] <= 0
    # One of four tokens is there, the others meet nothing: a quarter.
    apart = np.concatenate([np.eye(8, dtype=np.float16)[:1], np.eye(8, dtype=np.float16)[4:7]])
    assert scores.mutual(np.eye(8, dtype=np.float16)[:4], apart[None]) == pytest.approx([0.25])
    assert scores.chamfer(np.eye(8, dtype=np.float16)[:4], apart[None]) == pytest.approx([0.25])


def test_a_second_look_at_known_numbers() -> None:
    similarity = np.array([[0.9, 0.8, 0.5, 0.3, -math.inf]], np.float32)
    places = scores.first(similarity, 2)
    assert places.tolist() == [[0, 1]]
    looked = scores.second_look(similarity, places, np.array([[0.1, 0.6]], np.float32), 0.5)
    # The first two change places; the others stay 0.3 and 0.5 below the second, which was 0.8 and whose place in the
    # new order the lowest of the two, 0.5, takes.
    assert looked == pytest.approx(np.array([[0.5, 0.7, 0.2, 0.0, -math.inf]]))


@given(st.integers(0, 500), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=100, deadline=None)
def test_a_second_look_keeps_the_rest_in_order_and_below(seed: int, k: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.standard_normal((3, 9)).astype(np.float32)
    similarity[rng.random((3, 9)) < 0.2] = -np.inf
    places = scores.first(similarity, k)
    looked = scores.second_look(similarity, places, rng.standard_normal(places.shape).astype(np.float32), weight)
    assert (np.isfinite(looked) == np.isfinite(similarity)).all()
    for row in range(3):
        again = [p for p in places[row] if np.isfinite(similarity[row, p])]
        rest = [p for p in np.argsort(-similarity[row]) if p not in places[row] and np.isfinite(similarity[row, p])]
        assert all(looked[row, p] <= min(looked[row, a] for a in again) + 1e-5 for p in rest)
        assert all(looked[row, a] >= looked[row, b] for a, b in itertools.pairwise(rest))
        if weight == 0:
            assert looked[row, again] == pytest.approx(similarity[row, again])


def suite_of(n: int, pairs_only: bool = False) -> Suite:
    def nothing() -> Image.Image:
        pytest.fail("scores open no pictures")

    gallery = [Picture(f"item {i}", nothing) for i in range(n)]
    queries = [Query(Picture(f"copy {i}", nothing), f"product {i}", "", (i,)) for i in range(n - 1)]
    return Suite("made up", "", gallery, [*queries, Query(gallery[-1], "itself", "", (0,))], pairs_only=pairs_only)


def side_of(n: int, seed: int) -> Side:
    return Side(rows(n, 8, seed), rows(n, 8, seed + 1), tokens(n, 4, seed + 2))


def test_a_recipe_of_nothing_is_the_cosine() -> None:
    suite, side = suite_of(30), side_of(30, 0)
    similarity = Recipe().similarities(suite, side, side, rows(50, 8), 8)
    assert similarity[29, 29] == -math.inf
    similarity[29, 29] = 1
    assert similarity == pytest.approx(side.vectors @ side.vectors.T, abs=1e-6)


@pytest.mark.parametrize("recipe", [recipe for recipes in GRID.values() for recipe in recipes[:1]])
def test_every_recipe_does_something_and_nobody_meets_itself(recipe: Recipe) -> None:
    suite, asked, kept = suite_of(30), side_of(30, 0), side_of(30, 9)
    plain, refined = (one.similarities(suite, asked, kept, rows(50, 8, 4), 6) for one in (Recipe(), recipe))
    assert refined[29, 29] == -math.inf
    assert np.isfinite(refined).sum() == refined.size - 1
    there = np.isfinite(plain)
    assert np.abs(refined[there] - plain[there]).max() > 1e-3
    assert Recipe(**changed(recipe)) == recipe


def test_what_is_found_and_where_the_threshold_lies() -> None:
    """A perfect matrix finds everything; the threshold lies just above what one in 200 reaches."""
    n = 400
    suite = suite_of(n)
    similarity = np.full((n, n), 0.1, np.float32)
    similarity[np.arange(n - 1), np.arange(n - 1)] = 0.9
    similarity[n - 1, 0] = 0.9
    perfect = outcome(suite, similarity)
    assert (perfect.recall, perfect.found) == (1, 1)
    unrelated = [Query(query.picture, query.cluster) for query in suite.queries]
    highest = np.tile(np.arange(n, dtype=np.float32)[:, None], (1, n))
    calibration = outcome(Suite("unrelated", "", suite.gallery, unrelated), highest)
    assert (calibration.judged.unrelated >= threshold(calibration)).mean() == pytest.approx(0.005)


def test_paired_intervals_of_known_gains() -> None:
    suite = suite_of(200)
    good = np.eye(200, dtype=np.float32)
    good[199, [0, 199]] = 1, -np.inf
    after, before = outcome(suite, good), outcome(suite, np.where(np.isfinite(good), -good, good))
    for gained in (refinements_recipe.recall_gained, refinements_recipe.found_gained):
        assert gained(after, after) == Interval(0, 0, 0)
        gain = gained(after, before)
        assert gain.value == gain.low == gain.high == 1
    called = np.ones(200)
    assert refinements_recipe.called_gained(called, 0 * called, after.clusters).value == 1


def test_marks() -> None:
    assert [mark(Interval(0, *ends)) for ends in ((1, 2), (-2, -1), (-1, 1))] == ["+", "-", " "]
    assert [mark(Interval(0, *ends), fewer=True) for ends in ((1, 2), (-2, -1), (-1, 1))] == ["-", "+", " "]


def test_what_was_chosen_is_named() -> None:
    assert described(Recipe()) == described(Recipe(mirrored=True)) == ""
    assert described(Recipe(shrinkage=0.3, mirrored=True)) == "mirrored, shrinkage 0.3"
    assert described(Recipe(sides="item", near=8, strength=0.5)) == "sides item, near 8, strength 0.5"


def test_the_grid_differs_from_what_is_shipped_and_in_itself() -> None:
    recipes = [recipe for family in GRID.values() for recipe in family]
    assert len(set(recipes)) == len(recipes)
    assert Recipe() not in recipes


def test_tokens_of_the_shipped_model(tmp_path: Path) -> None:
    """The same vectors as without the second output, unit tokens, and the same from the cache."""
    canary = canary_pixels()
    pixels = [canary, canary[::-1].copy(), canary[:, ::-1].copy()]
    cache = VectorCache(tmp_path)
    embedder = TokenEmbedder(SHIPPED, cache)
    embedder.fit(pixels)
    vectors, seen = embedder.pixels(pixels, "generated")
    assert vectors == pytest.approx(Embedder(SHIPPED).pixels(pixels, "generated"), abs=1e-5)
    assert seen.shape == (3, 36, TOKEN_DIM)
    assert np.linalg.norm(seen.astype(np.float64), axis=2) == pytest.approx(np.ones((3, 36)), abs=2e-3)
    again = embedder.pixels(pixels, "generated")
    assert (again[0] == vectors).all()
    assert (again[1] == seen).all()
    fresh = embedder.uncached().pixels(pixels, "generated")
    assert fresh[0] == pytest.approx(vectors, abs=1e-6)
    cache.close()


def test_a_model_without_a_feature_map_is_refused(tmp_path: Path) -> None:
    floats = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [16]) for name in "xy"]
    nodes = [onnx.helper.make_node("Clip", ["x"], ["z"]), onnx.helper.make_node("Identity", ["z"], ["y"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "flat", floats[:1], floats[1:])), tmp_path / "flat")
    with pytest.raises(ValueError, match="no feature map"):
        TokenEmbedder(tmp_path / "flat", None)


def test_views_know_the_mirror_image_of_the_gallery_alone() -> None:
    image = Image.fromarray(canary_pixels())
    mirrored = Image.fromarray(np.ascontiguousarray(canary_pixels()[:, ::-1]))
    embedder, seen = Embedder(SHIPPED), TokenEmbedder(SHIPPED, None)
    seen.fit([canary_pixels()])
    suite = Suite("two", "", [Picture("a", image.copy), Picture("b", mirrored.copy)],
                  [Query(Picture("c", image.copy), "c", "", (0,))])  # fmt: skip
    asked, kept = Views(embedder, seen, lambda *_: None).sides(suite)
    assert asked.mirrored.shape == (0,)
    assert kept.mirrored == pytest.approx(kept.vectors[::-1], abs=1e-5)
    assert asked.vectors[0] == pytest.approx(kept.vectors[0], abs=1e-5)


class Judge(Bench):
    """Its merits are given."""

    def __init__(self, merits: dict[Recipe, float]) -> None:
        self._merits = merits

    def merit(self, recipe: Recipe) -> float:
        return self._merits.get(recipe, 0.5)


def test_the_best_of_each_family_is_chosen_and_what_gains_is_put_together() -> None:
    white, mirrored = Recipe(shrinkage=0.3), Recipe(mirrored=True)
    query, both = (Recipe(sides=sides, near=8, strength=0.5) for sides in ("query", "both"))
    mutual = Recipe(local="mutual", weight=0.4)
    merits = dict.fromkeys((recipe for family in GRID.values() for recipe in family), 0.4)
    merits |= {white: 0.6, query: 0.7, both: 0.65, mutual: 0.55, mirrored: 0.45}
    rows_of = chosen(Judge(merits))
    assert rows_of["PCA whitening"] == (white, 0.6)
    assert rows_of["normalised, query"] == (query, 0.7)
    assert rows_of["second look, mutual"] == (mutual, 0.55)
    # The better of two normalisations; no mirror averaging, which loses.
    together, _ = rows_of[TOGETHER]
    assert together == Recipe(shrinkage=0.3, sides="query", near=8, strength=0.5, local="mutual", weight=0.4)


def test_the_table_on_synthetic_garments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, small: every row has every figure, and the costs are those of what is done."""
    monkeypatch.setattr(refinements, "DEVELOPMENT", ("edits/synthetic",))
    monkeypatch.setattr(refinements, "REPORTED", ("edits/synthetic",))
    monkeypatch.setattr(refinements, "NEAR_MISSES", ("recolour/synthetic",))
    monkeypatch.setattr(refinements, "GRID", {name: GRID[name][:1] for name in ("mirror averaged", "normalised, item")})
    monkeypatch.setattr(refinements_recipe, "CALIBRATION_RATE", 0.2)
    pictures = [Picture(f"ground {i}", partial(synthetic_design, i)) for i in range(4)]
    embedder, seen = Embedder(SHIPPED), TokenEmbedder(SHIPPED, None)
    pixels = refinements_background.pixels(pictures)
    seen.fit(pixels)
    background = refinements_background.vectors(pictures, embedder, lambda *_: None)
    bench = Bench(Sources(None, Limits(60, 6, 7, 0), 0), Views(embedder, seen, lambda *_: None), background, 256)
    costs = Costs(embedder, seen, pixels, background, 256)
    made = refinements.table(bench, chosen(bench), costs)
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(made)
    text = console.export_text()
    for word in (AS_SHIPPED, "mirror averaged", "near 1, strength", TOGETHER, "edits/synthetic", "recolour/synthetic"):
        assert word in text
    plain, mirrored, counted = (costs.of(recipe) for recipe in (
        Recipe(), Recipe(mirrored=True), Recipe(sides="item", near=1, strength=1.0, weight=0.5)))  # fmt: skip
    assert (plain.row_bytes, mirrored.row_bytes, counted.row_bytes) == (512, 512, 512 + 2 + 36 * TOKEN_DIM * 2)
    assert mirrored.item_ms == pytest.approx(2 * plain.item_ms)
    assert mirrored.design_ms == plain.design_ms


def synthetic_design(number: int) -> Image.Image:
    return synthetic.design(synthetic.garment(number), 96)


def test_too_few_unrelated_pictures() -> None:
    with pytest.raises(ValueError, match="30 unrelated pictures are too few"):
        threshold(outcome(suite_of(30), np.eye(30, dtype=np.float32)))


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model"):
        refinements.main(["--data", str(tmp_path), "--model", str(tmp_path / "none.onnx")])
    with pytest.raises(FileNotFoundError, match="--data must name the folder"):
        refinements.main(["--data", str(tmp_path)])
    with pytest.raises(ValueError, match="a block of 256 numbers"):
        refinements.main(["--data", str(tmp_path), "--leave-out", "256"])


@pytest.mark.realdata
def test_the_background_is_of_what_may_be_trained_on() -> None:
    data = REPOSITORY.parent / "shared" / "data"
    if not (data / "clothing").is_dir():
        pytest.skip(f"no photo sets at {data}")
    names = [picture.name for picture in refinements_background.pictures(data, 0)]
    assert len(set(names)) == len(names)
    photos = {f"background/{photo.path.stem}": int(photo.group) for photo in clothing(data)}
    from_photos = [photos[name] for name in names if name in photos]
    assert len(from_photos) == len(names) - 2 * refinements_background.GARMENTS
    assert all(sender % HELD_OUT for sender in from_photos)
    assert refinements_background.GARMENTS < SYNTHETIC_SEED
