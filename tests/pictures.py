"""Drawn pictures for tests, small and made once."""

import io
from functools import cache

import numpy as np
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
def on_the_street(seed: int) -> bytes:
    """The photograph in the middle of a larger one without any plain ground."""
    rng = np.random.default_rng(seed)
    street = Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).resize((2 * SIZE_PX, 3 * SIZE_PX))
    worn = photo(garment(seed), seed, SIZE_PX)
    street.paste(worn, (SIZE_PX // 2, int(rng.integers(SIZE_PX // 4, 2 * SIZE_PX))))
    return jpeg(street)


@cache
def cropped(seed: int) -> bytes:
    """A garment's design without its margin."""
    edge = SIZE_PX // 20
    return jpeg(_design(seed).crop((edge, edge, SIZE_PX - edge, SIZE_PX - edge)))
