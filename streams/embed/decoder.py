"""The process in which pictures are decoded: the bytes of a file come in, what `check_image` says of them goes out.

Started and ended by `checker.py`. It holds no secret, knows no broker, and may be killed at any moment.
"""

import resource
import signal
import socket
import sys
import warnings
from typing import Final

import msgspec
from PIL import AvifImagePlugin

from streams.embed.images import ImageLimits, check_image
from streams.errors import Invalid

BYTES_A_PIXEL: Final = 24
"""Memory for the largest picture that is allowed; measured: 8 to 20 bytes a pixel, by format and mode."""

_BASE_BYTES: Final = 300 << 20
READY: Final = b"\1"
LENGTH: Final = 8
"""Both ways a message is its length, so many bytes of it, and the message. Before a file stands one byte more, 1 for
its windows too."""


class Answer(msgspec.Struct, array_like=True):
    """A `CheckedImage`, or (with a reason) an `Invalid`."""

    reason: str = ""
    message: str = ""
    digest: bytes = b""
    hash: bytes = b""
    quality: int = 0
    colour: bytes = b""
    pixels: bytes = b""


def memory_bytes(limits: ImageLimits) -> int:
    """The most memory that one of these processes can have; beyond it, allocations fail."""
    return _BASE_BYTES + BYTES_A_PIXEL * limits.max_pixels + 4 * limits.max_bytes


def answer_to(data: bytes, limits: ImageLimits, *, windows: bool = False) -> Answer:
    """What is said of a file, whatever happens."""
    try:
        seen = check_image(data, limits, windows=windows)
    except Invalid as error:
        return Answer(error.reason, str(error))
    except Exception as error:  # noqa: BLE001 - out of memory anywhere: no file may end the process
        return Answer("broken_image", f"cannot be decoded: {type(error).__name__}")
    return Answer("", "", seen.digest, seen.hash, seen.quality, seen.colour, seen.pixels.tobytes())


def main(argv: list[str]) -> None:
    """Answer until the worker is gone. argv: the limits."""
    limits = ImageLimits(int(argv[0]), int(argv[1]), float(argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker, which then says when
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes(limits),) * 2)
    warnings.simplefilter("ignore")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a process a picture; the threads of all cores would need their memory
    with socket.socket(fileno=0) as worker, worker.makefile("rb") as requests:
        worker.sendall(READY)
        while header := requests.read(LENGTH + 1):
            data = requests.read(int.from_bytes(header[:LENGTH], "big"))
            # Should the worker be gone, nobody else ends a decoder that runs away.
            signal.setitimer(signal.ITIMER_REAL, 2 * limits.decode_timeout_s)
            answer = msgspec.msgpack.encode(answer_to(data, limits, windows=bool(header[LENGTH])))
            signal.setitimer(signal.ITIMER_REAL, 0)
            worker.sendall(len(answer).to_bytes(LENGTH, "big") + answer)


if __name__ == "__main__":
    main(sys.argv[1:])
