"""Pictures as arrays, for commands that compare many with many: read, checked, hashed and encoded by the code of the
worker, once as catalogue photographs and once as designs."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from encoders.data import EDITS, upright
from encoders.described import Described
from encoders.embedding import VectorCache
from encoders.preprocess import Domain
from streams.cli.console import progress
from streams.cli.pictures import Pictures
from streams.embed.images import CheckedImage, ImageLimits, check_image, described
from streams.errors import Invalid
from streams.events import Picture

_COPY_PX = 1024
"""Larger pictures are brought down to this before a copy is made of them."""


@dataclass(frozen=True, slots=True)
class Album:
    """The pictures that can be used: row i of `gallery` and of `designs` is `paths[i]`. broken: why others cannot."""

    paths: Sequence[Path]
    digests: Sequence[bytes]
    gallery: Described
    designs: Described
    broken: Mapping[Path, Invalid]


class Describer:
    """Makes albums. cache: where vectors are kept between two runs, if anywhere. leave_out: how many numbers at the end
    of a design's vector the policy does not compare."""

    def __init__(self, pictures: Pictures, cache: VectorCache | None, leave_out: int = 0) -> None:
        self._pictures = pictures
        self._leave_out = leave_out
        self._cache = cache
        self._ignores_domain: bool | None = None

    async def album(self, paths: Sequence[Path]) -> Album:
        """Look at every file once. Retryable: the encoder does not answer."""
        used, broken = list[Path](), dict[Path, Invalid]()
        as_items, as_designs = list[Picture](), list[Picture]()
        with progress("pictures", len(paths)) as bar:
            async for part in self._pictures.checked([str(path) for path in paths], windows=True):
                slice_of = paths[len(used) + len(broken) :][: len(part)]
                broken |= {path: one for path, one in zip(slice_of, part, strict=True) if isinstance(one, Invalid)}
                used += [path for path in slice_of if path not in broken]
                good = [one for one in part if not isinstance(one, Invalid)]
                mine, asking = await self._both(good)
                as_items += mine
                as_designs += asking
                bar(len(used) + len(broken))
        gallery, designs = _described(as_items), _described(as_designs).asking(self._leave_out)
        return Album(used, [one.digest for one in as_items], gallery, designs, broken)

    async def copies(self, paths: Sequence[Path], seed: int) -> dict[str, Described]:
        """An edited copy of every picture, as a design, by the name of the edit."""
        made: dict[str, Described] = {}
        with progress("copies", len(EDITS) * len(paths)) as bar:
            for number, (name, edit) in enumerate(EDITS.items()):
                rng = np.random.default_rng((seed, number))
                seen = list[Picture]()
                for i, path in enumerate(paths):
                    one = check_image(_png(edit(upright(path, _COPY_PX), rng)), ImageLimits())
                    seen += await self._encode([one], "generated")
                    bar(number * len(paths) + i + 1)
                made[name] = _described(seen).asking(self._leave_out)
        return made

    async def _both(self, images: Sequence[CheckedImage]) -> tuple[list[Picture], list[Picture]]:
        """As items, with their windows, and as designs."""
        as_items = await self._encode(images, "catalog")
        if self._ignores_domain:
            return as_items, [_whole(one) for one in as_items]
        as_designs = await self._encode([replace(one, pixels=one.pixels[:1]) for one in images], "generated")
        if images and self._ignores_domain is None:
            # A model that looks at the domain at all shows it on some of these, in what is kept of a vector.
            self._ignores_domain = [_whole(one) for one in as_items] == as_designs
        return as_items, as_designs

    async def _encode(self, images: Sequence[CheckedImage], domain: Domain) -> list[Picture]:
        if not images:
            return []
        pixels = np.concatenate([one.pixels for one in images])
        if self._cache is None:
            return described(images, await self._pictures.vectors(pixels, domain))
        keys = [hashlib.sha256(row.tobytes()).digest() for row in pixels]
        known = {key: self._cache.get(self._pictures.version, key, domain) for key in keys}
        missing = {key: row for key, row in zip(keys, pixels, strict=True) if known[key] is None}
        if missing:
            made = await self._pictures.vectors(np.stack(list(missing.values())), domain)
            fresh = dict(zip(missing, made, strict=True))
            self._cache.put(self._pictures.version, domain, fresh)
            known |= fresh
        return described(images, np.stack([vector for key in keys if (vector := known[key]) is not None]))


def _whole(picture: Picture) -> Picture:
    return msgspec.structs.replace(picture, vector=picture.vectors()[0], windows=0)


def _described(seen: Sequence[Picture]) -> Described:
    return Described.of(
        [np.stack([np.frombuffer(vector, "<i2") for vector in one.vectors()]) for one in seen],
        [one.hash for one in seen],
        [one.quality for one in seen],
        [one.colour for one in seen],
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
