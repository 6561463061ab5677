"""The encoder in 8-bit whole numbers: static quantisation (QDQ) with real pictures, and what it costs.

    python -m encoders.training.quantise --model model.onnx --data DIR --out model.int8.onnx

Prints recall before and after, and milliseconds an image on one core. The service ships float32; this is for whoever
needs the speed and accepts the loss. Vectors of the two are not compared: the file's hash is another version.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from encoders.data import HELD_OUT, Photo, clothing, load
from encoders.embedding import Embedder, session
from encoders.export import score
from encoders.preprocess import to_pixels

PICTURES: Final = 200
_TIMED: Final = 60


def _inputs(photo: Photo) -> dict[str, Any]:
    return {"pixels": to_pixels(load(photo.path))[None], "domain": np.zeros((1, 1), np.int32)}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Pictures whose activations set the scales."""

    def __init__(self, photos: list[Photo]) -> None:
        self._inputs: Iterator[dict[str, Any]] = map(_inputs, photos)

    def get_next(self) -> dict[str, Any] | None:
        """The next picture's inputs; None after the last."""
        return next(self._inputs, None)


def quantise(model: Path, photos: list[Photo], out: Path) -> None:
    """Write the int8 model. Convolutions and matrix products only; weights by channel."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared))
        quantize_static(
            str(prepared), str(out), Reader(photos), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"], activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip


def milliseconds(model: Path, photos: list[Photo]) -> float:
    """Of one core an image, without decoding: the median."""
    run, times = session(model), []
    for photo in photos:
        inputs = _inputs(photo)
        began = time.perf_counter()
        run.run(["embedding"], inputs)
        times.append(time.perf_counter() - began)
    return round(1000 * float(np.median(times)), 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Quantise an exported encoder, and say what it costs.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clothing/")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    photos = clothing(chosen.data)
    trained_on = [photo for photo in photos if int(photo.group) % HELD_OUT]
    held_out = [photo for photo in photos if not int(photo.group) % HELD_OUT]
    rng = np.random.default_rng(0)
    quantise(chosen.model, [trained_on[i] for i in rng.permutation(len(trained_on))[:PICTURES]], chosen.out)
    for path in (chosen.model, chosen.out):
        scores = score(held_out, Embedder(path), np.random.default_rng(0))
        print(json.dumps({
            "model": path.name, "bytes": path.stat().st_size,
            "ms_an_image_on_one_core": milliseconds(path, held_out[:_TIMED]), "scores": scores,
        }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
