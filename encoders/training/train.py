"""Trains the late half of the shipped encoder on cached views, and keeps the average of its weights.

    python -m encoders.training.train --views DIR --out DIR [--start MODEL]

Resumes from its last checkpoint, on a GPU where torch finds one. A step takes some things, many of them from one sender
(so that the background tells nothing) or alike as yet (so that small differences are learnt), of each two views and a
near miss. Each block of the vector has losses of its own: in a joint one structure does all the work, and colour
becomes the same for every picture.

    structure  InfoNCE against the batch, its near misses and a queue of earlier ones, where a dyed garment is the same
               and a reprinted one another; a logistic loss on each similarity, so that one threshold means the same
               everywhere (Zhai et al. 2023, SigLIP); KoLeo, so that strangers spread (SSCD, Pizzi et al. 2022)
    colour     InfoNCE against the batch and its dyed garments, and a margin to the thing's own dyed one
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import relu, softplus

from encoders.backbone import imagenet_backbone
from encoders.export import fit_reduction
from encoders.losses import info_nce, koleo
from encoders.preprocess import encoder_version
from encoders.training.network import EARLY, STRUCTURE, Late
from encoders.training.views import CUT_OUT, RECOLOURED, REPRINTED, SAME, VIEWS

TAU: Final = 0.05
COLOUR_TAU: Final = 0.1
DYED_MARGIN: Final = 0.5
VIEW_WEIGHTS: Final = (2.0, 1.5, 1.5, 1.5, 1.5, 1.5, 2.0, 1.5)
HARDEST: Final = 8
"""How many of the nearest others of a picture the logistic loss pushes away."""
ALIKE: Final = 3
"""So many of those most like a thing come with it."""
SAVE_STEPS = 100
LOOK_AGAIN_STEPS: Final = 200
"""After so many steps it is looked anew which things are alike."""
_WEIGHT_SIZE: Final = 0.1


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; it stands in the model's record.

    start: the version whose weights it begins with; empty: ImageNet's. alike: among how many of the things most like a
    thing its companions are chosen; 0: it has none. middle: the step whose average is half of the result, since weights
    that were learnt less far suit strange pictures better (Wortsman et al. 2022, model soups); 0: the last one's alone.
    """

    start: str = ""
    alike: int = 0
    steps: int = 800
    things: int = 80
    learning_rate: float = 1e-4
    structure_rate: float = 3e-4
    colour_rate: float = 2e-3
    queue: int = 4096
    seed: int = 0
    average: float = 0.995
    middle: int = 0
    colour_weight: float = 0.3
    dyed_weight: float = 2.0
    logistic_weight: float = 0.1
    koleo_weight: float = 0.1


