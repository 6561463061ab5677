"""Pictures that are almost the same and not a duplicate: the garment in another colour, or with another print.

Shapes: a picture is (height, width, 3) uint8, its mask (height, width) float32 from 0 to 1.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from encoders.training.augment import Pixels, Random, clipped, resized
from encoders.training.masks import Mask
from encoders.training.scenes import CutOut

_HUES = 180.0  # OpenCV's bytes count hue in steps of two degrees
_VIVID = 40.0  # mean chroma from which turning the hue is seen


def recolour(image: Pixels, mask: Mask, rng: Random) -> Pixels:
    """The garment dyed, its surroundings as they were: hue turned by 25 degrees or more where there is a hue, else (or
    now and then) another colour laid over its folds."""
    alpha = mask[..., None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    chroma = float((hsv[..., 1] * hsv[..., 2] * mask).sum() / (mask.sum() + 1e-6)) / 255
    if chroma > _VIVID and rng.random() < 0.7:
        turn = rng.uniform(25, 60) if rng.random() < 0.5 else rng.uniform(60, 180)
        hsv[..., 0] = (hsv[..., 0] + rng.choice([-1, 1]) * turn / 2) % _HUES
        dyed = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    else:
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(25, 60)
        mean = (lab[..., 0] * mask).sum() / (mask.sum() + 1e-6)
        target = np.clip(mean + rng.uniform(-20, 20), 25, 80)
        lab[..., 0] = np.clip(lab[..., 0] + (target - mean), 0, 100)
        lab[..., 1:] += np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(reach)
        dyed = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255
    return clipped(image + alpha * (np.clip(dyed, 0, 255) - image))


def texture(piece: CutOut) -> NDArray[np.float32] | None:
    """The print of a piece, its folds divided out: the largest square in its middle, mean 1; None for plain cloth."""
    height, width = piece.mask.shape
    side = round(0.45 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    if side < 24 or piece.mask[top : top + side, left : left + side].mean() < 0.95:
        return None
    patch = piece.pixels[top : top + side, left : left + side].astype(np.float32)
    folds = cv2.GaussianBlur(patch.mean(axis=2), (0, 0), side / 5)[..., None]
    print_ = patch / np.maximum(folds, 12)
    return np.asarray(print_) if float(print_.std(axis=(0, 1)).mean()) > 0.22 else None


def reprint(image: Pixels, mask: Mask, print_: NDArray[np.float32], rng: Random) -> Pixels:
    """Another print on the same garment, under the same folds; now and then only a field on its front."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.max(axis=1) > 0.5), np.flatnonzero(mask.max(axis=0) > 0.5)
    if not len(rows) or not len(columns):
        return image
    box_h, box_w = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    side = max(16, round(max(box_h, box_w) * rng.uniform(0.3, 0.7)))
    tile = cv2.resize(print_, (side, side), None, 0, 0, cv2.INTER_LINEAR)
    tile = np.concatenate([np.concatenate([tile, tile[:, ::-1]], 1), np.concatenate([tile[::-1], tile[::-1, ::-1]], 1)])
    again = height // len(tile) + 2, width // len(tile) + 2, 1
    dy, dx = rng.integers(0, len(tile), 2)
    sheet = np.tile(tile, again)[dy : dy + height, dx : dx + width]
    light = cv2.GaussianBlur(image.astype(np.float32).mean(axis=2), (0, 0), max(box_h, box_w) / 18)
    inside = light[mask > 0.5]
    folds = np.clip(light / max(float(inside.mean()), 1), 0.4, 1.8)
    level = np.clip(float(inside.mean()), 70, 170)
    printed = sheet * (folds * level)[..., None]
    alpha = mask
    if rng.random() < 0.35:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        cy, cx = rows[0] + box_h * rng.uniform(0.3, 0.55), columns[0] + box_w * rng.uniform(0.4, 0.6)
        radius = ((y - cy) / (box_h * rng.uniform(0.18, 0.3))) ** 2 + ((x - cx) / (box_w * rng.uniform(0.18, 0.3))) ** 2
        alpha = mask * np.clip(6 * (1 - radius), 0, 1)
    return clipped(image + alpha[..., None] * (np.clip(printed, 0, 255) - image))


def small(image: Pixels, long_side: int = 256) -> Pixels:
    """No larger than `long_side`."""
    scale = min(1.0, long_side / max(image.shape[:2]))
    return resized(image, round(image.shape[1] * scale), round(image.shape[0] * scale)) if scale < 1 else image
