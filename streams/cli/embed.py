"""`design-dedup embed`: the vectors of a list of pictures, through the code of the worker."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from streams.cli.console import EXIT_FAILED, line, progress, run, say, settings_or_usage
from streams.cli.pictures import EncoderWord, Named, Pictures, in_list
from streams.cli.writing import whole_file
from streams.errors import Invalid
from streams.settings import Settings

_NAMED: Final = 20


class DomainWord(StrEnum):
    """Where a picture comes from: the model has one entrance for each."""

    CATALOG = "catalog"
    GENERATED = "generated"


def embed(
    source: Annotated[
        Path, typer.Argument(metavar="LIST", help="A text file with one image path a line.", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.npy", help="NumPy file, float32, one unit row a line.", show_default=False)
    ],
    domain: Annotated[DomainWord, typer.Option(help="Photographs of the catalogue, or generated designs.")],
    encoder: Annotated[EncoderWord, typer.Option(help="The model in this process, or Triton.")] = EncoderWord.LOCAL,
) -> None:
    """Write the vectors of a list of pictures, one row for each line.

    Paths are relative to the current folder, or else to the folder of
    the list. When a picture cannot be used its line is named and nothing
    is written. A row is the picture's own vector: what a catalogue keeps
    beside it, of its small copy and its windows, counts in match.

    \b
    find photos -name '*.jpg' > list.txt
    design-dedup embed list.txt vectors.npy --domain catalog --encoder local
    """
    settings = settings_or_usage().model_copy(update={"encoder": encoder.value})
    pictures = in_list(str(source))
    broken = run(_embed(settings, pictures, target, domain))
    if broken:
        for number, error in broken[:_NAMED]:
            reason = "" if error.reason == "no_file" else f"{error.reason}: "
            say(f"{source}, line {number}: {pictures[number - 1].path}: {reason}{error}")
        if len(broken) > _NAMED:
            say(f"... and {len(broken) - _NAMED} more")
        say(f"{len(broken)} of {len(pictures)} pictures cannot be used; nothing was written")
        raise typer.Exit(EXIT_FAILED)
    line(f"wrote {len(pictures)} vectors to {target}")


async def _embed(
    settings: Settings, pictures: Sequence[Named], target: Path, domain: DomainWord
) -> list[tuple[int, Invalid]]:
    """Write the vectors; returns (line, reason) of what cannot be used, and then nothing was written."""
    import numpy as np

    files = [picture.file for picture in pictures]
    distinct = list(dict.fromkeys(files))
    rows, broken, done = [], dict[str, Invalid](), 0
    with progress("embedding", len(distinct)) as bar:
        async with Pictures(settings) as eyes:
            async for checked in eyes.checked(distinct):
                answers = dict(zip(distinct[done : done + len(checked)], checked, strict=True))
                broken |= {file: answer for file, answer in answers.items() if isinstance(answer, Invalid)}
                if not broken:  # else nobody will have the vectors
                    good = [answer for answer in checked if not isinstance(answer, Invalid)]
                    rows.append(await eyes.encode(good, domain.value))
                done += len(checked)
                bar(done)
    if broken:
        return [(number, broken[file]) for number, file in enumerate(files, start=1) if file in broken]
    row = {file: i for i, file in enumerate(distinct)}
    with whole_file(target) as out:
        np.save(out, np.concatenate(rows)[[row[file] for file in files]])
    return []
