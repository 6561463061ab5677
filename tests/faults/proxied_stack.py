"""The embedded stack on Apache Kafka with a fault proxy before each server. Tests ask the servers themselves; workers
are given the proxies' addresses, and Kafka advertises its proxy to whoever comes through it.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.local import HOST, REPOSITORY, Child, LocalStack, PortLease
from tests.faults.fault_proxy import FaultProxy
from tests.service import Service

_MAP = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT"


class _TwoDoors(LocalStack):
    """Apache Kafka with a second listener, which answers that the broker is to be found at the proxy."""

    def __init__(self, folder: Path, proxy: FaultProxy, **options: Any) -> None:
        self._proxy = proxy
        self._door = PortLease()
        super().__init__(folder, broker="kafka", **options)

    def _make_kafka(self, port: int) -> Child:
        door = self._door.take()
        self._proxy.upstream = f"{HOST}:{door}"
        self._kafka_properties = {
            "listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}:{door},CONTROLLER://{HOST}:{port + 1}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{self._proxy.address}",
            "listener.security.protocol.map": _MAP,
        }
        return super()._make_kafka(port)

    def stop(self, timeout_s: float = 10.0) -> None:
        super().stop(timeout_s)
        self._door.close()


@dataclass(frozen=True, slots=True)
class ProxiedStack:
    """The servers and what stands before them. wrong: while this file exists, Triton's model answers wrongly."""

    stack: LocalStack
    kafka: FaultProxy
    triton: FaultProxy
    milvus: FaultProxy
    wrong: Path

    def service(self, prefix: str, folder: Path, **env: object) -> Service:
        """An installation whose workers reach everything through the proxies."""
        ways: dict[str, Any] = {"triton_url": self.triton.address, "milvus_uri": f"http://{self.milvus.address}"}
        service = Service(self.stack, prefix, folder, **(ways | env))
        service.env["DESIGN_DEDUP_KAFKA_BOOTSTRAP"] = self.kafka.address
        return service

    def heal(self) -> None:
        """Every way is open, every answer right."""
        self.wrong.unlink(missing_ok=True)
        for proxy in (self.kafka, self.triton, self.milvus):
            proxy.heal()


@contextlib.contextmanager
def proxied_stack(folder: Path, jars: Path) -> Iterator[ProxiedStack]:
    """Apache Kafka, Triton and Milvus Lite, each behind a proxy."""
    wrong = folder / "wrong"
    models = _fickle_models(folder / "models", wrong)
    with contextlib.ExitStack() as open_:
        kafka, triton, milvus = (open_.enter_context(FaultProxy()) for _ in range(3))
        stack = open_.enter_context(_TwoDoors(folder / "stack", kafka, kafka_jars=jars, model_repository=models))
        triton.upstream = stack.endpoints.triton_grpc
        milvus.upstream = stack.endpoints.milvus.removeprefix("http://")
        yield ProxiedStack(stack, kafka, triton, milvus, wrong)


def _fickle_models(folder: Path, wrong: Path) -> Path:
    """The shipped model repository, whose model turns its vectors while the file `wrong` exists: finite, of norm 1, of
    the right version, and false."""
    shutil.copytree(REPOSITORY / "triton_models", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "design_encoder/1/model.py").open("a") as model:
        model.write(
            "\n\n_right = TritonPythonModel._embed\n\n\n"
            "def _sometimes_wrong(self, pixels, domain):\n"
            f"    turn = Path({str(wrong)!r}).exists()\n"
            "    return np.roll(_right(self, pixels, domain), int(turn), axis=1)\n\n\n"
            "TritonPythonModel._embed = _sometimes_wrong\n"
        )
    return folder
