"""`design-dedup embed`: the vectors of a list of pictures, through the code of the worker."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from streams.cli.console import EXIT_FAILED, line, progress, run, say, settings_or_usage
from streams.errors import Fatal, Invalid, Retryable
from streams.settings import Settings

_BATCH: Final = 32
_TRIES: Final = 5
_PAUSE_S: Final = 1.0
_NAMED: Final = 20


class DomainWord(StrEnum):
    """Where a picture comes from: the model has one entrance for each."""

    CATALOG = "catalog"
    GENERATED = "generated"


class EncoderWord(StrEnum):
    """Who computes."""

    LOCAL = "local"
    TRITON = "triton"


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
    is written.

    \b
    find photos -name '*.jpg' > list.txt
    design-dedup embed list.txt vectors.npy --domain catalog --encoder local
    """
    settings = settings_or_usage().model_copy(update={"encoder": encoder.value})
    paths = _paths(source)
    broken = run(_embed(settings, paths, target, domain.value))
    if broken:
        for number, reason in broken[:_NAMED]:
            say(f"{source}, line {number}: {paths[number - 1]}: {reason}")
        if len(broken) > _NAMED:
            say(f"... and {len(broken) - _NAMED} more")
        say(f"{len(broken)} of {len(paths)} pictures cannot be used; nothing was written")
        raise typer.Exit(EXIT_FAILED)
    line(f"wrote {len(paths)} vectors to {target}")


def _paths(source: Path) -> list[Path]:
    try:
        names = source.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{source}: {getattr(error, 'strerror', None) or error}") from error
    if not names:
        raise typer.BadParameter(f"{source} is empty")
    beside = [source.parent / name for name in names]
    return [path if not Path(name).exists() and path.exists() else Path(name)
            for name, path in zip(names, beside, strict=True)]  # fmt: skip


async def _embed(settings: Settings, paths: Sequence[Path], target: Path, domain: str) -> list[tuple[int, str]]:
    """Write the vectors; returns (line, reason) of what cannot be used, and then nothing was written."""
    import numpy as np

    from streams.embed.images import ImageChecker, ImageLimits
    from streams.kafka.app import make_encoder

    checker = ImageChecker(
        ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.decode_timeout_s),
        settings.decode_threads,
    )
    encoder = make_encoder(settings)
    rows, broken = [], []
    try:
        await encoder.start()
        with progress("embedding", len(paths)) as bar:
            for start in range(0, len(paths), _BATCH):
                batch = paths[start : start + _BATCH]
                checked = await asyncio.gather(*(_check(checker, path) for path in batch))
                broken += [(start + i + 1, why) for i, why in enumerate(checked) if isinstance(why, str)]
                if not broken:
                    pixels = np.stack([image.pixels for image in checked])
                    rows.append(await _encode(encoder, pixels, [domain] * len(batch)))
                bar(start + len(batch))
    finally:
        checker.close()
        await encoder.close()
    if not broken:
        await asyncio.to_thread(_write, np.concatenate(rows), target)
    return broken


async def _check(checker: Any, path: Path) -> Any:
    """The checked picture, or why there is none."""
    try:
        return await checker.check(await asyncio.to_thread(path.read_bytes))
    except OSError as error:
        return error.strerror or str(error)
    except Invalid as error:
        return f"{error.reason}: {error}"


async def _encode(encoder: Any, pixels: Any, domains: Sequence[str]) -> Any:
    for attempt in range(1, _TRIES + 1):
        try:
            return await encoder.encode(pixels, domains)
        except Retryable:
            if attempt == _TRIES:
                raise
            await asyncio.sleep(_PAUSE_S)
    raise AssertionError("unreachable")


def _write(vectors: Any, target: Path) -> None:
    """All or nothing: a reader never sees half a file."""
    import numpy as np

    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".npy", delete=False) as file:
            np.save(file, vectors)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(file.name, 0o666 & ~mask)
        os.replace(file.name, target)
    except OSError as error:
        raise Fatal(f"cannot write {target}: {error.strerror}") from error
