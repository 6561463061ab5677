"""Trains the late half of the shipped encoder on cached views, and keeps the average of its weights.

    python -m encoders.training.train --views DIR --out DIR --steps 2000

Resumes from its last checkpoint. A step takes some things, half of them from one sender (so that the background tells
nothing), of each two views and a near miss:

    both blocks  InfoNCE against the batch, the near misses and a queue of earlier ones; and, so that one threshold
                 means the same everywhere, a logistic loss on each similarity (Zhai et al. 2023, SigLIP)
    structure    InfoNCE that knows a dyed garment as the same and a reprinted one as another
    colour       the dyed garment's colour must be farther away than the other view's
    spread       KoLeo, against neighbours of other things (as in SSCD, Pizzi et al. 2022)
"""

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from encoders.backbone import imagenet_backbone
from encoders.export import fit_reduction
from encoders.losses import info_nce, koleo
from encoders.training.network import EARLY, STRUCTURE, Late, joined
from encoders.training.views import RECOLOURED, REPRINTED, SAME, VIEWS

TAU: Final = 0.05
VIEW_WEIGHTS: Final = (2.0, 1.5, 1.5, 1.5, 1.5, 1.5, 2.0, 1.5)
PIVOT: Final = 0.7
"""The similarity that the logistic loss puts between same and different."""
HARDEST: Final = 8
"""How many of the nearest others of a picture the logistic loss pushes away."""
SAVE_STEPS = 100
_WEIGHT_SIZE: Final = 0.1


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; it stands in the model's record."""

    steps: int = 2000
    things: int = 64
    learning_rate: float = 3e-5
    structure_rate: float = 3e-4
    colour_rate: float = 2e-3
    queue: int = 4096
    seed: int = 0
    average: float = 0.995
    structure_weight: float = 0.5
    colour_weight: float = 0.5
    logistic_weight: float = 0.1
    koleo_weight: float = 0.1


class Views:
    """Cached early features of things; see views.py."""

    def __init__(self, folder: Path) -> None:
        self.early = np.load(folder / "early.npy")  # (n, 12, 86, 10, 10) float16
        self.there = np.load(folder / "there.npy")  # (n, 12)
        self.groups = np.array(json.loads((folder / "things.json").read_text())["groups"])
        self._members = {group: np.flatnonzero(self.groups == group) for group in np.unique(self.groups)}
        self._large = [group for group, members in self._members.items() if len(members) >= 8]

    def __len__(self) -> int:
        return len(self.early)

    def some(self, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Different things, half of them of one sender when that one has so many."""
        of_one = self._members[self._large[int(rng.integers(len(self._large)))]]
        chosen = rng.permutation(of_one)[: count // 2]
        others = rng.permutation(len(self.early))
        rest = others[~np.isin(others, chosen)][: count - len(chosen)]
        return np.concatenate([chosen, rest])

    def take(self, things: NDArray[np.intp], views: NDArray[np.intp]) -> Tensor:
        """Shape: (n,), (n,) -> (n, 86, 10, 10) float32, channels last."""
        rows = torch.from_numpy(self.early[things, views].astype(np.float32))
        return rows.contiguous(memory_format=torch.channels_last)

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
    """The latest vectors of other batches, with the things they show."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.structure, self.colour = torch.zeros(0, STRUCTURE), torch.zeros(0, 256 - STRUCTURE)
        self.things = torch.zeros(0, dtype=torch.long)

    def push(self, structure: Tensor, colour: Tensor, things: Tensor) -> None:
        """The oldest leave."""
        self.structure = torch.cat([structure.detach(), self.structure])[: self._size]
        self.colour = torch.cat([colour.detach(), self.colour])[: self._size]
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
    late: Late, views: Views, things: NDArray[np.intp], rng: np.random.Generator, queue: Queue, recipe: Recipe
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its parts; the queue grows."""
    pairs, near = views.two(things, rng), views.near(things, rng)
    has_near = near >= 0
    early = torch.cat([
        views.take(things, pairs[:, 0]), views.take(things, pairs[:, 1]), views.take(things[has_near], near[has_near])
    ])  # fmt: skip
    structure, colour = late.blocks_of(early)
    n = len(things)
    ids = torch.from_numpy(np.concatenate([things, things[has_near]]))
    rows = torch.arange(n)
    near_row = torch.from_numpy(np.flatnonzero(has_near))  # whose near miss each is
    dyed = torch.from_numpy(np.isin(near[has_near], RECOLOURED))
    printed = torch.from_numpy(np.isin(near[has_near], REPRINTED))

    vectors = joined(structure, colour)
    old = joined(queue.structure, queue.colour)
    same_in_queue = ids[:n, None] == queue.things  # (n, q)
    free = torch.zeros(n, n + int(has_near.sum()), dtype=torch.bool)
    blocked = torch.cat([free, same_in_queue], dim=1)
    extra = torch.cat([vectors[2 * n :], old])
    both = info_nce(vectors[:n], vectors[n : 2 * n], extra, TAU, blocked)
    both = (both + info_nce(vectors[n : 2 * n], vectors[:n], extra, TAU, blocked)) / 2

    # Structure: a dyed garment is no negative of itself.
    own_dyed = torch.zeros_like(free)
    own_dyed[near_row[dyed], n + torch.arange(len(near_row))[dyed]] = True
    blocked_s = torch.cat([own_dyed, same_in_queue], dim=1)
    extra_s = torch.cat([structure[2 * n :], queue.structure])
    shape = info_nce(structure[:n], structure[n : 2 * n], extra_s, TAU, blocked_s)
    if dyed.any():
        asks, keys = structure[2 * n :][dyed], structure[:n][near_row[dyed]]
        shape = shape + 0.5 * info_nce(asks, keys, queue.structure, TAU, same_dyed(ids, near_row[dyed], queue))

    between = torch.zeros(())
    if dyed.any():
        at = near_row[dyed]
        gap = (colour[2 * n :][dyed] * colour[at]).sum(1) - (colour[at] * colour[n + at]).sum(1)
        level = (colour[2 * n :][dyed] * colour[at]).sum(1)
        between = softplus((gap + 0.6) / 0.1).mean() * 0.1 + torch.relu(level - 0.2).mean()

    similar = vectors[:n] @ torch.cat([vectors[n : 2 * n], extra]).T  # (n, n + near + q)
    own = torch.zeros_like(blocked)
    own[rows, rows] = True
    hardest = similar.masked_fill(own | blocked, -1).topk(min(HARDEST, similar.shape[1]), dim=1).values
    positive = similar[rows, rows]
    logistic = softplus((PIVOT - positive) / TAU).mean() + softplus((hardest - PIVOT) / TAU).sum(dim=1).mean()

    spread = koleo(vectors[:n])
    loss = (both + recipe.structure_weight * shape + recipe.colour_weight * between
            + recipe.logistic_weight * logistic + recipe.koleo_weight * spread)  # fmt: skip
    queue.push(structure, colour, torch.cat([ids[:n], ids[:n], torch.full((len(near_row),), -1)]))
    parts = {"both": both, "structure": shape, "colour": between, "logistic": logistic, "koleo": spread}
    report = {name: float(value.detach()) for name, value in parts.items()}
    report["positive"] = float(positive.detach().mean())
    report["printed"] = mean_of((vectors[2 * n :] * vectors[near_row]).sum(1)[printed])
    report["dyed"] = mean_of((vectors[2 * n :] * vectors[near_row]).sum(1)[dyed])
    report["right"] = float((similar[:, :n].detach().argmax(dim=1) == rows).float().mean())
    return loss, report


def same_dyed(ids: Tensor, at: Tensor, queue: Queue) -> Tensor:
    """Which columns (other dyed garments' originals, and the queue) show the same thing. Shape: (d, d + q)."""
    mine = ids[at]
    return torch.cat([mine[:, None] == mine, mine[:, None] == queue.things], dim=1)


def mean_of(values: Tensor) -> float:
    """NaN for none."""
    return float(values.detach().mean()) if len(values) else float("nan")


def rate_at(step: int, steps: int, warm: int = 100) -> float:
    """Warm up, then a cosine down to a hundredth. A share of the learning rate."""
    if step < warm:
        return (step + 1) / warm
    return float(0.01 + 0.99 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))) / 2)


