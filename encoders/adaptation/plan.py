"""Which pictures train and which measure: by their contents alone, so that the same picture is on the same side in
every run, whatever it is called and whatever else is there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from encoders.adaptation.pictures import Picture

HELD_BACK: Final = 5
"""Every fifth picture is measured on, never trained on."""

LEAST_HELD_BACK = 50
"""Of fewer pictures a share of 1 % says nothing at all."""

MOST_ASKED: Final = 1_000
"""Copies and near misses are made of so many held-back pictures at most."""

MOST_GALLERY: Final = 10_000
"""They are searched among so many pictures at most."""


class TooFewPictures(ValueError):
    """So few pictures show nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """trained: what views are made of. gallery: what was not trained on, `asked` of it first: the held-back pictures
    that copies and near misses are made of."""

    trained: Sequence[Picture]
    gallery: Sequence[Picture]
    asked: int


def plan(pictures: Sequence[Picture], things: int, seed: int) -> Plan:
    """Every picture once, however often it is there. things: how many are trained on at most.

    Raises: TooFewPictures with how many are needed.
    """
    distinct = list({picture.digest: picture for picture in reversed(pictures)}.values())
    order = sorted(distinct, key=lambda one: hashlib.sha256(seed.to_bytes(8, "big") + one.digest).digest())
    held = [one for one in order if held_back(one.digest)]
    free = [one for one in order if not held_back(one.digest)]
    if len(held) < LEAST_HELD_BACK or len(free) < 2:
        raise TooFewPictures(
            f"{len(distinct)} different pictures are too few: {len(held)} of them are held back for measuring, and "
            f"{LEAST_HELD_BACK} are needed, so about {HELD_BACK * LEAST_HELD_BACK} pictures over both folders"
        )
    trained, rest = halves(free, things)
    asked, others = halves(held, MOST_ASKED)
    return Plan(trained, [*asked, *others, *rest][:MOST_GALLERY], len(asked))


def held_back(digest: bytes) -> bool:
    """Whether a picture of these contents is measured on. digest: SHA-256 of the file."""
    return int.from_bytes(digest[:8], "big") % HELD_BACK == 0


def halves(pictures: Sequence[Picture], count: int) -> tuple[list[Picture], list[Picture]]:
    """The first `count`, half of them of either side as far as there are so many, and the others."""
    catalogue, designs = ([one for one in pictures if (one.side == "catalog") is wanted] for wanted in (True, False))
    of_designs = min(len(designs), max(count // 2, count - len(catalogue)))
    chosen = {one.digest for one in (*designs[:of_designs], *catalogue[: count - of_designs])}
    return [one for one in pictures if one.digest in chosen], [one for one in pictures if one.digest not in chosen]


def data_hash(pictures: Sequence[Picture]) -> str:
    """SHA-256 over the contents and sides of all pictures, in any order."""
    lines = sorted(f"{one.side} {one.digest.hex()}" for one in pictures)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
