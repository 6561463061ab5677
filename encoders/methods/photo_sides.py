"""What the methods learn from, out of the photo sets: unpaired pictures of two domains, pairs made without labels.

Photographs are split by street photo and by product into a part to learn from, a part to choose settings on and a part
to test on; the split hangs on names alone, so it is the same in every run. Knows files; no method and no score.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np
from PIL import Image

from encoders.data import hm, load
from encoders.methods.features import FrozenFeatures
from encoders.methods.rendering import Box, cut_out, into_scene
from encoders.methods.siamese_network import Batch
from encoders.methods.sides import Sides
from encoders.preprocess import to_pixels

Part = Literal["train", "choose", "test"]
Generated = Literal["street", "cut-outs"]
"""Which pictures play the generated domain: street photos against packshots (the flag then says how a picture looks),
or cut-outs against packshots and street photos (the flag then says which role it plays, and both look alike)."""

_TRAIN: Final = 0.5
_CHOOSE: Final = 0.15
_FULL_WIDTH_PX: Final = 550  # of ccp's full-size photos, in which its boxes are given
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class CutOut:
    """A garment cut out of a street photo. `box` is where it is worn, in pixels of the stored photo."""

    path: Path
    photo: Path
    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class Pair:
    """A garment on white and the same in a scene; `group` is its product, or the street photo it was cut out of."""

    clean: Path
    scene: Image.Image
    group: str


def part_of(name: str) -> Part:
    """Which part a street photo or a product belongs to, by the hash of its name."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "train" if share < _TRAIN else "choose" if share < _TRAIN + _CHOOSE else "test"


def cut_outs(data: Path, part: Part) -> list[CutOut]:
    """Of a part's street photos, those whose files are there.

    Raises: FileNotFoundError where the set is absent.
    """
    return [one for one in _all_cut_outs(data) if part_of(one.photo.stem) == part]


def packshots(data: Path, part: Part, limit: int) -> dict[str, Path]:
    """At most `limit` products of a part with one packshot each, the first by name: colourways are left out."""
    first = {photo.group: photo.path for photo in reversed(hm(data)) if part_of(photo.group) == part}
    return {product: first[product] for product in sample(sorted(first), limit)}


def street_photos(items: Sequence[CutOut]) -> list[Path]:
    """The photos that cut-outs come from, each once."""
    return sorted({one.photo for one in items})


def sample(items: Sequence[_Item], limit: int) -> list[_Item]:
    """At most `limit` of the items, always the same ones, in their order."""
    chosen = np.random.default_rng(len(items)).permutation(len(items))[:limit]
    return [items[i] for i in np.sort(chosen)]


def pairs(clean: Sequence[tuple[Path, str]], scenes: Sequence[Path], seed: int) -> Iterator[Pair]:
    """Every (picture, group) with a plausible mask, pasted into one of the scenes.

    A scene never is the photo that a cut-out was taken from. Every picture has its own random numbers.
    """
    for place, (path, group) in enumerate(clean):
        garment = cut_out(load(path))
        others = [scene for scene in scenes if scene.stem != group]
        if garment is not None and others:
            rng = np.random.default_rng([seed, place])
            yield Pair(path, into_scene(garment, load(others[rng.integers(len(others))]), rng), group)


def pastable(data: Path, part: Part, limit: int) -> tuple[list[tuple[Path, str]], list[Path]]:
    """What of a part can be pasted (packshots and cut-outs, at most `limit` of each, with their groups); the scenes."""
    items = cut_outs(data, part)
    shots = [(path, product) for product, path in packshots(data, part, limit).items()]
    return shots + [(one.path, one.photo.stem) for one in sample(items, limit)], street_photos(items)


def photo_sides(
    data: Path, part: Part, features: FrozenFeatures, generated: Generated, limit: int, with_pairs: bool
) -> Sides:
    """Features of a part's pictures as the two domains. `limit` is of packshots, and of cut-outs."""
    items = cut_outs(data, part)
    shots = features.of_paths(packshots(data, part, limit).values())
    street = features.of_paths(street_photos(items))
    known: list[tuple[Path, str]] = []

    def scenes() -> Iterator[Image.Image]:
        for pair in pairs(*pastable(data, part, limit), seed=0):
            known.append((pair.clean, pair.group))
            yield pair.scene

    pasted = features.of_images(scenes() if with_pairs else ())
    made = (features.of_paths(path for path, _ in known), pasted)
    _, groups = np.unique(np.array([group for _, group in known], str), return_inverse=True)
    if generated == "street":
        return Sides(shots, street, made, groups.astype(np.int64))
    worn = features.of_paths(one.path for one in sample(items, limit))
    return Sides(np.concatenate([shots, street]), worn, made, groups.astype(np.int64))


def pixel_batches(
    clean: Sequence[tuple[Path, str]], scenes: Sequence[Path], size: int, steps: int, seed: int
) -> Iterator[Batch]:
    """Pairs drawn and pasted anew for every batch, for learning end to end.

    A batch may hold fewer than `size` pairs where no plausible mask is found.
    """
    rng = np.random.default_rng(seed)
    for step in range(steps):
        drawn = [clean[i] for i in rng.integers(len(clean), size=size)]
        made = list(pairs(drawn, scenes, seed + 1 + step))
        _, items = np.unique([pair.group for pair in made], return_inverse=True)
        pictures = (np.stack([to_pixels(load(pair.clean)) for pair in made]),
                    np.stack([to_pixels(pair.scene) for pair in made]))  # fmt: skip
        yield *pictures, items.astype(np.int64)


def _all_cut_outs(data: Path) -> Iterator[CutOut]:
    table = data / "ccp/items.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: --data must name the folder that holds the photo sets")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        photo, path = data / f"ccp/photos/{row['photo']}.jpg", data / "ccp" / row["file"]
        if photo.is_file() and path.is_file():
            with Image.open(photo) as image:
                scale = image.width / _FULL_WIDTH_PX
            left, top, right, bottom = (round(int(row[side]) * scale) for side in ("x0", "y0", "x1", "y1"))
            yield CutOut(path, photo, row["label"], (left, top, right, bottom))
