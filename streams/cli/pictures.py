"""The pictures that a person names in a folder or a list, and how a command without a service looks at them: read,
checked and encoded by the code of the worker. Not for what is sent to the service: see listing.py and sending.py.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import typer

from streams.cli.listing import PICTURES
from streams.errors import Invalid, Retryable
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.preprocess import Domain
    from streams.embed.encoder import Pixels, Vectors
    from streams.embed.images import CheckedImage

_BATCH: Final = 32
_TRIES: Final = 5
_PAUSE_S: Final = 1.0


class EncoderWord(StrEnum):
    """Who computes."""

    LOCAL = "local"
    TRITON = "triton"


@dataclass(frozen=True, slots=True)
class Named:
    """A picture as a person calls it. category: its sub-folder of a folder that was named, as in `publish`."""

    name: str
    path: Path
    category: str = ""

    @property
    def file(self) -> str:
        """The same for every name of one file."""
        return os.path.realpath(self.path)


def in_list(source: str) -> list[Named]:
    """The pictures of a text file with one path a line. Paths are relative to the current folder, or else to the folder
    of the list; an empty line is the picture of no name. BadParameter when it is no such file."""
    path = Path(source)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{source}: {getattr(error, 'strerror', None) or error}") from error
    if "\0" in text:
        raise typer.BadParameter(f"{source} is not a text file")
    names = text.splitlines()
    if not any(names):
        raise typer.BadParameter(f"{source} is empty")
    beside = [path.parent / name for name in names]
    return [
        Named(name, there if not Path(name).exists() and there.exists() else Path(name))
        for name, there in zip(names, beside, strict=True)
    ]


def in_folder_or_list(source: str) -> list[Named]:
    """The pictures below a folder, by name, or those of a list, without its empty lines. BadParameter for neither."""
    if not os.path.isdir(source):
        return [named for named in in_list(source) if named.name]
    root = Path(source)
    files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in PICTURES and file.is_file()]
    if not files:
        raise typer.BadParameter(f"no pictures in {source} ({' '.join(sorted(PICTURES))})")
    return [
        Named(os.path.join(source, file.relative_to(root)), file, "" if file.parent == root else file.parent.name)
        for file in files
    ]


class Pictures:
    """The worker's checker and encoder, open while the context is."""

    def __init__(self, settings: Settings) -> None:
        from streams.embed.checker import ImageChecker
        from streams.embed.images import ImageLimits
        from streams.kafka.app import make_encoder

        limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.decode_timeout_s)
        self._max_bytes, self._windows = settings.max_image_bytes, settings.windows
        self._checker = ImageChecker(limits, settings.decode_threads)
        self._encoder = make_encoder(settings)
        # One file is read while another is decoded, and no more are held.
        self._reads = asyncio.Semaphore(2 * settings.decode_threads)

    async def __aenter__(self) -> "Pictures":
        try:
            await self._encoder.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checker.close()
        await self._encoder.close()

    @property
    def version(self) -> str:
        """The encoder's version."""
        return self._encoder.version

    async def checked(
        self, files: Sequence[str], *, windows: bool = False
    ) -> AsyncIterator[list["CheckedImage | Invalid"]]:
        """What is in each file, or why it cannot be used: in their order, in slices of which one is in memory.

        windows: as in a catalogue, if the settings want that.
        """
        windows = windows and self._windows
        for start in range(0, len(files), _BATCH):
            yield await asyncio.gather(*(self._check(file, windows) for file in files[start : start + _BATCH]))

    async def _check(self, file: str, windows: bool) -> "CheckedImage | Invalid":
        try:
            async with self._reads:
                return await self._checker.check(await asyncio.to_thread(self._read, file), windows=windows)
        except Invalid as error:
            return error

    def _read(self, file: str) -> bytes:
        try:
            with open(file, "rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size > self._max_bytes:
                    raise Invalid("too_large", f"{size} bytes, the limit is {self._max_bytes}")
                return opened.read()
        except OSError as error:
            raise Invalid("no_file", error.strerror or str(error)) from error

    async def encode(self, images: Sequence["CheckedImage"], domain: "Domain") -> "Vectors":
        """The unit vectors of some pictures and their windows, (n, dim) float32, as `vectors`."""
        import numpy as np

        if not images:
            return np.empty((0, self._encoder.dim), np.float32)
        return await self.vectors(np.concatenate([image.pixels for image in images]), domain)

    async def vectors(self, pixels: "Pixels", domain: "Domain") -> "Vectors":
        """Shape: (n, 224, 224, 3) -> (n, dim) float32, unit vectors. Retryable when the encoder does not answer for
        long."""
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._encoder.encode(pixels, [domain] * len(pixels))
            except Retryable:
                if attempt == _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError("unreachable")
