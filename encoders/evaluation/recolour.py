"""The same cut in another colour, which is not a duplicate: colourways that a shop sells, and twins made from one
picture.

Rule for twins: only packshots whose garment is colourful (half of its pixels have a chroma C*ab of at least 20), the
hue of the garment turned by 25 to 180 degrees, and only if the garment then looks different (mean Delta E*ab of at
least 10; 2.3 is just noticeable). Ground, folds and print stay.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from PIL import Image

from encoders.evaluation import colours, foreground
from encoders.evaluation.edits import EDITS, edited
from encoders.evaluation.places import Places
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Query, Suite, generator

COLOURFUL: Final = 20.0
VISIBLE: Final = 10.0
TURNS: Final = ((25, 60), (60, 120), (120, 180))  # degrees, either way
_LIGHT_COPY: Final = "reencode"


def turned(picture: Picture, degrees: float) -> Image.Image:
    """The picture with the hue of its garment turned; ValueError where no garment can be told from the ground."""
    image, garment = picture.make(), foreground.of(picture)
    if garment is None:
        raise ValueError(f"{picture.name}: the garment cannot be told from the ground")
    hue, saturation, value = image.convert("HSV").split()
    shift = round(degrees / 360 * 256)
    other = Image.merge("HSV", (hue.point([(level + shift) % 256 for level in range(256)]), saturation, value))
    opacity = foreground.soft(garment)[..., None]
    mixed = np.asarray(other.convert("RGB"), np.float32) * opacity + np.asarray(image, np.float32) * (1 - opacity)
    return Image.fromarray(mixed.round().astype(np.uint8))


def colourful(picture: Picture) -> bool:
    """Whether a turned hue can be seen at all."""
    garment = foreground.of(picture)
    if garment is None:
        return False
    return float(np.median(colours.chroma(np.asarray(picture.make()), garment))) >= COLOURFUL


def twins(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """Recoloured twins against their originals."""
    suite, seed = f"recolour/{name}", sources.seed
    gallery: list[Picture] = []
    queries: list[Query] = []
    wanted = sources.limits.queries
    for item in sources.shuffled(items, suite):
        if len(queries) == wanted:
            break
        rng = generator(f"{item.picture.name} turned", seed)
        low, high = TURNS[len(queries) % len(TURNS)]
        degrees = float(rng.uniform(low, high) * rng.choice((-1, 1)))
        if colourful(item.picture):
            picture = Picture(f"{item.picture.name} turned {degrees:.0f}", partial(turned, item.picture, degrees))
            if _visible(item.picture, picture):
                queries.append(Query(picture, item.group, f"hue by {low} to {high} degrees", rivals=(len(gallery),)))
                gallery.append(item.picture)
    return Suite(suite, f"recoloured twins of {what}", gallery, queries, pairs_only=True)


def colourways(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """A hard re-encoded copy of one article: the article itself is the truth, its other colours are near misses."""
    suite = f"colourways/{name}"
    places = Places(items)
    queries = []
    several = [item for item in items if len({items[p].colour for p in places.product(item)}) > 1]
    for item in sources.sample(several, sources.limits.queries, suite):
        same_product = ((p, items[p]) for p in places.product(item))
        rivals = tuple(p for p, o in same_product if o.colour != item.colour and not o.same_picture(item))
        copy = edited(item.picture, _LIGHT_COPY, EDITS[_LIGHT_COPY], sources.seed)
        queries.append(places.query(copy, item, rivals=rivals))
    return Suite(suite, f"{what} against other colours of the same product", [item.picture for item in items], queries)


def _visible(original: Picture, twin: Picture) -> bool:
    garment = foreground.of(original)
    assert garment is not None
    return colours.difference(np.asarray(original.make()), np.asarray(twin.make()), garment) >= VISIBLE
