"""What could follow the encoder, and what it is worth: whitening, score normalisation, mirror averaging, a second look.

    python -m encoders.evaluation.refinements --data DIR [--model model.onnx] [--quick] [--cache DIR]

Each refinement has numbers to choose (shrinkage, neighbours, strength, weight). They are chosen on the suites of
DEVELOPMENT alone, home photos of held-out senders and synthetic garments, by the mean of recall at 1 and recall at 1 %
false duplicates; the columns of hm and ccp are then computed once, for what was chosen, and choose nothing. The
background (for whitening, normalisation and the basis of the local features) is what weights may be trained on: home
photos of the training senders and synthetic garments of small seeds. A picture has one vector here: small copies and
windows are left out. Nothing here changes the service or the model.

The threshold that near misses are judged at is that of `encoders.evaluation.run`: 0.5 % of unrelated packshots of hm
reach it, of the half that chooses, under the same recipe. A mark says that the 95 % interval of the difference to "as
shipped", paired and clustered, excludes zero: + better, - worse. Costs are CPU time of one core, and bytes a row would
take in the index.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from encoders.embedding import Embedder, VectorCache, Vectors
from encoders.evaluation import catalogue
from encoders.evaluation import refinements_background as background_of
from encoders.evaluation.bootstrap import Interval
from encoders.evaluation.command import SHIPPED
from encoders.evaluation.library import Tick
from encoders.evaluation.refinements_costs import Cost, Costs
from encoders.evaluation.refinements_recipe import (
    Outcome,
    Recipe,
    called_gained,
    found_gained,
    outcome,
    recall_gained,
    threshold,
)
from encoders.evaluation.refinements_views import Side, TokenEmbedder, Views
from encoders.evaluation.sources import FULL, QUICK, Sources
from encoders.evaluation.suites import Suite

DEVELOPMENT: Final = ("edits/clothing", "edits/synthetic", "scenes/synthetic")
REPORTED: Final = ("edits/hm", "edits/clothing", "edits/synthetic", "scenes/hm", "cut-outs/garments", "try-on/ccp",
                   "shots/synthetic")  # fmt: skip
NEAR_MISSES: Final = ("recolour/hm", "prints/hm")

GRID: Final[Mapping[str, Sequence[Recipe]]] = {
    "PCA whitening": [Recipe(shrinkage=x) for x in (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0)],
    "normalised, query": [Recipe(sides="query", near=k, strength=b) for k in (1, 8, 64) for b in (0.25, 0.5, 1.0)],
    "normalised, item": [Recipe(sides="item", near=k, strength=b) for k in (1, 8, 64) for b in (0.25, 0.5, 1.0)],
    "normalised, both": [Recipe(sides="both", near=k, strength=b) for k in (1, 8, 64) for b in (0.25, 0.5, 1.0)],
    "mirror averaged": [Recipe(mirrored=True)],
    "second look, chamfer": [Recipe(local="chamfer", weight=w) for w in (0.2, 0.4, 0.6, 0.8)],
    "second look, mutual": [Recipe(local="mutual", weight=w) for w in (0.1, 0.2, 0.4, 0.6)],
}

AS_SHIPPED: Final = "as shipped"
TOGETHER: Final = "what gains, together"
_BASIS: Final = 200  # background pictures that the principal numbers of tokens are fitted on
_TIMED: Final = 32  # pictures
_WIDTH: Final = 230


@dataclass(frozen=True, slots=True)
class Seen:
    """A suite with all that is known of its pictures."""

    suite: Suite
    asked: Side
    kept: Side


class Bench:
    """Recipes on suites, each suite's pictures looked at once. cut: where the second block of a vector begins."""

    def __init__(self, sources: Sources, views: Views, background: Vectors, cut: int) -> None:
        self._sources, self._views, self._background, self._cut = sources, views, background, cut
        self._seen: dict[str, Seen] = {}
        self._known: dict[tuple[Recipe, str], Outcome] = {}

    def outcome(self, recipe: Recipe, name: str) -> Outcome:
        """Of one recipe on one suite; the name "calibration" means the unrelated products that choose a threshold."""
        if name not in self._seen:
            suite = self._suite(name)
            self._seen[name] = Seen(suite, *self._views.sides(suite))
        if (recipe, name) not in self._known:
            seen = self._seen[name]
            scored = recipe.similarities(seen.suite, seen.asked, seen.kept, self._background, self._cut)
            self._known[recipe, name] = outcome(seen.suite, scored)
        return self._known[recipe, name]

    def merit(self, recipe: Recipe) -> float:
        """What numbers are chosen by: on DEVELOPMENT, the mean of recall at 1 and at 1 % false duplicates."""
        outcomes = [self.outcome(recipe, name) for name in DEVELOPMENT]
        return float(np.mean([(one.recall + one.found) / 2 for one in outcomes]))

    def _suite(self, name: str) -> Suite:
        if name == "calibration":
            return catalogue.calibration(self._sources)
        (entry,) = (entry for entry in catalogue.SUITES if entry.name == name)
        return entry.make(self._sources)


