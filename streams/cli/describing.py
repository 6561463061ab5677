"""Pictures as arrays, for commands that compare many with many: read, checked, hashed and encoded by the code of the
worker, once as catalogue photographs and once as designs."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.data import EDITS, upright
from encoders.described import Described
from encoders.embedding import VectorCache
from encoders.preprocess import Domain
from streams.cli.console import progress
from streams.cli.pictures import Pictures
from streams.embed.images import CheckedImage, ImageLimits, check_image
from streams.errors import Invalid
from streams.events import lattice

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
        seen = list[CheckedImage]()
        vectors: dict[Domain, list[NDArray[np.float32]]] = {"catalog": [], "generated": []}
        with progress("pictures", len(paths)) as bar:
            async for part in self._pictures.checked([str(path) for path in paths]):
                slice_of = paths[len(used) + len(broken) :][: len(part)]
                broken |= {path: one for path, one in zip(slice_of, part, strict=True) if isinstance(one, Invalid)}
                used += [path for path in slice_of if path not in broken]
                good = [one for one in part if not isinstance(one, Invalid)]
                for domain, made in (await self._both(good)).items():
                    vectors[domain].append(made)
                seen += [_without_pixels(one) for one in good]
                bar(len(used) + len(broken))
        gallery, designs = (_described(seen, vectors[domain]) for domain in ("catalog", "generated"))
        return Album(used, [one.digest for one in seen], gallery, designs.asking(self._leave_out), broken)

    async def copies(self, paths: Sequence[Path], seed: int) -> dict[str, Described]:
        """An edited copy of every picture, as a design, by the name of the edit."""
        made: dict[str, Described] = {}
        with progress("copies", len(EDITS) * len(paths)) as bar:
            for number, (name, edit) in enumerate(EDITS.items()):
                rng = np.random.default_rng((seed, number))
                seen, vectors = list[CheckedImage](), list[NDArray[np.float32]]()
                for i, path in enumerate(paths):
                    one = check_image(_png(edit(upright(path, _COPY_PX), rng)), ImageLimits())
                    vectors.append(await self._encode([one], "generated"))
                    seen.append(_without_pixels(one))
                    bar(number * len(paths) + i + 1)
                made[name] = _described(seen, vectors).asking(self._leave_out)
        return made

    async def _both(self, images: Sequence[CheckedImage]) -> dict[Domain, NDArray[np.float32]]:
        as_item = await self._encode(images, "catalog")
        if self._ignores_domain:
            return {"catalog": as_item, "generated": as_item}
        as_design = await self._encode(images, "generated")
        if images and self._ignores_domain is None:
            # A model that looks at the domain at all shows it on any picture, to the last bit.
            self._ignores_domain = np.array_equal(as_item, as_design)
        return {"catalog": as_item, "generated": as_design}

    async def _encode(self, images: Sequence[CheckedImage], domain: Domain) -> NDArray[np.float32]:
        """Shape: (n, dim)."""
        if self._cache is None:
            return await self._pictures.encode(images, domain)
        keys = [hashlib.sha256(one.pixels.tobytes()).digest() for one in images]
        known = {key: self._cache.get(self._pictures.version, key, domain) for key in keys}
        missing = {key: one for key, one in zip(keys, images, strict=True) if known[key] is None}
        fresh = dict(zip(missing, await self._pictures.encode(list(missing.values()), domain), strict=True))
        self._cache.put(self._pictures.version, domain, fresh)
        vectors = [vector for key in keys if (vector := (known | fresh)[key]) is not None]
        return np.stack(vectors) if vectors else await self._pictures.encode([], domain)


def _without_pixels(image: CheckedImage) -> CheckedImage:
    return CheckedImage(image.digest, image.hash, image.quality, image.colour, np.empty(0, np.uint8))


def _described(seen: Sequence[CheckedImage], vectors: Sequence[NDArray[np.float32]]) -> Described:
    return Described.of(
        lattice(np.concatenate(vectors)),
        [one.hash for one in seen],
        [one.quality for one in seen],
        [one.colour for one in seen],
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
