"""Bending pictures: every pixel is fetched from somewhere else, with bilinear interpolation."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float64]


def grid(image: Image.Image) -> tuple[Field, Field]:
    """The places of the pixels, in px: x to the right, y down. Shape: each (height, width)."""
    y, x = np.mgrid[0 : image.height, 0 : image.width].astype(np.float64)
    return x, y


def remapped(image: Image.Image, x: Field, y: Field) -> Image.Image:
    """The picture whose pixels are those of `image` at (x, y), places outside taken from its edge.

    Shape: x and y (height, width), in px.
    """
    pixels = np.asarray(image, np.float64)
    height, width = pixels.shape[:2]
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = pixels[top, left] * (1 - across) + pixels[top, left + 1] * across
    lower = pixels[top + 1, left] * (1 - across) + pixels[top + 1, left + 1] * across
    return Image.fromarray((upper * (1 - down) + lower * down).round().astype(np.uint8))


def moved(places: Field, knots: list[float], to: list[float]) -> Field:
    """Where to fetch from along one axis when what lies at `knots` shall come to lie at `to` (both ascending); between
    them everything is stretched evenly."""
    return np.interp(places, to, knots)
