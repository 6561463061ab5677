"""`embed` without any server, and the file that it writes whole or not at all."""

import os
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from encoders.embedding import Embedder
from encoders.evaluation.command import SHIPPED
from encoders.preprocess import as_in_catalog
from streams.cli import main
from streams.cli.writing import whole_file
from streams.errors import Fatal
from tests.cli.test_match import Looks, plain, use
from tests.pictures import drawn, on_the_street, photographed


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, ["embed", *arguments], catch_exceptions=False)


def test_a_row_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = use(monkeypatch, Looks())
    Path("in").mkdir()
    for n in range(40):
        Path(f"in/{n}.jpg").write_bytes(plain(6 * n))
    order = [*range(40), 3, 39, 3]
    Path("in/list.txt").write_text("".join(f"{n}.jpg\n" for n in order))
    assert call("in/list.txt", "out.npy", "--domain", "catalog").stdout == "wrote 43 vectors to out.npy\n"
    vectors = np.load("out.npy")
    assert vectors.shape == (43, looks.dim)
    assert looks.seen == {"catalog": 40}
    assert len(np.unique(vectors[:40], axis=0)) == 40
    np.testing.assert_array_equal(vectors, vectors[order])

    Path("one.txt").write_text("in/7.jpg\n")
    assert call("one.txt", "one.npy", "--domain", "catalog").exit_code == 0
    np.testing.assert_array_equal(np.load("one.npy"), vectors[[7]])
    assert call("one.txt", "two.npy", "--domain", "generated").exit_code == 0
    assert looks.seen["generated"] == 1
    assert np.abs(np.load("two.npy") - vectors[7]).max() > 0.01

    # A name that is right in both folders is one of the current folder.
    Path("3.jpg").write_bytes(plain(6 * 8))
    assert call("in/list.txt", "both.npy", "--domain", "catalog").exit_code == 0
    order = [8 if n == 3 else n for n in order]
    np.testing.assert_array_equal(np.load("both.npy"), vectors[order])


def test_the_real_encoder() -> None:
    Path("a.jpg").write_bytes(photographed(1))
    Path("b.jpg").write_bytes(photographed(1, 60))
    Path("c.jpg").write_bytes(drawn(9))
    Path("list.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    assert call("list.txt", "out.npy", "--domain", "catalog").exit_code == 0
    vectors = np.load("out.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > 0.9 > vectors[0] @ vectors[2]


def test_all_that_a_catalogue_keeps() -> None:
    Path("shirt.jpg").write_bytes(drawn(9))
    Path("street.jpg").write_bytes(on_the_street(1))
    Path("list.txt").write_text("street.jpg\nshirt.jpg\nstreet.jpg\n")
    assert call("list.txt", "own.npy", "--domain", "catalog").exit_code == 0
    result = call("list.txt", "all.npz", "--domain", "catalog", "--all")
    assert result.stdout == "wrote 34 vectors to all.npz\n"
    with np.load("all.npz") as kept:
        lines, vectors = kept["line"], kept["vectors"]
    assert lines.tolist() == [1] * 16 + [2] * 2 + [3] * 16
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[[0, 16, 18]], np.load("own.npy"), atol=1e-3)
    with Image.open("shirt.jpg") as shirt:
        shown = as_in_catalog(shirt.convert("RGB"))
    np.testing.assert_allclose(vectors[16:18], Embedder(SHIPPED).pixels(list(shown), "catalog"), atol=1e-3)


def test_a_catalogue_without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESIGN_DEDUP_WINDOWS", "false")
    Path("a.jpg").write_bytes(drawn(9))
    Path("list.txt").write_text("a.jpg\n")
    assert call("list.txt", "all.npz", "--domain", "catalog", "--all").stdout == "wrote 1 vectors to all.npz\n"


def test_of_a_design_there_is_one_vector() -> None:
    Path("list.txt").write_text("a.jpg\n")
    result = call("list.txt", "all.npz", "--domain", "generated", "--all")
    assert result.exit_code == 2
    assert "of a design there is one vector" in result.stderr


def test_lines_that_cannot_be_used_are_named_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = use(monkeypatch, Looks())
    Path("a.jpg").write_bytes(plain(1))
    Path("bad.jpg").write_bytes(b"x")
    names = ["a.jpg", "missing.jpg", "bad.jpg", *[f"{n}.jpg" for n in range(29)], "", "bad.jpg"]
    Path("list.txt").write_text("\n".join(names))
    result = call("list.txt", "out.npy", "--domain", "catalog")
    assert result.exit_code == 1
    assert "list.txt, line 2: missing.jpg: No such file or directory" in result.stderr
    assert "list.txt, line 3: bad.jpg: not_an_image: not a picture" in result.stderr
    assert "... and 13 more" in result.stderr
    assert "33 of 34 pictures cannot be used; nothing was written" in result.stderr
    assert not Path("out.npy").exists()
    assert looks.seen == {}


@pytest.mark.parametrize("setting", [["MAX_IMAGE_BYTES", "1000"], ["MAX_IMAGE_PIXELS", "10000"]])
def test_the_limits_are_those_of_the_worker(monkeypatch: pytest.MonkeyPatch, setting: list[str]) -> None:
    use(monkeypatch, Looks())
    monkeypatch.setenv(f"DESIGN_DEDUP_{setting[0]}", setting[1])
    Path("a.jpg").write_bytes(drawn(1))
    Path("list.txt").write_text("a.jpg\n")
    result = call("list.txt", "out.npy", "--domain", "catalog")
    assert result.exit_code == 1
    assert f"the limit is {setting[1]}" in result.stderr


def test_a_file_beyond_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Looks())
    with Path("a.jpg").open("wb") as file:
        file.truncate(1 << 40)  # sparse: more than any memory, and nothing on the disk
    Path("list.txt").write_text("a.jpg\n")
    result = call("list.txt", "out.npy", "--domain", "catalog")
    assert result.exit_code == 1
    assert "line 1: a.jpg: too_large: 1099511627776 bytes, the limit is 20000000" in result.stderr


def writes(target: Path, *parts: Any) -> None:
    with whole_file(target) as file:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            file.write(part)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(KeyError):
        writes(target, b"half", KeyError())
    assert list(tmp_path.iterdir()) == []
    writes(target, b"one", b"two")
    assert target.read_bytes() == b"onetwo"
    with pytest.raises(Fatal, match=r"cannot write .*a: No space left"):
        writes(target, b"half", OSError(28, "No space left on device"))
    assert target.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [target]
    mask = os.umask(0o027)
    try:
        writes(target, b"three")
    finally:
        os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "there" / "real", tmp_path / "link", tmp_path / "pipe"
    real.parent.mkdir()
    link.symlink_to(real)
    writes(link, b"1")
    assert link.is_symlink()
    assert real.read_bytes() == b"1"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    writes(pipe, b"2")
    reader.join(10)
    assert read == [b"2"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", "missing/a"])
def test_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(Fatal, match="cannot write"):
        writes(tmp_path / name, b"1")
