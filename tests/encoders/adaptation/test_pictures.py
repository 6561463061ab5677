"""Pictures as training sees them, and as the service does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import synthetic
from encoders.adaptation.pictures import Picture, described, upright
from encoders.preprocess import to_pixels
from streams.embed.images import ImageLimits, check_image


@pytest.mark.parametrize("kind", ["plain", "turned", "transparent", "grey", "palette", "large"])
def test_training_sees_what_the_service_sees(kind: str, tmp_path: Path) -> None:
    image = synthetic.photo(synthetic.garment(1), 1, 1400 if kind == "large" else 200).crop((0, 0, 160, 200))
    path = tmp_path / f"{kind}.png"
    exif = Image.Exif()
    if kind == "large":
        image = synthetic.photo(synthetic.garment(1), 1, 1400)
        path = path.with_suffix(".jpg")
    if kind == "turned":
        exif[0x0112] = 6
    if kind == "transparent":
        alpha = np.zeros((200, 160), np.uint8)
        alpha[50:150, 40:120] = 255
        image.putalpha(Image.fromarray(alpha))
    image = image.convert({"grey": "L", "palette": "P"}.get(kind, image.mode))
    image.save(path, exif=exif)
    seen = check_image(path.read_bytes(), ImageLimits())
    difference = np.abs(to_pixels(upright(path)).astype(int) - seen.pixels)
    assert difference.mean() < 1.5
    assert upright(path).mode == "RGB"
    assert max(upright(path).size) <= 512


def test_a_picture_is_described_as_the_service_describes_it() -> None:
    rng = np.random.default_rng(0)
    hashed, colour = rng.integers(0, 256, 32, dtype=np.uint8), rng.integers(0, 256, 48, dtype=np.uint8)
    picture = Picture(Path("a.jpg"), "catalog", "", bytes(32), hashed.tobytes(), 61, colour.tobytes())
    vector = np.array([[0.6, -0.8]], np.float32)
    seen = described([picture], vector)
    assert seen.vectors.tolist() == [[round(0.6 * 2048), -round(0.8 * 2048)]]
    assert [int(byte) for byte in hashed] == [
        sum((seen.bits[0, 8 * i + j] == 1) << (7 - j) for j in range(8)) for i in range(32)
    ]
    assert seen.colour[0].tolist() == colour.tolist()
    assert seen.quality.tolist() == [61]
    assert picture.photo.group == picture.digest.hex()
