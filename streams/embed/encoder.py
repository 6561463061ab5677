"""Pixels to unit vectors, by Triton or in process, and never a vector that was not checked.

The log keeps vectors for ever, and Triton's health endpoints stay green when its Python process is dead or wrong. So
every reply is checked (count, shape, finite, length one, the model's version) and the canary, a picture with a known
answer, rides in every request: one of several instances may be wrong, and for a moment only. A reply that fails is
thrown away whole. A server that takes long is asked whether it lives, since a connection that a network has forgotten
stays open and silent for ever. Not for retrying (the caller does, on `Retryable`) nor for rounding to the lattice
(`streams/events.py`).
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import numpy as np
import onnxruntime
import tritonclient.grpc.aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from encoders.preprocess import INPUT_PX, PIXELS, Domain, canary_pixels, domain_index, encoder_version
from streams.errors import Fatal, Retryable

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

MODEL_NAME: Final = "design_encoder"
MAX_BATCH: Final = 64
"""Most pictures in one request, the canary included: `max_batch_size` in the model's config.pbtxt."""

TOLERANCE: Final = 1e-3
"""Largest error of a norm and of any coordinate of the canary. Processors differ by about 1e-6."""

_SILENCE_S: Final = 1.0
"""A call that takes longer makes the client ask whether the server lives; health is answered beside the model."""

_SIGN_OF_LIFE_S: Final = 1.5
"""And so long may that answer take."""

_LOCAL_BATCH: Final = 16
_PICTURE: Final = (INPUT_PX, INPUT_PX, 3)
_CHANNEL: Final = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # Triton stands beside the workers; a proxy of the environment is not meant for it
    ("grpc.use_local_subchannel_pool", 1),  # or a new client would get the broken connection of the old one
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def model_path(repository: Path) -> Path:
    """The ONNX file inside a Triton model repository."""
    return repository / MODEL_NAME / "1/model.onnx"


class Encoder(Protocol):
    """Pictures in, unit vectors out. `version` names the vector space: vectors of two versions are never compared."""

    @property
    def version(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the ONNX file."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def healthy(self) -> bool:
        """Whether the last canary was right. False before the first one."""

    async def start(self) -> None:
        """Make ready. Does not wait for a server that is down: `healthy` says when it is there."""

    async def encode(self, pixels: Pixels, domains: Sequence[Domain]) -> Vectors:
        """One vector for each picture, independent of what else is in the call; Retryable when no good answer came.

        Shape: (n, 224, 224, 3) uint8 RGB and n domains -> (n, dim) float32, rows of norm 1.
        """

    async def close(self) -> None:
        """Release everything. May be called twice, and without `start`."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The picture whose vector is known, for one version of the model.

    Shape: pixels (224, 224, 3), vector (dim,).
    """

    version: str
    pixels: Pixels
    vector: Vectors

    @classmethod
    def beside(cls, model: Path) -> "Canary":
        """The one stored next to a model file by `encoders.training.export`."""
        path = model.with_name("canary.json")
        try:
            stored = json.loads(path.read_text())
            version, digest = str(stored["version"]), stored["pixels_sha256"]
            vector = np.array(stored["vector"], np.float32)
        except (OSError, ValueError, KeyError) as error:
            raise Fatal(
                f"{path} cannot be used: {error!r}; make the model again with encoders.training.export"
            ) from error
        if (number := stored.get("pixels", 1)) != PIXELS:
            raise Fatal(f"{model} was made for pixels {number}, and this version makes pixels {PIXELS}; make it anew")
        pixels = canary_pixels()
        if hashlib.sha256(pixels.tobytes()).hexdigest() != digest:
            raise Fatal(f"{path} belongs to another canary picture; make it again with encoders.training.export")
        return cls(version, pixels, vector)

    def check(self, answer: Vectors) -> None:
        """Raise Retryable unless the model's answer to the picture is the known one. Shape: (dim,)."""
        error = float(np.abs(answer - self.vector).max())
        if not error <= TOLERANCE:
            raise Retryable(f"the encoder answers the canary wrongly: off by {error:.2g}, more than {TOLERANCE}")


def check_vectors(vectors: NDArray[Any], count: int, dim: int) -> None:
    """Raise Retryable unless this is a float32 array (count, dim) of finite rows of norm 1."""
    if vectors.shape != (count, dim) or vectors.dtype != np.float32:
        raise Retryable(f"the encoder answered {vectors.dtype} {vectors.shape}, expected float32 {(count, dim)}")
    off = np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1)
    if not (off <= TOLERANCE).all():  # false for NaN too
        raise Retryable(f"the encoder answered {int((~(off <= TOLERANCE)).sum())} of {count} vectors without norm 1")


