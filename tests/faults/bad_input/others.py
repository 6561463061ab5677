"""Hostile WebPs and AVIFs, files of other kinds, and files that are two things at once."""

import io
import struct
import zipfile
from functools import cache
from typing import Any

from PIL import Image, features

from tests.faults.bad_input import jpegs, pngs

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", *(("AVIF",) if features.check("avif") else ()))


@cache
def sound(kind: str, side: int = 48) -> bytes:
    """A picture of a format that is accepted."""
    file = io.BytesIO()
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    picture.save(file, kind, **({"speed": 10} if kind == "AVIF" else {}))
    return file.getvalue()


@cache
def _animated(kind: str, frames: int, **options: Any) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (16, 16), (n % 256, n // 256, 0)) for n in range(frames)]
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], **options)
    return file.getvalue()


def _riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _canvas(width: int, height: int, flags: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return _chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


def webps(room: int) -> dict[str, bytes]:
    """`room`: about how many bytes the larger ones have."""
    pixels = sound("WEBP")[12:]
    frame = _chunk(b"ANMF", bytes(6) + b"\x2f\0\0\x2f\0\0" + bytes(4) + pixels)
    loop = _chunk(b"ANIM", bytes(6))
    return {
        "thousands of frames": _riff(_canvas(48, 48, 2), loop, frame * min(20_000, room // len(frame))),
        "a canvas of 16,384": _riff(_canvas(16_384, 16_384, 2), loop, frame),
        "a canvas of 2^24": _riff(_canvas(1 << 24, 1 << 24, 2), loop, frame),
        "a canvas of 2^24, one pixel high": _riff(_canvas(1 << 24, 1, 0), pixels),
        "no canvas": _riff(loop, frame),
        "millions of chunks": _riff(_canvas(48, 48, 0), pixels, _chunk(b"JUNK", b"") * (room // 8)),
        "exif that claims more": _riff(_canvas(48, 48, 8), pixels, _chunk(b"EXIF", jpegs.exif(5000, 1 << 31)[6:])),
        "a length past the end": sound("WEBP")[:4] + b"\xff\xff\xff\xff" + sound("WEBP")[8:],
        "a length of nothing": sound("WEBP")[:4] + bytes(4) + sound("WEBP")[8:],
        "no chunks": _riff(),
        "lossless in name only": _riff(_chunk(b"VP8L", b"\x2f" + b"\xff" * 64)),
        "16,383 each way, lossless": _riff(
            _chunk(b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFE | 0x3FFE << 14) + bytes(64))
        ),
        "a frame that is larger than its canvas": _riff(_canvas(8, 8, 2), loop, frame),
    }


def avifs(side: int) -> dict[str, bytes]:
    """Boxes that lie about what the coded picture is."""
    if "AVIF" not in FORMATS:
        return {}
    data, large = sound("AVIF"), sound("AVIF", side)
    place = data.index(b"ispe") + 8
    said = large.index(b"ispe") + 8

    def sized(width: int, height: int) -> bytes:
        return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]

    return {
        "small in its box, large in its code": large[:said] + struct.pack(">II", 48, 48) + large[said + 8 :],
        "16,384 each way": sized(16_384, 16_384),
        "2^31 each way": sized(1 << 31, 1 << 31),
        "no pixels": sized(0, 0),
        "another height": sized(48, 4800),
        "only its brand": data[: data.index(b"meta") - 4],
        "a box of 4 GB": b"\xff\xff\xff\xff" + data[4:],
        "a box of nothing": bytes(4) + data[4:],
        "boxes in boxes": data[: data.index(b"meta") - 4] + b"".join(
            struct.pack(">I", 8 * (5000 - n)) + b"moov" for n in range(5000)
        ),
        "frames": _animated("AVIF", 20, speed=10),
    }  # fmt: skip


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("../../etc/passwd"), b"x" * 100_000, zipfile.ZIP_DEFLATED)
    return file.getvalue()


_PDF = b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
_HTML = b"<html><script>alert(document.domain)</script></html>"
_PHP = b"<?php system($_GET['c']); ?>"


def two_at_once() -> dict[str, tuple[bytes, bool]]:
    """Files that two readers take for two things; whether they are pictures to us."""
    jpeg, png, gif = jpegs.small(), pngs.png(), sound("GIF")
    return {
        "JPEG and ZIP": (jpeg + _zip(), True),
        "JPEG with PHP in a comment": (jpegs.before(jpegs.segment(0xFE, _PHP)), True),
        "PNG and ZIP": (png + _zip(), True),
        "PNG with HTML in a text": (pngs.png(pngs.chunk(b"tEXt", b"k\0" + _HTML)), True),
        "GIF and JavaScript": (b"GIF89a/*" + gif[8:] + b"*/=1;alert(1)", True),
        "GIF with HTML in a comment": (gif[:-1] + b"\x21\xfe" + bytes([len(_HTML)]) + _HTML + b"\0;", True),
        "JPEG and PDF": (jpegs.before(jpegs.segment(0xFE, _PDF)) + _PDF, True),
        "PNG and JPEG": (png + jpeg, True),
        "JPEG and PNG": (jpeg + png, True),
        "WebP and GIF": (sound("WEBP") + gif, True),
        "PDF and JPEG": (_PDF + jpeg, False),
        "ZIP and JPEG": (_zip() + jpeg, False),
        "HTML and GIF": (_HTML + gif, False),
        "BMP and JPEG": (b"BM" + jpeg, False),
        "a BOM and JPEG": (b"\xef\xbb\xbf" + jpeg, False),
        "a line end and PNG": (b"\n" + png, False),
    }


def no_pictures() -> dict[str, bytes]:
    """Files of other kinds, and nothing."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))
    tiff, bmp, ico, ppm = (io.BytesIO() for _ in range(4))
    for file, kind in ((tiff, "TIFF"), (bmp, "BMP"), (ico, "ICO"), (ppm, "PPM")):
        Image.new("RGB", (16, 16)).save(file, kind)
    return {
        "nothing": b"",
        "a zero byte": b"\0",
        "zero bytes": bytes(100_000),
        "0xff": b"\xff" * 100_000,
        "a BOM": b"\xef\xbb\xbf",
        "text": b"just a line of text\n",
        "base64 of a picture": b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        "a data URI": b"data:image/png;base64,iVBORw0KGgo=",
        "SVG": svg,
        "SVG behind a BOM": b"\xef\xbb\xbf" + svg,
        "SVG in UTF-16": svg.decode().encode("utf-16"),
        "SVG with an entity of a file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        b'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>',
        "SVG of a billion laughs": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "lol">' + laughs + b"]>"
        b'<svg xmlns="http://www.w3.org/2000/svg"><text>&l9;</text></svg>',
        "SVG that asks a host": svg.replace(b"file:///etc/passwd", b"http://169.254.169.254/latest/meta-data/"),
        "HTML": _HTML, "PHP": _PHP, "PDF": _PDF, "ZIP": _zip(), "PostScript": b"%!PS-Adobe\n(/etc/passwd) (r) file\n",
        "MVG of ImageMagick": b"push graphic-context\nfill 'url(https://127.0.0.1/\"|id\")'\npop graphic-context\n",
        "an executable": b"\x7fELF\2\1\1" + bytes(60),
        "Python's pickle": b"cos\nsystem\n(S'id'\ntR.",
        "TIFF": tiff.getvalue(), "BMP": bmp.getvalue(), "ICO": ico.getvalue(), "PPM": ppm.getvalue(),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(40), "JPEG XL": b"\xff\x0a" + bytes(40), "PSD": b"8BPS\0\1" + bytes(40),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "MP4": b"\0\0\0\x18ftypmp42" + bytes(40),
        "FLIF": b"FLIF" + bytes(40), "QOI": b"qoif" + bytes(40), "DDS": b"DDS |" + bytes(200),
        "XBM": b"#define x_width 16\n",
        "IM of Pillow": b"Image type: RGB image\r\n" + bytes(500), "SPIDER": bytes(1024),
        "FITS": b"SIMPLE  =                    T",
    }  # fmt: skip


def shapes(room: int) -> dict[str, tuple[bytes, bool]]:
    """Sound pictures of odd shapes and many frames; whether they are accepted."""

    def saved(size: tuple[int, int], kind: str, mode: str = "RGB", **options: Any) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size).save(file, kind, **options)
        return file.getvalue()

    return {
        "one pixel": (saved((1, 1), "PNG"), True),
        "one pixel of GIF": (saved((1, 1), "GIF", "P"), True),
        "a line of 60,000": (saved((60_000, 1), "JPEG"), True),
        "a column of 60,000": (saved((1, 60_000), "PNG"), True),
        "transparent": (saved((64, 64), "PNG", "RGBA"), True),
        "CMYK": (saved((64, 64), "JPEG", "CMYK"), True),
        "one bit": (saved((64, 64), "PNG", "1"), True),
        "thousands of frames of GIF": (_animated("GIF", min(3000, room // 500)), True),
        "hundreds of frames of PNG": (_animated("PNG", 300), True),
        "hundreds of frames of WebP": (_animated("WEBP", 300, lossless=True), True),
        "frames of GIF, the last one broken off": (_animated("GIF", 50)[:-40], True),
        "a picture and megabytes behind it": (jpegs.small() + bytes(room // 2), True),
        "a picture of too many bytes": (jpegs.small() + bytes(2 * room), False),
    }


def truncated(cuts: int) -> dict[str, bytes]:
    """Every format cut off in many places, more of them in the header."""
    files: dict[str, bytes] = {}
    for kind in FORMATS:
        data = sound(kind)
        places = {*range(1, cuts // 2), *range(cuts // 2, len(data), max(1, 2 * len(data) // cuts)), len(data) - 1}
        files |= {f"{kind} cut off at {place}": data[:place] for place in sorted(places)}
    return files


def damaged() -> dict[str, bytes]:
    """Every format with some bytes that are not its own."""
    files = {}
    for kind in FORMATS:
        data = sound(kind)
        for step in range(1, 13):
            place = len(data) * step // 13
            files[f"{kind} with zeros at {place}"] = data[:place] + bytes(4) + data[place + 4 :]
            files[f"{kind} with ones at {place}"] = data[:place] + b"\xff" * 4 + data[place + 4 :]
        files[f"{kind} in reverse"] = data[::-1]
        files[f"{kind} without its beginning"] = data[8:]
        files[f"{kind} twice"] = data[: len(data) // 2] + data
    return files
