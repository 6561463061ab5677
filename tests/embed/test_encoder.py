"""What the client does with replies, without a server: every wrong one is thrown away whole."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from encoders.preprocess import INPUT_PX, PIXELS, Domain, canary_pixels
from streams.embed.encoder import MAX_BATCH, Canary, Encoder, LocalEncoder, TritonEncoder, check_vectors, model_path
from streams.errors import Fatal, Retryable

Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Spoil = Callable[[Vectors, Any], tuple[Any, Any]]

DIM = 8
VERSION = "0123456789abcdef"
ANSWER = np.eye(DIM, dtype=np.float32)[3]


class Reply:
    def __init__(self, embedding: Any, version: Any) -> None:
        self.outputs = {"embedding": embedding, "version": version}

    def as_numpy(self, name: str) -> Any:
        return self.outputs[name]


class Server:
    """Every client of one URL. Answers rightly unless `spoil` says otherwise."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.clients: list[Client] = []
        self.spoil: Spoil = lambda embedding, version: (embedding, version)
        self.error: BaseException | None = None
        self.hold: asyncio.Event | None = None
        self.lives = True
        self.asked = 0

    def connect(self, url: str) -> "Client":
        self.clients.append(Client(self))
        return self.clients[-1]


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = False

    async def infer(self, model: str, inputs: list[Any], client_timeout: float) -> Any:
        assert model == "design_encoder"
        assert client_timeout == 1.5
        assert not self.closed
        shapes = {tensor.name(): tensor.shape() for tensor in inputs}
        count = shapes["pixels"][0]
        assert shapes["domain"] == [count, 1]
        self.server.requests.append(count)
        if self.server.hold is not None:
            await self.server.hold.wait()
            assert not self.closed
        if self.server.error:
            raise self.server.error
        embedding = np.tile(ANSWER, (count, 1))
        version = np.full((count, 1), VERSION.encode(), dtype=object)
        return Reply(*self.server.spoil(embedding, version))

    async def is_server_live(self, client_timeout: float) -> bool:
        self.server.asked += 1
        if not self.server.lives:
            raise InferenceServerException(f"no answer in {client_timeout:g} s")
        return True

    async def close(self) -> None:
        self.closed = True


def write_canary(folder: Path, **changes: Any) -> Path:
    stored = {
        "version": VERSION,
        "pixels": PIXELS,
        "pixels_sha256": hashlib.sha256(canary_pixels().tobytes()).hexdigest(),
        "vector": ANSWER.tolist(),
    }
    (folder / "canary.json").write_text(json.dumps(stored | changes))
    return folder / "model.onnx"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def failures() -> list[int]:
    return []


@pytest.fixture
async def encoder(tmp_path: Path, server: Server, failures: list[int]) -> AsyncIterator[TritonEncoder]:
    encoder = TritonEncoder(
        "nowhere:1", write_canary(tmp_path), timeout_s=1.5, canary_every_s=60, new_client=server.connect,
        on_canary_failure=lambda: failures.append(1),
    )  # fmt: skip
    yield encoder
    await encoder.close()


def is_healthy(encoder: Encoder) -> bool:
    """Asked through a function, since the type checker believes that an attribute stays as it was."""
    return encoder.healthy


def pictures(n: int) -> tuple[Pixels, list[Domain]]:
    return np.zeros((n, INPUT_PX, INPUT_PX, 3), np.uint8), ["catalog"] * n


async def test_good_replies(encoder: TritonEncoder, server: Server, failures: list[int]) -> None:
    assert not is_healthy(encoder)
    vectors = await encoder.encode(*pictures(3))
    assert vectors.shape == (3, DIM)
    assert vectors.dtype == np.float32
    assert is_healthy(encoder)
    await encoder.encode(*pictures(2))
    assert server.requests == [4, 3]  # the canary rides in each
    assert not failures


async def test_nothing_to_encode_asks_nothing(encoder: TritonEncoder, server: Server) -> None:
    assert (await encoder.encode(*pictures(0))).shape == (0, DIM)
    assert not server.requests


async def test_large_calls_are_split_and_leave_room_for_the_canary(encoder: TritonEncoder, server: Server) -> None:
    assert len(await encoder.encode(*pictures(150))) == 150
    assert server.requests == [64, 64, 25]
    assert max(server.requests) <= MAX_BATCH


