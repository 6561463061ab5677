"""Pictures that show no garment and may be near everything: blanks, placeholders, logos, colour cards."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from encoders.evaluation.edits import EDITS, edited
from encoders.evaluation.places import Places
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Suite

_SIZE: Final = (216, 288)
_QUERY_EDIT: Final = "crop"


def blank(level: int) -> Image.Image:
    """One grey."""
    return Image.new("RGB", _SIZE, (level, level, level))


def gradient() -> Image.Image:
    """The empty ground of a studio."""
    column = np.linspace(250, 205, _SIZE[1]).astype(np.uint8)
    return Image.fromarray(np.repeat(np.repeat(column[:, None, None], _SIZE[0], axis=1), 3, axis=2))


def noise() -> Image.Image:
    """A broken download."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (_SIZE[1], _SIZE[0], 3), dtype=np.uint8))


def placeholder(words: str, ground: int) -> Image.Image:
    """A frame with words, as shops show while a photo is missing."""
    image = blank(ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle((28, 74, 188, 194), outline=(150, 150, 155), width=4)
    draw.polygon([(40, 184), (90, 120), (120, 155), (145, 132), (178, 184)], fill=(190, 190, 195))
    draw.text((108, 220), words, fill=(120, 120, 125), font=ImageFont.load_default(size=20), anchor="mm")
    return image


def logo(letters: str, colour: tuple[int, int, int], disc: bool) -> Image.Image:
    """A brand's mark on white."""
    image = blank(255)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if disc else draw.rectangle)((38, 74, 178, 214), fill=colour)
    draw.text((108, 144), letters, fill=(255, 255, 255), font=ImageFont.load_default(size=54), anchor="mm")
    return image


def colour_card() -> Image.Image:
    """Swatches in rows."""
    image = blank(255)
    draw = ImageDraw.Draw(image)
    for number in range(24):
        x, y = 12 + number % 4 * 50, 12 + number // 4 * 45
        draw.rectangle((x, y, x + 42, y + 37), fill=f"hsl({number * 15}, 70%, 50%)")
    return image


def size_table() -> Image.Image:
    """Lines and figures."""
    image = blank(255)
    draw = ImageDraw.Draw(image)
    for row in range(9):
        draw.line((10, 20 + row * 30, 206, 20 + row * 30), fill=(60, 60, 60))
        draw.text((16, 28 + row * 30), f"{34 + 2 * row}     {80 + 4 * row}     {62 + 4 * row}", fill=(30, 30, 30))
    return image


HUBS: Final[Mapping[str, Callable[[], Image.Image]]] = {
    "white": partial(blank, 255),
    "light grey": partial(blank, 235),
    "grey": partial(blank, 128),
    "black": partial(blank, 0),
    "empty ground": gradient,
    "noise": noise,
    "placeholder on white": partial(placeholder, "no image", 255),
    "placeholder on grey": partial(placeholder, "coming soon", 232),
    "round logo": partial(logo, "ab", (200, 30, 40), True),
    "square logo": partial(logo, "X", (20, 20, 24), False),
    "colour card": colour_card,
    "size table": size_table,
}


def hubs(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """Cropped copies of items against a gallery with hubs in it; every hub is a near miss of every query."""
    suite = f"hubs/{name}"
    pictures = [Picture(f"hub/{hub}", make) for hub, make in HUBS.items()]
    gallery = [*(item.picture for item in items), *pictures]
    rivals = tuple(range(len(items), len(gallery)))
    places = Places(items)
    queries = []
    for item in sources.sample(items, sources.limits.queries, suite):
        copy = edited(item.picture, _QUERY_EDIT, EDITS[_QUERY_EDIT], sources.seed)
        queries.append(places.query(copy, item, rivals=rivals))
    title = f"cropped copies of {what} among {len(pictures)} pictures of nothing (the near misses)"
    return Suite(suite, title, gallery, queries)
