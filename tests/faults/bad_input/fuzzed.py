"""What is fuzzed, each in a process of its own, since libFuzzer ends it:
`python -m tests.faults.bad_input.fuzzed TARGET`, and libFuzzer's own options.

Coverage guides it through Python code (ours, Pillow's plugins, httpcore and h11); the inside of msgspec and of the C
decoders is reached by mutations of the seeds alone.
"""

import asyncio
import contextlib
import importlib
import socket
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final
from unittest import mock

import atheris

_INSTRUMENTED: Final = {
    "image": ["streams.embed.images", "PIL"],
    "reference": ["streams.embed.fetch", "httpcore", "httpx"],
    "answer": ["streams.embed.fetch", "httpcore", "h11"],
}
"""It takes seconds, so each target only what it runs through."""

_PLUGINS: Final = ("Jpeg", "Mpo", "Tiff", "Png", "Gif", "WebP", "Avif")
"""Pillow loads them at the first picture, which would be too late to instrument them."""

with atheris.instrument_imports(include=_INSTRUMENTED.get("".join(sys.argv[1:2]), ["streams.events"])):
    import httpcore

    from streams.embed.fetch import Fetcher, FetchLimits, FetchPolicy, is_public
    from streams.embed.images import ImageLimits, check_image
    from streams.errors import DedupError, Fatal, Invalid
    from streams.events import (
        LogRecord,
        decode_design,
        decode_key,
        decode_record,
        decode_update,
        encode_event,
        encode_record,
    )

    if sys.argv[1:2] == ["image"]:
        for plugin in _PLUGINS:
            importlib.import_module(f"PIL.{plugin}ImagePlugin")

_LIMITS: Final = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)
_PUBLIC: Final = "93.184.215.14"


def _design(data: bytes) -> None:
    encode_event(decode_design(data))


def _update(data: bytes) -> None:
    update = decode_update(data)
    encode_event(update)
    decode_record(encode_record(LogRecord(kind="upsert", version=update.version, design_id=update.design_id or "")))


def _key(data: bytes) -> None:
    name = decode_key(data)
    assert name.encode() == data
    assert not any(character < " " or character == "\x7f" for character in name)


def _record(data: bytes) -> None:
    with contextlib.suppress(Fatal):
        encode_record(decode_record(data))


def _image(data: bytes) -> None:
    seen = check_image(data, _LIMITS)
    assert seen.pixels.shape == (1, 224, 224, 3)


class _Network:
    """One public host, which gives one answer; the resolver knows literals only."""

    def __init__(self) -> None:
        self.answer = b""
        self.loop = asyncio.new_event_loop()
        mock.patch.object(socket, "getaddrinfo", partial(socket.getaddrinfo, flags=socket.AI_NUMERICHOST)).start()
        mock.patch.object(httpcore.AnyIOBackend, "connect_tcp", self._connect).start()
        schemes = frozenset({"http", "https", "file"})
        limits = FetchLimits(max_bytes=20_000, timeout_s=5.0, retries=0)
        self._fetcher = Fetcher(FetchPolicy(schemes=schemes, limits=limits))

    async def _connect(self, host: str, *_: Any) -> httpcore.AsyncNetworkStream:
        assert is_public(host), host
        return httpcore.AsyncMockStream([self.answer[n : n + 4096] for n in range(0, len(self.answer), 4096)])

    def fetch(self, uri: str) -> None:
        """With a limit of time that is never reached: nothing here waits."""
        reason = ""
        try:
            body = self.loop.run_until_complete(self._fetcher.fetch(uri))
            assert len(body) <= 20_000
        except Invalid as error:
            str(error).encode()  # it becomes a header
            reason = error.reason
        assert reason != "fetch_timeout"


_network = cache(_Network)


def _reference(data: bytes) -> None:
    _network().fetch(data.decode(errors="surrogateescape"))


def _answer(data: bytes) -> None:
    _network().answer = data
    _network().fetch(f"http://{_PUBLIC}/x")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "design": _design, "update": _update, "key": _key, "record": _record, "image": _image, "reference": _reference,
    "answer": _answer,
}  # fmt: skip


def main() -> None:
    """argv: the target, then what libFuzzer takes."""
    target = TARGETS[sys.argv[1]]

    def once(data: bytes) -> None:
        with contextlib.suppress(DedupError):
            target(data)

    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
