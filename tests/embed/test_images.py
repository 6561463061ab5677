"""Every picture becomes a CheckedImage or an Invalid with a stable reason; never another exception."""

import contextlib
import hashlib
import struct
import time
import zipfile
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, features

from streams.embed.images import CheckedImage, ImageLimits, check_image
from streams.errors import Invalid

LIMITS = ImageLimits()
AVIF = features.check("avif")
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", *(["AVIF"] if AVIF else [])]
ORIENTATION = 0x0112


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawing(width: int = 300, height: int = 200) -> Image.Image:
    """Four different quadrants with smooth shading: no symmetry, so every turn of it is another picture."""
    y, x = np.mgrid[0:height, 0:width]
    array = np.zeros((height, width, 3), np.uint8)
    array[..., 0] = np.where(x < width / 2, 230, 40)
    array[..., 1] = np.where(y < height / 2, 200, 30)
    array[..., 2] = (x * 255 // max(1, width - 1) + y * 128 // max(1, height - 1)) % 256
    return Image.fromarray(array)


def turned(orientation: int) -> Image.Exif:
    """New for each file: saving an AVIF takes the orientation out of the one it is given."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def solid(image: Image.Image, kind: str = "PNG", **options: Any) -> tuple[int, ...]:
    """The one colour that a picture of one colour is read as."""
    colour = check_image(save(image, kind, **options), LIMITS).colour
    assert colour == colour[:3] * 16
    return tuple(colour[:3])


def cells(checked: CheckedImage) -> NDArray[np.int64]:
    return np.frombuffer(checked.colour, np.uint8).reshape(4, 4, 3).astype(np.int64)


def distance(a: CheckedImage, b: CheckedImage) -> int:
    return sum((x ^ y).bit_count() for x, y in zip(a.hash, b.hash, strict=True))


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(Invalid) as caught:
        check_image(data, limits)
    assert str(caught.value)
    return caught.value.reason


def well_formed(checked: CheckedImage) -> bool:
    return (
        len(checked.digest) == 32
        and len(checked.hash) == 32
        and len(checked.colour) == 48
        and 0 <= checked.quality <= 100
        and checked.pixels.shape == (1, 224, 224, 3)
        and checked.pixels.dtype == np.uint8
    )


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG written by hand: with a header that may lie about what follows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_and_described_the_same_way(kind: str) -> None:
    data = save(drawing(), kind)
    checked = check_image(data, LIMITS)
    assert well_formed(checked)
    assert checked.digest == hashlib.sha256(data).digest()
    reference = check_image(save(drawing(), "PNG"), LIMITS)
    assert np.abs(cells(checked) - cells(reference)).max() <= (16 if kind == "GIF" else 6)
    assert distance(checked, reference) <= 40
    assert checked.quality > 50


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_bytes_give_the_same_values(kind: str) -> None:
    data = save(drawing(900, 1300), kind)
    first, second = check_image(data, LIMITS), check_image(bytes(bytearray(data)), LIMITS)
    assert first == second
    assert first.pixels.tobytes() == second.pixels.tobytes()


def test_a_picture_in_storage_order_and_turned_by_exif_are_the_same_design() -> None:
    upright = drawing()
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    reference = check_image(save(upright, "PNG"), LIMITS)
    for orientation, turn in inverse.items():
        stored = upright if turn is None else upright.transpose(turn)
        checked = check_image(save(stored, "PNG", exif=turned(orientation)), LIMITS)
        assert (checked.hash, checked.colour) == (reference.hash, reference.colour), orientation
        assert (checked.pixels == reference.pixels).all(), orientation
        for kind in [kind for kind in FORMATS if kind not in {"PNG", "GIF"}]:
            lossy = check_image(save(stored, kind, exif=turned(orientation)), LIMITS)
            assert np.abs(cells(lossy) - cells(reference)).max() <= 6, (kind, orientation)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(value: int) -> None:
    exif = turned(value)
    assert (
        check_image(save(drawing(), "PNG", exif=exif), LIMITS).hash == check_image(save(drawing(), "PNG"), LIMITS).hash
    )


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = save(drawing(), "JPEG", exif=turned(6))
    start = data.index(b"Exif\0\0") + 6
    for damage in (b"\xff" * 8, b"MM\0\x2a\0\0\0\xff", b"II\x2a\0\x08\0\0\0"):
        broken = data[:start] + damage + b"\xff" * 6 + data[start + len(damage) + 6 :]
        assert well_formed(check_image(broken, LIMITS))


def test_transparency_is_seen_on_white() -> None:
    assert solid(Image.new("RGBA", (64, 64), (255, 0, 0, 0))) == (255, 255, 255)
    assert solid(Image.new("RGBA", (64, 64), (255, 0, 0, 128))) == (255, 127, 127)
    assert solid(Image.new("RGBA", (2048, 2048), (255, 0, 0, 128))) == (255, 127, 127)
    assert solid(Image.new("LA", (64, 64), (0, 0))) == (255, 255, 255)
    assert solid(Image.new("RGBA", (64, 64), (0, 0, 255, 0)), "WEBP", lossless=True) == (255, 255, 255)
    assert solid(Image.new("RGB", (64, 64), (9, 8, 7)), transparency=(9, 8, 7)) == (255, 255, 255)
    assert solid(Image.new("L", (64, 64), 9), transparency=9) == (255, 255, 255)


def test_transparent_colours_are_looked_up_before_a_large_picture_is_reduced() -> None:
    black_on_key = (np.indices((1536, 1536)).sum(axis=0) % 2)[..., None] * np.array([9, 8, 7])
    picture = Image.fromarray(black_on_key.astype(np.uint8))
    assert set(solid(picture, transparency=(9, 8, 7))) <= {127, 128}
    assert set(solid(picture.quantize(2), "GIF")) <= set(range(10))


def test_palettes_are_looked_up_with_and_without_transparency() -> None:
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert solid(palette) == (10, 200, 30)
    assert solid(palette, "GIF") == (10, 200, 30)
    assert solid(palette, transparency=1) == (255, 255, 255)
    assert solid(palette, transparency=bytes([255, 0])) == (255, 255, 255)
    assert solid(palette, "GIF", transparency=1) == (255, 255, 255)
    large = palette.resize((1500, 1500))
    assert solid(large) == (10, 200, 30)
    assert solid(large, transparency=1) == (255, 255, 255)


def test_grey_bits_and_sixteen_bits() -> None:
    assert solid(Image.new("L", (64, 64), 77)) == (77, 77, 77)
    assert solid(Image.new("L", (64, 64), 77), "JPEG") == (77, 77, 77)
    assert solid(Image.new("1", (64, 64), 1)) == (255, 255, 255)
    assert solid(Image.new("LA", (64, 64), (77, 255))) == (77, 77, 77)
    sixteen = np.full((64, 64), 0x4D12, np.uint16)
    assert solid(Image.fromarray(sixteen)) == (0x4D, 0x4D, 0x4D)
    rows = (b"\0" + struct.pack(">HHH", 0x4D12, 0x8000, 0xFFFF) * 64) * 64
    checked = check_image(png(64, 64, bits=16, rows=rows), LIMITS)
    assert tuple(checked.colour[:3]) == (0x4D, 0x80, 0xFF)


def test_a_cmyk_photograph_has_the_colours_of_its_rgb_twin() -> None:
    photograph = drawing()
    cmyk = check_image(save(photograph.convert("CMYK"), "JPEG", quality=95), LIMITS)
    rgb = check_image(save(photograph, "JPEG", quality=95), LIMITS)
    assert np.abs(cells(cmyk) - cells(rgb)).max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 400), (5, 5), (1, 2000), (3000, 1)])
def test_tiny_and_thin_pictures_are_pictures(size: tuple[int, int]) -> None:
    data = save(Image.new("RGB", size, (1, 2, 3)), "PNG")
    checked = check_image(data, LIMITS)
    assert well_formed(checked)
    assert cells(checked).max() <= 3
    if min(size) < 5:
        assert checked.quality <= 10


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", *(["AVIF"] if AVIF else [])])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (64, 64), (250, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 250))
    exact = {"lossless": True} if kind == "WEBP" else {}
    data = save(first, kind, save_all=True, append_images=[second, second], **exact)
    with Image.open(BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) > 1
    assert np.abs(cells(check_image(data, LIMITS)) - (250, 0, 0)).max() <= 4


def test_of_a_multi_picture_jpeg_the_first_counts() -> None:
    first, second = Image.new("RGB", (64, 64), (250, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 250))
    data = save(first, "MPO", save_all=True, append_images=[second])
    assert np.abs(cells(check_image(data, LIMITS)) - (250, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_picture_is_refused_or_whole(kind: str) -> None:
    data = save(drawing(120, 90), kind)
    whole = check_image(data, LIMITS)
    positions = {*range(1, 64), *range(64, len(data), max(1, len(data) // 60)), *range(len(data) - 16, len(data))}
    outcomes = set()
    for position in sorted(positions):
        try:
            checked = check_image(data[:position], LIMITS)
        except Invalid as error:
            outcomes.add(error.reason)
        else:
            assert checked.pixels.tobytes() == whole.pixels.tobytes(), position
    assert "broken_image" in outcomes
    assert outcomes <= {"broken_image", "not_an_image", "unsupported_format"}


@pytest.mark.parametrize("kind", FORMATS)
@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_else(kind: str, data: st.DataObject) -> None:
    file = bytearray(save(drawing(60, 40), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Invalid):
        assert well_formed(check_image(bytes(file), ImageLimits(max_pixels=1_000_000)))


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x20\0\0\0WEBP", b"\0\0\0\x20ftypavif"]


@hypothesis_settings(max_examples=150, deadline=None)
@given(magic=st.sampled_from(MAGIC), noise=st.binary(max_size=400))
def test_random_bytes_are_refused_with_a_reason(magic: bytes, noise: bytes) -> None:
    assert reason(magic + noise, ImageLimits(max_pixels=1_000_000)).isidentifier()


def test_what_is_no_picture_says_so() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    assert reason(b"") == "empty_image"
    assert reason(archive.getvalue()) == "not_an_image"
    assert reason(b"just a line of text\n") == "not_an_image"
    assert reason(b"<html><body>404</body></html>") == "not_an_image"
    assert reason(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>') == "unsupported_format"
    for kind in ("BMP", "TIFF", "PPM", "ICO", "JPEG2000"):
        assert reason(save(drawing(32, 32), kind)) == "unsupported_format", kind
    assert reason(b"\0\0\0\x18ftypheic" + bytes(40)) == "unsupported_format"
    assert reason(b"\xff\xd8\xff\xe0 and nothing more") == "broken_image"


def test_the_limit_on_bytes() -> None:
    data = save(drawing(), "PNG")
    assert well_formed(check_image(data, ImageLimits(max_bytes=len(data))))
    assert reason(data, ImageLimits(max_bytes=len(data) - 1)) == "too_large"


def test_the_limit_on_pixels_is_read_from_the_header() -> None:
    data = save(drawing(300, 200), "PNG")
    assert well_formed(check_image(data, ImageLimits(max_pixels=60_000)))
    assert reason(data, ImageLimits(max_pixels=59_999)) == "too_many_pixels"
    started = time.monotonic()
    for side in (8_000, 12_000, 50_000, 2**31 - 1):  # below, about and far above Pillow's own limits
        assert reason(png(side, side)) == "too_many_pixels", side
    assert time.monotonic() - started < 2
    with pytest.raises(ValueError, match="max_pixels"):
        ImageLimits(max_pixels=500_000_000)


def test_a_header_that_promises_more_than_there_is() -> None:
    assert reason(png(2000, 2000, rows=bytes(10))) == "broken_image"
    assert reason(png(0, 5)) in {"broken_image", "empty_image"}


def test_a_decoder_that_runs_out_of_memory_or_of_its_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(drawing(), "PNG")
    for error in (MemoryError(), SyntaxError("x"), struct.error("x"), SystemError("x"), ValueError("x"), OSError("x")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert reason(data) == "broken_image"


def test_a_picture_two_hundred_times_smaller_is_the_same_colours() -> None:
    large = drawing(6000, 4000)
    checked = check_image(save(large, "JPEG", quality=90), LIMITS)
    tiny = check_image(save(large.resize((30, 20), Image.Resampling.BOX), "PNG"), LIMITS)
    assert np.abs(cells(checked) - cells(tiny)).max() <= 20


def test_pixels_do_not_depend_on_the_container_much() -> None:
    large = drawing(3000, 2100)
    jpeg = check_image(save(large, "JPEG", quality=95), LIMITS)
    lossless = check_image(save(large, "PNG", compress_level=1), LIMITS)
    assert np.abs(jpeg.pixels.astype(int) - lossless.pixels.astype(int)).mean() < 3
    assert distance(jpeg, lossless) <= 20
