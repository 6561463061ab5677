"""The real Triton with gRPC over TLS that also asks for the client's certificate."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from streams.local import HOST, MODEL, Child, PortLease
from streams.local_triton import prepare_repository, remove_shared_memory, triton_command
from streams.settings import REPOSITORY
from tests.certificates import Authority
from tests.stack_fixtures import TRITON_VENV


@dataclass(frozen=True, slots=True)
class SecuredTriton:
    """A Triton that runs."""

    address: str
    authority: Authority

    def settings(self) -> dict[str, Any]:
        """Ours, for somebody who may come in."""
        pair = self.authority.sign("triton-client")
        return {
            "encoder": "triton",
            "triton_url": self.address,
            "triton_tls": True,
            "triton_ca_file": self.authority.cert,
            "triton_cert_file": pair.cert,
            "triton_key_file": pair.key,
        }


@contextmanager
def secured_triton(folder: Path) -> Iterator[SecuredTriton]:
    """Run one."""
    authority = Authority(folder / "triton-authority", "triton-authority")
    server = authority.sign("triton", HOST)
    prepare_repository(REPOSITORY / "triton_models", folder / "models", 1, 1)
    with closing(PortLease()) as lease:
        http, grpc, metrics = lease.take(), lease.take(), lease.take()
        arguments, environment = triton_command(
            TRITON_VENV, folder / "models", folder / "backends", http, grpc, metrics
        )
        arguments += [
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={server.cert}",
            f"--grpc-server-key={server.key}",
            f"--grpc-root-cert={authority.cert}",
        ]
        child = Child("triton", arguments, environment, folder / "triton.log")
        child.start()
        try:
            _wait(child, f"http://{HOST}:{http}/v2/models/{MODEL}/ready")
            yield SecuredTriton(f"{HOST}:{grpc}", authority)
        finally:
            child.stop()
            remove_shared_memory(grpc)


def _wait(child: Child, url: str, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert child.alive, child.tail()
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise child.failure("was not ready in time")
