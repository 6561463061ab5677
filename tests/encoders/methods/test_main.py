"""The training command, on a drawn folder: each method learns there, and end to end what is written is the contract."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.backbone import DIM, FEATURES, Backbone, imagenet_backbone
from encoders.embedding import session
from encoders.methods import __main__ as command
from encoders.methods.heads import Affine, Head, TwoDomainEncoder, export
from encoders.methods.photo_sides import photo_sides
from encoders.methods.sides import Sides
from encoders.preprocess import canary_pixels, encoder_version
from tests.encoders.methods.photo_folder import Shades, make

WIDTH = 300  # instead of 1,280: faster


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sides(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    whole = photo_sides(data, "train", Shades(tmp_path_factory.mktemp("cache")), "street", 20, with_pairs=True)
    weight = np.random.default_rng(0).normal(size=(FEATURES, WIDTH)) / WIDTH**0.5
    return whole.through(Affine(weight, np.zeros(WIDTH)))


@pytest.mark.parametrize("name", command.METHODS)
def test_each_method_gives_a_head_of_the_contracts_size(name: str, sides: Sides) -> None:
    torch.set_num_threads(1)
    head = command.METHODS[name](sides, 0)
    for one in (head.catalog, head.generated):
        assert one.weight.shape == (WIDTH, DIM)
        assert np.isfinite(one.weight).all()
        assert one.weight.any()


def test_the_command_writes_a_model_of_the_contract_and_its_record(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cached(Shades):
        def __init__(self, _: Backbone, folder: Path) -> None:
            super().__init__(folder)
            self.version = "shades"  # type: ignore[misc]

    exported: list[tuple[Backbone, Head]] = []

    def export_and_keep(backbone: Backbone, head: Head, path: Path) -> str:
        exported.append((backbone, head))
        return export(backbone, head, path)

    trained = imagenet_backbone()
    monkeypatch.setattr(command, "export", export_and_keep)
    monkeypatch.setattr(command, "FrozenFeatures", Cached)
    monkeypatch.setattr(command, "imagenet_backbone", lambda: trained)
    options = argparse.Namespace(cache=tmp_path, generated="street", limit=10, seed=3, unfreeze=1, steps=1)
    record = command.train("siamese", data, tmp_path / "out", options)
    assert json.loads((tmp_path / "out/record.json").read_text()) == record
    assert record["version"] == encoder_version(tmp_path / "out/model.onnx")
    assert (record["method"], record["seed"], record["end_to_end"]["blocks"]) == ("siamese", 3, 1)
    assert record["may_be_shipped"] is False
    pixels, domain = np.stack([canary_pixels()] * 2), np.array([[0], [1]], np.int32)
    vectors = session(tmp_path / "out/model.onnx").run(["embedding"], {"pixels": pixels, "domain": domain})[0]
    with torch.no_grad():
        expected = TwoDomainEncoder(*exported[0])(torch.from_numpy(pixels), torch.from_numpy(domain)).numpy()
    assert np.abs(vectors - expected).max() < 1e-4
    assert vectors.shape == (2, DIM)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[1])  # one network for both domains
    before = imagenet_backbone().state_dict()
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("net._blocks.15.", "net._conv_head.", "net._bn1.")) for name in changed)


def test_only_siamese_can_be_unfrozen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["methods", "coral", "--data", "d", "--out", "o", "--unfreeze", "2"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--unfreeze belongs to siamese" in capsys.readouterr().err
