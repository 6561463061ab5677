"""What training is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from encoders.adaptation.candidate import recipe
from encoders.adaptation.request import Request
from encoders.training.train import Recipe

REQUEST = Request([], Path("base.onnx"), Path("out"), 100, 400, False, 1.0, 7, 1, None)


def test_the_head_alone_unless_the_whole_is_wished() -> None:
    usual = Recipe()
    assert recipe(REQUEST).learning_rate == 0
    assert recipe(replace(REQUEST, whole=True)).learning_rate == usual.learning_rate
    assert recipe(REQUEST).structure_rate == usual.structure_rate
    assert (recipe(REQUEST).steps, recipe(REQUEST).seed) == (400, 7)


def test_the_pace_is_a_factor_of_all_rates() -> None:
    usual, fast = Recipe(), recipe(replace(REQUEST, whole=True, pace=3.0))
    for name in ("learning_rate", "structure_rate", "colour_rate"):
        assert getattr(fast, name) == pytest.approx(3 * getattr(usual, name))


@pytest.mark.parametrize("steps", [10, 100, 400, 100_000])
def test_the_beginning_of_a_short_run_is_forgotten(steps: int) -> None:
    average = recipe(replace(REQUEST, steps=steps)).average
    assert average**steps < 1e-3
    assert average <= Recipe().average
