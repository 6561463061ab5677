"""`design-dedup evaluate`: how good one or several encoders are, in one table and on one page."""

import json
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streams.cli.console import err, line, out, settings_or_usage
from streams.decide.policy import load_policy, policy_path
from streams.errors import Fatal

if TYPE_CHECKING:
    from encoders.evaluation.command import Request
    from encoders.evaluation.library import Tick
    from encoders.evaluation.run import Result


def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="An exported model; repeat to compare.", show_default="the shipped one"),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIR",
            help="A suite, a pattern (edits, '*/synthetic'), or a folder of your own; repeat for several.",
            show_default="all there are pictures for",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The photo sets.", show_default="none: synthetic garments only"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About 200 queries a suite, galleries of 1,500.")] = False,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]NUMBER",
            help="Similarity from which a model calls a duplicate.",
            show_default="the policy's for the model it was calibrated on, else chosen from unrelated products",
        ),
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here; - is standard output.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the worst mistakes here.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep vectors here for the next run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pictures and of all edits.")] = 0,
) -> None:
    """Measure encoders on suites of pictures with known truth.

    Recall, micro-AP, recall at 0.1, 0.5 and 1 % false duplicates, near
    misses called duplicates, the gap between two domains: one column a
    model, 95 % intervals by product. Needs no server.

    \b
    design-dedup evaluate --quick
    design-dedup evaluate --data photo-sets/ --report evaluation.html
    design-dedup evaluate --model old=a.onnx --model new=b.onnx --suite edits
    design-dedup evaluate --suite my-suite/

    The report holds small copies of the pictures. A suite of your own is
    a folder with pictures and a CSV: query, item, label, cluster.
    """
    from encoders.evaluation import table
    from encoders.evaluation.report import write_report

    try:
        request = _request(model or [], suite or [], data, quick, threshold or [], cache, seed)
        with _bar() as tick:
            results = _measure(request, tick)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    if as_json != Path("-"):
        out().print(table.figures(results), table.kinds(results))
    try:
        if as_json is not None:
            _write_json(results, as_json)
        if report is not None:
            write_report(results, report, datetime.now().astimezone(), shlex.join(["design-dedup", *sys.argv[1:]]))
    except OSError as error:
        raise Fatal(f"cannot write {error.filename}: {error.strerror}") from error


def _request(
    models: list[str],
    suites: list[str],
    data: Path | None,
    quick: bool,
    thresholds: list[str],
    cache: Path | None,
    seed: int,
) -> "Request":
    from encoders.evaluation.command import SHIPPED, Named, Request, named
    from encoders.evaluation.sources import FULL, QUICK
    from encoders.preprocess import encoder_version

    paths = dict(named(text) for text in models) or {"shipped": SHIPPED}
    if len(paths) < len(models):
        raise ValueError("two models have the same name")
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(f"there is no model {path}")
    given = _thresholds(thresholds, paths)
    entries = (QUICK if quick else FULL).gallery
    policy = policy_path(settings_or_usage().policy_file)
    chosen = [
        Named(name, path, given.get(name, _of_policy(policy, encoder_version(path), entries)))
        for name, path in paths.items()
    ]
    return Request(chosen, suites, data, quick, seed, cache)


def _thresholds(texts: list[str], names: Mapping[str, Any]) -> dict[str, float]:
    """By the name of the model; a number alone is for all of them."""
    thresholds = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name and name not in names:
            raise ValueError(f"--threshold {text}: no model is called {name}")
        try:
            thresholds.update(dict.fromkeys([name] if name else names, float(number)))
        except ValueError:
            raise ValueError(f"--threshold {text}: {number!r} is no number") from None
    return thresholds


def _of_policy(path: Path, version: str, entries: int) -> float | None:
    """The threshold at so many rows of a policy that was calibrated on this encoder and compares whole vectors, as is
    done here; None of any other policy."""
    policy = load_policy(path)
    record = tomllib.loads(path.read_text("utf-8")).get("record", {})
    fits = record.get("encoder_version") == version and not policy.leave_out
    return policy.threshold("", entries) if fits else None


def _measure(request: "Request", tick: "Tick") -> "list[Result]":
    from encoders.evaluation.command import measure

    return measure(request, tick)


@contextmanager
def _bar() -> "Iterator[Tick]":
    """A bar on standard error that shows one thing after the other."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _write_json(results: "list[Result]", path: Path) -> None:
    text = json.dumps([result.as_object() for result in results], indent=1)
    if path == Path("-"):
        line(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
