"""A tiny stand-in for the photo sets: drawn packshots, drawn people, garments cut out of them."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from encoders.backbone import FEATURES
from encoders.methods.features import FrozenFeatures, Rows
from encoders.preprocess import to_pixels

WHITE = (250, 250, 250)


class Shades(FrozenFeatures):
    """Features without a network: the picture at 16 x 16, repeated."""

    def __init__(self, folder: Path) -> None:
        self._known, self._path = {}, folder / "features.bin"

    def _compute(self, image: Image.Image) -> Rows:
        small = Image.fromarray(to_pixels(image)).resize((16, 16))
        return np.resize(np.asarray(small, np.float32).ravel() / 255, FEATURES)


def make(folder: Path, products: int = 40, photos: int = 40) -> Path:
    """The folder that `--data` names."""
    (folder / "hm/images").mkdir(parents=True)
    (folder / "ccp/photos").mkdir(parents=True)
    (folder / "ccp/items").mkdir(parents=True)
    articles, items = list(_articles(folder, products)), list(_items(folder, photos))
    columns = ("article_id", "product_code", "product_type_name", "colour_group_name")
    _write(folder / "hm/articles.csv", columns, articles)
    _write(folder / "ccp/items.csv", ("photo", "label", "file", "area_frac", "x0", "y0", "x1", "y1"), items)
    return folder


def _articles(folder: Path, products: int) -> Iterator[Sequence[str]]:
    """Two colourways of every product."""
    rng = np.random.default_rng(0)
    for number in range(products):
        for way in range(2):
            image = Image.new("RGB", (120, 180), WHITE)
            ImageDraw.Draw(image).rectangle((30, 40, 90, 90 + int(rng.integers(40))), _colour(rng))
            image.save(folder / f"hm/images/{number:04}{way:03}.jpg")
            yield f"{number:04}{way:03}", f"{number:04}", "Top", str(way)


def _items(folder: Path, photos: int) -> Iterator[Sequence[str]]:
    """A coat and shoes on every person; boxes are in the full-size photo of 550 pixels' width, twice the stored one."""
    rng = np.random.default_rng(1)
    for number in range(photos):
        photo = Image.fromarray(rng.integers(90, 130, (400, 275, 3), np.uint8))
        draw = ImageDraw.Draw(photo)
        for label, box in (("coat", (80, 100, 180, 260)), ("shoes", (100, 350, 160, 380))):
            draw.rectangle(box, _colour(rng))
            item = Image.new("RGB", (box[2] - box[0] + 20, box[3] - box[1] + 20), WHITE)
            item.paste(photo.crop(box), (10, 10))
            item.save(folder / f"ccp/items/{number:04}_{label}.jpg")
            yield (f"{number:04}", label, f"items/{number:04}_{label}.jpg", "0.1", *(str(2 * side) for side in box))
        photo.save(folder / f"ccp/photos/{number:04}.jpg")


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(20, 200, 3))
    return red, green, blue


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
