"""Training pictures: what stays the same, what is cut out and put elsewhere, and what is nearly the same."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import synthetic
from encoders.training import augment
from encoders.training.masks import garment_mask
from encoders.training.near_misses import recolour, reprint, texture
from encoders.training.scenes import CutOut, bent, cut, in_scene, on_plain, part_of

Pixels = NDArray[np.uint8]
VIVID = next(
    n for n in range(50) if max(synthetic.garment(n).colours[0][1:]) - min(synthetic.garment(n).colours[0][1:]) > 120
)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return np.array(synthetic.photo(synthetic.garment(VIVID), 5, 192))


@pytest.fixture(scope="module")
def mask() -> NDArray[np.float32]:
    """The truth: what differs from white in the clean design."""
    clean = np.array(synthetic.design(synthetic.garment(VIVID), 192)).astype(np.float32)
    return np.asarray(np.abs(clean - 248).max(axis=2) > 40, np.float32)


@pytest.fixture(scope="module")
def design() -> Pixels:
    return np.array(synthetic.design(synthetic.garment(VIVID), 192))


@pytest.mark.parametrize("edit", [edit for edit, _ in augment.EDITS] + [augment.chain, augment.camera])
def test_edits_keep_pixels_pixels_and_follow_the_seed(edit: augment.Edit, photo: Pixels) -> None:
    before = photo.copy()
    made = [edit(photo, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in made)
    assert np.array_equal(made[0], made[1])
    assert edit is augment.mirror or made[0].shape != made[2].shape or not np.array_equal(made[0], made[2])
    assert np.array_equal(photo, before)


def test_saving_again_keeps_red_red() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    again = augment.reencode(red, np.random.default_rng(0))
    assert np.abs(again.astype(int).mean(axis=(0, 1)) - [200, 0, 0]).max() < 12


def test_a_garment_in_the_middle_is_found(design: Pixels, mask: NDArray[np.float32]) -> None:
    guess = garment_mask(design) > 0.5
    truth = mask > 0.5
    assert (guess & truth).sum() / (guess | truth).sum() > 0.8
    assert np.array_equal(garment_mask(design), garment_mask(design))


def test_what_is_too_small_is_no_garment() -> None:
    dot = np.full((120, 100, 3), 250, np.uint8)
    cv2.circle(dot, (50, 60), 8, (10, 10, 10), -1)
    assert not garment_mask(dot).any()


def test_cutting_gives_the_box(design: Pixels, mask: NDArray[np.float32]) -> None:
    piece = cut(design, mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert piece.mask.shape == (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    whole = cut(design, np.zeros_like(mask))
    assert whole.pixels.shape == design.shape
    assert whole.mask.all()


def test_a_part_is_a_part(design: Pixels, mask: NDArray[np.float32]) -> None:
    piece = cut(design, mask)
    for seed in range(10):
        part = part_of(piece, np.random.default_rng(seed))
        assert part.pixels.shape[:2] == part.mask.shape
        assert 0 < part.mask.sum() <= piece.mask.sum() * 1.01


def test_a_cut_out_stands_on_a_plain_ground(design: Pixels, mask: NDArray[np.float32]) -> None:
    for seed in range(6):
        image = on_plain(cut(design, mask), np.random.default_rng(seed))
        # The garment's box is somewhere inside; the corners are of one colour.
        assert np.ptp(image[:2, :2].reshape(-1, 3), axis=0).max() <= 1
        assert image.shape[0] >= cut(design, mask).mask.shape[0]


@pytest.mark.parametrize("area", [(0.04, 0.05), (0.4, 0.5)])
def test_a_scene_holds_the_garment_at_its_size(
    design: Pixels, mask: NDArray[np.float32], area: tuple[float, float]
) -> None:
    piece = cut(design, mask)
    # A colour that neither the background nor the light has.
    piece = CutOut(np.broadcast_to(np.array([255, 0, 255], np.uint8), piece.pixels.shape).copy(), piece.mask)
    background = np.full((120, 90, 3), (20, 120, 20), np.uint8)
    shares = []
    for seed in range(12):
        scene = in_scene(piece, [], background, np.random.default_rng(seed), area).astype(int)
        found = (scene[..., 0] > 90) & (scene[..., 1] < 60)
        shares.append(found.mean())
    fill = piece.mask.mean()
    assert area[0] * fill * 0.6 < np.median(shares) < area[1] * fill * 1.3


def test_bending_moves_cloth_a_little(design: Pixels, mask: NDArray[np.float32]) -> None:
    piece = cut(design, mask)
    moved = bent(piece, np.random.default_rng(3))
    assert moved.mask.shape == piece.mask.shape
    assert 0.7 < moved.mask.sum() / piece.mask.sum() < 1.3
    assert not np.array_equal(moved.pixels, piece.pixels)


def lab(image: Pixels, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The mean colour in CIE Lab."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[inside].mean(axis=0))


def test_dyeing_is_seen_and_leaves_the_rest(design: Pixels, mask: NDArray[np.float32]) -> None:
    inside = mask > 0
    for seed in range(20):
        dyed = recolour(design, mask, np.random.default_rng(seed))
        assert np.array_equal(dyed[~inside], design[~inside])
        assert np.linalg.norm(lab(dyed, inside) - lab(design, inside)) > 10, seed


def test_grey_cloth_is_dyed_too() -> None:
    grey = np.full((60, 60, 3), 120, np.uint8)
    mask = np.zeros((60, 60), np.float32)
    mask[10:50, 10:50] = 1
    for seed in range(10):
        dyed = recolour(grey, mask, np.random.default_rng(seed)).astype(int)
        assert np.ptp(dyed[30, 30]) > 15


def test_another_print_keeps_folds_and_surroundings(design: Pixels, mask: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(0)
    print_ = (1 + 0.6 * np.sign(np.sin(np.arange(40) / 2))[:, None, None] * np.ones((40, 40, 3))).astype(np.float32)
    shade = np.linspace(0.4, 1.0, design.shape[1], dtype=np.float32)  # a fold from left to right
    folded = np.clip(design * shade[None, :, None], 0, 255).astype(np.uint8)
    printed = reprint(folded, mask, print_, rng)
    inside = mask > 0.5
    assert np.array_equal(printed[mask == 0], folded[mask == 0])
    assert np.abs(printed[inside].astype(int) - folded[inside]).mean() > 10
    columns = np.arange(design.shape[1])[None, :] * np.ones(mask.shape)
    left, right = (printed[inside & side].mean() for side in (columns < 80, columns > 112))
    assert left < right


def test_only_a_print_that_can_be_seen_is_borrowed() -> None:
    plain = CutOut(np.full((90, 90, 3), 140, np.uint8), np.ones((90, 90), np.float32))
    assert texture(plain) is None
    stripes = plain.pixels.copy()
    stripes[::8] = stripes[1::8] = stripes[2::8] = 20
    found = texture(CutOut(stripes, plain.mask))
    assert found is not None
    assert abs(float(found.mean()) - 1) < 0.1
