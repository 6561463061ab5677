"""Garment A worn by person B: a cut-out bent over the garment of the same kind in another person's street photo.

The query shows A; what B wore is painted over, but its outline, and some of it at the edges, remains: it is the decoy.
B's other garments are in the picture too, so nothing is claimed of them. A stand-in for diffusion try-on, harsher at
the edges and gentler with the cloth.
"""

from functools import partial
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from encoders.evaluation import foreground
from encoders.evaluation.ccp import GARMENTS
from encoders.evaluation.remap import grid, remapped
from encoders.evaluation.sources import CutOut, Sources
from encoders.evaluation.suites import Picture, Query, Suite, generator

_WHITE: Final = 255
_LARGE: Final = 0.03  # of the photo: a smaller garment is hidden by others
_BEND: Final = 0.03  # of the garment's longer side


def try_on(sources: Sources) -> Suite:
    """The photo of B in A against all cut-outs."""
    name = "try-on/ccp"
    worn = [cut_out for cut_out in sources.ccp_items if cut_out.label in GARMENTS and cut_out.area >= _LARGE]
    of_photo: dict[str, list[int]] = {}
    of_label: dict[str, list[int]] = {}
    for place, cut_out in enumerate(worn):
        of_photo.setdefault(cut_out.photo, []).append(place)
        of_label.setdefault(cut_out.label, []).append(place)
    queries: list[Query] = []
    for a in sources.shuffled(range(len(worn)), name):
        others = [b for b in of_label[worn[a].label] if worn[b].photo != worn[a].photo]
        if not others or len(queries) == sources.limits.queries:
            continue
        b = others[int(generator(f"{name} {worn[a].picture.name}", sources.seed).integers(len(others)))]
        photo = sources.ccp_photos[worn[b].photo]
        picture = Picture(f"{worn[a].picture.name} on {worn[b].picture.name}",
                          partial(dressed, worn[a], worn[b], photo, sources.seed))  # fmt: skip
        beside = tuple(p for p in of_photo[worn[b].photo] if p != b)
        queries.append(Query(picture, worn[a].photo, "", (a,), (b,), beside))
    title = "a garment on another person, against all cut-outs; the decoy is what that person wore"
    return Suite(name, title, [cut_out.picture for cut_out in worn], queries)


def dressed(a: CutOut, b: CutOut, photo_of_b: Picture, seed: int) -> Image.Image:
    """The photo of B in which garment B is painted over and garment A put on."""
    rng = generator(f"{a.picture.name} on {b.picture.name}", seed)
    photo = photo_of_b.make()
    left, top, right, bottom = (round(edge * photo.width) for edge in b.box)
    size = (max(2, right - left), max(2, bottom - top))
    old = opacity(b.picture.make()).resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.MaxFilter(3))
    behind = photo.crop((left, top, left + size[0], top + size[1]))
    behind.paste(behind.filter(ImageFilter.GaussianBlur(0.25 * max(size))), mask=old)
    layer = a.picture.make()
    layer.putalpha(opacity(layer))
    layer = bent(layer.resize(size, Image.Resampling.BICUBIC), rng)
    behind.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    photo.paste(behind, (left, top))
    return photo


def bent(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A little out of shape. Shape: RGBA of any size -> the same."""
    x, y = grid(layer)
    waves = [rng.uniform(0.5, 1) * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * along / side + rng.random()))
             for along, side in ((y, layer.height), (x, layer.width))]  # fmt: skip
    grow = _BEND * max(layer.size)
    return remapped(layer, x + grow * waves[0], y + grow * waves[1])


def opacity(cut_out: Image.Image) -> Image.Image:
    """Where a cut-out on white is not ground. Mode L."""
    garment = foreground.standing_out(np.asarray(cut_out, np.int16), _WHITE)
    return Image.fromarray((foreground.soft(garment) * 255).astype(np.uint8))
