"""The commands on the real embedded stack, with a real worker beside them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from streams.cli import main
from streams.cli.cluster import Cluster
from streams.cli.console import run
from streams.events import decode_record, lattice
from streams.kafka.dead_letters import Markers
from streams.local import LocalStack, PortLease
from streams.settings import load_settings
from tests.pictures import drawn, photographed

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

READY_S = 60.0


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def answers(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """What a command prints with --json, line by line; nothing else may stand on standard output."""
    return [json.loads(text) for text in call(*arguments, "--json", code=code).stdout.splitlines()]


class Process:
    """The command as a process, for the two that run until they are stopped."""

    def __init__(self, folder: Path, *arguments: str, **env: object) -> None:
        self.log = folder / f"{'-'.join(arguments)}-{time.monotonic_ns()}.log"
        values = {f"DESIGN_DEDUP_{name.upper()}": str(value) for name, value in env.items()}
        # A shell's background jobs ignore SIGINT, and so would what they start.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "streams.cli.main", *arguments],
                    env={**os.environ, **values}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, handler)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, words: str, timeout_s: float = READY_S) -> str:
        end = time.monotonic() + timeout_s
        while words not in self.text:
            assert self._process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.1)
        return self.text

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        self._process.send_signal(number)
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float = READY_S) -> int:
        return self._process.wait(timeout_s)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Installation:
    """A worker on topics of its own, and the settings of the commands that go with it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.worker = self.start()

    def start(self) -> Process:
        self.worker = Process(self.folder, "worker")
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return self.worker
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(self.worker.text)

    def pictures(self, name: str, **files: bytes) -> Path:
        folder = self.folder / name
        folder.mkdir()
        for stem, data in files.items():
            (folder / f"{stem}.jpg").write_bytes(data)
        return folder


