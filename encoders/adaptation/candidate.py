"""The new encoder: views of the sample, training from the base model's weights, its colour block, the ONNX file.

Views and training go on where they were ended; the rest takes minutes and is done again.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encoders.adaptation.pictures import Picture, upright
from encoders.adaptation.plan import Plan
from encoders.adaptation.request import Request, Tick
from encoders.backbone import NETWORK_PX, example_inputs
from encoders.export import write_onnx
from encoders.training import views
from encoders.training.colour import ColourRecipe, learn_colour
from encoders.training.network import TwoBlockEncoder
from encoders.training.restore import rewritten
from encoders.training.train import Recipe, Views, train

_REMEMBERED_STEPS = 8.0
"""At the end of a run its beginning weighs e to the minus this in the average of the weights."""


def recipe(request: Request) -> Recipe:
    """Training's own one, with fewer steps; without `whole`, nothing below the head moves. The attention knows already
    where a garment is, and the colour block is learnt after this."""
    usual = Recipe()
    return replace(
        usual, steps=request.steps, seed=request.seed,
        learning_rate=request.pace * usual.learning_rate if request.whole else 0.0,
        structure_rate=request.pace * usual.structure_rate, colour_weight=0.0, dyed_weight=0.0,
        average=min(usual.average, max(0.0, 1 - _REMEMBERED_STEPS / request.steps)),
    )  # fmt: skip


def colour_recipe(request: Request) -> ColourRecipe:
    """The usual one, with no more steps than training has."""
    usual = ColourRecipe()
    return replace(usual, steps=min(usual.steps, request.steps), rate=request.pace * usual.rate, seed=request.seed)


def make(request: Request, plan: Plan, base: TwoBlockEncoder, model: Path, tick: Tick) -> str:
    """Write the new model and its canary at `model`; returns its version."""
    folder = request.work / "views"
    early = _early(base, request.work / "early.onnx")
    views.make(
        [one.photo for one in plan.trained], 0, early, request.seed, folder, request.processes, upright,
        lambda done, total: tick("training views", done, total), _batches(plan.trained),
    )  # fmt: skip
    run = request.work / "training"
    run.mkdir(exist_ok=True)
    torch.set_num_threads(request.processes)
    counted = Counted(folder, _step(run), lambda step: tick("training", step, request.steps))
    with (run / "log.txt").open("a") as log, redirect_stderr(log):
        late = train(counted, recipe(request), run, start=base.late)
        learn_colour(late, Views(folder), colour_recipe(request))
    tick("training", request.steps, request.steps)
    return rewritten(TwoBlockEncoder(base.early, late), request.base, model)


def _early(base: TwoBlockEncoder, path: Path) -> Path:
    """The half that is not trained, for the processes that make views. It sees what it sees in training."""
    early = copy.copy(base.early)
    early.side = NETWORK_PX
    if not path.exists():
        logging.disable(logging.WARNING)  # torch's exporter misses packages that nothing here needs
        try:
            write_onnx(early, new := path.with_suffix(".new"), {"pixels": example_inputs(2)[0]}, "early")
        finally:
            logging.disable(logging.NOTSET)
        new.replace(path)
    return path


def _batches(pictures: Sequence[Picture]) -> list[str]:
    """Half of a batch comes from one folder of one side, where pictures look most alike."""
    return [f"{one.side} {one.folder}" for one in pictures]


def _step(run: Path) -> int:
    """How far an earlier run came."""
    path = run / "checkpoint.pt"
    return int(torch.load(path, map_location="cpu", weights_only=True)["step"]) if path.exists() else 0


class Counted(Views):
    """Views that say how often a batch was drawn of them, which is once a step."""

    def __init__(self, folder: Path, step: int, hear: Callable[[int], None]) -> None:
        super().__init__(folder)
        self._step, self._hear = step, hear

    def some(self, count: int, rng: np.random.Generator, alike: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """As `Views.some`."""
        self._hear(self._step)
        self._step += 1
        return super().some(count, rng, alike)
