"""What a generator's memory does to a garment it has seen: it bends it, moves a hem, a sleeve or a collar, and draws
parts anew. A curve of similarity against strength, not a target: how much is too much is for the threshold to say.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from encoders.evaluation import foreground
from encoders.evaluation.places import Places
from encoders.evaluation.remap import grid, moved, remapped
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Suite, generator

Box = tuple[int, int, int, int]
Alter = Callable[[Image.Image, Box, float, np.random.Generator], Image.Image]

_HILLS: Final = 4  # a warp has so many hills and valleys along each side


def warp(image: Image.Image, _: Box, strength: float, rng: np.random.Generator) -> Image.Image:
    """Smooth bends; `strength` is the largest displacement in longer sides of the picture."""
    x, y = grid(image)
    hills = rng.standard_normal((2, _HILLS, _HILLS)).astype(np.float32)
    fields = [
        np.asarray(Image.fromarray(field).resize(image.size, Image.Resampling.BICUBIC), np.float64) for field in hills
    ]
    grow = strength * max(image.size) / np.hypot(*fields).max()
    return remapped(image, x + fields[0] * grow, y + fields[1] * grow)


def hem(image: Image.Image, box: Box, strength: float, rng: np.random.Generator) -> Image.Image:
    """The hem moves up or down by `strength` of the garment's height; what is above the middle stays."""
    x, y = grid(image)
    top, bottom = box[1], box[3]
    middle, end = (top + bottom) / 2, bottom + strength * (bottom - top) * rng.choice((-1, 1))
    end = min(end, image.height - 2)
    knots, to = [0, middle, bottom, image.height], [0, middle, end, image.height]
    return remapped(image, x, moved(y, knots, to))


def sleeves(image: Image.Image, box: Box, strength: float, _: np.random.Generator) -> Image.Image:
    """Both sides come in by `strength` of the garment's width: shorter sleeves, or a narrower cut without sleeves."""
    x, y = grid(image)
    left, right = box[0], box[2]
    width = right - left
    inner = [left + 0.3 * width, right - 0.3 * width]
    knots = [0, left, *inner, right, image.width]
    to = [0, left + strength * width, *inner, right - strength * width, image.width]
    return remapped(image, moved(x, knots, to), y)


def collar(image: Image.Image, box: Box, strength: float, _: np.random.Generator) -> Image.Image:
    """The neck is cut deeper by `strength` of the garment's height, in the middle of the upper edge."""
    x, y = grid(image)
    left, top, right, bottom = box
    near = np.exp(-(((x - (left + right) / 2) / (0.12 * (right - left))) ** 2))
    neck = top + strength * (bottom - top) * near  # where the upper edge comes to lie
    still = top + 0.6 * (bottom - top)  # from here on nothing moves
    above = y * top / np.maximum(neck, 1)
    below = still - (still - y) * (still - top) / (still - neck)
    return remapped(image, x, np.where(y < neck, above, np.where(y < still, below, y)))


def regenerated(image: Image.Image, box: Box, strength: float, rng: np.random.Generator) -> Image.Image:
    """A patch with sides of `strength` of the garment's is drawn anew: its soft colours, with a grain of its own."""
    left, top, right, bottom = box
    wide, tall = max(2, round(strength * (right - left))), max(2, round(strength * (bottom - top)))
    x, y = int(rng.integers(left, right - wide + 1)), int(rng.integers(top, bottom - tall + 1))
    patch = image.crop((x, y, x + wide, y + tall))
    soft = np.asarray(patch.filter(ImageFilter.GaussianBlur(max(1.0, 0.15 * wide))), np.float32)
    grain = rng.standard_normal((max(1, tall // 3), max(1, wide // 3))).astype(np.float32)
    grain = np.asarray(Image.fromarray(grain).resize((wide, tall), Image.Resampling.BICUBIC))
    deviation = 0.5 * float(np.asarray(patch.convert("L"), np.float32).std())
    anew = Image.fromarray((soft + deviation * grain[..., None]).clip(0, 255).astype(np.uint8))
    edge = Image.new("L", (wide, tall))
    edge.paste(255, (1, 1, wide - 1, tall - 1))
    image = image.copy()
    image.paste(anew, (x, y), edge.filter(ImageFilter.BoxBlur(1)))
    return image


STRENGTHS: Final[Mapping[str, tuple[Alter, tuple[float, ...]]]] = {
    "warp": (warp, (0.02, 0.03, 0.04, 0.05, 0.06)),
    "hem": (hem, (0.05, 0.10, 0.15, 0.20)),
    "sleeves": (sleeves, (0.05, 0.10, 0.15, 0.20)),
    "collar": (collar, (0.05, 0.10, 0.15, 0.20)),
    "patch": (regenerated, (0.20, 0.40, 0.60, 0.80)),
}


def curves(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """The same garments at every strength, each against its original among all the others."""
    suite = f"alterations/{name}"
    places = Places(items)
    wanted = max(1, sources.limits.of_a_kind // 2)
    standing_out = (item for item in sources.shuffled(items, suite) if foreground.of(item.picture) is not None)
    queries = []
    for item in islice(standing_out, wanted):
        for change, (_, strengths) in STRENGTHS.items():
            for strength in strengths:
                kind = f"{change} {strength:.0%}"
                picture = Picture(f"{item.picture.name} {kind}",
                                  partial(altered, item.picture, change, strength, sources.seed))  # fmt: skip
                queries.append(places.query(picture, item, kind))
    queries.sort(key=lambda query: _order(query.kind))
    return Suite(suite, f"{what} as a generator would misremember them", [item.picture for item in items], queries)


def altered(picture: Picture, change: str, strength: float, seed: int) -> Image.Image:
    """One change of one strength; the same bends at every strength. ValueError where no garment stands out."""
    garment = foreground.of(picture)
    if garment is None:
        raise ValueError(f"{picture.name}: the garment cannot be told from the ground")
    rng = generator(f"{picture.name} {change}", seed)
    return STRENGTHS[change][0](picture.make(), foreground.box(garment), strength, rng)


def _order(kind: str) -> tuple[int, float]:
    change, _, strength = kind.partition(" ")
    return list(STRENGTHS).index(change), float(strength.rstrip("%"))