class Views:
    """Cached early features of things; see views.py. `device`: where those that are taken go."""

    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        self.early = np.load(folder / "early.npy")  # (n, 12, 86, h, w) float16
        self.there = np.load(folder / "there.npy")  # (n, 12)
        self.groups = np.array(json.loads((folder / "things.json").read_text())["groups"])
        self._members = {group: np.flatnonzero(self.groups == group) for group in np.unique(self.groups)}
        self._large = [group for group, members in self._members.items() if len(members) >= 8]

    def __len__(self) -> int:
        return len(self.early)

    def some(self, count: int, rng: np.random.Generator, alike: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Different things, half of them of one sender where any has so many. With `alike` a quarter, and half of them
        things with some of those that they are most like. Shape: alike (things, k) -> (count,)."""
        chosen = np.zeros(0, np.intp)
        if self._large:
            of_one = self._members[self._large[int(rng.integers(len(self._large)))]]
            chosen = rng.permutation(of_one)[: count // (4 if alike is not None else 2)]
        others = rng.permutation(len(self.early))
        if alike is not None:
            leaders = others[: count // 2 // (1 + ALIKE)]
            followers = [rng.permutation(alike[leader])[:ALIKE] for leader in leaders]
            chosen = np.unique(np.concatenate([chosen, leaders, *followers]))
        rest = others[~np.isin(others, chosen)][: count - len(chosen)]
        return np.concatenate([chosen, rest])

    def alike(self, late: Late, count: int) -> NDArray[np.intp]:
        """Of each thing the nearest ones of other senders by structure, cut out where that could be done.
        Shape: -> (things, count)."""
        at = np.where(self.there[:, CUT_OUT[0]], CUT_OUT[0], 0)
        parts = np.array_split(np.arange(len(self)), max(1, len(self) // 64))
        with torch.inference_mode():
            structure = torch.cat([late.blocks_of(self.take(part, at[part]))[0] for part in parts])
            found = []
            for part in parts:
                similar = structure[part] @ structure.T
                similar[torch.from_numpy(self.groups[part, None] == self.groups)] = -1
                found.append(similar.topk(count, dim=1).indices.cpu().numpy())
        return np.concatenate(found)

    def take(self, things: NDArray[np.intp], views: NDArray[np.intp]) -> Tensor:
        """Shape: (n,), (n,) -> (n, 86, h, w) float32, channels last."""
        rows = torch.from_numpy(self.early[things, views].astype(np.float32))
        return rows.contiguous(memory_format=torch.channels_last).to(self.device)

    def two(self, things: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """Two different views of each thing. Shape: (n,) -> (n, 2)."""
        weights = np.array(VIEW_WEIGHTS) * self.there[things, :SAME]
        # The largest of keys -log(u) / w: sampling without replacement (Efraimidis and Spirakis 2006).
        keys = np.log(rng.random(weights.shape)) / np.maximum(weights, 1e-9)
        return np.asarray(np.argsort(keys, axis=1)[:, ::-1][:, :2])

    def near(self, things: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """A near miss of each thing, or -1. Shape: (n,) -> (n,)."""
        keys = rng.random((len(things), VIEWS - SAME)) * self.there[things, SAME:]
        return np.where(keys.max(axis=1) > 0, keys.argmax(axis=1) + SAME, -1)


class Queue:
    """The latest structures of other batches, with the things they show."""

    def __init__(self, size: int, device: torch.device = Views.device) -> None:
        self._size = size
        self.structure = torch.zeros(0, STRUCTURE, device=device)
        self.things = torch.zeros(0, dtype=torch.long, device=device)

    def push(self, structure: Tensor, things: Tensor) -> None:
        """The oldest leave."""
        self.structure = torch.cat([structure.detach(), self.structure])[: self._size]
        self.things = torch.cat([things, self.things])[: self._size]


def initialised(views: Views, seed: int) -> Late:
    """ImageNet's weights, and as structure the reduction that within-view scatter asks for (export.fit_reduction)."""
    torch.manual_seed(seed)
    late: Late = Late(imagenet_backbone()).eval()
    late.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    things = rng.permutation(len(views))[:1500]
    rows = []
    with torch.no_grad():
        for view in range(SAME):
            rows.append(np.concatenate([
                late.features(views.take(part, np.full(len(part), view)))[0].numpy()
                for part in np.array_split(things, max(1, len(things) // 64))
            ]).astype(np.float64))  # fmt: skip
    there = views.there[things, :SAME].T
    every = np.concatenate([rows[v][there[v]] for v in range(SAME)])
    centre, deviation = every.mean(axis=0), every.std(axis=0) + 1e-3
    rows = [(row - centre) / deviation for row in rows]
    pairs = np.concatenate([(rows[v] - rows[0])[there[v] & there[0]] for v in range(1, SAME)])
    spread = np.concatenate([rows[v][there[v]] for v in range(SAME)])
    weight, bias = fit_reduction(spread, pairs, dim=STRUCTURE)
    # Vectors are normalised anyway; the optimiser's steps are of one size, whatever the weights'.
    scale = _WEIGHT_SIZE / np.sqrt(np.square(weight).mean())
    with torch.no_grad():
        late.centre.copy_(torch.from_numpy(centre))
        late.spread.copy_(torch.from_numpy(deviation))
        late.structure.weight.copy_(torch.from_numpy(weight.T * scale))
        late.structure.bias.copy_(torch.from_numpy(bias * scale))
        # The colour block starts centred too.
        last = late.colour[-1]
        sample = late.colour(late.features(views.take(things[:256], np.zeros(min(256, len(things)), int)))[1])
        last.bias.sub_(sample.mean(dim=0)).div_(sample.std())
        last.weight.div_(sample.std())
    return late


def step_loss(
    late: Late,
    slow: Late,
    views: Views,
    things: NDArray[np.intp],
    rng: np.random.Generator,
    queue: Queue,
    recipe: Recipe,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its parts; the queue grows.

    One view of each thing asks and is learnt from. What it is compared with (the other view, the near miss, the queue)
    comes from `slow`, the average of the weights, as in MoCo (He et al. 2020): from a queue of vectors that fast
    weights made some steps ago the whole crowd runs away together, until all are one.
    """
    pairs, near = views.two(things, rng), views.near(things, rng)
    at = np.flatnonzero(near >= 0)  # whose near miss each is
    structure, colour = late.blocks_of(views.take(things, pairs[:, 0]))
    with torch.no_grad():
        keys = torch.cat([views.take(things, pairs[:, 1]), views.take(things[at], near[at])])
        key_structure, key_colour = slow.blocks_of(keys)
    device, n = structure.device, len(things)
    ids, asked = torch.from_numpy(things).to(device), torch.from_numpy(at).to(device)
    dyed = torch.from_numpy(np.flatnonzero(np.isin(near[at], RECOLOURED))).to(device)
    printed = torch.from_numpy(np.flatnonzero(np.isin(near[at], REPRINTED))).to(device)

    # A dyed garment is a view of itself, here as in the queue.
    extra = torch.cat([key_structure[n:], queue.structure])
    blocked = torch.zeros(n, n + len(extra), dtype=torch.bool, device=device)
    blocked[asked[dyed], n + dyed] = True
    blocked[:, n + len(at) :] = ids[:, None] == queue.things
    same = info_nce(structure, key_structure[:n], extra, TAU, blocked)
    if len(dyed):
        others = ids[asked[dyed]]
        own_batch = torch.zeros(len(dyed), len(dyed), dtype=torch.bool, device=device)
        again = torch.cat([own_batch, others[:, None] == queue.things], dim=1)
        same = same + 0.5 * info_nce(structure[asked[dyed]], key_structure[n:][dyed], queue.structure, TAU, again)

    similar = structure @ torch.cat([key_structure[:n], extra]).T  # (n, n + near + q)
    own = torch.zeros_like(blocked)
    own.fill_diagonal_(fill_value=True)
    hardest = similar.masked_fill(own | blocked, -1).topk(min(HARDEST, similar.shape[1]), dim=1).values
    positive = similar[own]
    # Between same and different as they are now: towards a fixed level, all vectors would gain a common part instead.
    pivot = ((positive.mean() + hardest.mean()) / 2).detach()
    logistic = softplus((pivot - positive) / TAU).mean() + softplus((hardest - pivot) / TAU).mean()
    spread = koleo(structure)

    hue = info_nce(colour, key_colour[:n], key_colour[n:][dyed], COLOUR_TAU)
    apart = torch.zeros((), device=device)
    if len(dyed):
        level = (colour[asked[dyed]] * key_colour[n:][dyed]).sum(dim=1)
        gap = level - (colour[asked[dyed]] * key_colour[asked[dyed]]).sum(dim=1)
        apart = (softplus((gap + DYED_MARGIN) / COLOUR_TAU) * COLOUR_TAU + relu(level)).mean()

    loss = (same + recipe.logistic_weight * logistic + recipe.koleo_weight * spread
            + recipe.colour_weight * hue + recipe.dyed_weight * apart)  # fmt: skip
    queue.push(key_structure, torch.cat([ids, torch.full((len(at),), -1, device=device)]))
    parts = {"same": same, "logistic": logistic, "koleo": spread, "hue": hue, "apart": apart}
    report = {name: float(value.detach()) for name, value in parts.items()}
    report["positive"], report["strangers"] = mean_of(positive), mean_of(similar[:, :n][~own[:, :n]])
    report["printed"] = mean_of((key_structure[n:] * structure[asked]).sum(dim=1)[printed])
    report["dyed"] = mean_of((key_structure[n:] * structure[asked]).sum(dim=1)[dyed])
    report["right"] = float((similar[:, :n].detach().argmax(dim=1) == torch.arange(n, device=device)).float().mean())
    return loss, report


def mean_of(values: Tensor) -> float:
    """NaN for none."""
    return float(values.detach().mean()) if len(values) else float("nan")


def rate_at(step: int, steps: int, warm: int = 100) -> float:
    """Warm up, then a cosine down to a hundredth. A share of the learning rate."""
    if step < warm:
        return (step + 1) / warm
    return float(0.01 + 0.99 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))) / 2)


def _optimiser(late: Late, recipe: Recipe) -> torch.optim.Optimizer:
    """Each kind of weights has a rate of its own."""
    rates = {"blocks": recipe.learning_rate, "top": recipe.learning_rate, "structure": recipe.structure_rate}
    by_rate: dict[float, list[Tensor]] = {}
    for name, weight in late.named_parameters():
        if weight.requires_grad:
            by_rate.setdefault(rates.get(name.partition(".")[0], recipe.colour_rate), []).append(weight)
    return torch.optim.AdamW(
        [{"params": weights, "rate": rate} for rate, weights in by_rate.items()], weight_decay=1e-3
    )


def train(views: Views, recipe: Recipe, out: Path, start: Late | None = None) -> Late:
    """Train, or go on training; returns the average of the weights, on the CPU.

    start: begin from these weights; None: ImageNet's. A learning rate of 0 leaves the blocks alone, and only the layers
    on top of them learn.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.pt"
    if start is None:
        start = Late(imagenet_backbone()) if path.exists() else initialised(views, recipe.seed)
    late: Late = copy.deepcopy(start)
    if recipe.learning_rate == 0:
        late.blocks.requires_grad_(False)
        late.top.requires_grad_(False)
    views.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    late.to(views.device, memory_format=torch.channels_last)
    average: Late = copy.deepcopy(late)
    optimiser = _optimiser(late, recipe)
    queue, begin = Queue(recipe.queue, views.device), 0
    alike: NDArray[np.intp] | None = None
    middle: dict[str, Tensor] | None = None
    if path.exists():
        kept: dict[str, Any] = torch.load(path, map_location=views.device, weights_only=True)
        if kept["recipe"] != asdict(recipe):
            raise ValueError(f"{path} belongs to another recipe: {kept['recipe']}")
        begin = kept["step"]
        late.load_state_dict(kept["late"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        queue.structure, queue.things = kept["queue"]
        alike = None if kept["alike"] is None else kept["alike"].cpu().numpy()
        middle = kept["middle"]
    seen: list[dict[str, float]] = []
    for step in range(begin, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))  # so that a resumed run is the same run
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * rate_at(step, recipe.steps)
        if recipe.alike and step % LOOK_AGAIN_STEPS == 0:
            alike = views.alike(average, recipe.alike)
        things = views.some(recipe.things, rng, alike)
        loss, parts = step_loss(late, average, views, things, rng, queue, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(late.parameters(), 5.0)
        optimiser.step()
        with torch.no_grad():
            for kept_weight, weight in zip(average.parameters(), late.parameters(), strict=True):
                kept_weight.lerp_(weight, 1 - recipe.average)
        if step + 1 == recipe.middle:
            middle = copy.deepcopy(average.state_dict())
        seen.append(parts)
        if step % 10 == 9:
            _say(step + 1, seen)
            seen = []
        if (step + 1) % SAVE_STEPS == 0 or step + 1 == recipe.steps:
            state = {
                "recipe": asdict(recipe), "step": step + 1, "late": late.state_dict(), "average": average.state_dict(),
                "optimiser": optimiser.state_dict(), "queue": (queue.structure, queue.things),
                "alike": None if alike is None else torch.from_numpy(alike), "middle": middle,
            }  # fmt: skip
            _save(state, path)
    return _result(average, middle)


def _result(average: Late, middle: dict[str, Tensor] | None) -> Late:
    average.load_state_dict(learnt({"average": average.state_dict(), "middle": middle}))
    average.cpu()
    return average


def _save(state: dict[str, Any], path: Path) -> None:
    """Never half a file."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _say(step: int, seen: list[dict[str, float]]) -> None:
    """The means of some steps' parts."""
    means = torch.tensor([list(one.values()) for one in seen]).nanmean(dim=0).tolist()
    parts = " ".join(f"{name} {mean:.3f}" for name, mean in zip(seen[0], means, strict=True))
    print(f"{time.strftime('%H:%M:%S')} {step:5} {parts}", file=sys.stderr, flush=True)


def learnt(kept: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that a checkpoint stands for: the average, or its mean with the one of the recipe's `middle`."""
    average: dict[str, Tensor] = kept["average"]
    if kept["middle"] is None:
        return average
    return {name: (weight + kept["middle"][name]) / 2 for name, weight in average.items()}


def main() -> None:
    """The command line."""
    from encoders.training.restore import restored  # which knows, through the export, of this module

    parser = argparse.ArgumentParser(description="Train the shipped encoder's late half.")
    parser.add_argument("--views", type=Path, required=True, help="folder of encoders.training.views")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--start", type=Path, help="an exported model to go on from (default: ImageNet's weights)")
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Recipe()).items():
        if name != "start":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args())
    torch.set_num_threads(chosen.pop("threads"))
    views, out, model = Views(chosen.pop("views")), chosen.pop("out"), chosen.pop("start")
    assert views.early.shape[2:] == EARLY
    if model is None:
        train(views, Recipe(**chosen), out)
    else:
        train(views, Recipe(**chosen, start=encoder_version(model)), out, restored(model).late)


if __name__ == "__main__":
    main()
