"""Training pictures: of every thing eight views that are the same, and four near misses that are not. Their early
features are computed once and kept, since the early half of the network is not trained.

    python -m encoders.training.views --data DIR --out DIR

A view's randomness is its own: seed, thing, and place in the list. A run that was ended goes on where it was. The
processes that make views import this module, so torch is imported by `main` alone.
"""

import argparse
import hashlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders import synthetic
from encoders.data import HELD_OUT, Photo, clothing, load
from encoders.embedding import session
from encoders.preprocess import encoder_version, to_pixels
from encoders.training.augment import Pixels, Random, camera, chain, crop
from encoders.training.masks import Mask, garment_mask
from encoders.training.near_misses import recolour, reprint, small, texture
from encoders.training.rows import Tick, fill
from encoders.training.scenes import CutOut, bent, cut, in_scene, in_window, on_plain, part_of

SAME: Final = 8
"""Views 0 to 7 show the thing itself: 0 as it is, 1 to 3 edited (2 and 3 after it was cut out, where that could be
done), 4 and 5 cut out, 6 and 7 in another scene, which 6 shows a window of."""

EDITED, CUT_OUT, IN_SCENE = (1, 2, 3), (4, 5), (6, 7)

RECOLOURED, REPRINTED = (8, 10), (9, 11)
"""Near misses: dyed (in its place, cut out), and with another print (likewise)."""

VIEWS: Final = 12
_SIZE_PX: Final = 256
_LARGE_AREA, _SMALL_AREA = (0.2, 0.7), (0.04, 0.25)
_OTHERS: Final = 40

Read = Callable[[Path], Image.Image]
"""How a photo is opened: as an RGB image."""


class Wardrobe:
    """Photos of two groups (senders) or more, and what is borrowed from one for another's views."""

    def __init__(self, photos: list[Photo], read: Read = load) -> None:
        self.photos, self._read = photos, read

    @cache  # noqa: B019 - lives as long as its process
    def picture(self, index: int) -> tuple[Pixels, Mask]:
        """Shape: (h, w, 3) uint8 RGB and (h, w)."""
        image = small(np.array(self._read(self.photos[index].path)), _SIZE_PX)
        return image, garment_mask(image)

    def other(self, index: int, rng: Random) -> int:
        """A photo of another sender."""
        while self.photos[other := int(rng.integers(len(self.photos)))].group == self.photos[index].group:
            pass
        return other

    def pieces(self, index: int, rng: Random, count: int) -> list[CutOut]:
        """Garments of other senders."""
        return [cut(*self.picture(self.other(index, rng))) for _ in range(count)]

    def print_of_another(self, index: int, rng: Random) -> NDArray[np.float32] | None:
        """A print that can be seen, of another sender's garment."""
        for _ in range(_OTHERS):
            image, mask = self.picture(self.other(index, rng))
            if mask.any() and (found := texture(cut(image, mask))) is not None:
                return found
        return None


def photo_views(wardrobe: Wardrobe, index: int, seed: int) -> list[Pixels | None]:
    """The views of a photo; None where no garment could be cut out of it."""
    image, mask = wardrobe.picture(index)
    rngs = [np.random.default_rng((seed, index, view)) for view in range(VIEWS)]
    views: list[Pixels | None] = [image, *(chain(image, rng) for rng in rngs[1:4])]
    if not mask.any():
        return [*views, *[None] * (VIEWS - len(views))]
    piece = cut(image, mask)
    for view in (2, 3):
        views[view] = chain(on_plain(piece, rngs[view]), rngs[view])
    for view in (4, 5):
        rng = rngs[view]
        clean = part_of(piece, rng) if view == 5 else piece
        views.append(camera(on_plain(bent(clean, rng) if rng.random() < 0.5 else clean, rng), rng))
    for view, area, shown in ((6, _SMALL_AREA, in_window), (7, _LARGE_AREA, in_scene)):
        rng = rngs[view]
        background, _ = wardrobe.picture(wardrobe.other(index, rng))
        others = wardrobe.pieces(index, rng, int(rng.integers(1, 4)))
        views.append(camera(shown(piece, others, background, rng, area), rng))
    for dyed, printed, whole in ((8, 9, True), (10, 11, False)):
        base, cover = (image, mask) if whole else piece
        near: list[Pixels | None] = [recolour(base, cover, rngs[dyed])]
        print_ = wardrobe.print_of_another(index, rngs[printed])
        near.append(None if print_ is None else reprint(base, cover, print_, rngs[printed]))
        for picture, view in zip(near, (dyed, printed), strict=True):
            if picture is not None and not whole:
                picture = on_plain(CutOut(picture, cover), rngs[view])  # noqa: PLW2901
            if picture is not None and rngs[view].random() < 0.5:
                picture = camera(picture, rngs[view])  # noqa: PLW2901
            views.append(picture)
    return views


