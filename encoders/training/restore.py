"""The trained network out of its ONNX file and into it, so that training can go on from a shipped encoder: the file is
the one artefact, and no second file of weights has to be kept beside it.

The export keeps every weight under its name in the network, except those that change nothing (a bias of zeros, a centre
of zeros, a spread of ones), which it leaves out. Not for models of another architecture.
"""

from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor

from encoders.backbone import Backbone
from encoders.export import write_canary
from encoders.preprocess import encoder_version
from encoders.training.export import export
from encoders.training.network import Early, Late, TwoBlockEncoder

_NAMED: Final = 3


def restored(model: Path) -> TwoBlockEncoder:
    """The network whose export `model` is, in evaluation mode.

    Raises: FileNotFoundError where there is no such file; ValueError where it is no ONNX file, or not one of this
    network (`encoders.training.network`): an encoder of an earlier design, an 8-bit one, one of somebody else.
    """
    stored = _weights(model)
    backbone = Backbone().eval()  # only its shape is used
    encoder = TwoBlockEncoder(Early(backbone), Late(backbone))
    expected = encoder.state_dict()
    stored = {**_changing_nothing(expected), **stored}
    wrong = [name for name, weight in expected.items() if name not in stored or stored[name].shape != weight.shape]
    if wrong:
        raise ValueError(
            f"{model} is not an encoder of two blocks (encoders/training/network.py): {len(wrong)} of {len(expected)} "
            f"weights are not in it, such as {', '.join(wrong[:_NAMED])}"
        )
    encoder.load_state_dict({name: stored[name] for name in expected})
    encoder.eval()
    return encoder


def rewritten(encoder: TwoBlockEncoder, base: Path, out: Path) -> str:
    """Write the base's file with the weights of `encoder` in it, and its canary: the same graph, so the same contract,
    without an export. Returns the version. Where the base leaves out a weight that is needed now, it is an export."""
    model = onnx.load_model_from_string(base.read_bytes())
    weights = encoder.state_dict()
    kept = {one.name for one in model.graph.initializer}
    nothing = _changing_nothing(weights)
    if any(name not in kept and not torch.equal(weight, nothing[name]) for name, weight in weights.items()):
        return export(encoder, out)
    for one in model.graph.initializer:
        if one.name in weights:
            one.CopyFrom(onnx.numpy_helper.from_array(weights[one.name].numpy(), one.name))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString(deterministic=True))
    write_canary(out)
    return encoder_version(out)


def _changing_nothing(expected: dict[str, Tensor]) -> dict[str, Tensor]:
    added = {name: torch.zeros_like(one) for name, one in expected.items() if name.endswith((".bias", ".centre"))}
    return added | {name: torch.ones_like(one) for name, one in expected.items() if name.endswith(".spread")}


def _weights(model: Path) -> dict[str, Tensor]:
    """The file's constants by name."""
    if not model.is_file():
        raise FileNotFoundError(f"there is no model {model}")
    try:
        graph = onnx.load_model_from_string(model.read_bytes()).graph
    except Exception as error:  # protobuf's own error types differ from version to version
        raise ValueError(f"{model} is no ONNX file: {error}") from error
    # Copied: an array of NumPy's that shares the file's bytes cannot be written to.
    return {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
