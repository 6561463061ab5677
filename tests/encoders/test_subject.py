"""Where the subject stands: the same thing in the same box, whatever is put around it."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from encoders import synthetic
from encoders.preprocess import as_in_catalog, to_pixels, to_windows
from encoders.subject import Box, components, is_cluttered, subject_of
from streams.events import MAX_WINDOWS

WHITE, CREAM, TEAL = (255, 255, 255), (240, 238, 235), (0, 120, 130)
GARMENT = Box(60, 40, 200, 280)


def packshot(ground: tuple[int, int, int] = CREAM) -> Image.Image:
    """A checked garment on a plain ground."""
    image = Image.new("RGB", (260, 360), ground)
    draw = ImageDraw.Draw(image)
    for y in range(GARMENT.top, GARMENT.bottom, 20):
        for x in range(GARMENT.left, GARMENT.right, 20):
            fill = (150, 30, 40) if (x + y) // 20 % 2 else (40, 40, 90)
            draw.rectangle((x, y, min(x + 19, GARMENT.right - 1), min(y + 19, GARMENT.bottom - 1)), fill=fill)
    return image


def framed(image: Image.Image) -> Image.Image:
    around = Image.new("RGB", (image.width + 70, image.height + 90), TEAL)
    around.paste(image, (20, 50))
    return around


def with_badge(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).ellipse((8, 300, 50, 342), fill=TEAL)
    return image


def on_a_page(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (image.width + 60, image.height + 120), WHITE)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page.width, 28), fill=TEAL)
    draw.rectangle((12, 8, 40, 18), fill=WHITE)
    page.paste(image, (35, 30))
    for line in range(3):
        draw.rectangle((10, image.height + 45 + 20 * line, 200, image.height + 48 + 20 * line), fill=(140, 140, 145))
    return page


def in_a_frame_in_a_frame(image: Image.Image) -> Image.Image:
    around = Image.new("RGB", (image.width + 200, image.height + 160), WHITE)
    around.paste(framed(image), (60, 30))
    return around


def cut(image: Image.Image) -> Image.Image:
    return image.crop((30, 20, 240, 330))


@pytest.mark.parametrize("change", [packshot, framed, with_badge, on_a_page, in_a_frame_in_a_frame, cut])
def test_what_is_around_it_changes_nothing(change: Callable[..., Image.Image]) -> None:
    image = packshot()
    changed = image if change is packshot else change(image)
    found = changed.crop(subject_of(changed).box).resize((64, 64))
    expected = image.crop(subject_of(image).box).resize((64, 64))
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(expected, np.int16))
    assert difference.mean() < 12  # whole pictures, but for the badge: 37 to 86


@pytest.mark.parametrize("height", range(56, 76, 2))
def test_a_bar_may_end_within_a_row_of_what_is_looked_at(height: int) -> None:
    image = packshot(WHITE).resize((300, 400))
    page = Image.new("RGB", (440, 560), (24, 24, 28))
    ImageDraw.Draw(page).rectangle((0, 0, page.width, height - 1), fill=TEAL)
    page.paste(image, (140, height))
    assert all(abs(own - seen) <= 10 for own, seen in zip(subject_of(image).box, moved(page, 140, height), strict=True))


def moved(page: Image.Image, left: int, top: int) -> Box:
    """The subject of a page, in the picture that stands there."""
    box = subject_of(page).box
    return Box(box.left - left, box.top - top, box.right - left, box.bottom - top)


def test_a_model_sees_it_in_one_size() -> None:
    image = packshot()
    for copy in (framed(image), on_a_page(image), cut(image)):
        off = np.abs(to_pixels(copy).astype(np.int16) - to_pixels(image)).mean()
        whole = np.abs(squeezed(copy) - squeezed(image)).mean()
        assert off < whole / 2


def squeezed(image: Image.Image) -> NDArray[np.int16]:
    """The whole picture in a square."""
    return np.asarray(image.resize((224, 224)), np.int16)


def test_a_street_photograph_is_seen_whole() -> None:
    pixels = street(224, 224)
    assert (to_pixels(Image.fromarray(pixels)) == pixels).all()
    assert is_cluttered(Image.fromarray(pixels))


def street(height: int, width: int) -> NDArray[np.uint8]:
    """Nothing plain anywhere."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (250, 250), (3, 900), (1, 2)], ids=str)