def garment_views(number: int, seed: int) -> list[Pixels | None]:
    """The views of a synthetic garment."""
    rngs = [np.random.default_rng((seed, number, view, 7)) for view in range(VIEWS)]
    garment = synthetic.garment(number)
    other = synthetic.near_miss(garment, number)
    dyed = replace(garment, colours=other.colours)
    printed = replace(other, colours=garment.colours)
    if printed.print == garment.print:  # the same print of another repeat and seed
        printed = replace(printed, print_seed=printed.print_seed + 1)

    def clean(g: synthetic.Garment) -> Pixels:
        return np.array(synthetic.design(g, _SIZE_PX))

    def shot(g: synthetic.Garment, view: int) -> Pixels:
        return np.array(synthetic.photo(g, 100 * number + view, _SIZE_PX))

    design, photo = clean(garment), shot(garment, 2)
    return [
        design, chain(design, rngs[1]), photo, chain(design, rngs[3]), camera(crop(design, rngs[4]), rngs[4]),
        camera(design, rngs[5]), shot(garment, 6), chain(shot(garment, 7), rngs[7]),
        clean(dyed), clean(printed), shot(dyed, 10), shot(printed, 11),
    ]  # fmt: skip


_state: dict[str, Any] = {}


def worker(photos: list[Photo], seed: int, read: Read) -> None:
    """Make a process of a pool ready for `photo_views` of its own wardrobe; Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _state["wardrobe"], _state["seed"] = Wardrobe(photos, read), seed


def views_of(index: int) -> list[Pixels | None]:
    """In a process that `worker` made ready: the views of one of its photos."""
    return photo_views(_state["wardrobe"], index, _state["seed"])


def _start(photos: list[Photo], model: Path, seed: int, read: Read) -> None:
    worker(photos, seed, read)
    _state["session"] = session(model)


def _early(task: tuple[str, int]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Shape: (12, 86, h, w), and (12,) which of them are there."""
    kind, index = task
    made = views_of(index) if kind == "photo" else garment_views(index, _state["seed"])
    there = np.array([view is not None for view in made])
    pixels = np.stack([to_pixels(Image.fromarray(view)) for view in made if view is not None])
    found = _state["session"].run(None, {"pixels": pixels})[0]
    early = np.zeros((VIEWS, *found.shape[1:]), np.float16)
    early[there] = found
    return early, there


def make(
    photos: list[Photo], garments: int, model: Path, seed: int, out: Path, processes: int, read: Read = load,
    tick: Tick = lambda done, total: None, batches: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write early.npy (n, 12, 86, h, w) float16, there.npy (n, 12) and things.json: photos first, then garments.

    batches: of each photo, whose like half a batch is made of; none: its group.
    """
    tasks = [("photo", i) for i in range(len(photos))] + [("garment", i) for i in range(garments)]
    made_of = {"photos": stamps(photos), "garments": garments, "early": encoder_version(model), "seed": seed}

    def rows(begin: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _start, (photos, model, seed, read)) as pool:
            yield from pool.imap(_early, tasks[begin:], chunksize=4)

    shape = session(model).get_outputs()[0].shape[1:]
    fill(out, len(tasks), {"early": (np.float16, (VIEWS, *shape)), "there": (bool, (VIEWS,))}, made_of, rows, tick)
    groups = [*(batches or [photo.group for photo in photos]), *(f"garment-{n}" for n in range(garments))]
    (out / "things.json").write_text(json.dumps({"groups": groups, "photos": len(photos), "seed": seed}))


def stamps(photos: list[Photo]) -> str:
    """Another one when a file is another, was changed, or stands elsewhere in the list; no file is opened."""
    digest = hashlib.sha256()
    for photo in photos:
        status = photo.path.stat()
        digest.update(f"{photo.path}\0{photo.group}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def main() -> None:
    """The command line."""
    from encoders.backbone import example_inputs, imagenet_backbone
    from encoders.export import write_onnx
    from encoders.training.network import LEARNT_PX, Early

    parser = argparse.ArgumentParser(description="Make and keep the training views.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clothing/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the views (about 1 GB)")
    parser.add_argument("--garments", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    model = chosen.out / "early.onnx"
    write_onnx(Early(imagenet_backbone(), LEARNT_PX), model, {"pixels": example_inputs(2)[0]}, "early")
    photos = [photo for photo in clothing(chosen.data) if int(photo.group) % HELD_OUT]

    def tick(done: int, total: int) -> None:
        print(f"\r{done} of {total} things", end="", file=sys.stderr, flush=True)

    make(photos, chosen.garments, model, chosen.seed, chosen.out, chosen.processes, tick=tick)


if __name__ == "__main__":
    main()
