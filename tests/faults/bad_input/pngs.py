"""Hostile PNGs, written by hand."""

import struct
import zlib
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_END: Final = struct.pack(">I", 0) + b"IEND\xaeB`\x82"


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """The first chunk. colour: 0 grey, 2 RGB, 3 palette, 6 RGBA."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


def rows(width: int, height: int, channels: int = 3) -> bytes:
    """Compressed pixels of one colour."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"x" * width * channels
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def png(*parts: bytes, head: bytes = b"", data: bytes | None = None) -> bytes:
    """8 x 8 pixels, unless said otherwise, with other chunks before them."""
    pixels = chunk(b"IDAT", rows(8, 8) if data is None else data)
    return SIGNATURE + (head or header(8, 8)) + b"".join(parts) + pixels + _END


def _zeros(size: int) -> bytes:
    """So many zero bytes, a thousandth of the size."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def bombs(room: int, side: int) -> dict[str, bytes]:
    """As `jpegs.bombs`."""
    stored = zlib.compress(bytes(max(1, room // 14)), 0)
    text = b"k\0\0" + zlib.compress(b"x" * 900_000, 9)
    packed = _zeros(room * 50)
    return {
        "ztxt": png(chunk(b"zTXt", b"k\0\0" + packed)),
        "itxt": png(chunk(b"iTXt", b"k\0\1\0\0\0" + packed)),
        "icc profile": png(chunk(b"iCCP", b"k\0\0" + packed)),
        "many ztxt": png(chunk(b"zTXt", text) * min(2000, room // len(text))),
        "pixels that go on behind the last row": png(data=packed),
        "pixels in pieces of one byte": SIGNATURE
        + header(1000, 1000)
        + b"".join(chunk(b"IDAT", stored[n : n + 1]) for n in range(len(stored)))
        + _END,
        "millions of chunks": png(chunk(b"prVt") * (room // 12)),
        "millions of texts": png(chunk(b"tEXt", b"k\0v") * (room // 15)),
        "chunk that claims 4 GB": SIGNATURE + header(8, 8) + b"\xff\xff\xff\xfftEXt" + b"x" * 99,
        "all the pixels that are allowed": png(head=header(side, side, 8, 6), data=rows(side, side, 4)),
        "sixteen bits": png(head=header(side, side, 16, 0), data=rows(side, side, 2)),
        "interlaced": png(head=header(side, side, 8, 2, 1), data=rows(side, side)),
        "exif": png(
            chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + b"\1\1\1\0\0\0\1\0\x08\0\0\0" * 60_000)
        ),
        **{
            f"{width} x {height}": png(head=header(width, height))
            for width, height in (
                (30_000, 30_000),
                (2**31 - 1, 1),
                (1, 2**31 - 1),
                (2**31 - 1, 2**31 - 1),
                (2**32 - 1, 9),
            )
        },
    }


def broken() -> dict[str, bytes]:
    """Headers and checksums that lie."""
    return {
        "no pixels": png(head=header(0, 0)),
        "no height": png(head=header(8, 0)),
        "no bits": png(head=header(8, 8, 0)),
        "three bits": png(head=header(8, 8, 3)),
        "colour 7": png(head=header(8, 8, 8, 7)),
        "interlace 9": png(head=header(8, 8, 8, 2, 9)),
        "palette without one": png(head=header(8, 8, 8, 3), data=rows(8, 8, 1)),
        "palette of no colours": png(chunk(b"PLTE"), head=header(8, 8, 8, 3), data=rows(8, 8, 1)),
        "palette of a third of a colour": png(chunk(b"PLTE", b"x"), head=header(8, 8, 8, 3), data=rows(8, 8, 1)),
        "pixels that are not compressed": png(data=b"x" * 99),
        "a filter that does not exist": png(data=zlib.compress((b"\x09" + b"x" * 24) * 8)),
        "wrong checksum of the header": SIGNATURE + header(8, 8)[:-1] + b"x" + chunk(b"IDAT", rows(8, 8)) + _END,
        "header shorter than one": SIGNATURE + chunk(b"IHDR", b"x") + chunk(b"IDAT", rows(8, 8)) + _END,
        "no header": SIGNATURE + chunk(b"IDAT", rows(8, 8)) + _END,
        "two headers": png(header(9, 9)),
        "no pixels at all": SIGNATURE + header(8, 8) + _END,
        "only its signature": SIGNATURE,
        "a frame outside the picture": png(
            chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 999, 999, 2**31, 2**31, 0, 0, 9, 9)),
        ),
        "chunk with a name that is none": png(b"\0\0\0\0\0\0\0\0" + bytes(4)),
        "transparency longer than the palette": png(chunk(b"tRNS", b"x" * 999)),
    }
