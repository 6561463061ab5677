"""Vectors of held-back pictures, and of what is made of them, by the old model and the new one: by the exported files,
since those are what is used."""

import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.adaptation.pictures import Picture, upright
from encoders.adaptation.plan import Plan, data_hash
from encoders.embedding import Embedder
from encoders.preprocess import to_pixels
from encoders.training.rows import Tick, fill
from encoders.training.views import VIEWS, stamps, views_of, worker

Vectors = NDArray[np.float32]

_state: dict[str, Any] = {}


def of_gallery(plan: Plan, models: Sequence[Path], out: Path, processes: int, tick: Tick) -> Vectors:
    """Each picture as it is. Shape: (n, models, dim)."""
    embedders = [Embedder(model) for model in models]
    made_of = {"models": [one.version for one in embedders], "pictures": _hash(plan.gallery)}

    def rows(begin: int) -> Iterator[tuple[Vectors]]:
        with _pool(processes, plan.gallery, models, 0) as pool:
            yield from pool.imap(_picture, [one.path for one in plan.gallery[begin:]], chunksize=16)

    shape = (len(models), embedders[0].dim)
    return fill(out, len(plan.gallery), {"vectors": (np.float32, shape)}, made_of, rows, tick)[0]


def of_views(
    plan: Plan, models: Sequence[Path], seed: int, out: Path, processes: int, tick: Tick
) -> tuple[Vectors, NDArray[np.bool_]]:
    """What is made of each picture that is asked about: `encoders.training.views`, with nothing of a picture that
    trained. Zeros where a view is not there. Shape: (asked, models, 12, dim), and (asked, 12) which are there."""
    embedders = [Embedder(model) for model in models]
    asked = plan.gallery[: plan.asked]
    made_of = {"models": [one.version for one in embedders], "pictures": _hash(asked), "seed": seed}

    def rows(begin: int) -> Iterator[tuple[Vectors, NDArray[np.bool_]]]:
        with _pool(processes, asked, models, seed) as pool:
            yield from pool.imap(_views, range(begin, len(asked)), chunksize=4)

    arrays = {"vectors": (np.float32, (len(models), VIEWS, embedders[0].dim)), "there": (bool, (VIEWS,))}
    vectors, there = fill(out, len(asked), arrays, made_of, rows, tick)
    return vectors, there


def _hash(pictures: Sequence[Picture]) -> str:
    return stamps([one.photo for one in pictures]) + data_hash(pictures)


def _pool(processes: int, pictures: Sequence[Picture], models: Sequence[Path], seed: int) -> Any:
    photos = [one.photo for one in pictures]
    return multiprocessing.get_context("spawn").Pool(processes, _start, (photos, models, seed))


def _start(photos: Any, models: Sequence[Path], seed: int) -> None:
    worker(photos, seed, upright)
    _state["embedders"] = [Embedder(model) for model in models]


def _picture(path: Path) -> tuple[Vectors]:
    """Shape: (models, dim)."""
    pixels = to_pixels(upright(path))
    return (np.stack([one.pixels([pixels], "catalog")[0] for one in _state["embedders"]]),)


def _views(index: int) -> tuple[Vectors, NDArray[np.bool_]]:
    """Shape: (models, 12, dim), (12,)."""
    made = views_of(index)
    there = np.array([view is not None for view in made])
    pixels = [to_pixels(Image.fromarray(view)) for view in made if view is not None]
    embedders: list[Embedder] = _state["embedders"]
    vectors = np.zeros((len(embedders), VIEWS, embedders[0].dim), np.float32)
    for place, embedder in enumerate(embedders):
        vectors[place, there] = embedder.pixels(pixels, "generated")
    return vectors, there
