"""Hostile JPEGs, written by hand."""

import io
import struct
from functools import cache
from typing import Final

from PIL import Image

SOI: Final = b"\xff\xd8"
EOI: Final = b"\xff\xd9"
_EOB_RUN: Final = 32_767
"""Blocks that one code of a progressive scan can call empty."""


@cache
def small() -> bytes:
    """A sound one."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """One segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def before(*parts: bytes) -> bytes:
    """A sound JPEG with other bytes behind its first marker."""
    return SOI + b"".join(parts) + small()[2:]


def progressive(side: int, scans: int) -> bytes:
    """Grey, `side` pixels each way, of any number of scans: each is a few bytes that say "nothing changes", and walks
    over every block of the picture."""
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    tables += segment(0xC4, b"\x00" + b"\1" + bytes(15) + b"\0")  # DC: the one code, a 0 bit, means no difference
    tables += segment(0xC4, b"\x10" + b"\1" + bytes(15) + b"\xe0")  # AC: it means a run of 2^14 + 14 bits blocks
    blocks = ((side + 7) // 8) ** 2
    bits = ("0" + "1" * 13 + "0") * -(-blocks // _EOB_RUN)
    bits += "0" * (-len(bits) % 8)
    runs = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    return SOI + tables + first + (segment(0xDA, b"\1\1\0\1\x3f\0") + runs) * scans + EOI


def sequential(side: int) -> bytes:
    """A header that promises a picture, and nothing of it."""
    frame = segment(0xC0, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    return SOI + segment(0xDB, b"\0" + b"\1" * 64) + frame + segment(0xDA, b"\1\1\0\0\x3f\0")


def exif(entries: int, size: int) -> bytes:
    """A directory in which every entry claims the same `size` bytes."""
    body = b"".join(struct.pack("<HHLL", number, 1, size, 8) for number in range(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + body + bytes(4)


def bombs(room: int, side: int) -> dict[str, bytes]:
    """Files of about `room` bytes, or of about `side` pixels each way, that cost far more than a picture does."""
    part = segment(0xE1, b"Exif\0\0x")
    return {
        "scans without end": progressive(side, room // 150),
        "a thousand scans": progressive(side, 1000),
        "exif in millions of parts": before(part * (room // len(part))),
        "millions of comments": before(segment(0xFE, b"") * (room // 4)),
        "millions of app segments": before(segment(0xE3, b"") * (room // 4)),
        "padding": before(b"\xff" * room),
        "junk between segments": before(segment(0xE0, b""), b"x" * room),
        "tables again and again": before(segment(0xDB, b"\0" + b"\1" * 64) * (room // 69)),
        "frames again and again": before(segment(0xC0, b"\x08\0\x40\0\x40\1\1\x11\0") * (room // 13)),
        "exif entries over one another": before(segment(0xE1, exif(5000, 60_000))),
        "exif that claims more than there is": before(segment(0xE1, exif(5000, 1 << 31))),
        "mpf entries over one another": before(segment(0xE2, b"MPF\0" + exif(5000, 60_000)[6:])),
        "photoshop that claims more": before(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed\0\0\xff\xff\xff\xff")),
        "icc in the wrong order": before(*(segment(0xE2, b"ICC_PROFILE\0\xff\x01" + bytes(60_000)) for _ in range(9))),
        "nothing behind its header": sequential(side),
        "more pixels than allowed": sequential(65_500),
    }


def broken() -> dict[str, bytes]:
    """Headers that lie."""
    frame = struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0"

    def with_frame(body: bytes, marker: int = 0xC0) -> bytes:
        return SOI + segment(0xDB, b"\0" + b"\1" * 64) + segment(marker, body) + segment(0xDA, b"\1\1\0\0\x3f\0") + EOI

    return {
        "no pixels": with_frame(struct.pack(">BHHB", 8, 0, 0, 1) + b"\1\x11\0"),
        "no height": with_frame(struct.pack(">BHHB", 8, 0, 64, 1) + b"\1\x11\0"),
        "twelve bits": with_frame(b"\x0c" + frame[1:]),
        "no components": with_frame(frame[:5] + b"\0"),
        "two components": with_frame(frame[:5] + b"\2" + b"\1\x11\0\2\x11\0"),
        "255 components": with_frame(frame[:5] + b"\xff" + b"\1\x11\0" * 255),
        "sampling of 15": with_frame(frame[:6] + b"\1\xff\0"),
        "no tables": SOI + segment(0xC0, frame) + segment(0xDA, b"\1\1\0\0\x3f\0") + b"x" * 99 + EOI,
        "lossless": with_frame(frame, 0xC3),
        "arithmetic": with_frame(frame, 0xC9),
        "a segment shorter than its length": SOI + b"\xff\xe0\0\1" + small()[2:],
        "a segment past the end": SOI + b"\xff\xe0\xff\xff" + small()[2:],
        "only its first marker": SOI,
        "first and last marker": SOI + EOI,
        "scan without a frame": SOI + segment(0xDA, b"\1\1\0\0\x3f\0") + b"x" * 99 + EOI,
        "two pictures": small() + small(),
    }
