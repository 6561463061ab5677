"""The shipped model is the one its record describes, and the exported graph computes what torch computes."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from encoders.backbone import DIM, example_inputs, rooted
from encoders.data import EDITS, HELD_OUT, clothing, content_hash
from encoders.embedding import session
from encoders.export import RECORDS, fit_reduction, write_canary, write_onnx
from encoders.preprocess import canary_pixels, encoder_version
from encoders.training.network import TwoBlockEncoder
from encoders.training.restore import restored

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "triton_models/design_encoder/1/model.onnx"
DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads((RECORDS / f"{encoder_version(MODEL)}.json").read_text())


@pytest.fixture(scope="module")
def shipped() -> TwoBlockEncoder:
    """The shipped model as a torch module."""
    torch.set_num_threads(1)
    return restored(MODEL)


def inputs(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    return {"pixels": pixels, "domain": np.zeros((len(pixels), 1), np.int32)}


def pictures() -> NDArray[np.uint8]:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    flat = np.stack([np.full((224, 224, 3), value, np.uint8) for value in (0, 255)])
    return np.concatenate([canary_pixels()[None], noise, flat])


def test_onnx_equals_torch(shipped: TwoBlockEncoder) -> None:
    pixels = pictures()
    with torch.no_grad():
        expected = shipped(torch.from_numpy(pixels), torch.zeros(len(pixels), 1, dtype=torch.int32)).numpy()
    found = session(MODEL).run(["embedding"], inputs(pixels))[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_graph_has_the_contracts_inputs_and_outputs() -> None:
    graph = session(MODEL)
    assert [(one.name, one.type, one.shape[1:]) for one in graph.get_inputs()] == [
        ("pixels", "tensor(uint8)", [224, 224, 3]), ("domain", "tensor(int32)", [1]),
    ]  # fmt: skip
    assert [(one.name, one.type, one.shape[1:]) for one in graph.get_outputs()] == [
        ("embedding", "tensor(float)", [DIM])
    ]


def test_two_threads_give_the_same_vectors() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    two = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    one = session(MODEL)
    assert np.abs(two.run(None, inputs(pictures()))[0] - one.run(None, inputs(pictures()))[0]).max() < 1e-5


def test_exporting_again_gives_the_same_bytes(shipped: TwoBlockEncoder, record: dict[str, Any], tmp_path: Path) -> None:
    pixels, domain = example_inputs(2)

    def export(name: str) -> str:
        return write_onnx(shipped, tmp_path / name, {"pixels": pixels, "domain": domain}, "embedding")

    installed = {name: version(name) for name in record["packages"] if name != "python"}
    same_tools = installed == {name: record["packages"][name] for name in installed}
    assert export("a.onnx") == (encoder_version(MODEL) if same_tools else export("b.onnx"))
    assert b"site-packages" not in (tmp_path / "a.onnx").read_bytes()


def test_the_record_is_of_this_model(record: dict[str, Any]) -> None:
    assert record["version"] == encoder_version(MODEL)
    assert record["bytes"] == MODEL.stat().st_size
    assert all(record["scores_on_held_out_senders"][edit]["recall_at_1"] > 0.95 for edit in EDITS)


@pytest.mark.realdata
def test_it_was_trained_on_the_photographs_that_may_train_it_and_no_others(record: dict[str, Any]) -> None:
    if not (DATA / "clothing").is_dir():
        pytest.skip(f"{DATA / 'clothing'} is not there; it is not part of the repository")
    photos = clothing(DATA)
    assert record["data"]["set"] == "clothing (CC0)"
    assert record["data"]["sha256"] == content_hash(photo.path for photo in photos)
    assert record["data"]["trained_on"] == sum(int(photo.group) % HELD_OUT > 0 for photo in photos)


def test_the_canary_is_of_this_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL.read_bytes())
    write_canary(tmp_path / "model.onnx")
    again, stored = (json.loads((path / "canary.json").read_text()) for path in (tmp_path, MODEL.parent))
    assert again["version"] == stored["version"] == encoder_version(MODEL)
    assert again["pixels_sha256"] == stored["pixels_sha256"]
    assert np.abs(np.array(again["vector"]) - stored["vector"]).max() < 1e-4


def test_the_reduction_finds_what_tells_things_apart() -> None:
    """Two useful axes among six; a third varies most of all, but within pairs only."""
    rng = np.random.default_rng(0)
    things = rng.normal(size=(400, 6)) * [3, 2, 0.1, 0.1, 0.1, 0.1]
    nuisance = np.array([0, 0, 10, 0.1, 0.1, 0.1])
    views = [things + rng.normal(size=things.shape) * nuisance for _ in range(2)]
    weight, bias = fit_reduction(views[0], views[0] - views[1], floor=1e-3, dim=2)
    assert weight.shape == (6, 2)
    assert np.abs(views[0] @ weight + bias).mean() < 1e3
    assert np.allclose((views[0] @ weight + bias).mean(axis=0), 0, atol=1e-9)
    share = np.linalg.norm(weight * np.std(views[0], axis=0)[:, None], axis=1)
    assert share[:2].min() > 20 * share[2]


def test_without_differences_within_pairs_it_is_a_principal_component_analysis() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 5)) * [5, 4, 3, 2, 1]
    weight, _ = fit_reduction(rows, np.eye(5), floor=0.0, dim=2)  # equal scatter in every direction
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0))
    cosines = np.abs(np.sum(weight / np.linalg.norm(weight, axis=0) * axes[:2].T, axis=0))
    assert np.allclose(cosines, 1)
    assert (weight[np.abs(weight).argmax(axis=0), [0, 1]] > 0).all()


def test_square_roots_are_finite_at_zero() -> None:
    features = torch.zeros(1, 3, requires_grad=True)
    rooted(features).sum().backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("edit", EDITS)
def test_edits_keep_a_picture_and_change_it(edit: str) -> None:
    image = Image.fromarray(canary_pixels()).resize((150, 220))
    copy = EDITS[edit](image, np.random.default_rng(0))
    assert copy.mode == "RGB"
    assert copy.tobytes() != image.tobytes()
    assert abs(copy.width / copy.height - image.width / image.height) < 0.1
    assert copy.tobytes() == EDITS[edit](image, np.random.default_rng(0)).tobytes()


def test_photo_sets_skip_files_that_are_held_back(tmp_path: Path) -> None:
    (tmp_path / "clothing/images").mkdir(parents=True)
    (tmp_path / "clothing/images.csv").write_text("image,sender_id,label,kids\nb,7,Shirt,\na,8,Hat,\nc,9,x,\n")
    for name in "ab":
        (tmp_path / f"clothing/images/{name}.jpg").write_bytes(name.encode())
    photos = clothing(tmp_path)
    assert [(photo.path.stem, photo.group, photo.label) for photo in photos] == [("a", "8", "Hat"), ("b", "7", "Shirt")]
    paths = [photo.path for photo in photos]
    assert content_hash(paths) == content_hash(reversed(paths))
    paths[0].write_bytes(b"other")
    assert content_hash(paths) != content_hash(paths[1:])


def test_a_missing_set_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"clothing/images\.csv"):
        clothing(tmp_path)
