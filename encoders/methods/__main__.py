"""Trains one method and writes it as a model of the service's contract.

    python -m encoders.methods NAME --data DIR --out DIR [--seed N] [--unfreeze N --steps N]

Writes OUT/model.onnx and OUT/record.json. Learns from photographs that may not train shipped weights: for comparing.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import torch

from encoders.backbone import DIM, imagenet_backbone
from encoders.data import content_hash
from encoders.methods import adversarial, coral, plain, siamese, siamese_network
from encoders.methods.features import CACHE, FrozenFeatures
from encoders.methods.heads import Head, export
from encoders.methods.photo_sides import Generated, pastable, photo_sides, pixel_batches
from encoders.methods.sides import Sides

METHODS: Final[Mapping[str, Callable[[Sides, int], Head]]] = {
    "plain": lambda sides, _: plain.plain(sides),
    "pca": lambda sides, _: plain.pooled(sides),
    "centring": lambda sides, _: plain.centred(sides),
    "coral": lambda sides, _: coral.aligned(sides),
    "deep-coral": coral.deep,
    "adversarial": adversarial.fit,
    "siamese": siamese.fit,
}
"""Each with the settings of its own file."""

_BATCH: Final = 32  # pairs of pictures, end to end


def train(name: str, data: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, export, and return the record."""
    torch.set_num_threads(1)
    backbone = imagenet_backbone()
    features = FrozenFeatures(backbone, options.cache)
    needs_pairs = name == "siamese"
    sides = photo_sides(data, "train", features, options.generated, options.limit, needs_pairs)
    head = METHODS[name](sides, options.seed)
    clean, scenes = pastable(data, "train", options.limit)
    settings = siamese_network.Settings()
    if options.unfreeze:
        pairs = pixel_batches(clean, scenes, _BATCH, options.steps, options.seed)
        head = siamese_network.finetune(backbone, head, pairs, options.unfreeze, settings)
    end_to_end = dataclasses.asdict(settings) | {"blocks": options.unfreeze, "steps": options.steps, "batch": _BATCH}
    record = {
        "version": export(backbone, head, out / "model.onnx"),
        "method": name,
        "dim": DIM,
        "seed": options.seed,
        "backbone": features.version,
        "generated": options.generated,
        "pictures": {"catalog": len(sides.catalog), "generated": len(sides.generated)},
        "pairs": len(sides.pair_groups),
        "end_to_end": end_to_end if options.unfreeze else None,
        "data_sha256": content_hash({*(path for path, _ in clean), *scenes}),
        "may_be_shipped": False,
    }
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m encoders.methods", description="Train one method of adaptation.")
    parser.add_argument("name", choices=METHODS)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds hm/ and ccp/")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.onnx and record.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated", choices=get_args(Generated), default="street")
    parser.add_argument("--limit", type=int, default=1200, help="packshots, and cut-outs, to learn from")
    parser.add_argument("--unfreeze", type=int, default=0, help="siamese: so many last blocks learn too (of 16)")
    parser.add_argument("--steps", type=int, default=200, help="siamese with --unfreeze: batches end to end")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    options = parser.parse_args()
    if options.unfreeze and options.name != "siamese":
        parser.error("--unfreeze belongs to siamese: the other methods have no loss that could hold a backbone")
    print(json.dumps(train(options.name, options.data, options.out, options), indent=2))


if __name__ == "__main__":
    main()
