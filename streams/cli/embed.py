"""`design-dedup embed`: the vectors of a list of pictures, through the code of the worker."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streams.cli.console import EXIT_FAILED, line, progress, run, say, settings_or_usage
from streams.cli.pictures import EncoderWord, Named, Pictures, in_list
from streams.cli.writing import whole_file
from streams.errors import Invalid
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.embed.encoder import Vectors

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
    whole: Annotated[
        bool, typer.Option("--all", help="All vectors that a catalogue keeps of each picture, to OUT.npz.")
    ] = False,
    encoder: Annotated[EncoderWord, typer.Option(help="The model in this process, or Triton.")] = EncoderWord.LOCAL,
) -> None:
    """Write the vectors of a list of pictures, one row for each line.

    Paths are relative to the current folder, or else to the folder of
    the list. When a picture cannot be used its line is named and nothing
    is written.

    A row is the picture's own vector. A catalogue keeps more of it, of its
    small copy and its windows, and the best counts. With --all those are
    written too: an .npz file with `vectors`, and `line`, the number of the
    line (from 1) that each vector is of, the picture's own first.

    \b
    find photos -name '*.jpg' > list.txt
    design-dedup embed list.txt vectors.npy --domain catalog
    design-dedup embed list.txt vectors.npz --domain catalog --all
    """
    if whole and domain is not DomainWord.CATALOG:
        raise typer.BadParameter("of a design there is one vector", param_hint="--all")
    settings = settings_or_usage().model_copy(update={"encoder": encoder.value})
    pictures = in_list(str(source))
    written, broken = run(_embed(settings, pictures, target, domain, whole))
    if broken:
        for number, error in broken[:_NAMED]:
            reason = "" if error.reason == "no_file" else f"{error.reason}: "
            say(f"{source}, line {number}: {pictures[number - 1].path}: {reason}{error}")
        if len(broken) > _NAMED:
            say(f"... and {len(broken) - _NAMED} more")
        say(f"{len(broken)} of {len(pictures)} pictures cannot be used; nothing was written")
        raise typer.Exit(EXIT_FAILED)
    line(f"wrote {written} vectors to {target}")


async def _embed(
    settings: Settings, pictures: Sequence[Named], target: Path, domain: DomainWord, whole: bool
) -> tuple[int, list[tuple[int, Invalid]]]:
    """Write the vectors; returns how many, and (line, reason) of what cannot be used, and then nothing was written."""
    import numpy as np

    files = [picture.file for picture in pictures]
    distinct = list(dict.fromkeys(files))
    own, broken, done = dict[str, "Vectors"](), dict[str, Invalid](), 0
    with progress("embedding", len(distinct)) as bar:
        async with Pictures(settings) as eyes:
            async for checked in eyes.checked(distinct, windows=whole):
                answers = dict(zip(distinct[done : done + len(checked)], checked, strict=True))
                broken |= {file: answer for file, answer in answers.items() if isinstance(answer, Invalid)}
                if not broken:  # else nobody will have the vectors
                    good = [answer for answer in checked if not isinstance(answer, Invalid)]
                    ends = np.cumsum([len(image.pixels) for image in good])[:-1]
                    own |= dict(zip(answers, np.split(await eyes.encode(good, domain.value), ends), strict=True))
                done += len(checked)
                bar(done)
    if broken:
        return 0, [(number, broken[file]) for number, file in enumerate(files, start=1) if file in broken]
    vectors = np.concatenate([own[file] for file in files])
    with whole_file(target) as out:
        if whole:
            lines = np.arange(1, len(files) + 1, dtype=np.int32)
            np.savez(out, vectors=vectors, line=lines.repeat([len(own[file]) for file in files]))
        else:
            np.save(out, vectors)
    return len(vectors), []
