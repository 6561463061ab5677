"""`adapt` on drawn pictures, from two folders to a kept or a rejected encoder.

A run takes three steps from the shipped encoder: what is tested is the way, not how good it gets. Runs share the
training views of the first one.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

from encoders import synthetic
from encoders.adaptation import plan
from encoders.backbone import example_inputs, imagenet_backbone
from encoders.embedding import Embedder
from encoders.evaluation.command import SHIPPED
from encoders.export import write_onnx
from encoders.preprocess import encoder_version
from encoders.training import train
from encoders.training.restore import restored
from streams.cli import main
from streams.decide.policy import load_policy
from streams.embed.encoder import Canary, LocalEncoder

REPOSITORY = "triton_models/design_encoder"
MODEL = f"{REPOSITORY}/1/model.onnx"
STEPS = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LEAST_HELD_BACK", 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """14 photographs, one of them broken, and 14 designs."""
    catalog, designs = tmp_path_factory.mktemp("catalog"), tmp_path_factory.mktemp("designs")
    for n in range(14):
        synthetic.photo(synthetic.garment(n), n, 96).save(catalog / f"{n}.png")
        synthetic.design(synthetic.garment(n + 50), 96).save(designs / f"{n}.png")
    (catalog / "broken.png").write_bytes((catalog / "3.png").read_bytes()[:900])
    return catalog, designs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped encoder, in a Triton repository with the files of a server beside it."""
    model = tmp_path_factory.mktemp("base") / MODEL
    model.parent.mkdir(parents=True)
    for name in ("model.onnx", "canary.json"):
        shutil.copy(SHIPPED.with_name(name), model.parent)
    model.with_name("model.py").write_text("# serves\n")
    (model.parents[1] / "config.pbtxt").write_text('name: "design_encoder"\n')
    return model


def call(folders: tuple[Path, Path], base: Path, out: Path, *more: object) -> Result:
    fixed = ["--catalog", *folders[:1], "--designs", *folders[1:], "--base", base, "--out", out, "--steps", STEPS]
    words = [*fixed, "--things", 12, "--processes", 1, "--rate", 0.4, *more]
    return CliRunner().invoke(main.app, ["adapt", *map(str, words)], catch_exceptions=False)


def report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return read