@pytest.fixture(scope="module")
def installation(full_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder, ends = tmp_path_factory.mktemp("commands"), full_stack.endpoints
    with pytest.MonkeyPatch.context() as patch, PortLeased() as port:
        for name, value in {
            "KAFKA_BOOTSTRAP": ends.kafka, "TRITON_URL": ends.triton_grpc, "MILVUS_URI": ends.milvus,
            "TOPIC_PREFIX": f"{folder.name}.", "GROUP": f"{folder.name}-{os.getpid()}", "DATA_DIR": folder / "data",
            "WEB_PORT": port, "WORKER_URL": f"http://127.0.0.1:{port}", "IMAGE_SCHEMES": "file",
            "IMAGE_ROOTS": folder,
        }.items():  # fmt: skip
            patch.setenv(f"DESIGN_DEDUP_{name}", str(value))
        patch.chdir(folder)
        installed = Installation(folder, f"http://127.0.0.1:{port}")
        yield installed
        installed.worker.close()


class PortLeased:
    """A free port that nobody else takes meanwhile."""

    def __enter__(self) -> int:
        self._lease = PortLease()
        return self._lease.take()

    def __exit__(self, *_: object) -> None:
        self._lease.close()


def test_from_a_catalogue_to_an_explained_verdict(installation: Installation) -> None:
    created = call("topics", "create").stdout
    assert created.count("was there") == 5
    items = installation.pictures("items", item1=photographed(1), item2=photographed(2))
    (items / "notes.txt").write_text("no picture")
    loaded = call("catalog", "load", items, "--wait")
    assert "decided 2 of 2, 0 dead letters" in loaded.stdout
    assert "1 files" in loaded.stderr

    designs = installation.pictures("designs", copy=photographed(1), new=drawn(3))
    listing = designs / "designs.jsonl"
    listing.write_text('{"id": "copy", "images": "copy.jpg", "category": "shirt", "generator": "g1", "title": "A"}\n'
                       '{"id": "new", "images": ["new.jpg"]}\n')  # fmt: skip
    said = {one["id"]: one for one in answers("publish", listing, "--wait")}
    assert said["copy"]["verdict"]["verdict"] == "duplicate"
    assert said["new"]["verdict"]["verdict"] == "accept"
    assert said["copy"]["position"] == said["copy"]["verdict"]["position"]
    again = {one["id"]: one for one in answers("publish", listing, "--wait")}
    assert [again[name]["verdict"] == said[name]["verdict"] for name in ("copy", "new")] == [True, True]
    assert again["copy"]["position"] > said["copy"]["position"]

    listed = answers("verdicts")
    assert [one["offset"] for one in listed] == list(range(len(listed)))
    assert {one["design_id"] for one in listed} >= {"copy", "new"}
    assert answers("verdicts", "--since-offset", "1000000") == []
    assert "duplicate  1.0000  copy  nearest item item1" in call("verdicts").stdout
    shown = call("verdicts", "show", "copy").stdout
    assert all(word in shown for word in ("duplicate", "item1", "digest", "shirt", "g1"))
    assert answers("verdicts", "show", "copy")[0] == said["copy"]["verdict"]
    assert "no verdict" in call("verdicts", "show", "nobody", code=1).stderr

    checked = answers("check", designs / "copy.jpg", items / "notes.txt", code=1)
    assert [one["verdict"] for one in checked] == ["duplicate"]
    together = answers("check", designs / "new.jpg", items / "item2.jpg", "--together")
    assert len(together) == 1
    assert len(together[0]["image_digests"]) == 2
    assert "not_an_image" in call("check", items / "notes.txt", code=1).stderr
    of_design = httpx.get(f"{installation.url}/v1/verdicts/copy", trust_env=False)
    assert of_design.json() == said["copy"]["verdict"]
    assert "dedup_verdicts_total" in httpx.get(f"{installation.url}/metrics", trust_env=False).text


def test_what_is_deleted_or_withdrawn_stands_in_nobodys_way(installation: Installation) -> None:
    items = installation.pictures("gone", gone=photographed(11))
    loaded = answers("catalog", "load", items, "--wait")
    designs = installation.pictures("leaving", leaving=drawn(12))
    published = answers("publish", designs, "--wait")
    for picture in (items / "gone.jpg", designs / "leaving.jpg"):
        assert answers("check", picture)[0]["verdict"] == "duplicate"
    deleted = answers("catalog", "delete", "gone", "unheard-of", "--wait")
    withdrawn = answers("withdraw", "leaving", "--wait")
    positions = [one["position"] for one in (*loaded, *published, *deleted, *withdrawn)]
    assert positions == sorted(set(positions))
    for picture in (items / "gone.jpg", designs / "leaving.jpg"):
        assert answers("check", picture)[0]["verdict"] == "accept"
    assert "position" in call("withdraw", "leaving", "--wait").stdout
    assert "sent 1 of 1" in call("catalog", "delete", "gone").stdout


def test_following_shows_what_is_said_from_now_on(installation: Installation, tmp_path: Path) -> None:
    following = Process(tmp_path, "verdicts", "--follow", "--json", "--since-offset", "0")
    try:
        call("publish", installation.pictures("followed", followed=drawn(15)), "--wait")
        text = following.until('"design_id":"followed"')
        whole = text[: text.rfind("\n") + 1]  # the last line may be half written
        assert all(json.loads(line)["verdict_id"] for line in whole.splitlines())
        assert following.stop(signal.SIGINT) == 0
    finally:
        following.close()


def test_pictures_by_reference(installation: Installation) -> None:
    folder = installation.pictures("by reference", referred=photographed(21))
    assert "decided 1 of 1" in call("catalog", "load", folder, "--reference", "--wait").stdout
    assert answers("check", folder / "referred.jpg")[0]["neighbours"][0]["id"] == "referred"


def test_what_cannot_be_sent_does_not_stop_the_rest(installation: Installation) -> None:
    folder = installation.pictures("half", there=drawn(31))
    listing = folder / "list.csv"
    listing.write_text("id,images,tenant\nmissing,missing.jpg,\nthere,there.jpg,\nother,there.jpg,nobody\n")
    result = call("publish", listing, "--wait", code=1)
    assert "decided 1 of 3" in result.stdout
    assert "not sent: missing" in result.stderr
    assert "tenant 'nobody'" in result.stderr


def test_dead_letters_are_shown_replayed_and_resumed(installation: Installation) -> None:
    folder = installation.pictures("broken", broken=drawn(41)[:400])
    result = answers("publish", folder, "--wait", code=1)
    assert result[0]["dead_letter"] == "broken_image"
    assert "broken_image" in call("publish", folder, "--wait", code=1).stderr
    letters = [one for one in answers("dead-letters", "list") if one["id"] == "broken"]
    assert [one["reason"] for one in letters] == ["broken_image", "broken_image"]
    first, last = letters[0]["offset"], letters[1]["offset"]
    assert "broken_image" in call("dead-letters", "list").stdout
    assert '"images"' in call("dead-letters", "show", last).stdout
    assert "no dead letter at offset 999" in call("dead-letters", "show", 999, code=1).stderr
    refused = call("dead-letters", "replay", first, 999, code=1)
    assert "has a later event" in refused.stderr
    assert "there is no such dead letter" in refused.stderr
    assert f"replayed {last}" in call("dead-letters", "replay", last).stdout
    assert "has a later event" in call("dead-letters", "replay", last, code=1).stderr
    while len(letters := [one for one in answers("dead-letters", "list") if one["id"] == "broken"]) < 3:
        time.sleep(0.2)
    assert (letters[2]["source"], letters[2]["reason"]) == (letters[1]["source"], "broken_image")
    assert "replayed" in call("dead-letters", "replay", "--all").stdout

    resumed = call("dead-letters", "resume").stdout
    ends = run(_resumed())
    assert all(f"{source}  dead letters are let through up to offset {end}" in resumed for source, end in ends.items())
    assert len(ends) == 6
    assert ends[letters[2]["source"]] > letters[2]["source_offset"]


async def _resumed() -> dict[str, int]:
    async with Cluster(load_settings()) as cluster:
        markers = Markers()
        async for record in cluster.read(cluster.topics.dead_letters.name, 0):
            markers.see(record)
        return markers.resumed


def test_embed_gives_the_vectors_of_the_log(installation: Installation) -> None:
    names = [f"e{n}" for n in range(5)]
    folder = installation.pictures("embedded", **{name: photographed(50 + n) for n, name in enumerate(names)})
    call("catalog", "load", folder, "--wait")
    listing = folder / "list.txt"
    listing.write_text("".join(f"{name}.jpg\n" for name in names))
    call("embed", listing, folder / "local.npy", "--domain", "catalog")
    call("embed", listing, folder / "triton.npy", "--domain", "catalog", "--encoder", "triton")
    vectors = np.load(folder / "local.npy")
    assert (vectors.dtype, len(vectors)) == (np.float32, 5)
    np.testing.assert_allclose(vectors, np.load(folder / "triton.npy"), atol=1e-4)
    logged = run(_vectors(names))
    assert np.abs(lattice(vectors) - np.stack([logged[name] for name in names])).max() <= 1

    listing.write_text(f"{names[0]}.jpg\nmissing.jpg\nlist.txt\n")
    result = call("embed", listing, folder / "none.npy", "--domain", "catalog", code=1)
    assert "line 2: missing.jpg: No such file" in result.stderr
    assert "line 3" in result.stderr
    assert not (folder / "none.npy").exists()


async def _vectors(names: list[str]) -> dict[str, Any]:
    async with Cluster(load_settings()) as cluster:
        records = [decode_record(r.value) async for r in cluster.read(cluster.topics.log.name, 0)]
    return {r.id: np.frombuffer(r.pictures[0].vectors()[0], "<i2") for r in records if r.id in names and r.pictures}


def test_waiting_without_a_worker_ends(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESIGN_DEDUP_TOPIC_PREFIX", f"nobody{os.getpid()}.")
    folder = installation.pictures("nobody", alone=drawn(61))
    result = call("publish", folder, "--wait", "--timeout", 1, code=3)
    assert "1 of 1 events are not decided, and nothing has moved for 1 s; is a worker running?" in result.stderr


def test_rebuild(installation: Installation) -> None:
    items = installation.pictures("many", **{f"m{n}": photographed(100 + n, 60) for n in range(12)})
    call("catalog", "load", items, "--wait")
    designs = installation.pictures("rebuilt", r1=photographed(103, 60), r2=drawn(71))
    said = answers("publish", designs, "--wait")
    assert "holds" in call("rebuild", code=1).stderr

    begin = time.monotonic()
    assert installation.worker.stop() == 0
    assert time.monotonic() - begin < 10
    for file in (installation.folder / "data").glob("shard-0*"):
        file.unlink()
    end = max(one["position"] for one in said) + 1
    rebuilt = call("rebuild").stdout
    assert int(rebuilt.split()[-1]) >= end
    installation.start()
    again = answers("publish", designs, "--wait")
    assert [one["verdict"] for one in again] == [one["verdict"] for one in said]
    assert answers("check", items / "m7.jpg")[0]["neighbours"][0]["id"] == "m7"


def test_a_worker_that_fails_says_why_in_its_last_line(installation: Installation, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("similarity = 7\n")
    worker = Process(tmp_path, "worker", policy_file=policy, web_port=0)
    assert worker.wait() == 1
    assert worker.text.splitlines()[-1].startswith(f"design-dedup: policy file {policy}")


def test_a_worker_lives_while_it_waits_and_can_be_stopped(installation: Installation, tmp_path: Path) -> None:
    worker = Process(tmp_path, "worker", kafka_bootstrap="127.0.0.1:1", web_port=0, log_format="json")
    try:
        url = json.loads(worker.until("answering").splitlines()[0])["address"]
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 503
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 10
        assert all(json.loads(text)["event"] for text in worker.text.splitlines())
    finally:
        worker.close()


@pytest.mark.usefixtures("full_stack")
def test_the_stack_in_the_foreground(tmp_path: Path) -> None:
    stack = Process(tmp_path, "stack", "up", data_dir=tmp_path)
    try:
        text = stack.until("the stack is up", 90)
        exported = dict(line.removeprefix("export ").split("=") for line in text.splitlines() if "export" in line)
        names = ("KAFKA_BOOTSTRAP", "TRITON_URL", "MILVUS_URI", "DATA_DIR")
        assert set(exported) == {f"DESIGN_DEDUP_{name}" for name in names}
        assert stack.stop(signal.SIGINT) == 0
        assert stack.text.rstrip().endswith("the stack is down")
        port = int(exported["DESIGN_DEDUP_KAFKA_BOOTSTRAP"].rpartition(":")[2])
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
    finally:
        stack.close()
