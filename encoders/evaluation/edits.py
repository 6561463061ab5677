"""Edited copies: what people and programs do to a picture that stays the same picture.

Stronger than the edits of `encoders.data`, which make pairs to learn from. Every edit keeps the garment in view.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from encoders.evaluation.places import Places
from encoders.evaluation.sources import Item, Sources
from encoders.evaluation.suites import Picture, Suite, generator

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

THUMBNAIL_PX: Final = (60, 80)
_OTHER_WAYS: Final = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)
_CHAINS: Final = (2, 3, 4)
_WORDS: Final = ("NEW", "SALE -30%", "look 12", "@studio", "Spring 27", "COPYRIGHT", "shop now", "No. 5")


def reencode(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 20 to 60."""
    return _saved(image, int(rng.integers(20, 61)))


def resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To 0.25 to 0.9 of each side."""
    return _scaled(image, rng.uniform(0.25, 0.9))


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """5 to 40 % of the area is cut away, anywhere at the sides."""
    kept = rng.uniform(0.6, 0.95)
    narrower = kept ** rng.uniform(0.3, 0.7)
    width, height = round(image.width * narrower), round(image.height * kept / narrower)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def mirror(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Left to right."""
    return ImageOps.mirror(image)


def tone(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation by up to 30 %."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image


def cast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A colour cast over the whole picture: each channel times 0.8 to 1.2."""
    gains = rng.uniform(0.8, 1.2, 3)
    return Image.fromarray((np.asarray(image, np.float32) * gains).clip(0, 255).astype(np.uint8))


def gamma(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Grey levels to the power of 0.6 to 1.6."""
    curve = (np.linspace(0, 1, 256) ** rng.uniform(0.6, 1.6) * 255).round().astype(np.uint8)
    return Image.fromarray(curve[np.asarray(image)])


def blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian, deviation 0.2 to 0.8 % of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.002, 0.008) * max(image.size)))


def border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A frame of one colour, 4 to 20 % of each side, not the same all round."""
    left, right = (round(image.width * rng.uniform(0.04, 0.2)) for _ in range(2))
    top, bottom = (round(image.height * rng.uniform(0.04, 0.2)) for _ in range(2))
    framed = Image.new("RGB", (image.width + left + right, image.height + top + bottom), _colour(rng))
    framed.paste(image, (left, top))
    return framed


def rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """By 2 to 10 degrees either way; the corners take the colour of the picture's edge."""
    angle = rng.uniform(2, 10) * rng.choice((-1, 1))
    edge = np.concatenate([np.asarray(image)[0], np.asarray(image)[-1]])
    red, green, blue = (int(level) for level in np.median(edge, axis=0))
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(red, green, blue))


def text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One or two words written over it."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 3))):
        font = ImageFont.load_default(size=max(8, image.height * rng.uniform(0.05, 0.11)))
        place = (image.width * rng.uniform(0.02, 0.5), image.height * rng.uniform(0.02, 0.88))
        draw.text(place, str(rng.choice(_WORDS)), fill=_colour(rng), font=font)
    return image


def logo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A badge in a corner, 12 to 22 % of the width."""
    image = image.copy()
    side = round(image.width * rng.uniform(0.12, 0.22))
    left = int(rng.choice((0.04, 0.96)) * (image.width - side))
    top = int(rng.choice((0.04, 0.96)) * (image.height - side))
    draw = ImageDraw.Draw(image)
    outer = (left, top, left + side, top + side)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(outer, fill=_colour(rng))
    inner = (left + side // 4, top + side // 4, left + 3 * side // 4, top + 3 * side // 4)
    draw.rectangle(inner, fill=_colour(rng))
    return image


def screenshot(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture in a page: a bar above, margins, lines of text and a button below, saved as JPEG."""
    page_width = round(image.width * rng.uniform(1.1, 1.5))
    bar, below = (round(image.height * rng.uniform(*span)) for span in ((0.06, 0.12), (0.1, 0.3)))
    ground = (255, 255, 255) if rng.random() < 0.7 else (24, 24, 28)
    page = Image.new("RGB", (page_width, image.height + bar + below), ground)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page_width, bar - 2), fill=_colour(rng))
    draw.text((bar, bar // 4), "shop", fill=_colour(rng), font=ImageFont.load_default(size=max(8, bar * 0.5)))
    page.paste(image, (int(rng.integers(0, page_width - image.width + 1)), bar))
    for line in range(3):
        y = image.height + bar + below * (line + 1) // 5
        right = round(page_width * rng.uniform(0.3, 0.9))
        draw.rectangle((page_width // 20, y, right, y + max(1, below // 20)), fill=(140, 140, 145))
    return reencode(page, rng)


EDITS: Final[Mapping[str, Edit]] = {
    edit.__name__: edit
    for edit in (reencode, resize, crop, mirror, tone, cast, gamma, blur, border, rotate, text, logo, screenshot)
}


def chain(image: Image.Image, rng: np.random.Generator, length: int) -> Image.Image:
    """Several different edits one after the other."""
    for name in rng.permutation(list(EDITS))[:length]:
        image = EDITS[str(name)](image, rng)
    return image


def thumbnail(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Scaled down to fit into 60 x 80 px."""
    return _scaled(image, _into_thumbnail(image))


def saved_thumbnail(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same with one of three other filters, and as JPEG of quality 60 to 90."""
    way = Image.Resampling(int(rng.choice(_OTHER_WAYS)))
    return _saved(_scaled(image, _into_thumbnail(image), way), int(rng.integers(60, 91)))


def _into_thumbnail(image: Image.Image) -> float:
    return min(side / own for side, own in zip(THUMBNAIL_PX, image.size, strict=True))


KINDS: Final[Mapping[str, Edit]] = dict(EDITS) | {
    f"chain of {length}": partial(chain, length=length) for length in _CHAINS
}
THUMBNAILS: Final[Mapping[str, Edit]] = {"thumbnail": thumbnail, "other filters, saved": saved_thumbnail}
"""The catalogue keeps a vector of what the first of them shows (`encoders.preprocess.to_small`)."""


def edited(picture: Picture, kind: str, edit: Edit, seed: int) -> Picture:
    """The edited copy of a picture."""
    name = f"{picture.name} {kind}"
    return Picture(name, lambda: edit(picture.make(), generator(name, seed)))


def copies(name: str, title: str, items: Sequence[Item], sources: Sources, kinds: Mapping[str, Edit], n: int) -> Suite:
    """Copies of n items of a gallery by each kind of edit."""
    places = Places(items)
    queries = [
        places.query(edited(item.picture, kind, edit, sources.seed), item, kind)
        for kind, edit in kinds.items()
        for item in sources.sample(items, n, f"{name} {kind}")
    ]
    return Suite(name, title, [item.picture for item in items], queries)


def edits_of(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """Every edit and every chain."""
    return copies(f"edits/{name}", f"edited copies of {what}", items, sources, KINDS, sources.limits.of_a_kind)


def thumbnails_of(sources: Sources, name: str, items: Sequence[Item], what: str) -> Suite:
    """The thumbnail against the full picture."""
    title = f"60 x 80 px thumbnails of {what}, against the full pictures"
    return copies(f"thumbnails/{name}", title, items, sources, THUMBNAILS, sources.limits.queries)


def _scaled(image: Image.Image, scale: float, way: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), way)


def _saved(image: Image.Image, quality: int) -> Image.Image:
    """As JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    return red, green, blue