def train(views: Views, recipe: Recipe, out: Path) -> Late:
    """Train, or go on training; returns the average of the weights."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.pt"
    late = initialised(views, recipe.seed) if not path.exists() else Late(imagenet_backbone())
    late.to(memory_format=torch.channels_last)
    average: Late = copy.deepcopy(late)
    rates = {"blocks": recipe.learning_rate, "top": recipe.learning_rate, "structure": recipe.structure_rate}
    by_rate: dict[float, list[Tensor]] = {}
    for name, weight in late.named_parameters():
        if weight.requires_grad:
            by_rate.setdefault(rates.get(name.partition(".")[0], recipe.colour_rate), []).append(weight)
    optimiser = torch.optim.AdamW(
        [{"params": weights, "rate": rate} for rate, weights in by_rate.items()], weight_decay=1e-3
    )
    queue, begin = Queue(recipe.queue), 0
    if path.exists():
        kept: dict[str, Any] = torch.load(path, weights_only=True)
        if kept["recipe"] != asdict(recipe):
            raise ValueError(f"{path} belongs to another recipe: {kept['recipe']}")
        begin = kept["step"]
        late.load_state_dict(kept["late"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        queue.structure, queue.colour, queue.things = kept["queue"]
    seen: list[dict[str, float]] = []
    for step in range(begin, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))  # so that a resumed run is the same run
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * rate_at(step, recipe.steps)
        loss, parts = step_loss(late, views, views.some(recipe.things, rng), rng, queue, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(late.parameters(), 5.0)
        optimiser.step()
        keep = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept_weight, weight in zip(average.parameters(), late.parameters(), strict=True):
                kept_weight.lerp_(weight, 1 - keep)
        seen.append(parts)
        if step % 20 == 19:
            means = {name: float(np.nanmean([one[name] for one in seen])) for name in parts}
            print(f"{time.strftime('%H:%M:%S')} {step + 1:5} " + " ".join(f"{k} {v:.3f}" for k, v in means.items()),
                  file=sys.stderr, flush=True)  # fmt: skip
            seen = []
        if (step + 1) % SAVE_STEPS == 0 or step + 1 == recipe.steps:
            state = {
                "recipe": asdict(recipe), "step": step + 1, "late": late.state_dict(), "average": average.state_dict(),
                "optimiser": optimiser.state_dict(), "queue": (queue.structure, queue.colour, queue.things),
            }  # fmt: skip
            torch.save(state, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
    return average


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the shipped encoder's late half.")
    parser.add_argument("--views", type=Path, required=True, help="folder of encoders.training.views")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args())
    torch.set_num_threads(chosen.pop("threads"))
    views, out = Views(chosen.pop("views")), chosen.pop("out")
    assert views.early.shape[2:] == EARLY
    train(views, Recipe(**chosen), out)


if __name__ == "__main__":
    main()
