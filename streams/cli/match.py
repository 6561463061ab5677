"""`design-dedup match`: what the service would say of designs against a catalogue, without a service.

Nothing is decided here: pictures go through the worker's checker and encoder (pictures.py), and what comes out through
the memory of a shard (shelf.py), which is asked about each design as `check` asks it.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec.structs import replace

from streams.cli.console import EXIT_FAILED, line, policy_or_usage, progress, run, say, settings_or_usage
from streams.cli.pictures import EncoderWord, Named, Pictures, in_folder_or_list
from streams.cli.writing import whole_file
from streams.errors import Fatal, Invalid
from streams.events import Picture, Policy
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.preprocess import Domain
    from streams.cli.shelf import Shelf

_STDOUT: Final = "-"


def match(
    designs: Annotated[
        str, typer.Option(metavar="DIR|LIST", help="A folder, or a text file with one image path a line.")
    ],
    catalog: Annotated[str, typer.Option(metavar="DIR|LIST", help="The same, of what exists.")],
    out: Annotated[str, typer.Option(metavar="FILE.jsonl", help="One JSON object a design; - is standard output.")],
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many neighbours are shown, up to all.")] = 5,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Thresholds (TOML).", show_default="the setting policy_file, or the shipped one"
        ),
    ] = None,
    encoder: Annotated[EncoderWord, typer.Option(help="The model in this process, or Triton.")] = EncoderWord.LOCAL,
) -> None:
    """Compare designs with a catalogue, without servers: what the service would say.

    Every design is compared with the catalogue only, never with another
    design, so each line stands for itself, whatever the order. Names are
    as given; lines come in the order of the list, or of the names in a
    folder, where a sub-folder's name is the category of its designs.

    \b
    design-dedup match --designs new/ --catalog photos/ --out said.jsonl
    design-dedup match --designs new.txt --catalog photos.txt --top 50 --out -

    A design that cannot be used has `error` in its line instead of a
    verdict; a catalogue picture that cannot be used is named and left
    out. In both cases the exit code is 1.
    """
    settings = settings_or_usage().model_copy(update={"encoder": encoder.value})
    rules = policy_or_usage(policy)
    items, asked = in_folder_or_list(catalog), in_folder_or_list(designs)
    if run(_match(settings, rules, items, asked, out, top)):
        raise typer.Exit(EXIT_FAILED)


async def _match(
    settings: Settings, rules: Policy, items: Sequence[Named], asked: Sequence[Named], out: str, top: int
) -> int:
    """Write the lines; returns how many pictures could not be used."""
    from streams.cli.shelf import Shelf

    with _lines(out) as write:
        async with Pictures(settings) as pictures:
            # Nothing else in a verdict depends on how many neighbours it has.
            with closing(Shelf(replace(rules, neighbours=top), pictures.version)) as shelf:
                left_out = await _fill(shelf, pictures, items)
                said = await _ask(shelf, pictures, asked, write)
            say(
                f"{len(asked)} designs against {len(shelf)} pictures: {said['duplicate']} duplicate, {said['accept']}"
                f" accept (policy {rules.version}, encoder {pictures.version})"
            )
    if broken := said["error"]:
        say(f"{broken} of {len(asked)} designs cannot be used; their lines say why")
    return left_out + broken


async def _fill(shelf: "Shelf", pictures: Pictures, items: Sequence[Named]) -> int:
    """Put the catalogue there; returns how many pictures were left out. Fatal when that is all of them."""
    items = list({item.name: item for item in items}.values())
    broken: list[str] = []
    with progress("catalogue", len(items)) as bar:
        async for part in _described(pictures, items, "catalog"):
            if good := [(item.name, seen) for item, seen in part if isinstance(seen, Picture)]:
                shelf.add(good)
            broken += [f"{item.name}: {_why(seen)}" for item, seen in part if isinstance(seen, Invalid)]
            bar(len(shelf) + len(broken))
    for text in broken:
        say(text)
    if not len(shelf):
        raise Fatal("no picture of the catalogue can be used; nothing was written")
    if broken:
        say(f"{len(broken)} of {len(items)} pictures of the catalogue cannot be used and are left out")
    return len(broken)


async def _ask(
    shelf: "Shelf", pictures: Pictures, asked: Sequence[Named], write: Callable[[str], None]
) -> Counter[str]:
    """Write a line for each design; returns how many have each verdict, or `error`."""
    said: Counter[str] = Counter()
    with progress("designs", len(asked)) as bar:
        async for part in _described(pictures, asked, "generated"):
            for design, seen in part:
                row = {"error": _why(seen)} if isinstance(seen, Invalid) else _row(shelf, seen, design.category)
                write(json.dumps({"design": design.name, **row}))
                said[row.get("verdict", "error")] += 1
                bar(said.total())
    return said


def _row(shelf: "Shelf", picture: Picture, category: str) -> dict[str, Any]:
    verdict = shelf.ask(picture, category)
    return {
        "verdict": verdict.verdict,
        "threshold": verdict.threshold,
        "neighbours": [
            {"item": near.id, "similarity": near.similarity, "signal": near.signal} for near in verdict.neighbours
        ],
    }


def _why(error: Invalid) -> str:
    return f"{error.reason}: {error}"


async def _described(
    pictures: Pictures, named: Sequence[Named], domain: "Domain"
) -> AsyncIterator[list[tuple[Named, Picture | Invalid]]]:
    """What the log would keep of every picture, or why it cannot be used: in their order, in slices. A file under
    several names is read and encoded once."""
    from streams.embed.images import described

    files = [one.file for one in named]
    distinct = list(dict.fromkeys(files))
    known: dict[str, Picture | Invalid] = {}
    read = done = 0
    async for checked in pictures.checked(distinct, windows=domain == "catalog"):
        images = [image for image in checked if not isinstance(image, Invalid)]
        good = iter(described(images, await pictures.encode(images, domain)))
        for file, image in zip(distinct[read : read + len(checked)], checked, strict=True):
            known[file] = image if isinstance(image, Invalid) else next(good)
        read += len(checked)
        part = []
        while done < len(files) and files[done] in known:
            part.append((named[done], known[files[done]]))
            done += 1
        yield part


@contextmanager
def _lines(out: str) -> Iterator[Callable[[str], None]]:
    """Where lines go: all of them to a file, or none; or to standard output as they come."""
    if out == _STDOUT:
        yield line
        return
    with whole_file(Path(out)) as file:

        def write(text: str) -> None:
            file.write(f"{text}\n".encode())

        yield write
