"""What training is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from encoders.adaptation.candidate import colour_recipe, recipe
from encoders.adaptation.request import Request
from encoders.training.colour import ColourRecipe
from encoders.training.train import Recipe

REQUEST = Request([], Path("base.onnx"), Path("out"), 100, 400, False, 1.0, 7, 1, None)


def test_the_head_alone_unless_the_whole_is_wished() -> None:
    usual = Recipe()
    assert recipe(REQUEST).learning_rate == 0
    assert recipe(replace(REQUEST, whole=True)).learning_rate == usual.learning_rate
    assert recipe(REQUEST).structure_rate == usual.structure_rate
    assert (recipe(REQUEST).steps, recipe(REQUEST).seed) == (400, 7)


def test_the_pace_is_a_factor_of_all_rates() -> None:
    request = replace(REQUEST, whole=True, pace=3.0)
    usual, fast = Recipe(), recipe(request)
    for name in ("learning_rate", "structure_rate"):
        assert getattr(fast, name) == pytest.approx(3 * getattr(usual, name))
    assert colour_recipe(request).rate == pytest.approx(3 * ColourRecipe().rate)


def test_colour_is_learnt_after_structure_and_not_beside_it() -> None:
    assert (recipe(REQUEST).colour_weight, recipe(REQUEST).dyed_weight) == (0, 0)
    assert (colour_recipe(REQUEST).steps, colour_recipe(REQUEST).seed) == (400, 7)


@pytest.mark.parametrize("steps", [10, 100, 400, 100_000])
def test_the_beginning_of_a_short_run_is_forgotten(steps: int) -> None:
    average = recipe(replace(REQUEST, steps=steps)).average
    assert average**steps < 1e-3
    assert average <= Recipe().average
