"""Real Prometheus and Docker Compose for tests: where they are found, and a Prometheus that runs on 127.0.0.1 with
windows of seconds.

    with running_prometheus(tmp_path, ["127.0.0.1:8088"]) as prometheus:
        prometheus.wait_until_firing("DuplicateRateRise", timeout_s=60)
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

REPOSITORY: Final = Path(__file__).resolve().parents[2]
RULES: Final = REPOSITORY / "infra/prometheus/rules/design-dedup.yml"

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "design-dedup/tools"
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Only where PromQL or a rule wants a duration; `_s` of a name and "15 minutes" of a comment are none.
_DURATION: Final = re.compile(r"(\[|\boffset |\bfor: |\binterval: )(\d+)([smhd])\b")


def find_tool(name: str) -> str:
    """The path of `prometheus`, `promtool` or `docker-compose`; skips the test with a reason where there is none."""
    found = shutil.which(name) or shutil.which(name, path=_CACHE)
    if not found:
        pytest.skip(f"no {name} here: infra/install-tools.sh fetches it from Debian")
    return found


@cache
def compose_command() -> tuple[str, ...]:
    """Docker Compose, as a plugin of `docker` or by itself; neither needs an engine to read a file."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    return (find_tool("docker-compose"),)


def fast_rules(text: str, divisor: int = 60) -> str:
    """The rules with every duration divided (at least 1 s): 15 m become 15 s, 24 h become 24 m, `for: 5m` 5 s.

    Names, shares and minimum volumes stay: an alert on the duplicate rate still wants 50 verdicts within the last 15 s
    and 200 before them.
    """

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * _UNITS_S[match[3]]
        return f"{match[1]}{max(1, round(seconds / divisor))}s"

    return _DURATION.sub(shorter, text)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str
    log: Path

    def get(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its HTTP API."""
        return httpx.get(f"{self.url}{path}", params=query, timeout=5).raise_for_status().json()["data"]

    def value(self, expression: str) -> float | None:
        """The only value of an expression now; None where there is none."""
        result = self.get("/api/v1/query", query=expression)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def firing(self, alert: str) -> list[Mapping[str, Any]]:
        """The firing alerts of this name, each with `labels` and `annotations`."""
        return [
            a
            for a in self.get("/api/v1/alerts")["alerts"]
            if a["state"] == "firing" and a["labels"]["alertname"] == alert
        ]

    def wait_until_firing(self, alert: str, timeout_s: float) -> list[Mapping[str, Any]]:
        """The firing alerts of this name once there are any; fails the test after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if firing := self.firing(alert):
                return firing
            time.sleep(0.25)
        pytest.fail(f"{alert} did not fire within {timeout_s} s; alerts: {self.get('/api/v1/alerts')}")


@contextmanager
def running_prometheus(
    directory: Path,
    targets: list[str],
    rules: str | None = None,
    scrape_interval: str = "1s",
    token_file: Path | None = None,
) -> Iterator[Prometheus]:
    """A Prometheus on a free port of 127.0.0.1 that scrapes `targets` (host:port) as job `design-dedup`.

    `directory` takes its configuration, data and log; `rules` are the fast rules of this repository unless given.
    It shows the token in `token_file`, if there is one, as that of this repository does.
    """
    port = _free_port()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rules.yml").write_text(fast_rules(RULES.read_text()) if rules is None else rules)
    job: dict[str, Any] = {"job_name": "design-dedup", "static_configs": [{"targets": targets}]}
    if token_file is not None:
        job["authorization"] = {"credentials_file": str(token_file)}
    config = {
        "global": {
            "scrape_interval": scrape_interval,
            "scrape_timeout": scrape_interval,
            "evaluation_interval": scrape_interval,
        },
        "rule_files": ["rules.yml"],
        "scrape_configs": [job],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        find_tool("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = directory / "prometheus.log"
    prometheus = Prometheus(f"http://127.0.0.1:{port}", log)
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(prometheus, process)
            yield prometheus
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(prometheus: Prometheus, process: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{prometheus.url}/-/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"Prometheus did not start: {prometheus.log.read_text()}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
