"""One contract, three encoders: in process, a real Triton from the wheel, and the double. Then what only a server can
do wrong.
"""

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc.aio
from onnx import numpy_helper
from PIL import Image
from tritonclient.utils import InferenceServerException

from encoders.preprocess import INPUT_PX, Domain, canary_pixels, encoder_version, to_pixels
from streams.embed.encoder import Encoder, LocalEncoder, Pixels, TritonEncoder, Vectors, model_path
from streams.errors import Fatal, Retryable
from streams.local_triton import prepare_repository, remove_shared_memory, triton_command
from tests.doubles import MemoryEncoder

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "triton_models"
MODEL = model_path(REPOSITORY)
VENV = ROOT / ".venv-triton"

needs_triton = pytest.mark.skipif(
    not (VENV / "bin/python3").exists(), reason="no .venv-triton: pip install -r infra/locks/triton.txt there"
)


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_ready(http: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class Triton:
    """A server of its own on free ports; its output goes to a file."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.ports = free_ports(3)
        self.url = f"127.0.0.1:{self.ports[1]}"
        self.log = folder / "triton.log"
        self.arguments, self.environment = triton_command(VENV, repository, folder / "backends", *self.ports)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.arguments, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not is_ready(self.ports[0]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Triton did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
            self.process = None
        remove_shared_memory(self.ports[1])


@contextlib.contextmanager
def running(folder: Path, repository: Path) -> Iterator[Triton]:
    server = Triton(folder, repository)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    if not (VENV / "bin/python3").exists():
        pytest.skip("no .venv-triton: pip install -r infra/locks/triton.txt there")
    folder = tmp_path_factory.mktemp("triton")
    prepare_repository(REPOSITORY, folder / "models", instances=1, threads=1)
    with running(folder, folder / "models") as server:
        yield server


@pytest.fixture(params=["local", "memory", pytest.param("triton", marks=pytest.mark.stack)])
async def encoder(request: pytest.FixtureRequest) -> AsyncIterator[Encoder]:
    encoder: Encoder
    match request.param:
        case "local":
            encoder = LocalEncoder(MODEL)
        case "memory":
            encoder = double()
        case _:
            encoder = TritonEncoder(request.getfixturevalue("triton").url, MODEL)
    await encoder.start()
    yield encoder
    await encoder.close()


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """Smooth pictures of various shapes; noise alone would all look the same to the network."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(70):
        coarse = Image.fromarray(rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), np.uint8))
        made.append(to_pixels(coarse.resize(tuple(rng.integers(40, 400, 2)), Image.Resampling.BICUBIC)))
    return np.stack(made)


def double() -> MemoryEncoder:
    return MemoryEncoder(encoder_version(MODEL), 256)


@pytest.fixture(scope="module")
def alone_in_the_model(photos: Pixels) -> Vectors:
    return _one_by_one(LocalEncoder(MODEL), photos)


@pytest.fixture(scope="module")
def alone_in_the_double(photos: Pixels) -> Vectors:
    return _one_by_one(double(), photos)


@pytest.fixture
def alone(request: pytest.FixtureRequest) -> Vectors:
    """Every picture's vector, encoded in process and by itself."""
    call = getattr(request.node, "callspec", None)
    of_double = call is not None and call.params.get("encoder") == "memory"
    answer: Vectors = request.getfixturevalue("alone_in_the_double" if of_double else "alone_in_the_model")
    return answer


def _one_by_one(encoder: Encoder, photos: Pixels) -> Vectors:
    async def encode() -> Vectors:
        await encoder.start()
        rows = [await encoder.encode(photo[None], ["catalog"]) for photo in photos]
        await encoder.close()
        return np.concatenate(rows)

    return asyncio.run(encode())


async def test_says_which_model_it_is(encoder: Encoder) -> None:
    assert is_healthy(encoder)
    assert encoder.version == encoder_version(MODEL)
    assert encoder.dim == 256


async def test_unit_vectors_in_order(encoder: Encoder, photos: Pixels, alone: Vectors) -> None:
    vectors = await encoder.encode(photos[:5], ["catalog"] * 5)
    assert vectors.shape == (5, 256)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (np.argmax(vectors @ alone[:5].T, axis=1) == np.arange(5)).all()


async def test_a_vector_depends_on_its_picture_alone(encoder: Encoder, photos: Pixels, alone: Vectors) -> None:
    for part in (slice(0, 1), slice(1, 4), slice(4, 70), slice(3, 20)):
        n = len(photos[part])
        assert np.abs(await encoder.encode(photos[part], ["catalog"] * n) - alone[part]).max() < 1e-4


async def test_calls_at_the_same_time(encoder: Encoder, photos: Pixels, alone: Vectors) -> None:
    parts = [slice(i, i + 1 + i % 4) for i in range(12)]
    domains: list[Domain] = ["generated", "catalog", "generated", "catalog"]
    calls = (encoder.encode(photos[part], domains[: part.stop - part.start]) for part in parts)
    answers = await asyncio.gather(*calls)
    for part, vectors in zip(parts, answers, strict=True):
        assert np.abs(vectors - alone[part]).max() < 1e-4  # the first model ignores the domain


async def test_nothing(encoder: Encoder) -> None:
    assert (await encoder.encode(np.empty((0, INPUT_PX, INPUT_PX, 3), np.uint8), [])).shape == (0, 256)


async def test_extreme_pictures(encoder: Encoder) -> None:
    extremes = np.stack([np.full((INPUT_PX, INPUT_PX, 3), value, np.uint8) for value in (0, 255)])
    assert np.isfinite(await encoder.encode(extremes, ["catalog", "generated"])).all()


