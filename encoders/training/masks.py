"""Where the garment is in a home photo: a guess without labels, good enough to cut training pictures from.

Not for serving. GrabCut (Rother, Kolmogorov, Blake 2004; OpenCV's) from an ellipse in the middle, since people put the
one thing they photograph there.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

_WORK_PX: Final = 128
_ROUNDS: Final = 3
_PROBABLE: Final = 0.42  # of the side: the half axes of the ellipse that is probably garment
_CERTAIN: Final = 0.12  # of that ellipse's squared radius: certainly garment
_RIM: Final = 0.04  # of the shorter side: certainly not
PLAUSIBLE: Final = (0.08, 0.9)
"""Shares of the picture that a garment takes; a guess outside is no garment. (What is certain alone is 0.066.)"""


def garment_mask(image: Pixels) -> Mask:
    """How much of each pixel is garment; all zero when the guess is not plausible.

    Shape: (height, width, 3) uint8 -> (height, width) float32 from 0 to 1.
    """
    height, width = image.shape[:2]
    scale = _WORK_PX / max(height, width)
    small = cv2.resize(image, (max(8, round(width * scale)), max(8, round(height * scale))), None, 0, 0, cv2.INTER_AREA)
    rows, columns = small.shape[:2]
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j] / (2 * _PROBABLE)
    radius = x**2 + y**2
    label = np.full((rows, columns), cv2.GC_PR_BGD, np.uint8)
    label[radius < 1] = cv2.GC_PR_FGD
    label[radius < _CERTAIN] = cv2.GC_FGD
    rim = max(2, round(_RIM * min(rows, columns)))
    label[:rim] = label[-rim:] = cv2.GC_BGD
    label[:, :rim] = label[:, -rim:] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # its colour clusters start at random
    cv2.grabCut(small, label, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = ((label == cv2.GC_FGD) | (label == cv2.GC_PR_FGD)).astype(np.float32)
    if not PLAUSIBLE[0] < mask.mean() < PLAUSIBLE[1]:
        return np.zeros((height, width), np.float32)
    soft = cv2.GaussianBlur(cv2.resize(mask, (width, height), None, 0, 0, cv2.INTER_LINEAR), (0, 0), 1.0)
    return np.asarray(np.clip(2 * soft - 0.5, 0, 1), np.float32)
