"""Several pictures of one machine-made garment: a proxy for a generator that renders one design again and again."""

from functools import partial
from typing import Final

from PIL import Image

from encoders import synthetic
from encoders.evaluation.sources import SYNTHETIC_PX, SYNTHETIC_SEED, Sources
from encoders.evaluation.suites import Picture, Query, Suite

SHOTS: Final = 3
_FIRST_SEED: Final = SYNTHETIC_SEED + 100_000  # of garments, and of the photographs taken of them


def shots(sources: Sources) -> Suite:
    """Every shot asks for the other two of its garment, among all shots of all garments."""
    gallery = [_shot(number, shot) for number in range(_garments(sources)) for shot in range(SHOTS)]
    queries = []
    for place, picture in enumerate(gallery):
        first = place - place % SHOTS
        truth = tuple(p for p in range(first, first + SHOTS) if p != place)
        queries.append(Query(picture, f"garment {place // SHOTS}", "", truth))
    return Suite(
        "shots/synthetic", "three photographs of one synthetic garment, each against the others", gallery, queries
    )


def designs(sources: Sources) -> Suite:
    """The clean design of a garment against its photograph."""
    gallery = [_shot(number, 0) for number in range(_garments(sources))]
    queries = [
        Query(Picture(f"synthetic/design {number}", partial(_design, number)), f"garment {number}", "", (number,))
        for number in range(_garments(sources))
    ]
    return Suite("designs/synthetic", "the design of a synthetic garment against its photograph", gallery, queries)


def _garments(sources: Sources) -> int:
    return sources.limits.queries // SHOTS


def _shot(number: int, shot: int) -> Picture:
    seed = _FIRST_SEED + number
    make = partial(synthetic.photo, synthetic.garment(seed), seed * SHOTS + shot, SYNTHETIC_PX)
    return Picture(f"synthetic/{number} shot {shot + 1}", make)


def _design(number: int) -> Image.Image:
    return synthetic.design(synthetic.garment(_FIRST_SEED + number), SYNTHETIC_PX)
