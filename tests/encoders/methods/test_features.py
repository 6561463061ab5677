"""Features are computed once a picture, and what is read back is what was computed."""

import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.backbone import FEATURES, Backbone, example_inputs, rooted
from encoders.export import write_onnx
from encoders.methods.features import FrozenFeatures
from encoders.preprocess import canary_pixels, encoder_version, to_pixels
from tests.encoders.methods.tiles import Tiles


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return cast(Backbone, Tiles())


@pytest.fixture(scope="module")
def graph(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "backbone.onnx"
    write_onnx(backbone, path, {"pixels": example_inputs(2)[0]}, "features")
    return path


@pytest.fixture(autouse=True)
def exported_once(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds; tests/encoders/test_export.py shows that it gives the same bytes each time."""

    def copy(_: Backbone, path: Path, *__: object) -> str:
        shutil.copy(graph, path)
        return encoder_version(path)

    monkeypatch.setattr("encoders.methods.features.write_onnx", copy)


def picture(shade: int) -> Image.Image:
    return Image.fromarray(canary_pixels() // (shade + 1))


def forbid(*_: object) -> None:
    raise AssertionError("a known picture was computed again")


def test_known_pictures_are_read_back_bit_for_bit(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    picture(3).save(path)
    first = FrozenFeatures(backbone, tmp_path / "cache")
    images, files = first.of_images([picture(0), picture(1)]), first.of_paths([path])
    with torch.no_grad():
        pixels = np.stack([to_pixels(picture(shade)) for shade in (0, 1)])
        expected = rooted(backbone(torch.from_numpy(pixels))).numpy()
    assert np.abs(images - expected).max() < 1e-4
    monkeypatch.setattr(FrozenFeatures, "_compute", forbid)
    second = FrozenFeatures(backbone, tmp_path / "cache")
    assert second.version == first.version
    assert second.of_images([picture(1), picture(0)]).tobytes() == images[::-1].tobytes()
    assert second.of_paths([path]).tobytes() == files.tobytes()
    assert second.of_images([]).shape == (0, FEATURES)


def test_a_half_written_entry_is_computed_again(backbone: Backbone, tmp_path: Path) -> None:
    rows = FrozenFeatures(backbone, tmp_path).of_images([picture(0), picture(1)])
    (path,) = tmp_path.glob("features-*.bin")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert FrozenFeatures(backbone, tmp_path).of_images([picture(0), picture(1)]).tobytes() == rows.tobytes()
    assert path.read_bytes() == whole
