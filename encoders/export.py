"""Networks as ONNX files: the file without traces of a machine, the canary beside it, and how well it finds copies.

What the shipped file is made of: `encoders.training.export`.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from encoders.data import EDITS, Photo, load
from encoders.embedding import Embedder
from encoders.preprocess import PIXELS, canary_pixels, encoder_version

Floats = NDArray[np.float64]

RECORDS: Final = Path(__file__).resolve().parent / "records"
OPSET: Final = 18
FLOOR: Final = 0.1  # of the mean within-class variance: the ridge that keeps rare directions from being blown up


def fit_reduction(features: Floats, pairs: Floats, dim: int, floor: float = FLOOR) -> tuple[Floats, Floats]:
    """The affine map that keeps differences between things and suppresses differences between pictures of one thing.

    Shape: features (n, width), pairs (m, width), the differences within pairs -> weight (width, dim), bias (dim,).
    Signs are fixed by the largest entry of each direction, or they would be the linear algebra library's whim.
    """
    mean = features.mean(axis=0)
    variances, axes = np.linalg.eigh(pairs.T @ pairs / len(pairs))
    whiten = axes / np.sqrt(variances + floor * variances.mean())  # (width, width)
    spread = (features - mean) @ whiten
    _, directions = np.linalg.eigh(spread.T @ spread / len(spread))
    weight = whiten @ directions[:, ::-1][:, :dim]
    weight *= np.sign(weight[np.abs(weight).argmax(axis=0), np.arange(dim)])
    return weight, -mean @ weight


def write_onnx(module: torch.nn.Module, path: Path, inputs: dict[str, torch.Tensor], output: str) -> str:
    """Export for any batch size, without traces of this machine, and return the version of the file."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    model.producer_name, model.producer_version, model.doc_string = "design-dedup", "", ""
    del model.graph.metadata_props[:], model.functions[:]
    onnx.helper.set_model_props(model, {"pixels": str(PIXELS)})  # in place of all others
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return encoder_version(path)


def name_pixels(path: Path) -> None:
    """Make a file one for today's pixels."""
    model = onnx.load_model_from_string(path.read_bytes())
    onnx.helper.set_model_props(model, {"pixels": str(PIXELS)})
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_canary(model: Path) -> None:
    """Store the model's answer to the canary picture beside it, as both domains."""
    pixels = canary_pixels()
    vector = Embedder(model).pixels([pixels], "catalog")[0]
    answer = {
        "version": encoder_version(model),
        "pixels": PIXELS,
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "vector": [round(float(value), 7) for value in vector],
    }
    model.with_name("canary.json").write_text(json.dumps(answer) + "\n")


def score(photos: list[Photo], model: Embedder, rng: np.random.Generator) -> dict[str, object]:
    """Recall at 1 of edited copies among all held-out photos, and the median cosine of a copy and of a stranger."""
    gallery = np.concatenate([model.images([load(photo.path)], "catalog") for photo in photos])
    chosen = rng.permutation(len(photos))[:200]
    senders = np.array([photo.group for photo in photos])
    strangers = gallery[chosen] @ gallery.T
    strangers[senders[chosen, None] == senders] = -1
    result: dict[str, object] = {
        "gallery": len(photos), "queries": len(chosen),
        "median_cosine_nearest_stranger": round(float(np.median(strangers.max(axis=1))), 4),
    }  # fmt: skip
    for edit, apply in EDITS.items():
        similarity = np.concatenate([
            model.images([apply(load(photos[i].path), rng)], "catalog") for i in chosen
        ]) @ gallery.T  # fmt: skip
        result[edit] = {
            "recall_at_1": round(float((similarity.argmax(axis=1) == chosen).mean()), 4),
            "median_cosine": round(float(np.median(similarity[np.arange(len(chosen)), chosen])), 4),
        }
    return result
