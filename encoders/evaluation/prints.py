"""Another print on the same cut, folds kept, and one print on two garments: neither is a duplicate.

Rule: only packshots whose garment stands out from the ground and fills at least 12 % of the picture; the print is the
largest square of another product's cloth, if it is at least 40 px wide and has a pattern finer than its folds (light
that deviates by 10 of 255 levels from its surroundings); a swap counts only if the two pictures look different over the
garment (mean Delta E*ab of at least 10).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from encoders.evaluation import colours, foreground
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Query, Suite

VISIBLE: Final = 10.0
_FOLDS: Final = 0.03  # deviation of the blur that leaves the folds, in longer sides of the picture
_AREA: Final = 0.12  # of the picture that a garment fills at least
_PATCH_PX: Final = 40  # side of the smallest patch that shows a print
_REPEAT: Final = 0.6  # side of a patch on the garment that takes it, in widths of that garment
_BUSY: Final = 10.0  # grey levels
_FINE: Final = 0.06  # deviation of the blur that leaves a pattern's surroundings, in sides of the patch
_VARIETY: Final = 4  # every print is worn by so many garments
_DARK: Final = 24.0  # grey levels: added before light is compared, or black cloth would have folds of noise


def printed(garment_of: Picture, print_of: Picture, dyed: bool = False) -> Image.Image:
    """The first picture's garment in the second one's print; light and folds, ground and outline are the first one's.

    dyed: the print is brought to the garment's own mean colour, so that its pattern alone is another.
    ValueError where a garment cannot be told from its ground.
    """
    image, garment, other = garment_of.make(), foreground.of(garment_of), foreground.of(print_of)
    if garment is None or other is None:
        raise ValueError(f"{garment_of.name}, {print_of.name}: a garment cannot be told from its ground")
    pixels = np.asarray(image, np.float32)
    folds = _folds(image, garment)
    left, top, right, bottom = foreground.box(garment)
    side = max(1, round(_REPEAT * (right - left)))
    patch = Image.fromarray(cloth(print_of.make(), other)).resize((side, side), Image.Resampling.BICUBIC)
    worn = pixels.copy()
    worn[top:bottom, left:right] = _tiled(np.asarray(patch, np.float32), bottom - top, right - left)
    if dyed:
        worn += pixels[garment].mean(axis=0) - worn[garment].mean(axis=0)
    worn = worn * folds[..., None]
    opacity = foreground.soft(garment)[..., None]
    return Image.fromarray((worn * opacity + pixels * (1 - opacity)).clip(0, 255).round().astype(np.uint8))


def cloth(image: Image.Image, garment: foreground.Mask) -> NDArray[np.uint8]:
    """The largest square of cloth in a garment, the most central of several, as a patch of its print.

    Empty where there is none. Shape: (side, side, 3).
    """
    height, width = garment.shape
    counts = np.zeros((height + 1, width + 1), np.int64)
    counts[1:, 1:] = foreground.cloth(image, garment).cumsum(axis=0).cumsum(axis=1)
    left, top, right, bottom = foreground.box(garment)
    for side in range(min(right - left, bottom - top), 0, -2):
        inside = counts[side:, side:] - counts[:-side, side:] - counts[side:, :-side] + counts[:-side, :-side]
        rows, columns = np.nonzero(inside == side * side)
        if len(rows):
            off = np.abs(rows + side / 2 - (top + bottom) / 2) + np.abs(columns + side / 2 - (left + right) / 2)
            y, x = int(rows[off.argmin()]), int(columns[off.argmin()])
            return np.asarray(image)[y : y + side, x : x + side]
    return np.empty((0, 0, 3), np.uint8)


def swaps(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """Garments with another print against their originals."""
    gallery: list[Picture] = []
    queries: list[Query] = []
    for item, other in _pairs(sources, f"prints/{name}", items):
        if len(queries) == sources.limits.queries:
            break
        dyed = len(queries) % 2 == 1
        make = partial(printed, item.picture, other.picture, dyed)
        kind = "print, mean colour kept" if dyed else "print and colour"
        swap = Picture(f"{item.picture.name} in the print of {other.picture.name}{' dyed' * dyed}", make)
        if _differ(item.picture, swap):
            queries.append(Query(swap, item.group, kind, rivals=(len(gallery),)))
            gallery.append(item.picture)
    return Suite(f"prints/{name}", f"{what} with another print, folds kept", gallery, queries, pairs_only=True)


def shared(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """One print on two garments of different kinds: the wearer of a print against another kind that wears it too."""
    suite = f"one-print/{name}"
    gallery: list[Picture] = []
    queries: list[Query] = []
    pairs = _pairs(sources, suite, items)
    for (first, cloth_of), (second, _) in zip(pairs, pairs, strict=False):
        if len(queries) == sources.limits.queries:
            break
        if first.label == second.label:
            continue
        wearers = [
            Picture(f"{item.picture.name} in the print of {cloth_of.picture.name}",
                    partial(printed, item.picture, cloth_of.picture))
            for item in (first, second)
        ]  # fmt: skip
        queries.append(Query(wearers[0], first.group, rivals=(len(gallery),)))
        gallery.append(wearers[1])
    return Suite(suite, f"one print on two garments, {what}", gallery, queries, pairs_only=True)


def _pairs(sources: Sources, name: str, items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """A garment and another product whose print it can take, each garment once."""
    order = sources.shuffled(items, name)
    wanted = max(2, sources.limits.queries // _VARIETY)
    printed = list(islice((item for item in reversed(order) if _has_print(item.picture)), wanted))
    for number, item in enumerate(order):
        garment = foreground.of(item.picture)
        if garment is None or garment.mean() < _AREA:
            continue
        others = [other for other in printed if other.group != item.group]
        if others:
            yield item, others[number % len(others)]


def _has_print(picture: Picture) -> bool:
    garment = foreground.of(picture)
    if garment is None:
        return False
    patch = Image.fromarray(cloth(picture.make(), garment)).convert("L")
    if patch.width < _PATCH_PX:
        return False
    around = patch.filter(ImageFilter.GaussianBlur(_FINE * patch.width))
    return float((np.asarray(patch, np.float32) - np.asarray(around, np.float32)).std()) >= _BUSY


def _tiled(patch: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A patch repeated, every other one mirrored so that there are no seams. Shape: (s, s, 3) -> (height, width, 3)."""
    rows, columns = (np.arange(length) % (2 * len(patch)) for length in (height, width))
    rows, columns = (np.where(x < len(patch), x, 2 * len(patch) - 1 - x) for x in (rows, columns))
    return np.asarray(patch[rows[:, None], columns])


def _folds(image: Image.Image, garment: foreground.Mask) -> NDArray[np.float32]:
    """Light and folds as a factor around 1: the low frequencies of the garment's luminance. Shape: (height, width)."""
    light = np.asarray(image.convert("L"), np.float32)
    radius = _FOLDS * max(image.size)
    low = 255 * _blurred(light * garment, radius) / np.maximum(_blurred(garment * np.float32(255), radius), 1)
    factor = (low + _DARK) / (float(low[garment].mean()) + _DARK)
    return np.asarray(np.clip(factor, 0.4, 1.6), np.float32)


def _blurred(field: NDArray[np.float32], radius_px: float) -> NDArray[np.float32]:
    """Of grey levels 0 to 255."""
    return np.asarray(Image.fromarray(field.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius_px)), np.float32)


def _differ(a: Picture, b: Picture) -> bool:
    garment = foreground.of(a)
    assert garment is not None
    return colours.difference(np.asarray(a.make()), np.asarray(b.make()), garment) >= VISIBLE
