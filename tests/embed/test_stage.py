"""The first stage with a known encoder: which vectors a record has."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from streams.embed.cache import PictureCache
from streams.embed.checker import ImageChecker
from streams.embed.images import ImageLimits, check_image
from streams.embed.stage import EmbedStage, SourceEvent
from streams.events import CatalogUpdate, GeneratedDesign, Image, LogRecord, encode_event, lattice
from tests.pictures import drawn, on_the_street


class Means:
    """An encoder whose vectors are mean colours of 4 x 4 cells."""

    version, dim, healthy = "means", 48, True

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def start(self) -> None:
        pass

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[str]) -> NDArray[np.float32]:
        assert len(domains) == len(pixels)
        self.calls.append(len(pixels))
        return vectors_of(pixels)

    async def close(self) -> None:
        pass


def vectors_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    cells = pixels.reshape(len(pixels), 4, 56, 4, 56, 3).mean(axis=(2, 4)).reshape(len(pixels), 48) + 1
    return np.asarray(cells / np.linalg.norm(cells, axis=1, keepdims=True), np.float32)


def event(kind: Literal["design", "item"], *files: bytes) -> SourceEvent:
    made = GeneratedDesign if kind == "design" else CatalogUpdate
    return SourceEvent(kind, "s/0", 0, 0, b"x", encode_event(made(images=tuple(Image(data=file) for file in files))))


async def records(encoder: Any, windows: bool, *batches: Sequence[SourceEvent]) -> list[LogRecord]:
    fetcher: Any = None
    checker = ImageChecker(ImageLimits(), 2)
    stage = EmbedStage(encoder, fetcher, checker, PictureCache(100), ("default",), windows=windows)
    answers = [answer for batch in batches for answer in await stage.embed(batch)]
    checker.close()
    assert all(isinstance(answer, LogRecord) for answer in answers)
    return [answer for answer in answers if isinstance(answer, LogRecord)]


async def test_the_catalogue_is_seen_small_and_through_windows_where_it_is_cluttered() -> None:
    street, clean = on_the_street(0), drawn(0)
    encoder = Means()
    mixed = [event("item", street, clean, on_the_street(1)), event("design", street)]
    item, design, again = await records(encoder, True, mixed, [event("item", street)])
    first, _, third = item.pictures
    assert [len(picture.vectors()) for picture in item.pictures] == [1 + third.windows, 2, 1 + third.windows]
    assert third.windows > 1
    image = check_image(street, ImageLimits(), windows=True)
    expected = lattice(vectors_of(image.pixels))
    assert first.vectors() == [row.tobytes() for row in expected]
    assert design.pictures[0].vectors() == first.vectors()[:1]
    assert again.pictures == (first,)
    assert sorted(encoder.calls) == [3, 1 + third.windows, 1 + third.windows], "each picture once in each domain"


@pytest.mark.parametrize("kind", ["item", "design"])
async def test_without_the_setting_nothing_is(kind: Literal["item", "design"]) -> None:
    (record,) = await records(Means(), False, [event(kind, on_the_street(0))])
    assert record.pictures[0].windows == 0
