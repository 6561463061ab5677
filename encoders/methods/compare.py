"""Is adaptation real? All methods side by side on the same frozen features; prints a table and one verdict.

    python -m encoders.methods.compare --data DIR --seeds 5 [--quick]

Learns unpaired on packshots of hm (catalogue) against ccp (generated): its street photos by default, so that the domain
flag tells clean pictures from scenes, as in all three suites; `--generated cut-outs` has cut-outs play the generated
domain against packshots and street photos together, so that it tells who asks from who is asked, whatever either looks
like. Settings are chosen on a separate part; the tested part is looked at once, at the end. Every arm has four trials.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch

from encoders.backbone import DIM, imagenet_backbone
from encoders.methods import arms
from encoders.methods.arms import Fit
from encoders.methods.compare_score import Scores, advantage, mean_recall, score, verdict
from encoders.methods.compare_suites import Suite, suites
from encoders.methods.features import CACHE, FrozenFeatures
from encoders.methods.photo_sides import Generated, photo_sides
from encoders.methods.sides import Sides

LIMIT: Final = 1200  # packshots and cut-outs of a part
_QUICK_LIMIT: Final = 150
_QUICK_STEPS: Final = 40


def choose(candidates: Sequence[Fit], sides: Sides, chosen_on: Sequence[Suite]) -> Fit:
    """The candidate with the best mean R@1 under seed 0; the first of equals."""
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda fit: mean_recall(fit(sides, 0), chosen_on))


def compare(
    sides: Sides, held_out: Sides, chosen_on: Sequence[Suite], tested_on: Sequence[Suite], seeds: int, steps: int | None
) -> dict[str, Scores]:
    """Scores of every arm, in the order of the table."""
    fits = {name: choose(candidates, sides, chosen_on) for name, candidates in arms.alone(steps).items()}
    siamese = cache(lambda seed: fits["siamese"](sides, seed).catalog)
    for name, candidates in arms.adapters(steps).items():
        over = [arms.stacked(siamese, adapter) for adapter in candidates]
        fits[f"siamese + {name}"] = choose(over, sides, chosen_on)
    return {name: score([fit(sides, seed) for seed in range(seeds)], tested_on, held_out) for name, fit in fits.items()}


def report(scores: Mapping[str, Scores], tested_on: Sequence[Suite]) -> str:
    """The table, the paired intervals and the verdict as text."""
    width = max(map(len, scores))
    head = "".join(f"{suite.name:>20}" for suite in tested_on)
    lines = [
        f"{'R@1 / R@10':<{width}}{head}   mean R@1 (seeds)        flags exchanged  gap of means  of covariances",
        f"{'queries in gallery':<{width}}" + "".join(f"{_size(suite):>20}" for suite in tested_on),
    ]
    for name, arm in scores.items():
        recalls = (arm.recall(suite.name) for suite in tested_on)
        cells = "".join(f"{f'{at_1:.3f} / {at_10:.3f}':>20}" for at_1, at_10 in recalls)
        spread = f"{np.mean(arm.by_seed):.3f} ({min(arm.by_seed):.3f} to {max(arm.by_seed):.3f})"
        gaps = f"{arm.gap.mean:>14.3f}{arm.gap.covariance:>16.3f}"
        lines.append(f"{name:<{width}}{cells}   {spread:<24}{arm.exchanged:>15.3f}{gaps}")
    rivals = {name: scores[name] for name in arms.RIVALS}
    intervals = []
    lines.append("")
    for suite in tested_on:
        best, interval = advantage(suite, scores[arms.ADVERSARIAL], rivals)
        intervals.append(interval)
        lines.append(
            f"{suite.name}: adversarial minus {best}, the best of ({'; '.join(rivals)}): R@1 {interval.value:+.3f}, "
            f"95 % interval {interval.low:+.3f} to {interval.high:+.3f}"
        )
    word = verdict(intervals)
    lines.append(f"Adversarial adaptation {word}: {_REASONS[word]}.")
    return "\n".join(lines)


_REASONS: Final = {
    "works": "its advantage over the best of its rivals is above zero in at least two of three suites",
    "ties": "its advantage over the best of its rivals is above zero in fewer than two of three suites",
    "loses": "it is below the best of its rivals in at least two of three suites",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare the methods of adaptation.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds hm/ and ccp/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generated", choices=get_args(Generated), default="street")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--quick", action="store_true", help="few pictures and steps: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limit, steps = (_QUICK_LIMIT, _QUICK_STEPS) if arguments.quick else (LIMIT, None)
    began_s = time.monotonic()
    features = FrozenFeatures(imagenet_backbone(), arguments.cache)
    data, generated = arguments.data, arguments.generated
    sides = photo_sides(data, "train", features, generated, limit, with_pairs=True)
    held_out = photo_sides(data, "test", features, generated, limit, with_pairs=False)
    chosen_on, tested_on = (suites(data, part, features, generated, limit) for part in ("choose", "test"))
    features_s = time.monotonic() - began_s
    print(
        f"catalogue {len(sides.catalog)} and generated {len(sides.generated)} pictures ({generated}), "
        f"{len(sides.pair_groups)} pairs made, {DIM} numbers, {arguments.seeds} seeds"
    )
    print(report(compare(sides, held_out, chosen_on, tested_on, arguments.seeds, steps), tested_on))
    print(f"pictures and features {features_s:.0f} s, learning {time.monotonic() - began_s - features_s:.0f} s")


def _size(suite: Suite) -> str:
    return f"{len(suite.queries)} in {len(suite.gallery)}"


if __name__ == "__main__":
    main()
