"""Unrelated products: how near does the nearest other product come, and what share of them would be called duplicates.

One half of the products, by a hash of their number, chooses a threshold (for a model that brings none); the other half
reports.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from encoders.evaluation import foreground
from encoders.evaluation.places import Places
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Query, Suite

OVERLAP: Final = 0.9
"""Intersection over union from which on two outlines are the same silhouette."""

_GRID: Final = (48, 64)  # width and height at which outlines are compared
_RARE: Final = 20  # a category with fewer queries is reported with the other small ones


def chooses(item: Item) -> bool:
    """Whether the product is in the half that chooses."""
    return zlib.crc32(item.group.encode()) % 2 == 0


def neighbours(sources: Sources, name: str, items: Sequence[Item], what: str, choosing: bool = False) -> Suite:
    """Packshots of one half against the packshots of all other products."""
    places = Places(items)
    half = [item for item in items if chooses(item) == choosing]
    half = sources.sample(half, sources.limits.gallery, f"unrelated/{name}")
    count = Counter(item.label for item in half)
    queries = [
        places.unrelated_query(item, item.label if count[item.label] >= _RARE else "other categories")
        for item in half
    ]  # fmt: skip
    family = "calibration" if choosing else "unrelated"
    return Suite(f"{family}/{name}", f"{what} against other products", [item.picture for item in items], queries)


def silhouettes(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """Packshots against other products whose garment has the same outline (overlap above OVERLAP), as near misses."""
    suite = f"silhouettes/{name}"
    standing_out = [item for item in items if foreground.of(item.picture) is not None]
    outlines = np.stack([_outline(item) for item in standing_out]) if standing_out else np.empty((0, 1), np.float32)
    both = outlines @ outlines.T
    areas = outlines.sum(axis=1)
    overlap = both / np.maximum(areas[:, None] + areas - both, 1)
    queries: list[Query] = []
    for place in sources.shuffled(range(len(standing_out)), suite):
        item = standing_out[place]
        alike = [
            int(p) for p in np.flatnonzero(overlap[place] > OVERLAP)
            if standing_out[p].group != item.group and not standing_out[p].same_picture(item)
        ]  # fmt: skip
        if alike and len(queries) < sources.limits.queries:
            queries.append(Query(item.picture, item.group, rivals=tuple(alike)))
    title = f"{what} against other products of the same silhouette"
    return Suite(suite, title, [item.picture for item in standing_out], queries, pairs_only=True)


def _outline(item: Item) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The garment's outline as zeros and ones, where it stands in the picture. Shape: (48 * 64,)."""
    garment = foreground.of(item.picture)
    assert garment is not None
    small = Image.fromarray(garment).resize(_GRID, Image.Resampling.NEAREST)
    return np.asarray(small, np.float32).ravel()
