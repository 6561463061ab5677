"""`design-dedup adapt`: a new encoder version from one's own two folders, kept only when it is better."""

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from streams.cli.console import line, out, plain, policy_or_usage, progress, run, say, settings_or_usage
from streams.cli.pictures import Named, Pictures, in_folder_or_list
from streams.embed.encoder import model_path
from streams.errors import Fatal, Invalid
from streams.events import Policy
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.adaptation.figures import Comparison, Figures
    from encoders.adaptation.looked import Looked
    from encoders.adaptation.pictures import Picture
    from encoders.adaptation.request import Outcome, Request
    from encoders.preprocess import Domain

EXIT_OLD_STAYS: Final = 4
_THINGS: Final = 3000
_STEPS: Final = 1200
_RATE: Final = 0.005
_MOST_PROCESSES: Final = 8  # each holds the pictures that it borrows from
_NAMED: Final = 20


def adapt(
    context: typer.Context,
    catalog: Annotated[str, typer.Option(metavar="DIR|LIST", help="Pictures of what exists: a folder, or a list.")],
    designs: Annotated[str, typer.Option(metavar="DIR|LIST", help="The same, of generated designs.")],
    target: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes, also what resumes.")],
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="The encoder to begin from.", show_default="that of the settings"),
    ] = None,
    things: Annotated[
        int, typer.Option(min=2, help="Most pictures to train on; each takes 0.3 s of a core, 0.2 MB.")
    ] = _THINGS,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training, 2.5 s of a core each.")] = _STEPS,
    whole: Annotated[bool, typer.Option("--whole", help="Train the late blocks of the network too.")] = False,
    pace: Annotated[float, typer.Option(min=0, help="Factor of all learning rates.")] = 1.0,
    rate: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="The policy's wished share of false duplicates.")
    ] = _RATE,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the hash rule comes from.", show_default="the setting policy_file, or shipped"
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes, and threads of training.", show_default="one a core, at most 8")
    ] = min(_MOST_PROCESSES, os.cpu_count() or 1),
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of all made pictures.")] = 0,
) -> None:
    """Adapt the encoder to your catalogue and your designs, without labels.

    Trains on pictures made of a sample of yours (edited, cut out, put into
    other scenes; dyed and reprinted ones as near misses), then measures the
    old and the new encoder on pictures made of others of yours. The new one
    is kept only when it finds more of the copies and calls no more of the
    near misses duplicates. The same command goes on where it was ended.

    \b
    design-dedup adapt --catalog photos/ --designs new/ --out adapted/
    design-dedup adapt --catalog photos/ --designs new/ --out deep/ --whole

    The default trains the head of the network, on a sample of 3,000: meant
    for under an hour on two cores, with 10,000 pictures. What is not in the
    sample counts for measuring. --whole is several times slower.

    Needs torch: pip install 'design-dedup\\[train]'. Exit codes: 0 the new
    version is in DIR, 4 the old one stays (the figures and the new one are
    in DIR/rejected), otherwise as always.
    """
    learning = _learning()
    settings = settings_or_usage()
    rules = policy_or_usage(policy)
    beginning = base or model_path(settings.model_repository)
    named: dict[Domain, list[Named]] = {
        "catalog": in_folder_or_list(catalog),
        "generated": in_folder_or_list(designs),
    }
    from encoders.adaptation.request import Request
    from streams.cli.calibration_answer import hash_rule

    try:
        learning.restored(beginning)
        pictures = _pictures(settings, named, target / "work")
        command = shlex.join(["design-dedup", *sys.argv[1:]])
        request = Request(
            pictures, beginning, target, things, steps, whole, pace, seed, processes, hash_rule(rules), command
        )
        with _bars() as tick:
            outcome: Outcome = learning.adapt(request, tick)
    except (ValueError, OSError) as error:
        raise Fatal(str(error)) from error
    made = _thresholds(settings, rules, outcome, request, rate) if outcome.kept else {"file": None, "why": "not kept"}
    report = learning.write_report(outcome, target, made)
    _say(outcome, request, report)
    if not outcome.kept:
        raise typer.Exit(EXIT_OLD_STAYS)


def _learning() -> Any:
    """The half that needs torch. Named at run time only: nothing else of the service may reach it."""
    try:
        return importlib.import_module("encoders.adaptation.run")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("encoders", "streams")):
            raise
        raise Fatal(f"{error.name} is not installed: pip install 'design-dedup[train]'") from error


def _pictures(settings: Settings, named: "dict[Domain, list[Named]]", work: Path) -> "list[Picture]":
    """What the worker's checker lets pass; the others are named with the reason. Fatal when a side has nothing."""
    from encoders.adaptation.looked import Broken, Look, Looked
    from encoders.adaptation.pictures import Picture

    usable: list[Picture] = []
    with Looked(work / "looked.jsonl") as looked:
        run(_look(settings.model_copy(update={"encoder": "local"}), [one for side in named.values() for one in side],
                  looked))  # fmt: skip
        for side, files in named.items():
            before, broken = len(usable), []
            for one in files:
                look = looked.get(one.path)
                if isinstance(look, Look):
                    folder = str(one.path.parent)
                    usable.append(Picture(one.path, side, folder, look.digest, look.hash, look.quality, look.colour))
                elif isinstance(look, Broken):
                    broken.append(f"{one.name}: {look.reason}: {look.message}")
            for text in broken[:_NAMED]:
                say(text)
            if broken:
                say(f"{len(broken)} of {len(files)} pictures ({side}) cannot be used and are left out")
            if len(usable) == before:
                raise Fatal(f"no picture ({side}) can be used")
    return usable


