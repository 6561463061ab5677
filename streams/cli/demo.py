"""`design-dedup demo`: the whole service on this machine, from nothing to a report, and nothing left behind.

A real broker, a real Triton, a real Milvus Lite and one worker process, in a temporary folder. It publishes a catalogue
and then designs as any producer would, and reads the verdicts as any consumer would.
"""

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.table import Table

from streams.cli.console import EXIT_FAILED, err, out, plain
from streams.cli.listing import PICTURES
from streams.cli.rehearsal import Make, Pictures, Rehearsal, RehearsalFailed
from streams.cli.report import Outcome, Source, as_object, cards, figures, write_report
from streams.cli.screen import Screen

Broker = Literal["tansu", "kafka"]

_INTERRUPTED: Final = 130


def demo(
    catalog: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your catalogue: a folder of pictures.")
    ] = None,
    designs: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your designs: a folder of pictures.")
    ] = None,
    items: Annotated[int, typer.Option(min=0, help="Catalogue items to draw, when no folders are given.")] = 120,
    designs_count: Annotated[int, typer.Option(min=1, help="Designs to draw, when no folders are given.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other garments.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    report: Annotated[Path, typer.Option(dir_okay=False, help="Where the HTML report goes.")] = Path("report.html"),
    broker: Annotated[Broker, typer.Option(help="`kafka`: real Apache Kafka; needs Java 17 and its jars.")] = "tansu",
    index: Annotated[
        Literal["milvus", "memory"] | None, typer.Option(help="Where older rows are searched. Default: the setting.")
    ] = None,
) -> None:
    """Run the whole service here on drawn garments, or on your own two folders, and write a report.

    Starts a broker, Triton, Milvus Lite and a worker on free ports of 127.0.0.1, loads a catalogue, publishes designs,
    shows the verdicts as they come, and ends everything again. An id is the file's stem; where two files of a folder
    share one, the later in order of path becomes stem~2, stem~3 and so on. Files that are no usable picture become
    dead letters.

    \b
    design-dedup demo
    design-dedup demo --catalog photos/ --designs new/ --report new.html
    """
    if (catalog is None) != (designs is None):
        raise typer.BadParameter("--catalog and --designs go together: two folders of pictures")
    if not report.parent.is_dir():
        raise typer.BadParameter(f"--report: there is no folder {report.parent}")
    yours = _folders(catalog, designs) if catalog and designs else None
    screen = Screen(err())
    try:
        with _interruptible(), screen, tempfile.TemporaryDirectory(prefix="design-dedup-demo-") as folder:
            roots = [path.resolve() for path in (catalog, designs) if path]
            make = yours or _drawn(Path(folder), items, designs_count, seed)
            outcome = Rehearsal(Path(folder), screen, broker, index, roots).run(make)
            _write(outcome, report, screen)
    except RehearsalFailed as failure:
        err().print(plain(f"The demo failed while {screen.step}.\n{failure}"))
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        err().print(f"Interrupted while {screen.step}; everything is stopped.")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print(json.dumps(as_object(outcome, report)), flush=True)
    else:
        _print_summary(outcome, report)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The end of the terminal's session, or a supervisor, ends the demo as Ctrl-C does: with everything cleaned up."""
    previous = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# Pictures


def _folders(catalog: Path, designs: Path) -> Make:
    found = list_pictures(catalog), list_pictures(designs)
    if not found[1]:
        raise typer.BadParameter(f"{designs} holds no pictures ({' '.join(sorted(PICTURES))})")
    return lambda _screen, _abandon: found


def list_pictures(folder: Path) -> list[Source]:
    """Every file below a folder that has a picture's suffix, whatever is in it, in order of path."""
    sources: list[Source] = []
    taken: set[str] = set()
    visited: set[str] = set()
    paths: list[Path] = []
    for where, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:  # a link to a folder above
            below.clear()
            continue
        visited.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        paths += [Path(where, name) for name in names if not name.startswith(".")]
    for path in sorted(paths):
        if path.suffix.lower() not in PICTURES or not path.is_file():
            continue
        # A name may hold bytes that are no text and characters that are no key.
        stem = plain(path.stem.encode("utf-8", "replace").decode()).replace("\n", "?").replace("\t", "?")[:240]
        name, again = stem, 2
        while name in taken:
            name, again = f"{stem}~{again}", again + 1
        taken.add(name)
        sources.append(Source(name, path, "" if path.parent == folder else plain(path.parent.name)[:200]))
    return sources


def _drawn(folder: Path, items: int, designs: int, seed: int) -> Make:
    from encoders import synthetic

    words = {
        "reencode": "re-encoded copy",
        "resize": "resized copy",
        "crop": "cropped copy",
        "twin of an earlier design": "edited copy",
    }

    def save(
        samples: Iterator[synthetic.Sample], into: Path, abandon: threading.Event, tick: Callable[[], None]
    ) -> Iterator[Source]:
        into.mkdir()
        for sample in samples:
            if abandon.is_set():
                return
            path = into / f"{sample.id}.jpg"
            path.write_bytes(sample.image)
            yield Source(
                sample.id,
                path,
                sample.category,
                sample.title,
                sample.truth,
                True,
                words.get(sample.reason, sample.reason),
            )
            tick()

    def make(screen: Screen, abandon: threading.Event) -> Pictures:
        tick = screen.bar("drawing garments", items + designs)
        catalogue = list(save(synthetic.catalogue(items, seed), folder / "catalog", abandon, tick))
        return catalogue, list(save(synthetic.designs(designs, items, seed), folder / "designs", abandon, tick))

    return make


# Telling


def _print_summary(outcome: Outcome, report: Path) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="bold")
    for figure, name, how in figures(outcome):
        table.add_row(figure, name, how)
    console = out()
    console.print(f"\n{len(outcome.designs)} designs against a catalogue of {len(outcome.items)} items\n")
    console.print(table)
    console.print(f"\nThe report with every pair of pictures: {report}")


def _write(outcome: Outcome, path: Path, screen: Screen) -> None:
    screen.begin("writing the report")
    try:
        write_report(outcome, path, datetime.now(), screen.bar("report", cards(outcome)))
    except OSError as error:
        raise RehearsalFailed(f"{path}: {error.strerror}") from error
