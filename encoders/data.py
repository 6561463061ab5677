"""The photo sets on disk (which files there are, what is known of each, a hash that says which were used) and the edits
that make a copy of a photo that is still the same photo.

Not for pictures made here (`encoders.synthetic`). A set that is absent is an error with the expected path; a file that
a table names but the folder lacks is skipped, since parts of every set may be held back.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HELD_OUT: Final = 5
"""Every fifth sender of clothing/ is scored, not trained on."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One picture of a set.

    `group` is what two pictures share when they may show the same thing (product, or sender of a home photo): pairs
    within a group are never counted as unrelated. `article` tells colourways of one product apart; two articles of one
    product and one `colour` are the same thing sold twice.
    """

    path: Path
    group: str
    article: str
    label: str
    colour: str = ""


def clothing(data: Path) -> list[Photo]:
    """Single garments photographed at home (CC0): the one photo set whose derived weights may be shipped."""
    photos = (
        Photo(data / "clothing/images" / f"{row['image']}.jpg", row["sender_id"], row["image"], row["label"])
        for row in _rows(data / "clothing/images.csv")
    )
    return _present(photos)


def hm(data: Path) -> list[Photo]:
    """Catalogue packshots; articles of one `product_code` are colourways. Evaluation only."""
    photos = (
        Photo(
            data / "hm/images" / f"{row['article_id']}.jpg",
            row["product_code"],
            row["article_id"],
            row["product_type_name"],
            row["colour_group_name"],
        )
        for row in _rows(data / "hm/articles.csv")
    )
    return _present(photos)


def myntra(data: Path) -> list[Photo]:
    """Catalogue thumbnails of another shop, 60 x 80 px. Evaluation only."""
    photos = (
        Photo(data / "myntra/images" / f"{row['id']}.jpg", row["id"], row["id"], row["articleType"])
        for row in _rows(data / "myntra/styles.csv")
    )
    return _present(photos)


def load(path: Path) -> Image.Image:
    """The picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def upright(path: Path, most_px: int) -> Image.Image:
    """The picture as the service sees it, RGB on white, its long side at most `most_px`."""
    with Image.open(path) as image:
        image.draft("RGB", (most_px, most_px))
        turned = ImageOps.exif_transpose(image)
        turned.thumbnail((most_px, most_px), reducing_gap=3.0)
        layer = turned.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def content_hash(paths: Iterable[Path]) -> str:
    """SHA-256 over file names and contents in the order of the names: one hexadecimal string for a data set."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _reencoded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(40, 91)))
    return Image.open(buffer).convert("RGB")


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.4, 0.9)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """2 to 10 % off the width and off the height, split at random between the two sides."""
    off_x, off_y = (round(side * rng.uniform(0.02, 0.10)) for side in image.size)
    left, top = int(rng.integers(0, off_x + 1)), int(rng.integers(0, off_y + 1))
    return image.crop((left, top, image.width - off_x + left, image.height - off_y + top))


def _toned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.85, 1.15))
    return image


def _mirrored(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


EDITS: Final[Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]]] = {
    "reencode": _reencoded,  # JPEG quality 40 to 90
    "resize": _resized,  # to 0.4 to 0.9 of each side
    "crop": _cropped,  # 2 to 10 % of each side
    "tone": _toned,  # brightness, contrast and saturation by up to 15 %
    "mirror": _mirrored,  # left to right
}
"""What makes a genuine copy: an RGB image and a random generator -> an RGB image."""


def _rows(table: Path) -> Iterator[dict[str, str]]:
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: --data must name the folder that holds the photo sets")
    with table.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _present(photos: Iterable[Photo]) -> list[Photo]:
    """Those whose file exists, in the order of their paths."""
    return sorted((photo for photo in photos if photo.path.is_file()), key=lambda photo: photo.path)
