"""Hostile GIFs, written by hand."""

import struct
from typing import Final

_FRAME: Final = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0)
_PIXELS: Final = bytes.fromhex("080f0001081c48b0a0c18308132a4c181000")
"""64 pixels of the first colour."""


def gif(*parts: bytes, width: int = 8, height: int = 8, end: bytes = b";") -> bytes:
    """A screen with two colours, and the parts."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"".join(parts) + end


def frame(width: int = 8, height: int = 8, left: int = 0, top: int = 0, code_size: int = 2) -> bytes:
    """A frame whose pixels do not suffice."""
    return b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0) + bytes([code_size]) + b"\x02\x44\x01\0"


def bombs(room: int, side: int) -> dict[str, bytes]:
    """As `jpegs.bombs`."""
    whole = _FRAME + _PIXELS
    return {
        "a comment without end": gif(b"\x21\xfe" + (b"\xff" + b"c" * 255) * (room // 256) + b"\0", whole),
        "millions of comments": gif(b"\x21\xfe\1c\0" * (room // 5), whole),
        "millions of frames": gif(whole * (room // len(whole))),
        "millions of extensions": gif(b"\x21\xf9\4\0\0\0\0\0" * (room // 8), whole),
        "millions of empty blocks": gif(_FRAME + b"\2" + b"\1\0" * (room // 2)),
        "junk before its frame": gif(b"x" * room, whole),
        "a frame larger than the screen": gif(frame(side * 4, side * 4)),
        "65,535 each way": gif(frame(65_535, 65_535), width=65_535, height=65_535),
        "a small screen, and a frame far away": gif(frame(8, 8, 65_000, 65_000)),
    }


def broken() -> dict[str, bytes]:
    """Headers that lie."""
    return {
        "no screen": gif(frame(), width=0, height=0),
        "no frame": gif(),
        "a frame of no pixels": gif(frame(0, 0)),
        "codes of 0 bits": gif(frame(code_size=0)),
        "codes of 200 bits": gif(frame(code_size=200)),
        "no end": gif(frame(), end=b""),
        "only its signature": b"GIF89a",
        "an older version": b"GIF00a" + gif(frame())[6:],
        "a palette that is not there": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0xF7, 0, 0),
    }
