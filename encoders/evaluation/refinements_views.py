"""What a refinement needs to know of pictures beyond their vectors: those of their mirror images, and local features.

The local features ("tokens") are the places of one feature map inside the model, brought to a few principal numbers.
The exported model keeps that map to itself, so it is opened with the `onnx` package and given a second output: for
measuring only, the service's contract has no such output.
"""

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from encoders.embedding import Embedder, VectorCache, Vectors
from encoders.evaluation.library import Tick
from encoders.evaluation.refinements_scores import Affine, Tokens, principal, unit
from encoders.evaluation.suites import Picture, Suite
from encoders.preprocess import Domain, Pixels, domain_index, to_pixels

TOKEN_DIM: Final = 64
_BATCH: Final = 8
_CHUNK: Final = 32
_FEW: Final = 8  # channels; a map of fewer is colour, not features


@dataclass(frozen=True, slots=True)
class Side:
    """The pictures of one side of a suite. `mirrored`: vectors of the mirror images, empty for queries.

    Shape: vectors and mirrored (n, dim), tokens (n, places, TOKEN_DIM).
    """

    vectors: Vectors
    mirrored: Vectors
    tokens: Tokens


class TokenEmbedder:
    """Vectors and tokens of one pass.

    ValueError when the model has no feature map. `fit` comes first: it chooses the principal numbers.
    """

    def __init__(self, model: Path, cache: VectorCache | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph, self._map, self._side = opened(model)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._cache = cache
        self._version = hashlib.sha256(graph).hexdigest()[:16]
        self._basis = Affine(np.zeros(0), np.zeros((0, 0)))

    def fit(self, pictures: Sequence[Pixels]) -> None:
        """Principal numbers of the tokens of some background pictures."""
        maps = self.run(pictures, "catalog")[1]
        self._basis = principal(maps.reshape(-1, maps.shape[-1]), TOKEN_DIM)

    def uncached(self) -> "TokenEmbedder":
        """The same without a cache, for measuring how long it takes."""
        other = copy(self)
        other._cache = None
        return other

    def pixels(self, pictures: Sequence[Pixels], domain: Domain) -> tuple[Vectors, Tokens]:
        """Shape: n of (224, 224, 3) -> (n, dim), (n, side * side, TOKEN_DIM) of unit rows."""
        key = f"{self._version} {hashlib.sha256(self._basis.matrix.tobytes()).hexdigest()[:16]}"
        digests = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
        known = {} if self._cache is None else {d: self._cache.get(key, d, domain) for d in digests}
        new = {d: picture for d, picture in zip(digests, pictures, strict=True) if known.get(d) is None}
        if new:
            vectors, maps = self.run(list(new.values()), domain)
            tokens = unit(self._basis(maps)).reshape(len(maps), -1)
            made = dict(zip(new, np.concatenate([vectors, tokens], axis=1).astype(np.float32), strict=True))
            if self._cache is not None:
                self._cache.put(key, domain, made)
            known |= made
        rows = np.stack([row for d in digests if (row := known[d]) is not None])
        dim = rows.shape[1] - self._side**2 * TOKEN_DIM
        return rows[:, :dim], rows[:, dim:].astype(np.float16).reshape(len(rows), -1, TOKEN_DIM)

    def run(self, pictures: Sequence[Pixels], domain: Domain) -> tuple[Vectors, NDArray[np.float32]]:
        """Vectors, and the map as it is. Shape: n of (224, 224, 3) -> (n, dim), (n, side * side, channels)."""
        vectors, maps = [], []
        for start in range(0, len(pictures), _BATCH):
            batch = np.stack(pictures[start : start + _BATCH])
            flag = np.full((len(batch), 1), domain_index(domain), np.int32)
            vector, places = self._session.run(["embedding", self._map], {"pixels": batch, "domain": flag})
            vectors.append(vector)
            maps.append(places.reshape(*places.shape[:2], -1).transpose(0, 2, 1))
        return np.concatenate(vectors), np.concatenate(maps)


class Views:
    """Everything about the pictures of suites, each computed once. `tick` hears of progress."""

    def __init__(self, embedder: Embedder, tokens: TokenEmbedder, tick: Tick) -> None:
        self._embedder, self._tokens, self._tick = embedder, tokens, tick
        self._known: dict[tuple[str, Domain], tuple[Vectors, Tokens]] = {}
        self._mirrored: dict[str, Vectors] = {}

    def sides(self, suite: Suite) -> tuple[Side, Side]:
        """Of the queries and of the gallery."""
        queries = [query.picture for query in suite.queries]
        asked = self._side(suite.name, queries, suite.query_domain, mirror=False)
        return asked, self._side(f"{suite.name}: gallery", suite.gallery, suite.gallery_domain, mirror=True)

    def _side(self, what: str, pictures: Sequence[Picture], domain: Domain, mirror: bool) -> Side:
        new = {p.name: p for p in pictures
               if (p.name, domain) not in self._known or (mirror and p.name not in self._mirrored)}  # fmt: skip
        waiting = list(new.values())
        for start in range(0, len(waiting), _CHUNK):
            self._tick(what, start, len(waiting))
            chunk = waiting[start : start + _CHUNK]
            pixels = [to_pixels(picture.make()) for picture in chunk]
            for picture, *seen in zip(chunk, *self._tokens.pixels(pixels, domain), strict=True):
                self._known[picture.name, domain] = (seen[0], seen[1])
            if mirror:
                # The pixels are mirrored, not the file: that is what a service could do after decoding.
                rows = self._embedder.pixels([np.ascontiguousarray(x[:, ::-1]) for x in pixels], domain)
                self._mirrored |= {picture.name: row for picture, row in zip(chunk, rows, strict=True)}
        self._tick(what, len(waiting), len(waiting))
        vectors, tokens = zip(*(self._known[p.name, domain] for p in pictures), strict=True)
        flipped = [self._mirrored[p.name] for p in pictures] if mirror else []
        return Side(np.stack(vectors), np.array(flipped, np.float32), np.stack(tokens))


def opened(model: Path) -> tuple[bytes, str, int]:
    """The model with one more output, that output's name, and its places along a side: the last ReLU6 of the coarsest
    square map.

    ValueError when it has none.
    """
    graph: Any = onnx.shape_inference.infer_shapes(onnx.load(model))
    inner = {value.name: value for value in graph.graph.value_info}
    last: dict[int, Any] = {}
    for node in graph.graph.node:
        if node.op_type == "Clip" and (value := inner.get(node.output[0])) is not None:
            match [axis.dim_value for axis in value.type.tensor_type.shape.dim]:
                case [_, channels, height, width] if channels > _FEW and height == width > 1:
                    last[width] = value
    if not last:
        raise ValueError(f"{model} has no feature map")
    side = min(last)
    graph.graph.output.append(last[side])
    return graph.SerializeToString(), last[side].name, side