async def test_a_model_that_goes_wrong_is_not_believed_once(encoder: TritonEncoder, server: Server) -> None:
    """A wrong vector that looks like any other would stand in the log for ever."""
    for _ in range(3):
        await encoder.encode(*pictures(1))
    server.spoil = lambda e, v: (np.roll(e, 1, axis=1), v)
    with pytest.raises(Retryable, match="canary"):
        await encoder.encode(*pictures(1))


async def test_an_idle_encoder_asks_by_itself(encoder: TritonEncoder, server: Server) -> None:
    encoder._canary_every_s = 0.02
    await encoder.start()
    assert is_healthy(encoder)
    server.error = InferenceServerException("gone")
    await asyncio.sleep(0.1)
    assert not is_healthy(encoder)
    server.error = None
    await asyncio.sleep(0.1)
    assert is_healthy(encoder)
    assert set(server.requests) == {1}


async def test_start_does_not_wait_for_a_server_that_is_down(encoder: TritonEncoder, server: Server) -> None:
    server.error = InferenceServerException("not there")
    await encoder.start()
    assert not is_healthy(encoder)


def spoiled(name: str) -> Spoil:
    def nan(e: Vectors, v: Any) -> tuple[Vectors, Any]:
        e[0, 0] = np.nan
        return e, v

    def canary_only(e: Vectors, v: Any) -> tuple[Vectors, Any]:
        e[-1] = np.eye(DIM, dtype=np.float32)[4]
        return e, v

    def mixed_versions(e: Vectors, v: Any) -> tuple[Vectors, Any]:
        v[0, 0] = b"fedcba9876543210"
        return e, v

    return {
        "nan": nan,
        "infinite": lambda e, v: (np.full_like(e, np.inf), v),
        "all zero": lambda e, v: (e * 0, v),
        "norm": lambda e, v: (e * np.float32(1.01), v),
        "too few": lambda e, v: (e[:-1], v[:-1]),
        "too many": lambda e, v: (np.concatenate([e, e]), np.concatenate([v, v])),
        "dimension": lambda e, v: (np.concatenate([e, e * 0], axis=1), v),
        "type": lambda e, v: (e.astype(np.float64), v),
        "flat": lambda e, v: (e.ravel(), v),
        "no vectors": lambda e, v: (None, v),
        "no version": lambda e, v: (e, None),
        "version": lambda e, v: (e, np.full_like(v, b"fedcba9876543210")),
        "mixed versions": mixed_versions,
        "version count": lambda e, v: (e, v[:1]),
        "canary": canary_only,
        "canary a little": lambda e, v: ((e + 2e-3 * np.eye(DIM)[5]).astype(np.float32), v),
    }[name]


BAD = ["nan", "infinite", "all zero", "norm", "too few", "too many", "dimension", "type", "flat", "no vectors",
       "no version", "version", "mixed versions", "version count", "canary", "canary a little"]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_replies_are_thrown_away(
    encoder: TritonEncoder, server: Server, failures: list[int], name: str
) -> None:
    server.spoil = spoiled(name)
    with pytest.raises(Retryable):
        await encoder.encode(*pictures(2))
    assert not is_healthy(encoder)
    assert failures == [1]
    assert server.clients[0].closed
    server.spoil = lambda e, v: (e, v)
    assert len(await encoder.encode(*pictures(2))) == 2
    assert is_healthy(encoder)
    assert server.requests == [3, 3]  # a new connection begins with the canary
    assert len(server.clients) == 2


async def test_a_reply_that_cannot_be_parsed(encoder: TritonEncoder, server: Server, failures: list[int]) -> None:
    class Broken:
        def as_numpy(self, name: str) -> Any:
            raise ValueError("cannot reshape array")

    server.spoil = lambda e, v: (e, v)
    await encoder.encode(*pictures(1))

    async def infer(model: str, inputs: list[Any], client_timeout: float) -> Any:
        return Broken()

    server.clients[0].infer = infer  # type: ignore[method-assign]
    with pytest.raises(Retryable, match="cannot be read"):
        await encoder.encode(*pictures(1))
    assert failures == [1]


@pytest.mark.parametrize(
    "error", [InferenceServerException("UNAVAILABLE"), OSError("network"), asyncio.CancelledError()]
)
async def test_an_outage_is_retryable_and_no_canary_failure(
    encoder: TritonEncoder, server: Server, failures: list[int], error: BaseException
) -> None:
    server.error = error
    with pytest.raises(Retryable):
        await encoder.encode(*pictures(1))
    assert not is_healthy(encoder)
    assert not failures
    assert server.clients[0].closed


