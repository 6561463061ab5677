"""Features of the frozen backbone, computed once a picture and kept on disk under the picture's hash.

Methods that leave the backbone as it is train on these rows in seconds. The store knows nothing of photo sets, domains
or methods; pictures made in memory (renderings) are kept in the same way.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from encoders.backbone import FEATURES, Backbone, example_inputs, rooted
from encoders.data import load
from encoders.embedding import session
from encoders.export import write_onnx
from encoders.preprocess import encoder_version, to_pixels

Rows = NDArray[np.float32]
"""Feature rows, (n, 1280)."""

CACHE: Final = Path.home() / ".cache" / "design-dedup"
"""Where features are kept unless told otherwise."""

_ENTRY: Final = np.dtype([("key", np.uint8, 32), ("row", np.float32, FEATURES)])


class FrozenFeatures:
    """Square roots of pooled features, from disk where they are known.

    One file for each backbone, named by the backbone's own hash, to which entries are only appended; a half-written
    last entry (a run that was stopped) is dropped. About 10 ms a new picture on one idle core. Not for two writers.
    """

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        graph = folder / "backbone.onnx"
        version = write_onnx(backbone, graph, {"pixels": example_inputs(2)[0]}, "features")
        self._session = session(graph)
        self._path = folder / f"features-{version}.bin"
        self._known = _read(self._path)
        self.version: Final = encoder_version(graph)

    def of_paths(self, paths: Iterable[Path]) -> Rows:
        """Features of picture files; a known file is hashed, not decoded.

        Shape: n paths -> (n, 1280).
        """
        return self._rows((path.read_bytes(), _decoder(path)) for path in paths)

    def of_images(self, images: Iterable[Image.Image]) -> Rows:
        """Features of pictures in memory.

        Shape: n RGB images -> (n, 1280).
        """
        return self._rows((to_pixels(image).tobytes(), _holder(image)) for image in images)

    def _rows(self, pictures: Iterable[tuple[bytes, Callable[[], Image.Image]]]) -> Rows:
        rows = []
        with self._path.open("ab") as file:
            for content, picture in pictures:
                key = hashlib.sha256(content).digest()
                if key not in self._known:
                    self._known[key] = self._compute(picture())
                    file.write(np.array((np.frombuffer(key, np.uint8), self._known[key]), _ENTRY).tobytes())
                rows.append(self._known[key])
        return np.stack(rows) if rows else np.empty((0, FEATURES), np.float32)

    def _compute(self, image: Image.Image) -> Rows:
        pooled = self._session.run(None, {"pixels": to_pixels(image)[None]})[0]
        row: Rows = rooted(torch.from_numpy(pooled)).numpy()[0]
        return row


def _decoder(path: Path) -> Callable[[], Image.Image]:
    return lambda: load(path)


def _holder(image: Image.Image) -> Callable[[], Image.Image]:
    return lambda: image


def _read(path: Path) -> dict[bytes, Rows]:
    if not path.exists():
        return {}
    whole = path.stat().st_size // _ENTRY.itemsize
    with path.open("r+b") as file:
        file.truncate(whole * _ENTRY.itemsize)
    return {entry["key"].tobytes(): entry["row"] for entry in np.fromfile(path, _ENTRY)}
