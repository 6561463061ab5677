"""Cutting a garment off its white ground and putting it elsewhere, on pictures whose truth is drawn."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from encoders.methods.rendering import cut_out, into_scene, onto_person

RED, GREEN, GROUND = (200, 20, 30), (30, 160, 60), (246, 245, 244)


def packshot() -> Image.Image:
    """A red ring on an off-white ground; what is inside the ring is ground-coloured and belongs to the garment."""
    image = Image.new("RGB", (200, 280), GROUND)
    draw = ImageDraw.Draw(image)
    draw.rectangle((50, 70, 149, 209), RED)
    draw.rectangle((80, 110, 119, 169), GROUND)
    return image


def reddish(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    pixels = np.asarray(image, np.int16)
    return (pixels[..., 0] > 2 * pixels[..., 1]) & (pixels[..., 0] > 80)


def test_a_garment_is_cut_out_with_the_white_inside_it() -> None:
    garment = cut_out(packshot())
    assert garment is not None
    assert garment.mode == "RGBA"
    assert garment.size == pytest.approx((100, 140), abs=6)
    alpha = np.asarray(garment)[..., 3]
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255  # the white inside
    assert alpha.mean() > 0.85 * 255


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (100, 100), (250, 250, 250)),
        Image.new("RGB", (100, 100), (90, 60, 40)),
        Image.fromarray(np.pad(np.zeros((96, 96, 3), np.uint8), ((2, 2), (2, 2), (0, 0)), constant_values=255)),
    ],
    ids=["nothing on it", "no light ground", "hardly any ground"],
)
def test_what_has_no_plausible_mask_is_refused(image: Image.Image) -> None:
    assert cut_out(image) is None


def test_the_garment_stands_in_the_scene_and_the_rest_is_the_scene() -> None:
    garment = cut_out(packshot())
    assert garment is not None
    scene = Image.new("RGB", (300, 440), GREEN)
    for seed in range(5):
        made = into_scene(garment, scene, np.random.default_rng(seed))
        assert made.size == scene.size
        assert 0.05 < reddish(made).mean() < 0.6
        assert (np.asarray(made)[0] == GREEN).all()
    again = into_scene(garment, scene, np.random.default_rng(4))
    assert again.tobytes() == made.tobytes()


def test_a_worn_garment_covers_the_box_and_the_crop_is_about_it() -> None:
    garment = cut_out(packshot())
    assert garment is not None
    photo = Image.new("RGB", (300, 440), GREEN)
    made = onto_person(garment, photo, (100, 120, 190, 300), np.random.default_rng(0))
    assert made.size == (150, 300)
    covered = reddish(made)
    assert covered[70:230, 35:115].mean() > 0.5
    assert covered[:, :20].mean() < 0.02
    at_the_edge = onto_person(garment, photo, (0, 0, 90, 120), np.random.default_rng(0))
    assert at_the_edge.size == (120, 160)
