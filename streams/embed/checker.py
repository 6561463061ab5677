"""`check_image` outside the worker's process, a few pictures at a time.

Decoders are written in C and fed by strangers. A thread that one of them holds for an hour cannot be ended, one that it
crashes takes the worker with it, and the same event would do so again after every restart. A process can be killed, and
has a limit of memory of its own.
"""

import asyncio
import os
import socket
import subprocess
import sys
from typing import Final

import msgspec
import numpy as np

from encoders.preprocess import INPUT_PX
from streams.embed.decoder import LENGTH, READY, Answer
from streams.embed.images import CheckedImage, ImageLimits, check_size
from streams.errors import Invalid, Retryable

_START_S: Final = 60.0
_TRIES: Final = 2
_MAX_ANSWER: Final = 4 << 20
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class ImageChecker:
    """`check_image` in at most `processes` processes. Belongs to one event loop; `close` it there."""

    def __init__(self, limits: ImageLimits, processes: int) -> None:
        self._limits = limits
        self._free = asyncio.Semaphore(processes)
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there; each starts when it is first needed."""
        return [decoder.pid for decoder in self._all]

    async def check(self, data: bytes, *, windows: bool = False) -> CheckedImage:
        """As `check_image`. The time limit ends the decoding itself; waiting for a free process does not count.

        Retryable: no process can be started.
        """
        check_size(data, self._limits)
        async with self._free:
            for _ in range(_TRIES):
                try:
                    return _checked(await self._ask(data, windows))
                except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
                    died = error  # perhaps by another's hand, so the picture has a second try
        raise Invalid("broken_image", f"its decoder does not survive it: {type(died).__name__}")

    def close(self) -> None:
        """End all processes. A check under way fails."""
        self._closed = True
        for decoder in self._idle:
            self._end(decoder)
        for decoder in self._all:
            decoder.kill()  # whoever waits for its answer gets an error, and lets go of it

    async def _ask(self, data: bytes, windows: bool) -> Answer:
        decoder = self._idle.pop() if self._idle else await self._started()
        try:
            async with asyncio.timeout(self._limits.decode_timeout_s):
                answer = await decoder.ask(data, windows)
        except TimeoutError:
            self._end(decoder)
            raise Invalid("decode_timeout", f"not decoded after {self._limits.decode_timeout_s:g} s") from None
        except BaseException:
            self._end(decoder)
            if self._closed:
                raise RuntimeError("the checker is closed") from None
            raise
        self._idle.append(decoder)
        return answer

    async def _started(self) -> "_Decoder":
        if self._closed:
            raise RuntimeError("the checker is closed")
        try:
            decoder = _Decoder(self._limits)
        except OSError as error:
            raise Retryable(f"no process can be started to decode pictures: {error.strerror}") from error
        self._all.add(decoder)
        try:
            async with asyncio.timeout(_START_S):
                await decoder.ready()
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            raise Retryable("a process that decodes pictures ended as it started, or takes too long to") from error
        finally:
            if not decoder.is_ready:
                self._end(decoder)
        return decoder

    def _end(self, decoder: "_Decoder") -> None:
        self._all.discard(decoder)
        decoder.kill()
        decoder.let_go()


class _Decoder:
    """One process and the socket to it. Its environment holds none of the worker's secrets."""

    def __init__(self, limits: ImageLimits) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self.is_ready = False
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            try:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    [sys.executable, "-m", "streams.embed.decoder",
                     str(limits.max_bytes), str(limits.max_pixels), str(limits.decode_timeout_s)],
                    stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment, process_group=0,
                )  # fmt: skip
            except BaseException:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> None:
        """Returns when it has started."""
        self.is_ready = bytes(await self._read(len(READY))) == READY

    async def ask(self, data: bytes, windows: bool) -> Answer:
        """What it says of a file. EOFError, OSError, ValueError, MsgspecError: it died, or answers nonsense."""
        loop = asyncio.get_running_loop()
        header = len(data).to_bytes(LENGTH, "big") + bytes([windows])
        await loop.sock_sendall(self._socket, header)
        await loop.sock_sendall(self._socket, data)
        length = int.from_bytes(await self._read(LENGTH), "big")
        if length > _MAX_ANSWER:
            raise ValueError("a decoder's answer is too long")
        return msgspec.msgpack.decode(await self._read(length), type=Answer)

    async def _read(self, length: int) -> bytearray:
        loop, data = asyncio.get_running_loop(), bytearray(length)
        missing = memoryview(data)
        while missing:
            received = await loop.sock_recv_into(self._socket, missing)
            if not received:
                raise EOFError("the process ended")
            missing = missing[received:]
        return data

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def let_go(self) -> None:
        """Close the socket. Nothing may wait for an answer."""
        self._socket.close()


def _checked(answer: Answer) -> CheckedImage:
    if answer.reason:
        raise Invalid(answer.reason, answer.message)
    pixels = np.frombuffer(answer.pixels, np.uint8).reshape(-1, INPUT_PX, INPUT_PX, 3).copy()
    return CheckedImage(answer.digest, answer.hash, answer.quality, answer.colour, pixels)
