"""Servers of pictures that lie, dawdle or never end."""

import asyncio
import gzip
import itertools
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Of a request and the way back."""

OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
_DRIP_S: Final = 0.02


def says(parts: Iterable[bytes], pause_s: float = 0.0) -> Handler:
    """Writes the parts one after the other, then hangs up."""

    async def handler(_: bytes, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)

    return handler


def forever(head: bytes, part: bytes, pause_s: float = 0.0) -> Handler:
    """Writes `head` once and `part` again and again."""

    async def handler(request: bytes, writer: asyncio.StreamWriter) -> None:
        await says(itertools.chain([head], itertools.repeat(part)), pause_s)(request, writer)

    return handler


async def silent(_: bytes, __: asyncio.StreamWriter) -> None:
    """Accepts, and says nothing."""
    await asyncio.sleep(3600)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port where `handler` answers every request."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            await handler(request, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def _coded(name: bytes, body: bytes) -> Handler:
    return says([OK + b"Content-Encoding: " + name + b"\r\nContent-Length: %d\r\n\r\n" % len(body), body])


def bodies(max_bytes: int) -> dict[str, tuple[Handler, frozenset[str]]]:
    """What each server does, and the reasons that may come of it."""
    timeout, broken, large = frozenset({"fetch_timeout"}), frozenset({"unreachable"}), frozenset({"too_large"})
    endless = b"x" * 65536
    bomb = gzip.compress(bytes(50 * max_bytes))
    return {
        "says nothing": (silent, timeout),
        "drips a status line": (forever(b"", b"H", _DRIP_S), timeout | broken),
        "drips headers": (forever(OK, b"a: b\r\n", _DRIP_S), timeout),
        "drips a body": (forever(OK + b"Content-Length: 5000\r\n\r\n", b"x", _DRIP_S), timeout),
        "drips chunks": (forever(CHUNKED, b"1\r\nx\r\n", _DRIP_S), timeout),
        "stops in the middle": (says([OK + b"Content-Length: 5000\r\n\r\nx", *[b""] * 10**6], _DRIP_S), timeout),
        "endless status line": (forever(b"HTTP/1.1 200 ", endless), broken),
        "endless header": (forever(OK + b"a: ", endless), broken),
        "endless headers": (forever(OK, b"a: b\r\n" * 5000), broken),
        "endless cookies": (forever(OK, b"Set-Cookie: a=b\r\n" * 2000), broken),
        "endless interim answers": (forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500), timeout | broken),
        "endless early hints": (forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", _DRIP_S), timeout),
        "endless body": (forever(OK + b"\r\n", endless), large),
        "endless body of another length": (forever(OK + b"Content-Length: 99999999999999999\r\n\r\n", endless), large),
        "endless chunks": (forever(CHUNKED, b"10000\r\n" + endless + b"\r\n"), large),
        "endless small chunks": (forever(CHUNKED, b"1\r\nx\r\n" * 5000), large | timeout),
        "endless chunk": (forever(CHUNKED + b"ffffffffffffffff\r\n", endless), large | broken),
        "endless chunk extension": (forever(CHUNKED + b"1;", endless), broken),
        "endless chunk size": (forever(CHUNKED, b"0" * 65536), broken),
        "endless trailer": (forever(CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 5000), broken),
        "chunk larger than it says": (says([CHUNKED + b"1\r\nxxxxx\r\n0\r\n\r\n"]), broken),
        "chunk smaller than it says": (says([CHUNKED + b"ff\r\nx\r\n0\r\n\r\n"]), broken),
        "negative chunk": (says([CHUNKED + b"-1\r\nx\r\n0\r\n\r\n"]), broken),
        "chunk of a billion digits": (says([CHUNKED + b"f" * 5000 + b"\r\nx"]), broken),
        "chunks without an end": (says([CHUNKED + b"1\r\nx\r\n"]), broken),
        "more than it has": (says([OK + b"Content-Length: 900\r\n\r\nx"]), broken),
        "no length of a number": (says([OK + b"Content-Length: \xb2\r\n\r\nx"]), broken),
        "a negative length": (says([OK + b"Content-Length: -1\r\n\r\nx"]), broken),
        "a hexadecimal length": (says([OK + b"Content-Length: 0x1\r\n\r\nx"]), broken),
        "a length of 5,000 digits": (says([OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx"]), broken),
        "two lengths": (says([OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"]), broken),
        "two lengths in one": (says([OK + b"Content-Length: 1, 2\r\n\r\nxx"]), broken),
        "another transfer encoding": (says([OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"]), broken),
        "a gzip bomb": (_coded(b"gzip", bomb), frozenset({"content_encoding"})),
        "a deflate bomb": (_coded(b"DEFLATE", zlib.compress(bytes(max_bytes))), frozenset({"content_encoding"})),
        "a bomb in a bomb": (_coded(b"gzip, gzip", gzip.compress(bomb)), frozenset({"content_encoding"})),
        "brotli": (_coded(b"br", b"x"), frozenset({"content_encoding"})),
        "an unknown coding": (_coded(b"x-bomb", b"x"), frozenset({"content_encoding"})),
        "a redirect in a circle": (
            says([b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /\r\n\r\n"]), frozenset({"too_many_redirects"})
        ),
        "a redirect with an endless body": (
            forever(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", endless), frozenset({"too_many_redirects"})
        ),
        "a redirect to 100,000 characters": (
            says([b"HTTP/1.1 302 Found\r\nLocation: /" + b"x" * 100_000 + b"\r\n\r\n"]), frozenset({"bad_uri"}) | broken
        ),
        "an upgrade": (says([b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"]), frozenset({"http_status"}) | broken),
        "status 999": (says([b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n"]), frozenset({"http_status"}) | broken),
        "another protocol": (says([b"220 ftp.example ready\r\n\r\n"]), broken),
        "HTTP/0.9": (says([b"<html>"]), broken),
        "HTTP/2": (says([b"\0\0\x12\4\0\0\0\0\0" + bytes(18)]), broken),
        "zeros": (forever(b"", bytes(65536)), broken),
    }  # fmt: skip
