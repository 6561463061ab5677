"""The demo's own parts that need no server: which files it publishes, under which ids, and how it fails."""

import json
import os
import signal
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from streams.cli import demo as room
from streams.cli.demo import list_pictures
from streams.cli.main import app
from streams.cli.rehearsal import Rehearsal
from streams.cli.report import Outcome, Score, Source
from streams.cli.screen import Screen
from streams.events import GeneratedDesign, Image, decode_key, encode_event
from tests.cli.test_report import said


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


class TestListPictures:
    def test_every_file_with_a_pictures_suffix(self, tmp_path: Path) -> None:
        names = ["b.JPG", "a.jpeg", "c.png", "d.webp", "e.gif", "f.avif", "notes.txt", "g.jpg.part", ".hidden.jpg"]
        make(tmp_path, *names, ".git/h.jpg")
        assert [source.id for source in list_pictures(tmp_path)] == ["a", "b", "c", "d", "e", "f"]

    def test_folders_within(self, tmp_path: Path) -> None:
        make(tmp_path, "one.jpg", "shirts/two.jpg", "shirts/long/three.jpg")
        assert {s.id: s.category for s in list_pictures(tmp_path)} == {"one": "", "two": "shirts", "three": "long"}

    def test_the_same_stem_twice(self, tmp_path: Path) -> None:
        make(tmp_path, "a/x.jpg", "b/x.jpg", "b/x.png", "c/x~2.jpg")
        assert {s.id: str(s.path.relative_to(tmp_path)) for s in list_pictures(tmp_path)} == {
            "x": "a/x.jpg",
            "x~2": "b/x.jpg",
            "x~3": "b/x.png",
            "x~2~2": "c/x~2.jpg",
        }

    def test_links(self, tmp_path: Path) -> None:
        real = make(tmp_path / "real", "a.jpg")
        linked = tmp_path / "linked"
        linked.mkdir()
        (linked / "b.jpg").symlink_to(real / "a.jpg")
        (linked / "folder").symlink_to(real)
        (linked / "loop").symlink_to(linked)
        (linked / "gone.jpg").symlink_to(tmp_path / "nothing")
        assert [source.id for source in list_pictures(linked)] == ["b", "a"]

    def test_odd_names_become_keys(self, tmp_path: Path) -> None:
        (tmp_path / "tab\there.jpg").write_bytes(b"x")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.jpg")).write_bytes(b"x")
        (tmp_path / f"{'long' * 60}.jpg").write_bytes(b"x")
        for source in list_pictures(tmp_path):
            assert decode_key(source.id.encode()) == source.id
            encode_event(GeneratedDesign(images=(Image(data=b""),), category=source.category))


class TestDrawn:
    def test_are_files_with_their_truth(self, tmp_path: Path) -> None:
        screen = Screen(Console(file=StringIO()))
        items, designs = room._drawn(tmp_path, 3, 12, 1)(screen, threading.Event())
        assert [item.id for item in items] == ["item-00001", "item-00002", "item-00003"]
        assert len(designs) == 12
        assert all(source.path.stat().st_size for source in [*items, *designs])
        copies = [design for design in designs if design.truth]
        assert copies
        assert all(design.made_as.endswith(f" of {design.truth}") for design in copies)

    def test_can_be_given_up(self, tmp_path: Path) -> None:
        abandon = threading.Event()
        abandon.set()
        assert room._drawn(tmp_path, 1000, 1000, 1)(Screen(Console(file=StringIO())), abandon) == ([], [])


class TestScreen:
    def test_plain_lines(self) -> None:
        written = StringIO()
        with Screen(Console(file=written, width=100)) as screen:
            screen.begin("starting the servers")
            tick = screen.bar("catalogue", 2)
            tick()
            tick()
            screen.verdict(said("a", "accept", 0))
        assert screen.step == "starting the servers"
        assert written.getvalue().splitlines() == ["starting the servers ...", "catalogue: 2 of 2"]

    def test_a_live_table(self) -> None:
        written = StringIO()
        with Screen(Console(file=written, width=100, force_terminal=True)) as screen:
            screen.bar("verdicts", 30)()
            for number in range(30):
                screen.verdict(said(f"design-{number}[red]", "duplicate" if number % 2 else "accept", number))
            screen.letter("bad\x1b[2J", "not_an_image")
        assert "design-29[red]" in written.getvalue()
        assert "not_an_image" in written.getvalue()
        assert "\x1b[2J" not in written.getvalue()


class TestCommand:
    def test_one_folder_is_not_enough(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["demo", "--catalog", str(tmp_path)])
        assert result.exit_code == 2
        assert "go together" in result.stderr

    def test_designs_are_needed(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["demo", "--catalog", str(tmp_path), "--designs", str(tmp_path)])
        assert result.exit_code == 2
        assert "no pictures" in " ".join(result.stderr.replace("│", " ").split())

    def test_the_report_needs_its_folder(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["demo", "--report", str(tmp_path / "none" / "x.html")])
        assert result.exit_code == 2

    def test_a_failure_names_the_step_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A Triton that is not installed: exit code 1, nothing on standard output, no file left."""
        environment = {
            **os.environ,
            "TMPDIR": str(tmp_path),
            "DESIGN_DEDUP_TRITON_VENV": str(tmp_path / "nowhere"),
        }
        command = [sys.executable, "-m", "streams.cli.main", "demo", "--json", "--report", str(tmp_path / "r.html")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "failed while starting the servers" in done.stderr
        assert "nowhere" in done.stderr
        assert not list(tmp_path.glob("design-dedup-demo-*"))

    def test_json_is_one_object(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outcome = Outcome(
            [], [Source("a", Path("a"))], [said("a", "accept", 0)], [], 1.0, [], None, Score(None, None, {})
        )
        monkeypatch.setattr(Rehearsal, "run", lambda *_: outcome)
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["demo", "--json"])
        assert result.exit_code == 0
        assert json.loads(result.stdout)["accepted"] == 1
        assert Path("report.html").is_file()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