async def test_a_silent_connection_is_given_up_long_before_the_deadline(
    encoder: TritonEncoder, server: Server, failures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.embed.encoder._SILENCE_S", 0.01)
    await encoder.encode(*pictures(1))
    server.hold, server.lives = asyncio.Event(), False
    with pytest.raises(Retryable, match="no answer"):
        await encoder.encode(*pictures(1))
    assert not failures
    assert server.clients[0].closed
    server.hold = None
    assert len(await encoder.encode(*pictures(1))) == 1
    assert len(server.clients) == 2


async def test_a_server_that_lives_may_take_its_time(
    encoder: TritonEncoder, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.embed.encoder._SILENCE_S", 0.01)
    server.hold = asyncio.Event()
    slow = asyncio.create_task(encoder.encode(*pictures(2)))
    while server.asked < 3:  # noqa: ASYNC110 - a double counts, it announces nothing
        await asyncio.sleep(0.01)
    server.hold.set()
    assert len(await slow) == 2
    assert len(server.clients) == 1


async def test_cancelling_the_caller_is_not_an_outage(encoder: TritonEncoder, server: Server) -> None:
    server.hold = asyncio.Event()
    call = asyncio.create_task(encoder.encode(*pictures(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_client_is_not_closed_under_another_call(encoder: TritonEncoder, server: Server) -> None:
    await encoder.encode(*pictures(1))
    server.hold = asyncio.Event()
    slow = asyncio.create_task(encoder.encode(*pictures(2)))
    await asyncio.sleep(0)
    assert encoder._connection is not None
    encoder._discard(encoder._connection, no_reply=True)
    server.hold.set()
    assert len(await slow) == 2
    assert server.clients[0].closed


async def test_what_is_under_way_beside_a_wrong_answer_is_not_believed(encoder: TritonEncoder, server: Server) -> None:
    await encoder.encode(*pictures(1))
    server.hold = asyncio.Event()
    slow = asyncio.create_task(encoder.encode(*pictures(2)))
    await asyncio.sleep(0)
    assert encoder._connection is not None
    encoder._discard(encoder._connection, no_reply=False)
    server.hold.set()
    with pytest.raises(Retryable, match="another answer"):
        await slow


async def test_arguments_are_the_callers_fault(encoder: TritonEncoder) -> None:
    pixels, domains = pictures(2)
    for wrong in ((pixels.astype(np.float32), domains), (pixels[:, :10], domains), (pixels, domains[:1])):
        with pytest.raises(ValueError, match=r"pictures|pixels"):
            await encoder.encode(*wrong)
    with pytest.raises(ValueError, match="domain"):
        await encoder.encode(pixels, ["catalog", "photo"])  # type: ignore[list-item]


async def test_after_close(encoder: TritonEncoder, server: Server) -> None:
    await encoder.start()
    await encoder.close()
    await encoder.close()
    assert server.clients[0].closed
    with pytest.raises(Retryable, match="closed"):
        await encoder.encode(*pictures(1))


@pytest.mark.parametrize("changes", [{"pixels": 1}, {"pixels_sha256": "00"}, {"vector": "x"}, {"vector": ["x"]}])
def test_a_canary_that_does_not_belong(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Fatal, match=r"canary\.json|made for pixels 1"):
        Canary.beside(write_canary(tmp_path, **changes))


def test_no_canary(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"encoders\.training\.export"):
        Canary.beside(tmp_path / "model.onnx")


async def test_a_model_file_of_another_version_is_not_loaded(tmp_path: Path) -> None:
    model = write_canary(tmp_path)
    model.write_bytes(b"something else")
    encoder = LocalEncoder(model)
    with pytest.raises(Fatal, match=VERSION):
        await encoder.start()
    assert not is_healthy(encoder)
    with pytest.raises(Retryable):
        await encoder.encode(*pictures(1))
    await encoder.close()


def test_norms_at_the_tolerance() -> None:
    check_vectors(np.array([[1.0009, 0]], np.float32), 1, 2)
    with pytest.raises(Retryable):
        check_vectors(np.array([[1.0011, 0]], np.float32), 1, 2)


def test_where_the_model_lies(tmp_path: Path) -> None:
    assert model_path(tmp_path) == tmp_path / "design_encoder/1/model.onnx"
