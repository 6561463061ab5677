"""`check` at a worker that asks for a token, over TLS: the real HTTP server, the real command."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streams.cli import main
from streams.errors import Fatal
from streams.settings import load_settings
from streams.tls import Tls
from streams.transport import milvus_options
from streams.web.server import WebOptions, WebServer
from tests.certificates import Authority
from tests.web.test_server import FakeService

TOKEN = "a-long-random-word-4711"


@pytest.fixture(autouse=True)
def picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"picture")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def worker(authority: Authority) -> AsyncIterator[str]:
    """Its address."""
    pair = authority.sign("worker", "127.0.0.1")
    tls = Tls("web", cert_file=pair.cert, key_file=pair.key).server_context()
    server = WebServer(FakeService(), WebOptions(port=0, token=TOKEN, tls=tls))
    yield await server.start()
    await server.stop()


async def check(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Result:
    for name, value in settings.items():
        monkeypatch.setenv(f"DESIGN_DEDUP_{name}".upper(), str(value))
    result = await asyncio.to_thread(CliRunner().invoke, main.app, ["check", "a.jpg"])
    assert TOKEN not in result.output
    return result


async def test_with_token_and_authority_it_is_answered(
    worker: str, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    result = await check(monkeypatch, worker_url=worker, worker_ca_file=authority.cert, web_token_file="token")
    assert result.exit_code == 0, result.output
    assert "duplicate" in result.stdout


async def test_without_the_token_it_says_what_to_set(
    worker: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = await check(monkeypatch, worker_url=worker, worker_ca_file=authority.cert)
    assert result.exit_code == 1
    assert f"the worker at {worker} asks for" in result.stderr
    assert "web_token" in result.stderr


async def test_a_worker_that_cannot_be_trusted_gets_no_token(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = await check(monkeypatch, worker_url=worker, web_token=TOKEN)
    assert result.exit_code == 3
    assert "CERTIFICATE_VERIFY_FAILED" in result.stderr


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"web_host": "::"}, "set web_token"),
        ({"web_host": "::", "log_format": "json"}, "set web_token"),
        ({"web_cert_file": "a.jpg", "web_key_file": "a.jpg"}, "web_cert_file a.jpg and web_key_file a.jpg cannot be"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "a.jpg"}, "kafka_ca_file a.jpg: no certificates in PEM"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_worker_that_could_not_be_safe_does_not_start(settings: dict[str, str], reason: str) -> None:
    """As a process: a worker ends hard some seconds after it was told to end."""
    values = {"kafka_bootstrap": "127.0.0.1:1", "web_port": "0"} | settings
    env = {**os.environ, **{f"DESIGN_DEDUP_{name}".upper(): value for name, value in values.items()}}
    command = [sys.executable, "-m", "streams.cli.main", "worker"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert reason in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["hello", ""])
def test_milvus_authorities_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(Fatal, match=r"milvus_ca_file ca.pem: no certificates in PEM"):
        milvus_options(load_settings(milvus_uri="https://127.0.0.1:1", milvus_ca_file="ca.pem"))
