"""Results as tables for a terminal: models side by side, one line a figure."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from rich.table import Table

from encoders.evaluation.bootstrap import Interval
from encoders.evaluation.figures import DEPTHS, FALSE_RATES, Figures
from encoders.evaluation.run import Result, gained

NONE: Final = "-"
_FIRST_ROW: Final = "recall at 1"


def share(interval: Interval) -> str:
    """A share in per cent with its interval; a dash where there is none."""
    if math.isnan(interval.value):
        return NONE
    return f"{interval.value:.1%} [{interval.low * 100:.1f}, {interval.high * 100:.1f}]"


def plain(value: float) -> str:
    """Three digits; a dash where there is none."""
    return NONE if math.isnan(value) else f"{value:.3f}"


def _recall(k: int, result: Result) -> str:
    return share(result.whole.recall[k])


def _recall_at_rate(rate: float, result: Result) -> str:
    return share(result.whole.recall_at_rate[rate])


def _exchanged(result: Result) -> str:
    return NONE if result.exchanged is None else f"{result.exchanged:.1%}"


ROWS: Final[Sequence[tuple[str, Callable[[Result], str]]]] = (
    *((f"recall at {k}", partial(_recall, k)) for k in DEPTHS),
    ("recall at 1, flags exchanged", _exchanged),
    ("micro-AP", lambda r: plain(r.whole.micro_ap)),
    *((f"recall at {rate:.1%} false", partial(_recall_at_rate, rate)) for rate in FALSE_RATES),
    ("found at threshold", lambda r: share(r.whole.found)),
    ("unrelated called duplicate", lambda r: share(r.whole.false)),
    ("near miss called duplicate", lambda r: share(r.whole.rival_called)),
    ("near miss before the truth", lambda r: share(r.whole.rival_ahead)),
    ("near miss in the first 10", lambda r: share(r.whole.rival_in_top)),
    ("similarity of the truth", lambda r: plain(r.whole.median_truth)),
    ("similarity of the near miss", lambda r: plain(r.whole.median_rival)),
    ("similarity of the unrelated", lambda r: plain(r.whole.median_unrelated)),
    ("gap of means", lambda r: plain(r.gap.mean)),
    ("gap of covariances", lambda r: plain(r.gap.covariance)),
)


def by_suite(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each suite, one for each model."""
    suites: dict[str, list[Result]] = {}
    for result in results:
        suites.setdefault(result.suite.name, []).append(result)
    return list(suites.values())


def models(results: Sequence[Result]) -> list[tuple[str, float]]:
    """Their names and thresholds."""
    return list(dict.fromkeys((result.model, result.threshold) for result in results))


def lines(same: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    """The figures that apply to a suite, one cell a model; of several models also what each gains on the first."""
    for what, cell in ROWS:
        cells = [cell(result) for result in same]
        if any(text != NONE for text in cells):
            yield what, cells
            if what == _FIRST_ROW and len(same) > 1:
                yield (
                    f"recall at 1, gained on {same[0].model}",
                    [NONE, *(share(gained(result, same[0])) for result in same[1:])],
                )


def kind_lines(same: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    """The breakdown of a suite, one cell a model."""
    for kind in same[0].kinds:
        yield kind, [_of_kind(result.kinds[kind]) for result in same]


def figures(results: Sequence[Result]) -> Table:
    """Every suite, every figure that applies to it."""
    table = _table("suite", "figure", results)
    for same in by_suite(results):
        first = same[0]
        names = iter([first.suite.name, f"{first.whole.queries} queries", f"{len(first.suite.gallery)} in gallery"])
        for what, cells in lines(same):
            table.add_row(next(names, ""), what, *cells)
        table.add_section()
    return table


def kinds(results: Sequence[Result]) -> Table:
    """The breakdown: recall at 1 and what is called a duplicate, of each kind of query."""
    table = _table("suite", "kind", results)
    for same in by_suite(results):
        for number, (kind, cells) in enumerate(kind_lines(same)):
            table.add_row(same[0].suite.name if number == 0 else "", kind, *cells)
        table.add_section()
    return table


def _of_kind(figures: Figures) -> str:
    parts = []
    if not math.isnan(figures.recall[1].value):
        parts += [f"R@1 {figures.recall[1].value:.1%}", f"found {figures.found.value:.1%}",
                  f"similarity {figures.median_truth:.3f}"]  # fmt: skip
    if not math.isnan(figures.rival_called.value):
        parts += [f"called {figures.rival_called.value:.1%}", f"similarity {figures.median_rival:.3f}"]
    if not parts:
        parts += [f"called {figures.false.value:.1%}", f"similarity {figures.median_unrelated:.3f}"]
    return ", ".join(parts)


def _table(left: str, second: str, results: Sequence[Result]) -> Table:
    table = Table(left, second)
    for model, threshold in models(results):
        table.add_column(f"{model} (threshold {threshold:.3f})", justify="right")
    return table
