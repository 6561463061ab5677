"""`design-dedup calibrate`: a policy whose thresholds keep a wished rate of false duplicates, on one's own pictures."""

import shlex
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streams.cli.calibration_sources import catalogue, labelled, removed
from streams.cli.console import policy_or_usage, run, say, settings_or_usage
from streams.cli.pictures import EncoderWord, Pictures
from streams.errors import Fatal
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.cli.calibrating import Measured
    from streams.cli.describing import Describer

_RATE: Final = 0.005
_LARGEST: Final = 1 << 20
_COPIES: Final = 200


def calibrate(
    context: typer.Context,
    catalog: Annotated[
        str,
        typer.Option(
            metavar="DIR|LIST|CSV", help="What exists, to make pairs of: a folder, a list of paths, a CSV or JSONL."
        ),
    ] = "",
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Labelled pairs: a, b, label (duplicate or different), category, cluster."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Wished share of new designs that are called duplicates.")
    ] = _RATE,
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="The policy file to write.")] = None,
    review: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Show the 50 nearest unrelated pairs, to be looked at.")
    ] = None,
    taken_out: Annotated[
        Path | None,
        typer.Option("--removed", metavar="FILE", help="Ids of pairs that were looked at and are true duplicates."),
    ] = None,
    products: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Columns id and product: what shows one product is not compared.")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many pictures the labelled pairs were found among.", show_default="as many as stand in b"
        ),
    ] = None,
    largest: Annotated[int, typer.Option(min=2, help="Live rows up to which thresholds are written.")] = _LARGEST,
    copies: Annotated[
        int, typer.Option(min=0, help="Pictures of which edited copies are made, to be found.")
    ] = _COPIES,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the hash rule and all the rest come from.",
            show_default="the setting policy_file, or the shipped one",
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep vectors here for the next run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For copies, and for the order of products.")] = 0,
    encoder: Annotated[EncoderWord, typer.Option(help="The model in this process, or Triton.")] = EncoderWord.LOCAL,
) -> None:
    """Choose thresholds that keep a wished rate of false duplicates.

    Counted is the nearest other product of each product, or the nearest
    labelled pair of each cluster. Thresholds hold at 95 % (exact binomial
    bound), for each number of live rows and for each category with enough
    pictures; with too few clusters it says how many are needed. What goes
    beyond the data is marked in the file: extrapolated, no guarantee.

    \b
    design-dedup calibrate --catalog photos/ --review near.html
    design-dedup calibrate --catalog photos/ --removed same.txt --out policy.toml
    design-dedup calibrate --pairs labelled.csv --rate 0.01 --out policy.toml

    A catalogue holds true duplicates that nobody labelled. Look at the
    page, save the ids of those that show the same thing, and run again.
    """
    if bool(catalog) == (pairs is not None):
        raise typer.BadParameter("give either --catalog or --pairs")
    if out is None and review is None:
        raise typer.BadParameter("give --out, --review, or both")
    if (pairs is not None and products is not None) or (catalog and rows is not None):
        raise typer.BadParameter("--products belongs to --catalog, --rows to --pairs")
    settings = settings_or_usage().model_copy(update={"encoder": encoder.value})
    base, gone = policy_or_usage(policy), removed(taken_out)

    from encoders.calibration import NoThreshold, TooFew
    from encoders.calibration import calibrate as choose
    from streams.cli.calibrating import of_catalogue, of_pairs
    from streams.cli.calibration_answer import answer, hash_rule

    rule = hash_rule(base)
    if pairs:
        labels = labelled(pairs)
        work = partial(of_pairs, pairs=labels, rule=rule, removed=gone, rows=rows, use_digest=base.use_digest)
    else:
        items = catalogue(catalog, products)
        work = partial(of_catalogue, items=items, rule=rule, removed=gone, copies=copies, seed=seed, largest=largest)
    measured, version = run(_measure(settings, work, cache, base.leave_out))
    if unknown := sorted(set(gone) - set(measured.removed)):
        say(f"{taken_out}: no such pair here: {', '.join(unknown)}")
    if review:
        _show(measured, review)
    try:
        made = choose(measured.negatives, rate, largest)
    except (TooFew, NoThreshold) as error:
        raise Fatal(str(error)) from error
    answer(made, measured, base, {"command": _command(context), "encoder_version": version}, out)


async def _measure(
    settings: Settings, work: Callable[["Describer"], Awaitable["Measured"]], cache: Path | None, leave_out: int
) -> tuple["Measured", str]:
    """What thresholds are chosen by, and the encoder's version."""
    from encoders.embedding import VectorCache
    from streams.cli.describing import Describer

    with ExitStack() as stack:
        kept = stack.enter_context(closing(VectorCache(cache))) if cache else None
        async with Pictures(settings) as pictures:
            return await work(Describer(pictures, kept, leave_out)), pictures.version


def _show(measured: "Measured", page: Path) -> None:
    from streams.cli.review import write_review

    shown = write_review(measured.suspects, page)
    say(f"the {shown} nearest unrelated pairs are in {page}: look whether any show the same thing (--removed)")


def _command(context: typer.Context) -> str:
    """What was typed, without what is so anyway."""
    given = [
        word
        for option in context.command.params
        if (value := context.params.get(option.name or "")) is not None and value != option.default
        for word in (option.opts[0], str(getattr(value, "value", value)))
    ]
    return shlex.join(["design-dedup", "calibrate", *given])
