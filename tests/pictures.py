"""Drawn pictures for tests, small and made once."""

import io
from functools import cache

from PIL import Image

from encoders.synthetic import design as draw
from encoders.synthetic import garment, photo

SIZE_PX = 224


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@cache
def _design(seed: int) -> Image.Image:
    return draw(garment(seed), SIZE_PX)


@cache
def drawn(seed: int, quality: int = 90) -> bytes:
    """The clean design of a garment."""
    return jpeg(_design(seed), quality)


@cache
def photographed(seed: int, quality: int = 90) -> bytes:
    """The catalogue photograph of a garment."""
    return jpeg(photo(garment(seed), seed, SIZE_PX), quality)


@cache
def cropped(seed: int) -> bytes:
    """A garment's design without its margin."""
    edge = SIZE_PX // 20
    return jpeg(_design(seed).crop((edge, edge, SIZE_PX - edge, SIZE_PX - edge)))
