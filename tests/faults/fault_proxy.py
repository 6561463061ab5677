"""A TCP proxy that breaks the way networks do: refuses and resets, goes silent with connections kept, or is slow.

It stands between a worker and a server, on a port and a thread of its own: what a test does meanwhile delays nothing.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from streams.local import HOST, PortLease

T = TypeVar("T")

_CHUNK: Final = 64 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


@dataclass(eq=False)
class _Link:
    """A connection and, unless it was accepted in silence, its other half at the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None

    def drop(self, *, reset: bool) -> None:
        for writer in filter(None, (self.client, self.server)):
            if reset and (raw := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class FaultProxy:
    """127.0.0.1:`port` -> `upstream`, for as long as the `with` block lasts. Begins by passing everything on."""

    def __init__(self, upstream: str = "", port: int | None = None) -> None:
        """upstream: `host:port`; may be named later, but before the first connection. port: a free one when None."""
        self.upstream = upstream
        self._lease = PortLease()
        self.port = self._lease.take() if port is None else port
        self.address = f"{HOST}:{self.port}"
        self.accepted = 0
        self.swallowed_bytes = 0
        self._links: set[_Link] = set()
        # What these carry is swallowed, for ever, as after a router has forgotten a connection.
        self._lost: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._silent = False
        self._delay_s, self._bytes_per_s = 0.0, float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._lease.close()

    # Modes

    def heal(self) -> None:
        """Pass everything on again. What was lost stays lost: those connections never speak again."""
        self._do(self._pass)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._do(self._cut)

    def black_hole(self) -> None:
        """Keep every connection and accept new ones, but swallow every byte, in both directions."""
        self._do(self._swallow)

    def slow(self, delay_s: float, bytes_per_s: float = float("inf")) -> None:
        """Every piece that arrives goes on `delay_s` later, and no faster than that, in each direction."""
        self._do(lambda: self._brake(delay_s, bytes_per_s))

    def _do(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    async def _pass(self) -> None:
        self._silent, self._delay_s, self._bytes_per_s = False, 0.0, float("inf")
        await self._listen()

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in list(self._links):
            link.drop(reset=True)

    async def _swallow(self) -> None:
        self._silent = True
        self._lost |= self._links
        await self._listen()

    async def _brake(self, delay_s: float, bytes_per_s: float) -> None:
        self._silent, self._delay_s, self._bytes_per_s = False, delay_s, bytes_per_s
        await self._listen()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, HOST, self.port)

    async def _end(self) -> None:
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(writer)
        self._links.add(link)
        if self._silent:
            self._lost.add(link)
        try:
            with contextlib.suppress(OSError):
                await self._carry(link, reader)
        except asyncio.CancelledError:
            pass  # the end of the proxy
        finally:
            self._links.discard(link)
            self._lost.discard(link)
            self._tasks.discard(task)
            link.drop(reset=False)

    async def _carry(self, link: _Link, client: asyncio.StreamReader) -> None:
        if link in self._lost:
            await self._pump(link, client, None)
            return
        host, _, port = self.upstream.rpartition(":")
        server, link.server = await asyncio.open_connection(host, int(port))
        halves = {
            asyncio.create_task(self._pump(link, client, link.server)): link.client,
            asyncio.create_task(self._pump(link, server, link.client)): link.server,
        }
        try:
            done, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            # Who lost the connection hears nothing of its end at the other side.
            if link in self._lost and any(halves[half] is link.server for half in done):
                await asyncio.wait(halves)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _pump(self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter | None) -> None:
        while data := await source.read(_CHUNK):
            await self._hold(len(data))
            if target is None or link in self._lost:
                self.swallowed_bytes += len(data)
                continue
            target.write(data)
            await target.drain()

    async def _hold(self, size: int) -> None:
        wait_s = self._delay_s + size / self._bytes_per_s
        if wait_s:
            await asyncio.sleep(wait_s)
