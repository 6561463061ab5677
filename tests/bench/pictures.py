"""Pictures as a generator service sends them: JPEG of 400 x 533 px and some 30 KB, every file different."""

import io

import numpy as np

from encoders.synthetic import design, garment, photo

_DRAWN_PX = 533
_WIDTH_PX = 400
_SAME_GARMENT = 8


def draw(count: int, seed: int) -> list[bytes]:
    """`count` files. Eight in a row show one garment, cut and compressed a little differently: drawing is slow."""
    files = []
    for first in range(0, count, _SAME_GARMENT):
        number = seed * 1_000_003 + first
        worn = garment(number)
        picture = photo(worn, number, _DRAWN_PX) if first // _SAME_GARMENT % 2 else design(worn, _DRAWN_PX)
        rng = np.random.default_rng(number)
        for _ in range(min(_SAME_GARMENT, count - first)):
            left = int(rng.integers(40, 90))
            file = io.BytesIO()
            cut = picture.crop((left, 0, left + _WIDTH_PX, _DRAWN_PX))
            cut.save(file, "JPEG", quality=int(rng.integers(70, 86)))
            files.append(file.getvalue())
    return files
