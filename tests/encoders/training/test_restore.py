"""A network that comes back from its ONNX file."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from encoders.backbone import Backbone, example_inputs, imagenet_backbone
from encoders.export import write_onnx
from encoders.training.export import export
from encoders.training.network import Early, Late, TwoBlockEncoder
from encoders.training.restore import restored


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return imagenet_backbone()


def network(backbone: Backbone, seed: int | None) -> TwoBlockEncoder:
    """As training begins, or with every trained weight moved."""
    torch.manual_seed(0)
    made = TwoBlockEncoder(Early(backbone), Late(backbone))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (*made.late.parameters(), made.late.centre, made.late.spread):
                weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=generator)).add_(0.01)
    made.eval()
    return made


@pytest.mark.parametrize("seed", [None, 1])
def test_what_comes_back_is_what_was_exported(backbone: Backbone, seed: int | None, tmp_path: Path) -> None:
    made = network(backbone, seed)
    model = tmp_path / "model.onnx"
    export(made, model)
    again = restored(model)
    assert not again.training
    for name, weight in made.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    inputs = {"pixels": pixels, "domain": np.zeros((3, 1), np.int32)}
    expected = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    with torch.no_grad():
        found = again(*map(torch.from_numpy, inputs.values())).numpy()
    assert np.abs(found - expected).max() < 1e-4


def test_a_restored_network_trains_what_a_new_one_trains(backbone: Backbone, tmp_path: Path) -> None:
    made = network(backbone, None)
    export(made, tmp_path / "model.onnx")
    trained = [{n for n, weight in net.named_parameters() if weight.requires_grad} for net in
               (made, restored(tmp_path / "model.onnx"))]  # fmt: skip
    assert trained[0] == trained[1]
    assert trained[0]
    assert not any(name.startswith("early.") for name in trained[0])


def test_an_encoder_of_another_design_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    write_onnx(backbone, tmp_path / "other.onnx", {"pixels": example_inputs(2)[0]}, "features")
    with pytest.raises(ValueError, match=r"not an encoder of two blocks.*weights are not in it, such as early\."):
        restored(tmp_path / "other.onnx")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model at all")
    with pytest.raises(ValueError, match="is no ONNX file"):
        restored(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="there is no model"):
        restored(tmp_path / "none.onnx")
