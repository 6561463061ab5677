"""From the bytes of a file to a checked picture: its digest, perceptual hash, colours and the encoder's pixels.

Nobody vouches for these bytes, so every way a decoder can fail is an `Invalid` with a stable reason. Not for fetching
(`fetch.py`), not for ending a decoder that runs away (`checker.py`), not for vectors (`encoder.py`), and comparing two
hashes is the judge's work. ICC profiles are ignored: colours are read as sRGB.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

from encoders.preprocess import as_in_catalog, to_pixels
from streams.errors import Invalid
from streams.events import Picture, lattice

# Every decoder that is left out is attack surface saved: Pillow is never asked to try another one.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", *(("AVIF",) if features.check("avif") else ()))
_PDQ_PX: Final = 64
"""PDQ's own inner size. Brought there by Pillow, copies of 0.4 to 0.9 of the size differ by 2 bits in the median; by
PDQ's box filter, whose windows depend on the size, by 26."""

_WORK_PX: Final = 512
"""Large pictures are brought down to a shorter side of 512..1023 px before any real work: more than twice what the
encoder reads, and what PDQ's authors recommend to hash."""
_COLOUR_CELLS: Final = (4, 4)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_PICTURES: Final = (
    b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\1\0", b"\0\0\0\x0cjP  ", b"\xff\x0a", b"\0\0\0\x0cJXL ",
    b"%!PS", b"P5", b"P6", b"DDS ", b"icns",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one picture may cost. `max_pixels` is read from the header, before anything is decoded."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    decode_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        ceiling = Image.MAX_IMAGE_PIXELS
        if ceiling is not None and self.max_pixels > ceiling:  # Pillow would refuse, or only warn, before we do
            raise ValueError(f"max_pixels must not exceed Pillow's own limit of {ceiling}")


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """All that later stages know of a picture. The same bytes always give the same values."""

    digest: bytes
    """SHA-256 of the file's bytes, 32 bytes."""
    hash: bytes
    """PDQ, 256 bits in PDQ's order, 32 bytes, of the picture scaled to 64 x 64 px."""
    quality: int
    """PDQ's quality, 0..100: below about 50 the hash says little (plain areas, tiny pictures)."""
    colour: bytes
    """Mean colour of 4 x 4 equal cells of the upright picture on white, row by row, R G B: 48 bytes."""
    pixels: NDArray[np.uint8] = field(repr=False, compare=False)
    """Shape: (1 + windows, 224, 224, 3), RGB; what the encoder reads: as in a catalogue or alone."""


def check_image(data: bytes, limits: ImageLimits, *, windows: bool = False) -> CheckedImage:
    """Decode and describe one picture (the first frame of an animation). A pure function; `Invalid` if it cannot be.

    windows: it is looked at as in a catalogue (`encoders.preprocess.as_in_catalog`).
    """
    check_size(data, limits)
    picture = _decode(data, limits)
    # The gap: large pictures are first averaged to about three times the size, four times faster and as good.
    small = picture.resize((_PDQ_PX, _PDQ_PX), Image.Resampling.BICUBIC, reducing_gap=3.0)
    bits, quality = pdqhash.compute(np.array(small))
    return CheckedImage(
        digest=hashlib.sha256(data).digest(),
        hash=np.packbits(bits.astype(np.uint8)).tobytes(),
        quality=int(quality),
        colour=picture.resize(_COLOUR_CELLS, Image.Resampling.BOX).tobytes(),
        pixels=as_in_catalog(picture) if windows else to_pixels(picture)[None],
    )


def described(images: Sequence[CheckedImage], vectors: NDArray[np.float32]) -> list[Picture]:
    """What the log keeps of some pictures. Shape: vectors (n, dim), one for each row of the pictures' pixels."""
    rows, edges = lattice(vectors), accumulate((len(image.pixels) for image in images), initial=0)
    return [
        Picture(image.digest, image.hash, image.quality, image.colour, rows[start:end].tobytes(), end - start - 1)
        for image, (start, end) in zip(images, pairwise(edges), strict=True)
    ]


def check_size(data: bytes, limits: ImageLimits) -> None:
    """Invalid when a file is empty or has too many bytes."""
    if not data:
        raise Invalid("empty_image", "the file is empty")
    if len(data) > limits.max_bytes:
        raise Invalid("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")


def _decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """An upright RGB picture on white, its shorter side below 1024 px.

    Pillow's warnings (damaged EXIF, a malformed second frame) are about things not used here, so they are let pass;
    where warnings are errors, they count as `broken_image`.
    """
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise Invalid("too_many_pixels", f"{width} x {height} pixels, the limit is {limits.max_pixels}")
            image.draft(None, (_WORK_PX, _WORK_PX))  # a JPEG is scaled while it is decoded, up to 8 times
            image.load()
            turn = _TURNS.get(_orientation(image))
            picture = _on_white(image)
            return picture if turn is None else picture.transpose(turn)
    except Invalid:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Invalid("too_many_pixels", f"too many pixels, the limit is {limits.max_pixels}") from error
    except Exception as error:  # decoders fail with anything from SyntaxError to MemoryError
        raise Invalid("broken_image", f"cannot be decoded: {type(error).__name__}: {error}"[:300]) from error


def _unidentified(data: bytes) -> Invalid:
    """Why no allowed decoder takes these bytes; told from the first of them, no other decoder is asked."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    ours = data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    avif = brand in (b"avif", b"avis")
    if ours or webp or (avif and "AVIF" in _FORMATS):
        return Invalid("broken_image", "the header of the picture is damaged")
    heif = brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
    if avif or heif or data.startswith(_OTHER_PICTURES) or b"<svg" in data[:1024].lower():
        return Invalid("unsupported_format", f"a picture, but none of {', '.join(_FORMATS)}")
    return Invalid("not_an_image", "not a picture")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8. Damaged EXIF is no reason to refuse a picture that decodes: it counts as upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - any parser error, or a warning where warnings are errors
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """RGB of any decoded mode. Reduced as early as its mode allows, so that 50 megapixels are not copied thrice."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it at 255
        grey = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = _reduced(image.convert("RGBA"))
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    if image.mode in {"P", "1"}:  # indices and bits have no mean
        image = image.convert("RGB")
    return _reduced(image).convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    factor = min(image.size) // _WORK_PX
    return image.reduce(factor) if factor > 1 else image
