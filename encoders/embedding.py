"""An exported model as a function of pictures: `Embedder`, with its vectors kept on disk so that nothing is computed
twice.

For measuring and for trying things out, in one process on one thread; the service has its own way
(`streams.embed.encoder`). ONNX Runtime only: no torch.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from encoders.preprocess import Domain, Pixels, domain_index, encoder_version, to_pixels

Vectors = NDArray[np.float32]

_BATCH: Final = 8
"""Pictures a run. On one thread a larger batch is not faster, and a small one keeps memory flat."""


def session(model: Path) -> Any:
    """An ONNX Runtime session on one thread; FileNotFoundError when there is no such file."""
    if not model.is_file():
        raise FileNotFoundError(f"there is no model {model}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class VectorCache:
    """Vectors on disk, one SQLite file in `folder`, by (model version, what the model saw, domain).

    What the model saw is the SHA-256 of its input pixels: a changed picture, model or preprocessing is another key, so
    nothing stale is ever read. Several processes may share the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store = sqlite3.connect(folder / "vectors.sqlite", timeout=60)
        self._store.execute("PRAGMA journal_mode = WAL")
        self._store.execute("PRAGMA synchronous = NORMAL")
        self._store.execute(
            "CREATE TABLE IF NOT EXISTS vectors (version TEXT, pixels BLOB, domain TEXT, vector BLOB NOT NULL,"
            " PRIMARY KEY (version, pixels, domain)) WITHOUT ROWID"
        )

    def get(self, version: str, pixels: bytes, domain: str) -> Vectors | None:
        """The vector, or None where it is not known. Shape: (dim,)."""
        row = self._store.execute(
            "SELECT vector FROM vectors WHERE version = ? AND pixels = ? AND domain = ?", (version, pixels, domain)
        ).fetchone()
        return None if row is None else np.frombuffer(row[0], np.float32)

    def put(self, version: str, domain: str, vectors: dict[bytes, Vectors]) -> None:
        """Keep vectors by the digest of their pixels."""
        rows = ((version, pixels, domain, vector.tobytes()) for pixels, vector in vectors.items())
        with self._store:
            self._store.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Release the file."""
        self._store.close()


class Embedder:
    """A model of the encoder contract: inputs `pixels` (batch, 224, 224, 3) uint8 and `domain` (batch, 1) int32, output
    `embedding` (batch, dim) float32 of unit rows.

    `version` is the model's content hash (`encoders.preprocess.encoder_version`), `dim` the length of its vectors.
    FileNotFoundError when there is no such file, ValueError when it is a model of another contract.
    """

    def __init__(self, model: Path, cache: VectorCache | None = None) -> None:
        self._session = session(model)
        names = {tensor.name for tensor in self._session.get_inputs()}
        outputs = {tensor.name: tensor.shape for tensor in self._session.get_outputs()}
        if names != {"pixels", "domain"} or "embedding" not in outputs:
            raise ValueError(f"{model}: inputs {sorted(names)}, outputs {sorted(outputs)}; expected pixels and domain, "
                             "and embedding")  # fmt: skip
        self.version = encoder_version(model)
        self.dim = int(outputs["embedding"][-1])
        self._cache = cache

    def images(self, images: Sequence[Image.Image], domain: Domain) -> Vectors:
        """The vectors of RGB pictures. Shape: n images -> (n, dim)."""
        return self.pixels([to_pixels(image) for image in images], domain)

    def pixels(self, pictures: Sequence[Pixels], domain: Domain) -> Vectors:
        """The vectors of pictures that `to_pixels` made. Shape: n of (224, 224, 3) uint8 -> (n, dim)."""
        if self._cache is None:
            return self._run(pictures, domain)
        keys = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
        found = {key: self._cache.get(self.version, key, domain) for key in keys}
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if found[key] is None}
        if new:
            made = dict(zip(new, self._run(list(new.values()), domain), strict=True))
            self._cache.put(self.version, domain, made)
            found |= made
        vectors = [vector for key in keys if (vector := found[key]) is not None]
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)

    def _run(self, pictures: Sequence[Pixels], domain: Domain) -> Vectors:
        index = domain_index(domain)
        vectors = np.empty((len(pictures), self.dim), np.float32)
        for start in range(0, len(pictures), _BATCH):
            batch = np.stack(pictures[start : start + _BATCH])
            inputs = {"pixels": batch, "domain": np.full((len(batch), 1), index, np.int32)}
            vectors[start : start + len(batch)] = self._session.run(["embedding"], inputs)[0]
        return vectors