def _domain_column(pixels: Pixels, domains: Sequence[Domain]) -> NDArray[np.int32]:
    """Check the arguments of `encode` (a mistake here is the caller's: ValueError). Shape: n domains -> (n, 1)."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != _PICTURE:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (n, {INPUT_PX}, {INPUT_PX}, 3)")
    if len(domains) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures but {len(domains)} domains")
    return np.array([domain_index(domain) for domain in domains], np.int32).reshape(-1, 1)


class LocalEncoder:
    """The same ONNX file in this process: for tests, the command line and machines without Triton."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        self._model = model
        self._threads = threads
        self._canary = Canary.beside(model)
        self._session: Any = None
        self._executor: ThreadPoolExecutor | None = None
        self.version = self._canary.version
        self.dim = len(self._canary.vector)
        self.healthy = False

    async def start(self) -> None:
        """Load the model and ask it the canary; Fatal when file, record and answer do not belong together."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="encoder")
            await asyncio.get_running_loop().run_in_executor(self._executor, self._load)

    async def encode(self, pixels: Pixels, domains: Sequence[Domain]) -> Vectors:
        """See `Encoder.encode`."""
        column = _domain_column(pixels, domains)
        if self._executor is None or not self.healthy:
            raise Retryable("the local encoder is not started")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, pixels, column)

    async def close(self) -> None:
        """See `Encoder.close`."""
        executor, self._executor, self.healthy = self._executor, None, False
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
        self._session = None

    def _load(self) -> None:
        found = encoder_version(self._model)
        if found != self.version:
            raise Fatal(f"{self._model} is version {found}, but its canary.json is of {self.version}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(self._model), options, providers=["CPUExecutionProvider"])
        try:
            self._canary.check(self._run(self._canary.pixels[None], np.zeros((1, 1), np.int32))[0])
        except Retryable as error:
            raise Fatal(f"{self._model}: {error}") from error
        self.healthy = True

    def _run(self, pixels: Pixels, column: NDArray[np.int32]) -> Vectors:
        """Shape: (n, 224, 224, 3) and (n, 1) -> (n, dim)."""
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), _LOCAL_BATCH):
            part = slice(start, start + _LOCAL_BATCH)
            vectors[part] = self._session.run(["embedding"], {"pixels": pixels[part], "domain": column[part]})[0]
        check_vectors(vectors, len(pixels), self.dim)
        return vectors


@dataclass(slots=True)
class _Connection:
    """One client. It is closed when it is broken and its last call has ended, never under another call's feet."""

    client: Any
    calls: int = 0
    broken: bool = False
    wrong: bool = False  # it gave an answer that failed a check: what else is under way on it is not believed either
    canary_at: float = field(default=-np.inf)  # when the last good canary was sent; monotonic seconds


