"""The colour block, learnt last and alone, after `encoders.training.train`.

    python -m encoders.training.colour --run DIR --views DIR

Beside structure, the colour losses teach the attention where the garment is, but end with one colour for every picture:
what a picture is compared with comes from slow weights there, and being all alike is a cheap answer to those. So its
layers begin again here, with everything else frozen and gradients through all three pictures of a thing: two views,
which are the same, and a dyed one, which is not. Minutes, since a picture is 100 places of six numbers and a weight.
"""

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from encoders.backbone import imagenet_backbone
from encoders.losses import info_nce
from encoders.training.network import Late, unit
from encoders.training.train import Views, learnt, mean_of
from encoders.training.views import RECOLOURED, VIEWS

TAU: Final = 0.1
MARGIN: Final = 0.5
"""By so much another view shall be more alike than a dyed one."""

FILE: Final = "colour.pt"
"""In the folder of a run."""

_PART: Final = 64
_WARM: Final = 50


@dataclass(frozen=True)
class ColourRecipe:
    """What the stage is made of; it stands in the model's record. things: how many, at most, are learnt from."""

    steps: int = 1000
    batch: int = 256
    things: int = 2000
    rate: float = 3e-3
    batch_weight: float = 0.3
    dyed_weight: float = 2.0
    seed: int = 0


class Colours:
    """Of some things all views as the colour layers see them: the planes of colour, and where the attention looks."""

    def __init__(self, late: Late, views: Views, things: NDArray[np.intp]) -> None:
        self._views, self._things = views, things
        looked = np.zeros((len(things), VIEWS, 1, math.prod(views.early.shape[3:])), np.float16)
        with torch.inference_mode():
            for view in range(VIEWS):
                for start in range(0, len(things), _PART):
                    part = things[start : start + _PART]
                    early = views.take(part, np.full(len(part), view))
                    looked[start : start + _PART, view] = late.looked_at(early).numpy()
        self._looked = looked

    def take(self, rows: NDArray[np.intp], views: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Shape: (n,), (n,) -> (n, 6, h, w), (n, 1, h * w)."""
        planes = self._views.early[self._things[rows], views, 80:].astype(np.float32)
        return torch.from_numpy(planes), torch.from_numpy(self._looked[rows, views].astype(np.float32))


def learn_colour(late: Late, views: Views, recipe: ColourRecipe) -> None:
    """Give `late` new colour layers; all others stay as they are."""
    rng = np.random.default_rng(recipe.seed)
    things = rng.permutation(len(views))[: recipe.things]
    colours = Colours(late, views, things)
    _begin_again(late, colours, len(things), recipe.seed)
    weights = [*late.hue.parameters(), *late.colour.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=1e-4)
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(1, (step + 1) / _WARM) * (1 + np.cos(np.pi * step / recipe.steps)) / 2
        loss, report = colour_loss(
            late, views, colours, rng.permutation(len(things))[: recipe.batch], things, rng, recipe
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            print(f"colour {step + 1:5} " + " ".join(f"{k} {v:.3f}" for k, v in report.items()), file=sys.stderr)


def colour_loss(
    late: Late, views: Views, colours: Colours, rows: NDArray[np.intp], things: NDArray[np.intp],
    rng: np.random.Generator, recipe: ColourRecipe,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The loss of one batch and its parts."""
    pairs = views.two(things[rows], rng)
    dye = np.array(RECOLOURED)[rng.integers(len(RECOLOURED), size=len(rows))]
    dyed = np.flatnonzero(views.there[things[rows], dye])
    one, other = (_vectors(late, *colours.take(rows, pairs[:, i])) for i in (0, 1))
    same, apart, level = (one * other).sum(dim=1), torch.zeros(()), torch.zeros(0)
    wrong = _vectors(late, *colours.take(rows[dyed], dye[dyed])) if len(dyed) else None
    batch = info_nce(one, other, wrong, TAU)
    if wrong is not None:
        for asks in (one[dyed], other[dyed]):
            level = (asks * wrong).sum(dim=1)
            apart = apart + (softplus((level - same[dyed] + MARGIN) / TAU) * TAU + relu(level)).mean()
    report = {"batch": float(batch.detach()), "apart": float(apart.detach()), "same": mean_of(same)}
    report["dyed"] = mean_of(level)
    return recipe.batch_weight * batch + recipe.dyed_weight * apart, report


def _vectors(late: Late, planes: Tensor, looked_at: Tensor) -> Tensor:
    return unit(late.colour(late.hues(planes, looked_at)))


def _begin_again(late: Late, colours: Colours, things: int, seed: int) -> None:
    """New layers whose vectors are centred: were they all alike, they would stay so."""
    torch.manual_seed(seed)
    for layer in (late.hue, *late.colour):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    late.colour.requires_grad_(True)
    late.hue.requires_grad_(True)
    some = np.arange(min(512, things))
    with torch.no_grad():
        last = late.colour[-1]
        sample = late.colour(late.hues(*colours.take(some, np.zeros(len(some), np.intp))))
        last.bias.sub_(sample.mean(dim=0)).div_(sample.std())
        last.weight.div_(sample.std())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learn the colour block of a trained run.")
    parser.add_argument("--run", type=Path, required=True, help="folder of encoders.training.train")
    parser.add_argument("--views", type=Path, required=True, help="folder of encoders.training.views")
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(ColourRecipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args())
    torch.set_num_threads(chosen.pop("threads"))
    run, views = chosen.pop("run"), Views(chosen.pop("views"))
    late = Late(imagenet_backbone())
    late.load_state_dict(learnt(torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)))
    recipe = ColourRecipe(**chosen)
    learn_colour(late, views, recipe)
    kept = {name: weight for name, weight in late.state_dict().items() if name.startswith(("hue.", "colour."))}
    torch.save({"recipe": asdict(recipe), "weights": kept}, run / FILE)


if __name__ == "__main__":
    main()
