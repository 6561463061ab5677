"""A packshot's garment rendered into a scene: another ground, light, size and angle, and something before it."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from encoders.evaluation import foreground
from encoders.evaluation.places import Places
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Query, Suite, generator

_HEIGHT: Final = (0.55, 0.9)  # of the scene that the garment fills
_TILT: Final = 0.06  # how far a corner moves, in sides of the garment
_HIDDEN: Final = 0.2  # of the garment's height or width, at most, behind something
_LIGHT: Final = (0.75, 1.2)
_WARMTH: Final = 0.08
_SIDE: Final = 400  # of the scene's longer side, px


def rendered(packshot: Picture, background: Picture, name: str, seed: int) -> Image.Image:
    """The garment of a packshot in another photo; ValueError where no garment can be told from the ground."""
    rng = generator(name, seed)
    garment = foreground.of(packshot)
    if garment is None:
        raise ValueError(f"{packshot.name}: the garment cannot be told from the ground")
    scene = background.make()
    scale = _SIDE / max(scene.size)
    scene = scene.resize((round(scene.width * scale), round(scene.height * scale)), Image.Resampling.BICUBIC)
    cut = Image.fromarray((foreground.soft(foreground.inner(garment)) * 255).astype(np.uint8))
    layer = packshot.make().convert("RGB")
    layer.putalpha(cut)
    placed = tilted(layer.crop(foreground.box(garment)), rng)
    grow = min(rng.uniform(*_HEIGHT) * scene.height / placed.height, 0.95 * scene.width / placed.width)
    placed = placed.resize((round(placed.width * grow), round(placed.height * grow)), Image.Resampling.BICUBIC)
    placed.putalpha(_hidden(np.array(placed.getchannel("A")), rng))
    at = (int(rng.integers(0, scene.width - placed.width + 1)), int(rng.integers(0, scene.height - placed.height + 1)))
    shadow = Image.new("L", scene.size)
    shadow.paste(placed.getchannel("A").point([level // 3 for level in range(256)]), (at[0] + 4, at[1] + 6))
    scene.paste((20, 20, 25), mask=shadow.filter(ImageFilter.GaussianBlur(6)))
    scene.paste(lit(placed.convert("RGB"), rng), at, placed.getchannel("A"))
    return scene


def tilted(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A small change of perspective. Shape: RGBA of any size -> the same size."""
    width, height = layer.size
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], np.float64)
    moved = corners + rng.uniform(-_TILT, 0, (4, 2)) * np.sign(0.5 - corners / (width, height)) * (width, height)
    quad = tuple(float(value) for corner in moved for value in corner)
    return layer.transform(layer.size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Under another lamp: brighter or darker, warmer or colder, falling off to one side."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    lamp = rng.uniform(*_LIGHT) * (1 + rng.uniform(0, 0.15) * (x * np.cos(angle) + y * np.sin(angle)))
    warmth = rng.uniform(-_WARMTH, _WARMTH)
    gains = lamp[..., None] * np.array([1 + warmth, 1, 1 - warmth])
    return Image.fromarray((np.asarray(image) * gains).clip(0, 255).astype(np.uint8))


def scenes(sources: Sources, name: str, items: Sequence[Item], backgrounds: Sequence[Picture], what: str) -> Suite:
    """The scene asks for the packshot; other packshots of the product do not count."""
    suite = f"scenes/{name}"
    places = Places(items)
    queries: list[Query] = []
    for item in sources.shuffled(items, suite):
        if len(queries) == sources.limits.queries:
            break
        if foreground.of(item.picture) is None:
            continue
        picture_name = f"{item.picture.name} in a scene"
        background = backgrounds[int(generator(f"{picture_name} ground", sources.seed).integers(len(backgrounds)))]
        make = partial(rendered, item.picture, background, picture_name, sources.seed)
        queries.append(places.query(Picture(picture_name, make), item))
    return Suite(suite, f"{what} rendered into a scene, against the packshots", [i.picture for i in items], queries)


def _hidden(opacity: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """The opacity with a strip at one side taken away, as if something stood before it."""
    opacity = opacity.copy()
    strip = rng.uniform(0, _HIDDEN)
    side = int(rng.integers(4))
    tall, wide = (round(length * strip) for length in opacity.shape)
    if side < 2:
        opacity[slice(None, tall) if side == 0 else slice(opacity.shape[0] - tall, None)] = 0
    else:
        opacity[:, slice(None, wide) if side == 2 else slice(opacity.shape[1] - wide, None)] = 0
    return Image.fromarray(opacity)
