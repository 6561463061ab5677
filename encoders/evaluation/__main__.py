"""`python -m encoders.evaluation`: `design-dedup evaluate` without the service around it."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from encoders.evaluation import table
from encoders.evaluation.command import SHIPPED, Named, Request, measure, named
from encoders.evaluation.report import write_report

_WIDTH = (70, 45)  # columns of the table, and more of them for each model


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m encoders.evaluation", description="How good an encoder is.")
    parser.add_argument("--model", metavar="NAME=PATH", action="append", default=[], help="default: the shipped model")
    parser.add_argument("--suite", action="append", default=[], help="name, pattern or folder; default: all of them")
    parser.add_argument("--data", type=Path, help="folder of the photo sets; without it: synthetic garments only")
    parser.add_argument("--quick", action="store_true", help="some 200 queries a suite, galleries of 1,500")
    parser.add_argument("--threshold", type=float, help="of all models; default: chosen from unrelated products")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--report", type=Path, help="write a page with pictures to this file")
    parser.add_argument("--cache", type=Path, help="folder for vectors, so that nothing is computed twice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    models = [Named(*named(text), options.threshold) for text in options.model]
    models = models or [Named("shipped", SHIPPED, options.threshold)]
    request = Request(models, options.suite, options.data, options.quick, options.seed, options.cache)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        results = measure(
            request, lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
        )
    console = Console(width=None if sys.stdout.isatty() else _WIDTH[0] + _WIDTH[1] * len(models))
    console.print(table.figures(results), table.kinds(results))
    if options.json:
        options.json.write_text(json.dumps([result.as_object() for result in results], indent=1) + "\n")
    if options.report:
        how = shlex.join(["python", "-m", "encoders.evaluation", *(sys.argv[1:] if arguments is None else arguments)])
        write_report(results, options.report, datetime.now().astimezone(), how)


if __name__ == "__main__":
    main()
