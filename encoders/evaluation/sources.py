"""The pictures that suites are made of: what the photo sets hold back from training, and synthetic garments.

Not for edits or truth: those belong to the family of the suite.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image

from encoders import data as photo_sets
from encoders import synthetic
from encoders.evaluation.suites import Picture, generator
from encoders.synthetic_prints import PALETTE

T = TypeVar("T")

SYNTHETIC_SEED: Final = 900_000
"""Garments from here on are for evaluation; training uses small seeds."""

CCP_WIDTH_PX: Final = 550
"""Width of the full-size street photos that the boxes of items.csv are measured in."""

SYNTHETIC_PX: Final = 288
_GARMENTS: Final = (6, 400)  # one for so many entries of a gallery, at most so many: drawing takes its time
_GROUNDS: Final = 100
_GROUND_SEED: Final = SYNTHETIC_SEED + 50_000
_CLOTHES: Final = frozenset({
    "Blazer", "Blouse", "Bodysuit", "Cardigan", "Coat", "Dress", "Dungarees", "Hoodie", "Jacket", "Jumpsuit/Playsuit",
    "Leggings/Tights", "Outdoor Waistcoat", "Outdoor trousers", "Polo shirt", "Shirt", "Shorts", "Skirt", "Sweater",
    "T-shirt", "Tailored Waistcoat", "Top", "Trousers", "Tunic", "Vest top",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a thing. `group`: product or sender; `article` and `colour` tell colourways apart; `digest`: of
    the file, since shops sell one photo under two numbers."""

    picture: Picture
    group: str
    article: str
    label: str
    colour: str
    digest: str

    def same_picture(self, other: "Item") -> bool:
        """Whether it is the same file."""
        return self.digest == other.digest


