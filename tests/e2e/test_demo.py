"""`design-dedup demo` as a user runs it: what it prints, and that nothing stays behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from streams.local import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
pytestmark = pytest.mark.stack


def start(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    home.mkdir()
    command = [
        sys.executable,
        "-m",
        "streams.cli.main",
        "demo",
        "--report",
        str(home.parent / "report.html"),
        *arguments,
    ]
    environment = {**os.environ, "TMPDIR": str(home)}
    # A shell's background jobs ignore SIGINT, and so would what they start.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, handler)


def finish(process: "subprocess.Popen[str]", home: Path, timeout_s: float = 240) -> tuple[str, str]:
    """Standard output and error; whatever the end was, no process and no file is left of it."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    assert processes_of(home) == []
    assert [path.name for path in home.iterdir() if not path.name.startswith("design-dedup-ports-")] == []
    return out, err


def processes_of(home: Path) -> list[str]:
    """The command lines of the processes that were started with this folder for temporary files, or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("TMPDIR", "")]
        except psutil.Error:
            continue
        if any(str(home) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found


def demo(tmp_path: Path, *arguments: str, timeout_s: float = 240) -> dict[str, Any]:
    process = start(tmp_path / "home", "--json", *arguments)
    out, err = finish(process, tmp_path / "home", timeout_s)
    assert process.returncode == 0, err
    said: dict[str, Any] = json.loads(out)
    return said


def test_drawn_garments(tmp_path: Path) -> None:
    said = demo(tmp_path, "--items", "30", "--designs-count", "50")
    assert said["designs"] == 50 == said["accepted"] + said["duplicates"] + said["dead_letters"]
    assert said["duplicates"] > 5
    assert said["accepted"] > 10
    assert said["dead_letters"] == len(said["dead_letter_list"]) > 0
    assert said["catalog_items"] == 30
    assert said["catalog_dead_letter_list"] == []
    assert said["precision"] >= 0.95
    assert said["recall"] >= 0.85
    assert said["verdicts_per_s"] > 0
    assert 0 < said["latency_p50_ms"] <= said["latency_p99_ms"]
    assert len(said["verdicts"]) == said["accepted"] + said["duplicates"]
    for verdict in said["verdicts"]:
        near = [neighbour["similarity"] for neighbour in verdict["neighbours"]]
        assert near == sorted(near, reverse=True)
        assert (verdict["verdict"] == "duplicate") == (verdict["similarity"] >= verdict["threshold"])
        assert near[0] == verdict["similarity"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article") >= len(said["verdicts"])


def until(process: "subprocess.Popen[str]", true: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(process: "subprocess.Popen[str]") -> "psutil.Process | None":
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[-1:] == ["worker"]:
                return child
        except psutil.Error:
            continue
    return None


def test_a_dead_worker_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = start(tmp_path / "home", "--items", "1", "--designs-count", "1")
    try:
        until(process, lambda: _killed(worker_of(process)))
    finally:
        out, err = finish(process, tmp_path / "home")
    assert (process.returncode, out) == (1, "")
    assert "failed while starting the worker" in err
    assert "worker ended; the end of" in err


def _killed(worker: "psutil.Process | None") -> bool:
    """At once: with one design a worker's time is short."""
    if worker is not None:
        worker.kill()
    return worker is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "home", "--items", "50", "--designs-count", "50")
    try:
        until(process, lambda: worker_of(process))
        process.send_signal(number)
    finally:
        out, err = finish(process, tmp_path / "home", 60)
    assert (process.returncode, out) == (130, "")
    assert "Interrupted" in err


@pytest.mark.realdata
@pytest.mark.timeout(600)
@pytest.mark.skipif(not (DATA / "hm").is_dir(), reason=f"no photographs in {DATA}")
def test_your_own_folders(tmp_path: Path) -> None:
    rng = random.Random(4)
    catalog, designs = tmp_path / "catalog", tmp_path / "designs"
    catalog.mkdir()
    (designs / "deeper").mkdir(parents=True)
    photos = rng.sample(sorted((DATA / "hm" / "images").glob("*.jpg")), 300)
    for photo in photos:
        (catalog / photo.name).symlink_to(photo)
    (catalog / "ruined.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for photo in photos[:20]:
        shutil.copy(photo, designs / f"exact-{photo.name}")
    for photo in photos[20:40]:
        with Image.open(photo) as picture:
            picture.convert("RGB").resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(
                designs / "deeper" / f"edited-{photo.stem}.webp", quality=70
            )
    for folder in ("clothing/images", "ccp/photos", "ccp/items"):
        for photo in rng.sample(sorted((DATA / folder).glob("*.*g")), 10):
            shutil.copy(photo, designs / f"other-{photo.name}")
    for number, data in enumerate([b"", b"no picture", photos[0].read_bytes()[:500]]):
        (designs / f"broken-{number}.jpg").write_bytes(data)

    said = demo(tmp_path, "--catalog", str(catalog), "--designs", str(designs), timeout_s=540)
    assert (said["designs"], said["dead_letters"]) == (73, 3)
    assert said["precision"] is said["recall"] is None
    assert {letter["design_id"] for letter in said["dead_letter_list"]} == {f"broken-{n}" for n in range(3)}
    assert [letter["item_id"] for letter in said["catalog_dead_letter_list"]] == ["ruined"]
    verdicts = {verdict["design_id"]: verdict for verdict in said["verdicts"]}
    for photo in photos[:20]:
        assert verdicts[f"exact-{photo.stem}"]["neighbours"][0] == {
            "id": photo.stem, "kind": "item", "similarity": 1.0, "signal": "digest",
        }  # fmt: skip
    for photo in photos[20:40]:
        verdict = verdicts[f"edited-{photo.stem}"]
        assert (verdict["verdict"], verdict["neighbours"][0]["id"]) == ("duplicate", photo.stem)
    others = [verdict for name, verdict in verdicts.items() if name.startswith("other-")]
    assert len(others) == 30
    assert sum(verdict["verdict"] == "duplicate" for verdict in others) <= 1
