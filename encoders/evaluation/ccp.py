"""Street photos: a garment cut out on white against the photo in which it is worn."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from encoders.evaluation.sources import CutOut, Sources
from encoders.evaluation.suites import Query, Suite

GARMENTS: Final = frozenset({
    "blazer", "blouse", "bodysuit", "cape", "cardigan", "coat", "dress", "hoodie", "jacket", "jeans", "jumper",
    "leggings", "pants", "romper", "shirt", "shorts", "skirt", "suit", "sweater", "sweatshirt", "swimwear", "t-shirt",
    "tights", "top", "vest",
})  # fmt: skip

_RARE: Final = 10  # a label with fewer queries is reported with the other small ones


def cut_outs(sources: Sources) -> Suite:
    """Garments, one query each; a photo shows several."""
    worn = [cut_out for cut_out in sources.ccp_items if cut_out.label in GARMENTS]
    return _suite(sources, "cut-outs/garments", "a garment cut out, against the street photo it is worn in", worn)


def accessories(sources: Sources) -> Suite:
    """Shoes, bags, hats and other small things."""
    small = [cut_out for cut_out in sources.ccp_items if cut_out.label not in GARMENTS]
    return _suite(sources, "cut-outs/accessories", "shoes, bags and small things cut out, against their photo", small)


def _suite(sources: Sources, name: str, title: str, cut_outs: Sequence[CutOut]) -> Suite:
    photos = list(sources.ccp_photos)
    place = {photo: at for at, photo in enumerate(photos)}
    chosen = sources.sample(cut_outs, sources.limits.queries, name)
    count = Counter(cut_out.label for cut_out in chosen)
    queries = [
        Query(cut_out.picture, cut_out.photo, cut_out.label if count[cut_out.label] >= _RARE else "other labels",
              (place[cut_out.photo],))
        for cut_out in chosen
    ]  # fmt: skip
    return Suite(name, title, [sources.ccp_photos[photo] for photo in photos], queries)