@dataclass(frozen=True, slots=True)
class CutOut:
    """A garment cut out of a street photo. `area`: share of the photo; `box`: left, top, right, bottom in the photo, in
    widths of the photo."""

    picture: Picture
    photo: str
    label: str
    area: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each suite is used: entries of a gallery, queries of a suite, queries of one kind in it, and the
    largest gallery that is filled with distractors."""

    gallery: int
    queries: int
    of_a_kind: int
    largest: int


FULL: Final = Limits(gallery=6_000, queries=1_000, of_a_kind=200, largest=15_000)
QUICK: Final = Limits(gallery=1_500, queries=200, of_a_kind=40, largest=1_000)


class Sources:
    """Everything that can be had, read when it is first asked for. `data` is the folder of the photo sets, or None.

    FileNotFoundError where a set is asked for that is not there.
    """

    def __init__(self, data: Path | None, limits: Limits, seed: int) -> None:
        self.data, self.limits, self.seed = data, limits, seed

    def has(self, *sets: str) -> bool:
        """Whether the photo sets are there."""
        return all(self.data is not None and (self.data / name).is_dir() for name in sets)

    @cached_property
    def hm(self) -> list[Item]:
        """Packshots: whole products, so that colourways stay together, up to the limit of a gallery."""
        return self._whole_groups(self.all_hm, self.limits.gallery)

    @cached_property
    def hm_clothes(self) -> list[Item]:
        """The packshots that show clothes, not shoes, jewellery or packs of socks."""
        return [item for item in self.hm if item.label in _CLOTHES]

    @cached_property
    def clothing(self) -> list[Item]:
        """Home photos of the senders that are held out."""
        photos = (p for p in photo_sets.clothing(self._root) if int(p.group) % photo_sets.HELD_OUT == 0)
        return _items("clothing", photos)[: self.limits.gallery]

    @cached_property
    def myntra(self) -> list[Item]:
        """Thumbnails of another shop; distractors only, since the set holds genuine duplicates."""
        return _items("myntra", photo_sets.myntra(self._root))

    @cached_property
    def ccp_photos(self) -> dict[str, Picture]:
        """Street photos by their number, up to the limit of a gallery."""
        paths = sorted((self._root / "ccp" / "photos").glob("*.jpg"))
        paths = self.sample(paths, self.limits.gallery, "ccp")
        return {path.stem: _file("ccp", path) for path in paths}

    @cached_property
    def ccp_items(self) -> list[CutOut]:
        """What was cut out of the street photos, those whose file and photo are there."""
        folder = self._root / "ccp"
        cut_outs = []
        with (folder / "items.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                path = folder / row["file"]
                if row["photo"] in self.ccp_photos and path.is_file():
                    left, top, right, bottom = (int(row[edge]) / CCP_WIDTH_PX for edge in ("x0", "y0", "x1", "y1"))
                    area, box = float(row["area_frac"]), (left, top, right, bottom)
                    cut_outs.append(CutOut(_file("ccp", path), row["photo"], row["label"], area, box))
        return cut_outs

    @cached_property
    def all_hm(self) -> list[Item]:
        """Every packshot, for large galleries."""
        return _items("hm", photo_sets.hm(self._root))

    @cached_property
    def all_clothing(self) -> list[Item]:
        """Every home photo, fitted or not: distractors only."""
        return _items("clothing", photo_sets.clothing(self._root))

    @cached_property
    def garments(self) -> list[Item]:
        """Synthetic packshots: designs on near white, two colourways of each cut and print."""
        items = []
        for number in range(min(self.limits.gallery // _GARMENTS[0], _GARMENTS[1])):
            garment = synthetic.garment(SYNTHETIC_SEED + number)
            for colour, worn in (("first", garment), ("second", recoloured(garment, number))):
                name = f"synthetic/{number:04d}-{colour}"
                picture = Picture(name, partial(_design, worn))
                items.append(Item(picture, f"garment {number}", name, garment.kind, colour, name))
        return items

    @cached_property
    def grounds(self) -> list[Picture]:
        """Photographs of other synthetic garments, for scenes to be rendered into."""
        numbers = range(_GROUND_SEED, _GROUND_SEED + _GROUNDS)
        return [Picture(f"synthetic/ground {number}", partial(_photo, number)) for number in numbers]

    def sample(self, things: Sequence[T], n: int, name: str) -> list[T]:
        """Some of them, in their order; the same for the same name."""
        chosen = generator(name, self.seed).permutation(len(things))[:n]
        return [things[i] for i in sorted(chosen)]

    def shuffled(self, things: Sequence[T], name: str) -> list[T]:
        """All of them in a random order; the same for the same name."""
        return [things[i] for i in generator(name, self.seed).permutation(len(things))]

    @property
    def _root(self) -> Path:
        if self.data is None:
            raise FileNotFoundError("this suite needs the photo sets: --data DIR")
        return self.data

    def _whole_groups(self, items: list[Item], n: int) -> list[Item]:
        by_group: dict[str, list[Item]] = {}
        for item in items:
            by_group.setdefault(item.group, []).append(item)
        chosen: list[Item] = []
        for group in self.shuffled(sorted(by_group), "groups"):
            if len(chosen) + len(by_group[group]) <= n:
                chosen += by_group[group]
        return sorted(chosen, key=lambda item: item.picture.name)


def recoloured(garment: synthetic.Garment, seed: int) -> synthetic.Garment:
    """The same cut and print in clearly other colours: another colourway."""
    rng = np.random.default_rng((seed, 11))
    colours = list(garment.colours)
    for place, old in enumerate(colours):
        unlike = [colour for colour in PALETTE if colour.distance(old) > 0.3 and colour not in colours]
        colours[place] = unlike[int(rng.integers(len(unlike)))]
    return replace(garment, colours=(colours[0], colours[1], colours[2]))


@lru_cache(maxsize=512)
def _drawn(garment: synthetic.Garment) -> Image.Image:
    return synthetic.design(garment, SYNTHETIC_PX)


def _design(garment: synthetic.Garment) -> Image.Image:
    """A copy, so that whoever draws on it spoils nobody else's."""
    return _drawn(garment).copy()


@lru_cache(maxsize=_GROUNDS)
def _taken(number: int) -> Image.Image:
    return synthetic.photo(synthetic.garment(number), number, SYNTHETIC_PX)


def _photo(number: int) -> Image.Image:
    return _taken(number).copy()


def _items(name: str, photos: Iterable[photo_sets.Photo]) -> list[Item]:
    return [
        Item(_file(name, photo.path), f"{name} {photo.group}", photo.article, photo.label, photo.colour,
             hashlib.sha256(photo.path.read_bytes()).hexdigest())
        for photo in photos
    ]  # fmt: skip


def _file(folder: str, path: Path) -> Picture:
    return Picture(f"{folder}/{path.stem}", partial(photo_sets.load, path))