class TritonEncoder:
    """Triton over gRPC. Needs the model's canary.json on this side, which also says which version must answer."""

    def __init__(
        self,
        url: str,
        model: Path,
        timeout_s: float = 10.0,
        canary_every_s: float = 1.0,
        on_canary_failure: Callable[[], None] = lambda: None,
        new_client: Callable[[str], Any] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`on_canary_failure` is called for every reply that was thrown away. `new_client` is for tests. With
        `credentials` the connection is TLS."""
        self._url = url
        self._timeout_s = timeout_s
        self._canary_every_s = canary_every_s
        self._on_canary_failure = on_canary_failure
        self._new_client = new_client or functools.partial(_client, credentials=credentials)
        self._canary = Canary.beside(model)
        self._connection: _Connection | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closed = False
        self.version = self._canary.version
        self.dim = len(self._canary.vector)
        self.healthy = False

    async def start(self) -> None:
        """Begin asking the canary when no request has carried it, so that `healthy` is true of an idle worker too."""
        if self._probe is None and not self._closed:
            with contextlib.suppress(Retryable):
                await self._ask_canary()
            self._probe = asyncio.create_task(self._keep_asking(), name="encoder-canary")

    async def encode(self, pixels: Pixels, domains: Sequence[Domain]) -> Vectors:
        """See `Encoder.encode`. Larger calls than one request holds are sent one request after the other."""
        column = _domain_column(pixels, domains)
        size = MAX_BATCH - 1  # leaves room for the canary
        starts = range(0, len(pixels), size)
        parts = [await self._request(pixels[s : s + size], column[s : s + size]) for s in starts]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    async def close(self) -> None:
        """See `Encoder.close`. Calls in flight end with Retryable."""
        self._closed, self.healthy = True, False
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.broken = True
            await connection.client.close()

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(self._canary_every_s)
            connection = self._connection
            if connection is None or time.monotonic() - connection.canary_at >= self._canary_every_s:
                with contextlib.suppress(Retryable):
                    await self._ask_canary()

    async def _ask_canary(self) -> None:
        await self._request(np.empty((0, *_PICTURE), np.uint8), np.empty((0, 1), np.int32))

    async def _request(self, pixels: Pixels, column: NDArray[np.int32]) -> Vectors:
        """One request, with the canary as its last row.

        Shape: (n, 224, 224, 3) and (n, 1) -> (n, dim).
        """
        if self._closed:
            raise Retryable("the encoder is closed")
        connection = self._connection = self._connection or _Connection(self._new_client(self._url))
        count, sent_at = len(pixels), time.monotonic()
        # Built here and held by nobody else: a large batch is waited for long, by several requests at once.
        inputs = _inputs(
            np.concatenate([pixels, self._canary.pixels[None]]), np.concatenate([column, np.zeros((1, 1), np.int32)])
        )
        connection.calls += 1
        try:
            vectors = self._checked(await self._infer(connection, inputs), count + 1)
            self._canary.check(vectors[-1])
            if connection.wrong:
                raise Retryable("another answer on this connection failed its check")
        except Retryable as error:
            self._discard(connection, isinstance(error, _NoReply))
            raise
        finally:
            connection.calls -= 1
            if connection.broken and not connection.calls:
                await connection.client.close()
        connection.canary_at = max(connection.canary_at, sent_at)
        self.healthy = not self._closed
        return vectors[:count]

    async def _infer(self, connection: _Connection, inputs: list[Any]) -> Any:
        call = asyncio.ensure_future(connection.client.infer(MODEL_NAME, inputs, client_timeout=self._timeout_s))
        call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # looked at, whoever gave it up
        try:
            # gRPC's own keep-alive would do, but a Triton that is asked so often closes the connection.
            while not (await asyncio.wait((call,), timeout=_SILENCE_S))[0]:
                await connection.client.is_server_live(client_timeout=_SIGN_OF_LIFE_S)
            return call.result()
        except (InferenceServerException, grpc.RpcError, grpc.aio.UsageError, OSError) as error:
            raise _NoReply(f"Triton at {self._url}: {error}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _NoReply("the connection was closed during a call") from None  # gRPC says so by this exception
        finally:
            call.cancel()

    def _checked(self, reply: Any, count: int) -> Vectors:
        """The vectors of a reply, all of them good, all of this version."""
        try:
            vectors, versions = reply.as_numpy("embedding"), reply.as_numpy("version")
        except (ValueError, TypeError, IndexError, KeyError, struct.error) as error:
            raise Retryable(f"the reply of Triton cannot be read: {error!r}") from error
        if vectors is None or versions is None:
            raise Retryable("the reply of Triton lacks embedding or version")
        found = {value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in versions.flat}
        if versions.shape != (count, 1) or found != {self.version}:
            raise Retryable(f"Triton runs encoder {', '.join(sorted(found))}, this worker expects {self.version}")
        check_vectors(vectors, count, self.dim)
        return np.asarray(vectors, np.float32)

    def _discard(self, connection: _Connection, no_reply: bool) -> None:
        """After a failure: not healthy, a new client next time. A wrong reply counts; a missing one is an outage."""
        self.healthy = False
        connection.broken = True
        if self._connection is connection:
            self._connection = None
        if not no_reply:
            connection.wrong = True
            self._on_canary_failure()


class _NoReply(Retryable):
    """No reply came at all."""


def _inputs(pixels: Pixels, column: NDArray[np.int32]) -> list[Any]:
    inputs = []
    for name, array, kind in (("pixels", pixels, "UINT8"), ("domain", column, "INT32")):
        tensor = tritonclient.grpc.aio.InferInput(name, array.shape, kind)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def _client(url: str, credentials: grpc.ChannelCredentials | None = None) -> Any:
    return tritonclient.grpc.aio.InferenceServerClient(url, channel_args=_CHANNEL, creds=credentials)