def test_the_windows_of_a_street_photograph_lie_along_its_middle(size: tuple[int, int]) -> None:
    photo = Image.fromarray(street(*size))
    windows = to_windows(photo)
    assert windows.shape == (14, 224, 224, 3)
    assert windows.dtype == np.uint8
    if min(size) > 100:
        assert len({window.tobytes() for window in windows}) == 14
    assert len(as_in_catalog(photo)) <= 1 + MAX_WINDOWS


def test_a_window_shows_a_part_of_the_picture() -> None:
    photo = Image.fromarray(street(400, 200))
    first, last = to_windows(photo)[:6:5]
    assert (first == to_pixels(photo.crop((40, 0, 160, 120)))).all()
    assert (last == to_pixels(photo.crop((40, 280, 160, 400)))).all()
    across = photo.transpose(Image.Transpose.ROTATE_90)
    assert (to_windows(across)[0] == to_pixels(across.crop((0, 40, 120, 160)))).all()


@pytest.mark.parametrize("picture", [packshot(), framed(packshot()), cut(packshot())])
def test_a_picture_with_a_plain_ground_has_no_windows(picture: Image.Image) -> None:
    assert to_windows(picture).shape == (0, 224, 224, 3)


def test_it_is_the_garment_with_a_small_margin() -> None:
    box = subject_of(packshot()).box
    assert all(abs(found - wanted) <= 14 for found, wanted in zip(box, GARMENT, strict=True))
    assert box.left < GARMENT.left
    assert box.top < GARMENT.top
    assert box.right > GARMENT.right
    assert box.bottom > GARMENT.bottom


def test_both_of_a_pair_belong_to_it() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 60, 120, 150), fill=TEAL)
    draw.ellipse((180, 70, 260, 150), fill=TEAL)
    box = subject_of(image).box
    assert box.left <= 30
    assert box.right >= 260


def under_light(image: Image.Image, *gains: float) -> Image.Image:
    """Darker, or with a cast."""
    return image.point([round(level * gain) for gain in gains for level in range(256)])


@pytest.mark.parametrize("gains", [(0.6, 0.6, 0.6), (0.95, 0.8, 0.7), (0.7, 0.8, 1)], ids=str)
def test_the_light_changes_nothing(gains: tuple[float, ...]) -> None:
    image = packshot()
    lit = under_light(image, *gains)
    assert np.abs(to_pixels(lit).astype(np.int16) - to_pixels(image)).max() <= 6
    assert np.abs(np.asarray(lit, np.int16) - np.asarray(image)).max() > 40


@pytest.mark.parametrize("ground", [TEAL, (40, 40, 40), (250, 180, 140)], ids=str)
def test_a_ground_of_a_colour_is_meant(ground: tuple[int, int, int]) -> None:
    image = packshot(ground)
    assert tuple(to_pixels(image)[112, 112]) == tuple(to_pixels(packshot((240, 240, 240)))[112, 112])
    assert subject_of(image).ground == ground


def test_what_is_lighter_than_its_ground_stays_so() -> None:
    image = Image.new("RGB", (200, 200), (215, 215, 215))
    ImageDraw.Draw(image).rectangle((50, 50, 150, 150), fill=(226, 226, 226))
    pixels = to_pixels(image)
    assert (pixels[112, 112] > pixels[0, 0]).all()
    assert (pixels[0, 0] == 240).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 2), (5000, 1), (640, 480)])
def test_a_plain_picture_is_its_own_subject(size: tuple[int, int]) -> None:
    assert subject_of(Image.new("RGB", size, TEAL)).box == (0, 0, *size)


def test_without_a_plain_ground_there_is_nothing_to_cut_off() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    assert subject_of(Image.fromarray(noise)).box == (0, 0, 200, 300)


def test_what_is_tiny_is_not_the_subject() -> None:
    image = Image.new("RGB", (300, 300), WHITE)
    ImageDraw.Draw(image).rectangle((10, 10, 30, 30), fill=TEAL)
    assert subject_of(image).box == (0, 0, 300, 300)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_components_are_those_of_opencv(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    expected = sorted((int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in stats[1:])
    assert sorted(components(mask)) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 400), st.integers(2, 400))
def test_a_box_lies_within_its_picture(number: int, width: int, height: int) -> None:
    box = subject_of(synthetic.design(synthetic.garment(number % 50), 128).resize((width, height))).box
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