@pytest.fixture(scope="module")
def rejected(folders: tuple[Path, Path], base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run with a learning rate that no head survives."""
    out = tmp_path_factory.mktemp("rejected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LEAST_HELD_BACK", 2)
        return out, call(folders, base, out, "--pace", 1e6)


def with_views(rejected: tuple[Path, Result], out: Path) -> Path:
    """A folder in which the training views are there already."""
    shutil.copytree(rejected[0] / "work" / "views", out / "work" / "views")
    shutil.copy(rejected[0] / "work" / "early.onnx", out / "work")
    return out


def test_a_worse_one_is_not_kept(rejected: tuple[Path, Result], base: Path) -> None:
    out, result = rejected
    assert result.exit_code == 4, result.output
    assert "not kept, the old version stays: recall" in result.output
    assert not (out / "triton_models").exists()
    assert not (out / "policy.toml").exists()
    said = report(out / "rejected")
    assert said["kept"] is False
    assert said["models"]["base"]["version"] == encoder_version(base)
    assert said["models"]["new"]["version"] == encoder_version(out / "rejected" / MODEL) != encoder_version(base)
    worse = said["models"]["new"]["recall"] <= said["models"]["base"]["recall"]
    mistakes = [said["models"][name]["false_duplicates"] for name in ("base", "new")]
    assert worse or mistakes[1] > mistakes[0]
    counts = said["pictures"]
    assert (counts["catalog"], counts["designs"], counts["trained_on"]) == (14, 14, 12)
    assert counts["trained_on"] + counts["searched_among"] == counts["different"] == 28
    for name in ("base", "new"):
        made = [one["of"] for one in said["models"][name]["copies_found"].values()]
        assert made[0] == 3 * counts["copies_made_of"]
        assert f"{made[0]:,}" in result.output


def test_a_broken_picture_is_named_and_the_others_go_on(rejected: tuple[Path, Result]) -> None:
    assert re.search(r"broken\.png: broken_image: ", rejected[1].output)
    assert "1 of 15 pictures (catalog) cannot be used" in rejected[1].output


@pytest.fixture
def better(rejected: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose run will be kept: measuring calls it better, whatever training says."""
    monkeypatch.setattr("encoders.adaptation.figures.Comparison.kept", True)
    return with_views(rejected, tmp_path)


def test_a_better_one_is_kept_with_all_that_a_server_needs(
    better: Path, folders: tuple[Path, Path], base: Path
) -> None:
    out, result = better, call(folders, base, better)
    assert result.exit_code == 0, result.output
    model = out / MODEL
    version = encoder_version(model)
    assert f"DESIGN_DEDUP_MODEL_REPOSITORY={out / 'triton_models'}" in result.output
    assert Canary.beside(model).version == version
    assert LocalEncoder(model).dim == Embedder(model).dim == 256
    assert (model.with_name("model.py")).read_text() == "# serves\n"
    assert (model.parents[1] / "config.pbtxt").is_file()
    record = json.loads((out / "record.json").read_text())
    assert (record["version"], record["base"], record["kept"]) == (version, encoder_version(base), True)
    assert record["recipe"]["training"]["learning_rate"] == 0
    assert record["command"].startswith("design-dedup")
    # The head alone has moved.
    old, new = restored(base).state_dict(), restored(model).state_dict()
    moved = {name.split(".")[1] for name, weight in old.items() if not torch.equal(weight, new[name])}
    assert moved <= {"structure", "attention", "hue", "colour"}
    assert {"structure", "hue", "colour"} <= moved
    assert [one.name for one in onnx.load(base).graph.node] == [one.name for one in onnx.load(model).graph.node]
    # Thresholds are those of the catalogue's pictures that were not trained on.
    said = report(out)
    assert said["policy"]["file"] == "policy.toml", said["policy"]
    assert 0 < load_policy(out / "policy.toml").similarity <= 1
    assert version in (out / "policy.toml").read_text()
    assert said["policy"]["clusters"] == 14 - said["pictures"]["catalog_trained_on"]


def test_without_pictures_enough_there_is_no_policy(better: Path, folders: tuple[Path, Path], base: Path) -> None:
    out, result = better, call(folders, base, better, "--rate", 0.01)
    assert result.exit_code == 0, result.output
    assert "299 without a false duplicate are the least. The base's thresholds belong to another" in result.output
    assert not (out / "policy.toml").exists()
    assert report(out)["policy"]["file"] is None


def test_a_run_that_was_ended_is_the_same_run(
    rejected: tuple[Path, Result],
    folders: tuple[Path, Path],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ended among the views, and again among the steps."""
    out = with_views(rejected, tmp_path)
    state = out / "work" / "views" / "rows.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "done": 9}))
    np.load(state.with_name("early.npy"), mmap_mode="r+")[9:] = 0
    whole = train.step_loss
    steps: list[int] = []

    def stops(*arguments: Any) -> Any:
        steps.append(len(steps))
        if len(steps) == STEPS:  # the third of the first run
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(train, "SAVE_STEPS", 1)
    monkeypatch.setattr(train, "step_loss", stops)
    assert call(folders, base, out, "--pace", 1e6).exit_code != 4
    assert not (out / "rejected").exists()
    assert call(folders, base, out, "--pace", 1e6).exit_code == 4
    assert len(steps) == STEPS + 1  # one was made twice
    for name in (MODEL, "record.json", "report.json"):
        there, expected = ((folder / "rejected" / name).read_bytes() for folder in (out, rejected[0]))
        if name.endswith(".json"):
            there, expected = (one.replace(str(folder).encode(), b"") for one, folder in
                               ((there, out), (expected, rejected[0])))  # fmt: skip
        assert there == expected, name


def test_work_that_was_begun_otherwise_is_not_mixed(
    rejected: tuple[Path, Result], folders: tuple[Path, Path], base: Path
) -> None:
    result = call(folders, base, rejected[0], "--pace", 1e6, "--seed", 1)
    assert result.exit_code == 1
    assert "was begun otherwise (trained_on, seed): name another --out, or delete that folder" in result.output


def test_too_few_pictures(
    folders: tuple[Path, Path], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LEAST_HELD_BACK", 50)
    result = call(folders, base, tmp_path)
    assert result.exit_code == 1
    assert "28 different pictures are too few" in result.output
    assert "about 250 pictures over both folders" in result.output


def test_an_encoder_of_another_design_cannot_be_adapted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    write_onnx(imagenet_backbone(), tmp_path / "other.onnx", {"pixels": example_inputs(2)[0]}, "features")
    result = call(folders, tmp_path / "other.onnx", tmp_path / "out")
    assert result.exit_code == 1
    assert "is not an encoder of two blocks" in result.output
    assert not (tmp_path / "out").exists()


def test_without_torch_it_says_what_to_install(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, where nothing has imported it yet."""
    words = ["adapt", "--catalog", *folders[:1], "--designs", *folders[1:], "--out", tmp_path / "out"]
    program = "import sys; sys.modules['torch'] = None; from streams.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "design-dedup: torch is not installed: pip install 'design-dedup[train]'\n"


def test_help_says_what_to_install() -> None:
    """Square brackets are markup there."""
    assert "pip install 'design-dedup[train]'" in CliRunner().invoke(main.app, ["adapt", "--help"]).output
