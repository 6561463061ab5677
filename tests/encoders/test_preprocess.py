"""What training and serving share."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders import synthetic
from encoders.preprocess import (
    DOMAINS,
    INPUT_PX,
    as_in_catalog,
    canary_pixels,
    domain_index,
    encoder_version,
    to_pixels,
    to_small,
    to_windows,
)

SHAPE = (INPUT_PX, INPUT_PX, 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_any_size_becomes_one_shape(width: int, height: int) -> None:
    pixels = to_pixels(Image.new("RGB", (width, height), (10, 20, 30)))
    assert pixels.shape == SHAPE
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_keeps_the_whole_picture_on_a_light_ground() -> None:
    pixels = to_pixels(Image.new("RGB", (100, 200), (10, 20, 30)))
    inside, outside = pixels[:, 56:168], np.concatenate([pixels[:, :56], pixels[:, 168:]], axis=1)
    assert (inside == (10, 20, 30)).all()
    assert (outside == 240).all()


def test_a_long_strip_keeps_at_least_one_pixel() -> None:
    assert (to_pixels(Image.new("RGB", (1, 5000), "black")).min(axis=(1, 2)) < 240).all()


def test_a_picture_of_the_right_size_is_unchanged() -> None:
    pixels = canary_pixels()
    assert (to_pixels(Image.fromarray(pixels)) == pixels).all()


def test_a_catalogue_sees_a_picture_as_its_thumbnail_shows_it_too() -> None:
    picture = synthetic.photo(synthetic.garment(3), 3, 300).crop((0, 0, 225, 300))
    thumbnail = picture.resize((60, 80), Image.Resampling.BICUBIC)
    seen = as_in_catalog(picture)
    assert (seen[0] == to_pixels(picture)).all()
    assert (seen[2:] == to_windows(picture)).all()
    assert np.abs(seen[1].astype(int) - to_pixels(thumbnail)).max() <= 8  # large pictures are averaged first
    assert len(to_small(thumbnail)) == 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_refuses_other_modes(mode: str) -> None:
    with pytest.raises(ValueError, match="RGB"):
        to_pixels(Image.new(mode, (8, 8)))


def test_domains_keep_their_places() -> None:
    assert DOMAINS == ("catalog", "generated")
    assert [domain_index(domain) for domain in DOMAINS] == [0, 1]
    with pytest.raises(ValueError, match="nonsense"):
        domain_index("nonsense")


def test_the_canary_is_fixed() -> None:
    pixels = canary_pixels()
    assert pixels.shape == SHAPE
    assert pixels.sum() == canary_pixels().sum()
    for wrong in (pixels[..., ::-1], pixels.transpose(1, 0, 2), pixels[::-1], pixels[:, ::-1]):
        assert (wrong != pixels).any()


def test_a_version_is_the_hash_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"abc")
    assert encoder_version(tmp_path / "model") == "ba7816bf8f01cfea"
