"""Suites run on models whose answers are known: figures, the threshold, the domain flag, mistakes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.embedding import Embedder
from encoders.evaluation.library import Library, Model
from encoders.evaluation.run import CALIBRATION_RATE, choose_threshold, evaluate, gained, judge_suite
from encoders.evaluation.suites import Picture, Query, Suite


def plain(name: str, colour: tuple[int, int, int]) -> Picture:
    return Picture(name, lambda: Image.new("RGB", (64, 64), colour))


def random_pictures(n: int, seed: int = 0) -> list[Picture]:
    def make(number: int) -> Picture:
        pixels = np.random.default_rng((seed, number)).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((224, 224), Image.Resampling.NEAREST)
        return Picture(f"random {seed} {number}", lambda: image)

    return [make(number) for number in range(n)]


@pytest.fixture(scope="module")
def model(colours_model: Path) -> Model:
    return Model("colours", Embedder(colours_model))


@pytest.fixture(scope="module")
def suite() -> Suite:
    gallery = [plain("red", (200, 20, 20)), plain("pink", (240, 140, 150)), plain("green", (20, 160, 40))]
    queries = [
        Query(plain("red again", (190, 25, 22)), "a", "copy", truth=(0,), rivals=(1,)),
        Query(plain("nearly pink", (238, 142, 149)), "b", "mixed up", truth=(0,), rivals=(1,)),
        Query(plain("blue", (10, 30, 220)), "c", "new"),
    ]
    return Suite("s", "three colours", gallery, queries)


def test_figures_of_a_suite(model: Model, suite: Suite) -> None:
    result = judge_suite(Library([model], lambda *_: None), model, suite, threshold=0.95)
    assert result.whole.queries == 3
    assert result.whole.recall[1].value == 0.5
    assert result.whole.recall[5].value == 1
    assert result.whole.rival_ahead.value == 0.5
    assert result.whole.rival_called.value == 0.5
    assert result.whole.false.value == 0
    assert list(result.kinds) == ["copy", "mixed up", "new"]
    assert result.kinds["copy"].recall[1].value == 1
    assert result.kinds["mixed up"].recall[1].value == 0
    assert math.isnan(result.kinds["new"].recall[1].value)
    assert [m.query for m in result.mistakes] == [1]
    assert (result.mistakes[0].truth, result.mistakes[0].wrong) == (0, 1)
    assert result.as_object()["recall_at_1"][0] == 0.5
    assert result.as_object()["recall_at_false_rate_0.01"] is None  # three queries cannot tell


def test_a_query_never_meets_itself(model: Model) -> None:
    pictures = random_pictures(5)
    queries = [Query(picture, picture.name) for picture in pictures]
    result = judge_suite(Library([model], lambda *_: None), model, Suite("s", "", pictures, queries), 0.99)
    assert result.whole.false.value == 0
    assert result.whole.median_unrelated < 0.99


def test_the_chosen_threshold_lets_through_what_it_promises(model: Model) -> None:
    pictures = random_pictures(400)
    suite = Suite("unrelated", "", pictures, [Query(picture, picture.name) for picture in pictures])
    library = Library([model], lambda *_: None)
    threshold = choose_threshold(library, model, suite)
    reached = judge_suite(library, model, suite, threshold).whole.false.value
    assert 0 < reached <= CALIBRATION_RATE
    assert judge_suite(library, model, suite, threshold - 0.01).whole.false.value > CALIBRATION_RATE


def test_what_a_model_gains_on_another_is_paired(model: Model, flag_model: Path) -> None:
    pictures = random_pictures(40)
    queries = [Query(Picture(f"copy of {p.name}", p.make), p.name, "", (at,)) for at, p in enumerate(pictures)]
    suite = Suite("s", "", pictures, queries)
    library = Library([model, Model("flag", Embedder(flag_model), 0.9)], lambda *_: None)
    better, worse = (judge_suite(library, m, suite, 0.9) for m in library.models)
    worse = replace(worse, rank=np.where(np.arange(40) < 10, 2, 1))
    difference = gained(better, worse)
    assert difference.value == pytest.approx(0.25)
    assert difference.low > 0
    assert gained(worse, better).value == pytest.approx(-0.25)
    same = gained(better, better)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_too_few_to_choose_a_threshold(model: Model) -> None:
    pictures = random_pictures(20)
    suite = Suite("unrelated", "", pictures, [Query(picture, picture.name) for picture in pictures])
    with pytest.raises(ValueError, match="20 unrelated pictures are too few"):
        choose_threshold(Library([model], lambda *_: None), model, suite)


def test_every_picture_is_made_once_for_all_models(model: Model, flag_model: Path) -> None:
    made: list[str] = []

    def counted(picture: Picture) -> Picture:
        def make() -> Image.Image:
            made.append(picture.name)
            return picture.make()

        return Picture(picture.name, make)

    pictures = [counted(picture) for picture in random_pictures(6)]
    suites = [
        Suite(name, "", pictures, [Query(picture, picture.name) for picture in pictures], "catalog", "catalog")
        for name in ("first", "second")
    ]
    models = [Model("a", model.embedder, 0.9), Model("b", Embedder(flag_model), 0.9)]
    results = list(evaluate(models, suites, suites[0], lambda *_: None))
    assert [(result.suite.name, result.model) for result in results] == [
        ("first", "a"), ("first", "b"), ("second", "a"), ("second", "b"),
    ]  # fmt: skip
    assert sorted(made) == sorted(picture.name for picture in pictures)


def test_exchanging_the_flags_is_seen(model: Model, flag_model: Path) -> None:
    """The second model looks at the flag, so the figure is that of the suite with its domains exchanged; the first one
    does not, and nothing is computed again."""
    gallery = random_pictures(30)
    queries = [Query(Picture(f"copy of {p.name}", p.make), p.name, "", (at,)) for at, p in enumerate(gallery)]
    suite = Suite("s", "", gallery, queries)
    library = Library([model, Model("flag", Embedder(flag_model), 0.9)], lambda *_: None)
    deaf, listening = (judge_suite(library, m, suite, 0.9) for m in library.models)
    assert library.ignores_the_flag(library.models[0], suite)
    assert not library.ignores_the_flag(library.models[1], suite)
    assert deaf.exchanged == deaf.whole.recall[1].value == 1
    assert listening.exchanged is not None
    exchanged = suite.__class__("s", "", gallery, queries, "catalog", "generated")
    assert listening.exchanged == judge_suite(library, library.models[1], exchanged, 0.9).whole.recall[1].value