def chosen(bench: Bench) -> dict[str, tuple[Recipe, float]]:
    """The best of each family with its merit, what was shipped first, all families that gain together last.

    Of the normalisations and of the second looks, one each goes into the last.
    """
    rows = {AS_SHIPPED: (Recipe(), bench.merit(Recipe()))}
    for name, recipes in GRID.items():
        rows[name] = max(((recipe, bench.merit(recipe)) for recipe in recipes), key=lambda pair: pair[1])
    together, base = Recipe(), rows[AS_SHIPPED][1]
    for recipe, merit in sorted(rows.values(), key=lambda pair: pair[1]):  # the best of a sort comes last and stays
        if merit > base:
            together = replace(together, **changed(recipe))
    rows[TOGETHER] = (together, bench.merit(together))
    return rows


def changed(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that belong to what it does."""
    parts: list[str] = []
    parts += ["mirrored"] * recipe.mirrored
    parts += ["shrinkage"] * (recipe.shrinkage is not None)
    parts += ["sides", "near", "strength"] * (recipe.strength > 0)
    parts += ["local", "weight"] * (recipe.weight > 0)
    return {part: getattr(recipe, part) for part in parts}


def cells(bench: Bench, recipe: Recipe, cost: Cost) -> Iterator[str]:
    """A row of the table, without its name."""
    plain = Recipe()
    for name in REPORTED:
        now, before = bench.outcome(recipe, name), bench.outcome(plain, name)
        yield (f"{100 * now.recall:.1f}{mark(recall_gained(now, before))} "
               f"{100 * now.found:.1f}{mark(found_gained(now, before))}")  # fmt: skip
    limits = [threshold(bench.outcome(one, "calibration")) for one in (recipe, plain)]
    for name in NEAR_MISSES:
        now, before = bench.outcome(recipe, name), bench.outcome(plain, name)
        called = [one.called(limit) for one, limit in zip((now, before), limits, strict=True)]
        yield f"{100 * called[0].mean():.1f}{mark(called_gained(called[0], called[1], now.clusters), fewer=True)}"
    yield f"{cost.design_ms:.1f} {cost.item_ms:.1f}"
    yield f"{cost.row_bytes:,}"


def mark(gained: Interval, fewer: bool = False) -> str:
    """+ or - where the interval of a gain excludes zero. fewer: less is better."""
    if gained.low > 0:
        return "-" if fewer else "+"
    if gained.high < 0:
        return "+" if fewer else "-"
    return " "


def described(recipe: Recipe) -> str:
    """What was chosen; nothing where there was no choice."""
    parts = changed(recipe)
    if len(parts) == 1 and recipe.mirrored:
        return ""
    return ", ".join(name if name == "mirrored" else f"{name} {value}" for name, value in parts.items())


def table(bench: Bench, rows: Mapping[str, tuple[Recipe, float]], costs: Costs) -> Table:
    """One line a refinement."""
    made = Table("refinement", "development", *REPORTED, *NEAR_MISSES, "ms a design, an item", "bytes a row",
                 caption="R@1, then recall at 1 % false duplicates; near misses: called duplicates; in %")  # fmt: skip
    for name, (recipe, merit) in rows.items():
        named = f"{name} ({numbers})" if (numbers := described(recipe)) else name
        made.add_row(named, f"{100 * merit:.1f}", *cells(bench, recipe, costs.of(recipe)))
    return made


def measured(data: Path, model: Path, leave_out: int, quick: bool, cache: VectorCache | None, seed: int,
             tick: Tick) -> Table:  # fmt: skip
    """The whole table. leave_out: numbers of the second block of a vector.

    FileNotFoundError without the model or a photo set, ValueError for a model without a feature map or such a block.
    """
    embedder = Embedder(model, cache)
    if not 0 <= leave_out < embedder.dim:
        raise ValueError(f"a block of {leave_out} numbers at the end of vectors of {embedder.dim}")
    tokens = TokenEmbedder(model, cache)
    sources = Sources(data, QUICK if quick else FULL, seed)
    pictures = background_of.pictures(data, seed)[: sources.limits.gallery]
    few = background_of.pixels(pictures[:_BASIS])
    tokens.fit(few)
    background = background_of.vectors(pictures, embedder, tick)
    cut = embedder.dim - leave_out
    bench = Bench(sources, Views(embedder, tokens, tick), background, cut)
    costs = Costs(Embedder(model), tokens.uncached(), few[:_TIMED], background, cut)
    return table(bench, chosen(bench), costs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m encoders.evaluation.refinements", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder of the photo sets")
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--quick", action="store_true", help="some 200 queries a suite, galleries of 1,500")
    parser.add_argument("--cache", type=Path, help="folder for vectors, so that nothing is computed twice")
    parser.add_argument("--leave-out", type=int, default=64, help="numbers at the end of a vector that are a block of "
                        "their own; 0 for a vector of one block")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    cache = VectorCache(options.cache) if options.cache else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        made = measured(
            options.data, options.model, options.leave_out, options.quick, cache, options.seed,
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(made)


if __name__ == "__main__":
    main()
