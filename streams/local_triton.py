"""How to start the Triton server that comes in the wheel `nvidia-pytriton`: its command line, its environment, and the
folders it wants. Not for starting or watching the process: `streams/local.py` and the tests do that.

The wheel holds a complete tritonserver (2.51) whose only backend is Python. It needs NumPy below 2, so it lives in an
environment of its own (infra/locks/triton.txt).
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from streams.errors import Fatal

_LOCAL: Final = "127.0.0.1"
_CONFIG: Final = "config.pbtxt"


def prepare_repository(source: Path, target: Path, instances: int, threads: int) -> None:
    """Copy a model repository to `target` (made anew), with these numbers of instances and of ONNX Runtime threads."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for config in target.glob(f"*/{_CONFIG}"):
        text = config.read_text()
        text, counts = re.subn(r"(instance_group\s*\[\s*\{\s*count:\s*)\d+", rf"\g<1>{instances}", text)
        text, values = re.subn(
            r'(key:\s*"intra_op_threads"\s*value:\s*\{\s*string_value:\s*)"\d+"', rf'\g<1>"{threads}"', text
        )
        if counts != 1 or values != 1:
            raise Fatal(f"{config}: expected one instance_group with a count and one parameter intra_op_threads")
        config.write_text(text)


def triton_command(
    venv: Path, model_repository: Path, backend_dir: Path, http_port: int, grpc_port: int, metrics_port: int
) -> tuple[list[str], dict[str, str]]:
    """Arguments and complete environment for the server; fills `backend_dir` with the Python backend.

    Everything is bound to 127.0.0.1. The environment holds nothing of the caller's: the server needs none of it. Shared
    memory is named after the gRPC port (`remove_shared_memory` clears what a killed server left).
    """
    packages, version = _site_packages(venv)
    triton = packages / "pytriton/tritonserver"
    server = triton / "bin/tritonserver"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    for needed in (server, stub):
        if not needed.is_file():
            raise Fatal(f"{needed} is missing: make the environment again from infra/locks/triton.txt")
    backend = backend_dir / "python"
    if backend.exists():
        shutil.rmtree(backend)
    shutil.copytree(triton / "backends/python", backend, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, backend / stub.name)
    arguments = [
        str(server),
        f"--model-repository={model_repository.resolve()}",
        f"--backend-directory={backend_dir.resolve()}",
        "--disable-auto-complete-config",
        f"--http-address={_LOCAL}",
        f"--http-port={http_port}",
        f"--grpc-address={_LOCAL}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={_LOCAL}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix(grpc_port)}",
        "--backend-config=python,shm-default-byte-size=33554432",  # 64 pictures are 9.6 MB: no growing while it serves
    ]
    environment = {
        # The Python backend runs the first python3 on PATH, whatever PYTHONPATH says.
        "PATH": f"{(venv / 'bin').resolve()}:/usr/local/bin:/usr/bin:/bin",
        "ORT_DISABLE_TELEMETRY": "1",
        "LD_LIBRARY_PATH": f"{_library_dir(venv)}:{(packages / 'nvidia_pytriton.libs').resolve()}",
        "HOME": str(backend_dir.resolve()),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return arguments, environment


def remove_shared_memory(grpc_port: int) -> None:
    """Delete the shared memory of a server that ended; one that was killed leaves its own behind. POSIX on Linux."""
    for region in Path("/dev/shm").glob(f"{_shared_memory_prefix(grpc_port)}*"):  # noqa: S108 - the place itself is meant
        region.unlink(missing_ok=True)


def _shared_memory_prefix(grpc_port: int) -> str:
    return f"design_dedup_{grpc_port}_"


def _site_packages(venv: Path) -> tuple[Path, str]:
    """The packages folder of an environment and its Python version, such as 3.11."""
    for packages in (venv / "lib").glob("python3.*/site-packages"):
        if (packages / "pytriton").is_dir():
            return packages, packages.parent.name.removeprefix("python")
    raise Fatal(f"{venv} holds no nvidia-pytriton: make it from infra/locks/triton.txt")


def _library_dir(venv: Path) -> str:
    """Where libpython of the environment's interpreter lies; the stub links against it."""
    command = [str(venv / "bin/python3"), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
