"""A real Milvus, not Lite, with TLS and users, and tests that run beside it: python -m tests.standalone_milvus TEST...

The server comes out of the wheel `milvus` (2.3.5, the last one that holds it). It listens on every address, whatever it
is told, so it stands in a network of its own that has no other address than 127.0.0.1, and the tests do with it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from streams.local import HOST
from tests.certificates import Authority

TOKEN: Final = "root:Milvus"
"""Of the user that every new Milvus has."""
NAME: Final = "milvus.example"
_SETTINGS: Final = "STANDALONE_MILVUS"
_CLIENTS_TOO: Final = 2
"""Milvus's tlsMode: both sides show certificates."""


def beside_it(*tests: str) -> "subprocess.CompletedProcess[str]":
    """Run tests beside such a Milvus; skips where there is none, or no network of one's own is to be had."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        pytest.skip("no unshare or ip (util-linux, iproute2) for a network of its own")
    pytest.importorskip("milvus", reason="the wheel milvus is not installed")
    apart = [unshare, "--net", "--pid", "--fork", "--kill-child", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not have a network of their own")
    return subprocess.run(
        [*apart, sys.executable, "-m", "tests.standalone_milvus", *tests], capture_output=True, text=True, check=False
    )


def settings_of_it() -> dict[str, Any]:
    """The settings of somebody who may come in; empty where the tests do not run beside it."""
    return dict(json.loads(os.environ.get(_SETTINGS, "{}")))


@contextmanager
def _running(folder: Path) -> Iterator[dict[str, Any]]:
    from milvus import MilvusServer

    authority = Authority(folder / "authority")
    server_pair, client_pair = authority.sign("server", NAME), authority.sign("client")
    server = MilvusServer()
    server.set_base_dir(str(folder / "data"))
    for name, value in {
        "server_pem_path": str(server_pair.cert), "server_key_path": str(server_pair.key),
        "ca_pem_path": str(authority.cert), "tls_mode": _CLIENTS_TOO, "authorization_enabled": True,
    }.items():  # fmt: skip
        server.config.set(name, value)
    server.start()
    try:
        yield {
            "milvus_uri": f"https://{HOST}:{server.listen_port}", "milvus_token": TOKEN, "milvus_server_name": NAME,
            "milvus_ca_file": str(authority.cert), "milvus_cert_file": str(client_pair.cert),
            "milvus_key_file": str(client_pair.key),
        }  # fmt: skip
    finally:
        server.stop()


def main() -> None:
    """In the network of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as settings:
        os.environ[_SETTINGS] = json.dumps(settings)
        code = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]])
    sys.exit(code)


if __name__ == "__main__":
    main()