async def test_wrong_arguments(encoder: Encoder, photos: Pixels) -> None:
    with pytest.raises(ValueError, match="domain"):
        await encoder.encode(photos[:2], ["catalog"])
    with pytest.raises(ValueError, match="pixels"):
        await encoder.encode(photos[:2].astype(np.float32), ["catalog"] * 2)


async def test_close_twice(encoder: Encoder, photos: Pixels) -> None:
    await encoder.close()
    await encoder.close()
    assert not is_healthy(encoder)
    with pytest.raises(Retryable):
        await encoder.encode(photos[:1], ["catalog"])


@pytest.mark.stack
async def test_the_server_refuses_one_request_and_answers_its_neighbours(triton: Triton) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(triton.url) as client:

        async def ask(domain: int) -> Any:
            pixels = tritonclient.grpc.aio.InferInput("pixels", [1, INPUT_PX, INPUT_PX, 3], "UINT8")
            pixels.set_data_from_numpy(canary_pixels()[None])
            column = tritonclient.grpc.aio.InferInput("domain", [1, 1], "INT32")
            column.set_data_from_numpy(np.array([[domain]], np.int32))
            return await client.infer("design_encoder", [pixels, column], client_timeout=20)

        answers = await asyncio.gather(*(ask(domain) for domain in (0, 1, 7, 0, -1)), return_exceptions=True)
    bad = [isinstance(answer, InferenceServerException) and "domain must be" in str(answer) for answer in answers]
    assert bad == [False, False, True, False, True]
    assert not isinstance(answers[0], BaseException)
    assert answers[0].as_numpy("version").tolist() == [[encoder_version(MODEL).encode()]]


@pytest.mark.stack
@needs_triton
@pytest.mark.parametrize("liar", [False, True], ids=["another version", "claims to be the right version"])
async def test_a_wrong_model_is_refused(tmp_path: Path, photos: Pixels, liar: bool) -> None:
    prepare_repository(REPOSITORY, tmp_path / "models", instances=1, threads=1)
    wrong = model_path(tmp_path / "models")
    model = onnx.load(wrong)
    bias = next(one for one in model.graph.initializer if one.name == "late.structure.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    onnx.save(model, wrong)
    if liar:
        script = wrong.with_name("model.py")
        honest = "hashlib.sha256(path.read_bytes()).hexdigest()[:16].encode()"
        assert honest in script.read_text()
        script.write_text(script.read_text().replace(honest, repr(encoder_version(MODEL).encode())))
    failures: list[int] = []
    with running(tmp_path, tmp_path / "models") as server:
        encoder = TritonEncoder(server.url, MODEL, on_canary_failure=lambda: failures.append(1))
        await encoder.start()
        assert not is_healthy(encoder)
        with pytest.raises(Retryable, match="canary" if liar else "expects"):
            await encoder.encode(photos[:3], ["catalog"] * 3)
        assert not is_healthy(encoder)
        assert len(failures) >= 2
        await encoder.close()


def is_healthy(encoder: Encoder) -> bool:
    """Asked through a function, since the type checker believes that an attribute stays as it was."""
    return encoder.healthy


async def encode_often(encoder: Encoder, pixels: Pixels) -> None:
    for _ in range(20):
        await encoder.encode(pixels, ["catalog"] * len(pixels))


@pytest.mark.stack
@needs_triton
async def test_a_dead_stub_and_a_dead_server(tmp_path: Path, photos: Pixels, alone: Vectors) -> None:
    prepare_repository(REPOSITORY, tmp_path / "models", instances=2, threads=1)
    with running(tmp_path, tmp_path / "models") as server:
        encoder = TritonEncoder(server.url, MODEL, timeout_s=5)
        await encoder.start()
        assert is_healthy(encoder)
        assert server.process is not None
        for stub in psutil.Process(server.process.pid).children(recursive=True):
            stub.kill()
        with pytest.raises(Retryable):
            await encode_often(encoder, photos[:2])
        assert not is_healthy(encoder)
        server.stop()
        with pytest.raises(Retryable):
            await encoder.encode(photos[:2], ["catalog"] * 2)
        server.start()
        for _ in range(200):
            if not is_healthy(encoder):
                await asyncio.sleep(0.1)  # the idle canary finds the new server by itself
        assert np.abs(await encoder.encode(photos[:2], ["catalog"] * 2) - alone[:2]).max() < 1e-4
        await encoder.close()


def test_the_model_refuses_to_load_under_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test environment has NumPy 2, so loading the model here must fail."""

    class ModelError(Exception):
        pass

    backend = types.SimpleNamespace(TritonModelException=ModelError)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    spec = importlib.util.spec_from_file_location("design_encoder_model", MODEL.with_name("model.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ModelError, match="NumPy 2"):
        module.TritonPythonModel().initialize({})


def test_the_repository_copy_has_the_numbers_asked_for(tmp_path: Path) -> None:
    prepare_repository(REPOSITORY, tmp_path / "models", instances=3, threads=2)
    prepare_repository(REPOSITORY, tmp_path / "models", instances=4, threads=5)  # made anew
    config = (tmp_path / "models/design_encoder/config.pbtxt").read_text()
    assert "instance_group [ { count: 4 kind: KIND_CPU } ]" in config
    assert 'parameters { key: "intra_op_threads" value: { string_value: "5" } }' in config
    assert encoder_version(model_path(tmp_path / "models")) == encoder_version(MODEL)


def test_a_repository_without_these_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a/m").mkdir(parents=True)
    (tmp_path / "a/m/config.pbtxt").write_text('name: "m"\n')
    with pytest.raises(Fatal, match="instance_group"):
        prepare_repository(tmp_path / "a", tmp_path / "b", 1, 1)


def test_an_environment_without_triton_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="nvidia-pytriton"):
        triton_command(tmp_path, tmp_path, tmp_path, 1, 2, 3)
