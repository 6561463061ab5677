import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.tools import REPOSITORY

WORKER = REPOSITORY / "infra/docker/Dockerfile"
TRITON = REPOSITORY / "infra/triton/Dockerfile"


@pytest.mark.parametrize("path", [WORKER, TRITON], ids=["worker", "triton"])
class TestEveryDockerfile:
    def test_hadolint_has_nothing_to_say(self, path: Path) -> None:
        hadolint = Path(sys.executable).with_name("hadolint")
        done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_base_images_are_pinned(self, path: Path) -> None:
        images = re.findall(r"^FROM (\S+)", path.read_text(), re.M)
        assert images
        for image in images:
            assert re.search(r":\d+\.\d+", image), image

    def test_it_does_not_run_as_root(self, path: Path) -> None:
        users = re.findall(r"^USER (\S+)", path.read_text(), re.M)
        assert users
        assert int(users[-1].split(":")[0]) >= 1000


def test_the_worker_image_gets_what_it_copies() -> None:
    """Its ignore file lets through exactly what COPY wants, and a COPY of the whole folder does not come back."""
    wanted = {
        source for line in re.findall(r"^COPY (?!--from)(.+)", WORKER.read_text(), re.M) for source in line.split()[:-1]
    }
    ignore = WORKER.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert wanted == {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore


def test_triton_runs_the_tested_versions() -> None:
    text = TRITON.read_text()
    lock = dict(
        line.split("==") for line in (REPOSITORY / "infra/locks/triton.txt").read_text().split() if "==" in line
    )
    assert f"numpy=={lock['numpy']} " in text
    assert f"ONNXRUNTIME_VERSION={lock['onnxruntime']}\n" in text
    assert lock["numpy"].startswith("1.")
