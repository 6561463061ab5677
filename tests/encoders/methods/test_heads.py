"""A head of two domains: its arithmetic, and that the exported graph computes what torch computes."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from encoders.backbone import DIM, FEATURES, Backbone, rooted
from encoders.embedding import session
from encoders.methods.heads import Affine, Head, TwoDomainEncoder, export, unit
from encoders.preprocess import canary_pixels, encoder_version
from tests.encoders.methods.tiles import Tiles


def affine(width: int, dim: int, seed: int) -> Affine:
    rng = np.random.default_rng(seed)
    return Affine(rng.normal(size=(width, dim)), rng.normal(size=dim))


def pictures() -> NDArray[np.uint8]:
    """Shape: (4, 224, 224, 3)."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 224, 224, 3), np.uint8)
    return np.concatenate([canary_pixels()[None], noise])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return cast(Backbone, Tiles())


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(affine(FEATURES, DIM, 0), affine(FEATURES, DIM, 1))


def test_one_map_after_another_is_one_map() -> None:
    first, second, rows = affine(5, 4, 0), affine(4, 3, 1), np.random.default_rng(2).normal(size=(6, 5))
    assert np.allclose(first.then(second)(rows), second(first(rows)))
    head = Head(second, affine(4, 3, 3)).after(first)
    assert np.allclose(head.vectors(rows, "catalog"), unit(second(first(rows))))
    assert not np.allclose(head.vectors(rows, "catalog"), head.vectors(rows, "generated"))


def test_the_exported_graph_equals_torch_and_numpy_for_each_domain(
    backbone: Backbone, head: Head, tmp_path: Path
) -> None:
    assert export(backbone, head, tmp_path / "model.onnx") == encoder_version(tmp_path / "model.onnx")
    pixels, domain = pictures(), np.array([[0], [1], [1], [0]], np.int32)
    found = session(tmp_path / "model.onnx").run(["embedding"], {"pixels": pixels, "domain": domain})[0]
    with torch.no_grad():
        features = rooted(backbone(torch.from_numpy(pixels))).double().numpy()
        expected = TwoDomainEncoder(backbone, head)(torch.from_numpy(pixels), torch.from_numpy(domain)).numpy()
    assert found.shape == (4, DIM)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    by_hand = np.where(domain == 1, head.vectors(features, "generated"), head.vectors(features, "catalog"))
    assert np.abs(found - by_hand).max() < 1e-4
    assert np.abs(found[1] - head.vectors(features, "catalog")[1]).max() > 1e-2  # the flag is looked at


def test_a_head_of_another_length_breaks_the_contract(backbone: Backbone) -> None:
    short = affine(FEATURES, DIM - 1, 0)
    with pytest.raises(ValueError, match="256 numbers, not 255"):
        TwoDomainEncoder(backbone, Head(short, short))


def test_a_row_of_zeros_stays_finite() -> None:
    assert not unit(np.zeros((1, 3))).any()
