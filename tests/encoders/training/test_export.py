"""The trained encoder as a file: what torch computes, what 8 bits cost, and weights that nobody trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from encoders import synthetic
from encoders.backbone import imagenet_backbone
from encoders.data import Photo, load
from encoders.embedding import Embedder
from encoders.preprocess import PIXELS, canary_pixels, encoder_version, to_pixels
from encoders.training.export import export, renew
from encoders.training.network import Early, Late, TwoBlockEncoder
from encoders.training.quantise import milliseconds, quantise


@pytest.fixture(scope="module")
def encoder() -> TwoBlockEncoder:
    """Untrained: the export does not know better."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = imagenet_backbone()
    made = TwoBlockEncoder(Early(backbone), Late(backbone))
    made.eval()
    return made


@pytest.fixture(scope="module")
def model(encoder: TwoBlockEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    assert export(encoder, path) == encoder_version(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(8):
        synthetic.photo(synthetic.garment(n), n, 224).save(folder / f"{n}.png")
    return [Photo(folder / f"{n}.png", str(n), str(n), "") for n in range(8)]


def vectors(model: Path, photos: list[Photo]) -> NDArray[np.float32]:
    return Embedder(model).images([load(photo.path) for photo in photos], "catalog")


def test_onnx_equals_torch(encoder: TwoBlockEncoder, model: Path, photos: list[Photo]) -> None:
    pixels = np.stack([to_pixels(Image.open(photo.path).convert("RGB")) for photo in photos])
    with torch.no_grad():
        expected = encoder(torch.from_numpy(pixels), torch.zeros(len(pixels), 1, dtype=torch.int32)).numpy()
    assert np.abs(vectors(model, photos) - expected).max() < 1e-4


def test_the_canary_is_beside_it(model: Path) -> None:
    canary = json.loads(model.with_name("canary.json").read_text())
    again = Embedder(model).pixels([canary_pixels()], "catalog")[0]
    assert canary["version"] == encoder_version(model)
    assert np.abs(again - canary["vector"]).max() < 1e-4


def test_it_names_its_pixels(model: Path) -> None:
    assert {one.key: one.value for one in onnx.load(model).metadata_props} == {"pixels": str(PIXELS)}
    assert json.loads(model.with_name("canary.json").read_text())["pixels"] == PIXELS


def test_the_same_weights_for_other_pixels(
    model: Path, photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = encoder_version(model), vectors(model, photos)
    kept = Path(shutil.copytree(model.parent, tmp_path / "model")) / model.name
    (tmp_path / f"{before}.json").write_text(json.dumps({"version": before, "recipe": {"seed": 3}}))
    monkeypatch.setattr("encoders.training.export.RECORDS", tmp_path)
    monkeypatch.setattr("encoders.training.export.PIXELS", PIXELS + 1)
    monkeypatch.setattr("encoders.export.PIXELS", PIXELS + 1)
    monkeypatch.setattr("encoders.training.export.clothing", lambda _: photos)
    record = renew(kept, tmp_path)
    assert record["version"] == encoder_version(kept) != before
    assert (record["weights_of"], record["recipe"], record["pixels"]) == (before, {"seed": 3}, PIXELS + 1)
    assert {one.key: one.value for one in onnx.load(kept).metadata_props} == {"pixels": str(PIXELS + 1)}
    canary = json.loads(kept.with_name("canary.json").read_text())
    assert (canary["version"], canary["pixels"]) == (record["version"], PIXELS + 1)
    assert np.array_equal(vectors(kept, photos), seen)
    (tmp_path / f"{record['version']}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="already"):
        renew(kept, tmp_path)


def test_the_early_half_is_as_imagenet_left_it(model: Path, encoder: TwoBlockEncoder) -> None:
    """Bit for bit, in the file."""
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer}
    fresh = dict(Early(imagenet_backbone()).named_parameters())
    found = {name: stored[f"early.{name}"] for name in fresh if f"early.{name}" in stored}
    assert len(found) > 0.9 * len(fresh)
    for name, weight in found.items():
        assert np.array_equal(weight, fresh[name].detach().numpy()), name


def test_eight_bits_are_smaller_and_nearly_the_same(model: Path, photos: list[Photo], tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    quantise(model, photos, small)
    assert small.stat().st_size < 0.5 * model.stat().st_size
    whole, rough = vectors(model, photos), vectors(small, photos)
    assert (whole * rough).sum(axis=1).mean() > 0.85  # an untrained head, and eight pictures to set the scales
    assert ((rough @ whole.T).argmax(axis=1) == np.arange(len(photos))).all()
    assert milliseconds(small, photos[:2]) > 0