async def _look(settings: Settings, named: Sequence[Named], looked: "Looked") -> None:
    """Ask the worker's checker about every file that was not looked at yet."""
    from encoders.adaptation.looked import Broken, Look

    new = [one for one in named if looked.get(one.path) is None]
    with progress("looking", len(named)) as bar:
        bar(done := len(named) - len(new))
        async with Pictures(settings) as pictures:
            waiting = iter(new)
            async for part in pictures.checked([str(one.path) for one in new]):
                for one in part:
                    path = next(waiting).path
                    if isinstance(one, Invalid):
                        looked.put(path, Broken(one.reason, str(one)))
                    else:
                        looked.put(path, Look(one.digest, one.hash, one.quality, one.colour))
                    bar(done := done + 1)


@contextmanager
def _bars() -> "Iterator[Callable[[str, int, int], None]]":
    """A bar for each thing that is done, on what is standard error now: training's own lines go to a file."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr, markup=False, highlight=False)) as bars:
        tasks: dict[str, Any] = {}

        def tick(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield tick


def _thresholds(
    settings: Settings, rules: Policy, outcome: "Outcome", request: "Request", rate: float
) -> dict[str, Any]:
    """The policy of the new version, by `calibrate`'s own code on the catalogue's pictures that were not trained on;
    what became of it. The base's thresholds are never carried over: they belong to other vectors."""
    from encoders.calibration import NoThreshold, TooFew, calibrate
    from encoders.embedding import VectorCache
    from streams.cli.calibrating import of_catalogue
    from streams.cli.calibration_answer import answer
    from streams.cli.calibration_sources import Item
    from streams.cli.describing import Describer

    items = [Item(one.path, str(one.path)) for one in outcome.unseen]
    ours = settings.model_copy(update={"encoder": "local", "model_repository": request.out / "triton_models"})

    async def measured() -> Any:
        with closing(VectorCache(request.work)) as cache:
            async with Pictures(ours) as pictures:
                return await of_catalogue(
                    Describer(pictures, cache, rules.leave_out), items, request.rule, [], 200, request.seed
                )

    file = request.out / "policy.toml"
    try:
        if not items:
            raise TooFew(0, rate)
        numbers = run(measured())
        chosen = calibrate(numbers.negatives, rate)
    except (TooFew, NoThreshold) as error:
        file.unlink(missing_ok=True)
        say(f"no policy: {error}. The base's thresholds belong to another encoder and are left out; design-dedup "
            "calibrate makes a policy when there are pictures enough")  # fmt: skip
        return {"file": None, "why": str(error)}
    answer(chosen, numbers, rules, {"command": request.command, "encoder_version": outcome.version}, file)
    return {"file": file.name, "rate": rate, "clusters": len(numbers.negatives.category)}


def _say(outcome: "Outcome", request: "Request", report: Path) -> None:
    counts = outcome.report["pictures"]
    out().print(_table(outcome.comparison))
    line(
        f"{counts['different']:,} different pictures: {counts['trained_on']:,} trained on, copies and near misses made "
        f"of {counts['copies_made_of']:,} others, searched among {counts['searched_among']:,}"
    )
    base, new = outcome.comparison.base, outcome.comparison.new
    figures = (
        f"recall {base.recall:.2%} before, {new.recall:.2%} now; near misses called duplicates "
        f"{base.false_duplicates:.2%} before, {new.false_duplicates:.2%} now"
    )
    line(f"{'kept' if outcome.kept else 'not kept, the old version stays'}: {figures}")
    line(plain(f"report {report}"))
    if outcome.kept:
        repository = request.out / "triton_models"
        line(plain(f"encoder {outcome.version}; try it with DESIGN_DEDUP_MODEL_REPOSITORY={repository}"))


def _table(comparison: "Comparison") -> Table:
    table = Table("", f"base {comparison.base.version}", f"new {comparison.new.version}")
    table.add_row("threshold", *(f"{one.threshold:.4f}" for one in (comparison.base, comparison.new)))
    for word, kinds in (("found", comparison.base.found), ("called duplicate", comparison.base.mistaken)):
        for kind in kinds:
            table.add_row(f"{kind}: {word}", *(_cell(one, kind) for one in (comparison.base, comparison.new)))
    recall, false = comparison.recall, comparison.false_duplicates
    for name, change in (("recall", recall), ("near misses", false)):
        table.add_row(f"{name}: change", "", f"{change.value:+.2%} (95 %: {change.low:+.2%} to {change.high:+.2%})")
    return table


def _cell(figures: "Figures", kind: str) -> str:
    hits, n = {**figures.found, **figures.mistaken}[kind]
    return f"{hits / n:.2%} of {n:,}" if n else "none"
