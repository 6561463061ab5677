"""Puts a garment that stands on white into another photograph: pairs of pictures of one thing, without a label.

Simple on purpose: a mask from the white around the garment, a turn, a change of light, soft edges. No drape, no
shadows, nothing hidden behind an arm; a suite made with it is easier than a photograph of the garment worn.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""

_MASK_PX: Final = 160  # long side at which the mask is found
_TOLERANCE: Final = 26  # a background pixel's largest difference from the picture's border, per channel, of 255
_PLAUSIBLE: Final = (0.04, 0.8)  # share of the picture: less is a leak into a white garment, more is no white border


def cut_out(picture: Image.Image) -> Image.Image | None:
    """The garment of a picture on a light, even background, as RGBA; None where no plausible mask is found.

    Background is what resembles the border and hangs together with it, so white inside a garment stays.
    """
    small = picture.copy()
    small.thumbnail((_MASK_PX, _MASK_PX))
    pixels = np.asarray(small, np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    light = border[border.min(axis=1) > 200]
    if len(light) < len(border) // 4:
        return None
    like_border = np.abs(pixels - np.median(light, axis=0)).max(axis=2) < _TOLERANCE
    mask = ~_connected_to_border(like_border)
    if not _PLAUSIBLE[0] < mask.mean() < _PLAUSIBLE[1]:
        return None
    alpha = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
    alpha = alpha.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.8))
    whole = picture.convert("RGBA")
    whole.putalpha(alpha)
    return whole.crop(alpha.getbbox())


def into_scene(garment: Image.Image, scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The garment in front of a scene: 45 to 75 % of its height, turned by up to 8 degrees, in another light."""
    turned = garment.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    share = rng.uniform(0.45, 0.75)
    scale = min(share * scene.height / turned.height, 0.9 * scene.width / turned.width)
    size = (max(1, round(turned.width * scale)), max(1, round(turned.height * scale)))
    lit = _lit(turned.resize(size, Image.Resampling.BICUBIC), rng.uniform(0.8, 1.2, 3) * rng.uniform(0.75, 1.15))
    left = round((scene.width - size[0]) * rng.uniform(0.2, 0.8))
    top = round((scene.height - size[1]) * rng.uniform(0.3, 0.9))
    result = scene.copy()
    result.paste(lit, (left, top), lit)
    return result


def onto_person(garment: Image.Image, photo: Image.Image, box: Box, rng: np.random.Generator) -> Image.Image:
    """The garment, bent a little, over the one that the person of a photo wears in `box`, halfway to that one's light.

    The result is cropped to the box and a third of its sides around it, as a design shows the garment it is about.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    fitted = _bent(garment.resize((round(1.06 * width), round(1.06 * height)), Image.Resampling.BICUBIC), rng)
    worn = np.asarray(photo.crop(box), np.float64).mean()
    pixels = np.asarray(fitted, np.float64)
    own = (pixels[..., :3].mean(axis=2) * pixels[..., 3]).sum() / max(pixels[..., 3].sum(), 1.0)
    lit = _lit(fitted, np.full(3, np.sqrt(np.clip(worn / max(own, 1.0), 0.5, 2.0))))
    result = photo.copy()
    result.paste(lit, (box[0] - round(0.03 * width), box[1] - round(0.03 * height)), lit)
    wider, higher = width / 3, height / 3
    around = (box[0] - wider, box[1] - higher, box[2] + wider, box[3] + higher)
    limits = (0, 0, photo.width, photo.height)
    left, top = (max(limit, round(side)) for limit, side in zip(limits[:2], around[:2], strict=True))
    right, bottom = (min(limit, round(side)) for limit, side in zip(limits[2:], around[2:], strict=True))
    return result.crop((left, top, right, bottom))


def _connected_to_border(free: Mask) -> Mask:
    """The part of `free` from which the border is reached by steps to the four sides."""
    reached = np.zeros_like(free)
    reached[[0, -1]], reached[:, [0, -1]] = free[[0, -1]], free[:, [0, -1]]
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if (grown == reached).all():
            return reached
        reached = grown


def _lit(image: Image.Image, gains: NDArray[np.float64]) -> Image.Image:
    """RGBA with each colour channel multiplied, the mask untouched."""
    pixels = np.asarray(image, np.float64).copy()
    pixels[..., :3] = np.clip(pixels[..., :3] * gains, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _bent(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rows pushed sideways and columns up and down along one wave each, by up to 4 % of the side."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    phase, swing = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.02, 0.04, 2)
    from_x = x + swing[0] * width * np.sin(2 * np.pi * y / height + phase[0])
    from_y = y + swing[1] * height * np.sin(2 * np.pi * x / width + phase[1])
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    moved = pixels[np.clip(from_y, 0, height - 1).astype(int), np.clip(from_x, 0, width - 1).astype(int)].copy()
    moved[..., 3] *= inside
    return Image.fromarray(moved, "RGBA")
