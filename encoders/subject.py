"""Where the subject of a picture stands. What lies around it on a plain ground (margins, a frame, a badge in a corner,
the page of a screenshot) says nothing of the garment, and made copies of one picture look like different ones.

A picture without a plain ground, a street photograph for instance, is its own subject. NumPy and Pillow only, and whole
numbers up to the last step, so that the service, training and every machine see the same box.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE: Final = 128
"""Pixels of the longer side of the copy that is looked at."""
_NEAR: Final = 10
"""Levels of 255 by which ground may differ from its own colour in each channel."""
_GROUND: Final = 0.45
"""Share of a window's outermost pixels that has to have one colour, or there is no plain ground."""
_BAR: Final = 0.7
"""Share of a line that has one colour, another than the ground's, in a bar above or below; the rest is words on it."""
_ROUNDS: Final = 4
"""Frames in frames; the last round finds the garment."""
_AREA: Final = 0.1
_BREADTH: Final = 0.25
"""A thing belongs to the subject when its box has so much of the largest one's area and of its shorter side."""
_SOLID: Final = 0.9
"""Share of its box from which a thing is a picture in a frame; a pixel at its edges is half frame."""
_LEAST: Final = 0.04
"""Share of a window under which something on it is not the subject."""
_MARGIN: Final = 0.03
"""Of the longer side of the subject, left around it."""


class Box(NamedTuple):
    """Pixels left <= x < right, top <= y < bottom, as Pillow crops."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def breadth(self) -> int:
        """The shorter side."""
        return min(self.right - self.left, self.bottom - self.top)


class Subject(NamedTuple):
    """Where a subject stands, with a small margin, and the colour of the plain ground right around it: a level of 255
    of each channel, None where there is no such ground."""

    box: Box
    ground: tuple[float, ...] | None


def subject_of(image: Image.Image) -> Subject:
    """The subject; the whole picture where nothing stands out from a plain ground."""
    look = _looked_at(image)
    height, width = look.shape[:2]
    box = Box(0, 0, width, height)
    around: NDArray[np.float64] | None = None
    for number in range(_ROUNDS):
        window = look[box.top : box.bottom, box.left : box.right]
        ground = _ground(window)
        if ground is None or (inner := _inner(window, ground, is_first=number == 0)) is None:
            break
        box = Box(box.left + inner.left, box.top + inner.top, box.left + inner.right, box.top + inner.bottom)
        around = ground
    margin = _MARGIN * max(box.right - box.left, box.bottom - box.top)
    to_x, to_y = image.width / width, image.height / height
    shown = Box(
        int(max(0.0, box.left - margin) * to_x),
        int(max(0.0, box.top - margin) * to_y),
        min(image.width, int(np.ceil((box.right + margin) * to_x))),
        min(image.height, int(np.ceil((box.bottom + margin) * to_y))),
    )
    return Subject(shown, None if around is None else tuple(around.tolist()))


def is_cluttered(image: Image.Image) -> bool:
    """Whether the picture has no plain ground at all."""
    return _ground(_looked_at(image)) is None


def _looked_at(image: Image.Image) -> NDArray[np.int16]:
    """The picture at _SIDE px. A thumbnail is enlarged, so that its box is as fine as that of the picture it was made
    of. Shape: (h, w, 3)."""
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.resize((width, height), way), np.int16)


def _ground(window: NDArray[np.int16]) -> NDArray[np.float64] | None:
    """The colour of the plain ground around a window, or None. Shape: (h, w, 3) -> (3,)."""
    edge = np.concatenate([window[0], window[-1], window[1:-1, 0], window[1:-1, -1]])
    ground = np.median(edge, axis=0)
    return ground if _near(edge, ground).mean() >= _GROUND else None


def _inner(window: NDArray[np.int16], ground: NDArray[np.float64], *, is_first: bool) -> Box | None:
    """What stands on the plain ground of a window; None where nothing stands on it, or nothing lies around it.
    Shape: (h, w, 3), (3,)."""
    height, width = window.shape[:2]
    if min(height, width) < 3:
        return None
    top, bottom = _without_bars(window, ground) if is_first else (0, height)
    stands_out = ~_near(window[top:bottom], ground)
    things = components(stands_out)
    if not things:
        return None
    largest = max(things, key=lambda thing: thing.area)
    subject = [t for t in things if t.area >= _AREA * largest.area and t.breadth >= _BREADTH * largest.breadth]
    left, upper = min(t.left for t in subject), min(t.top for t in subject)
    right, lower = max(t.right for t in subject), max(t.bottom for t in subject)
    if stands_out[upper:lower, left:right].mean() > _SOLID:
        left, upper, right, lower = left + 1, upper + 1, right - 1, lower - 1
    inner = Box(left, top + upper, right, top + lower)
    if inner.breadth < 1 or inner.area < _LEAST * width * height or inner == (0, 0, width, height):
        return None
    return inner


def _near(pixels: NDArray[np.int16], colour: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Shape: (..., 3), (3,) -> (...)."""
    return np.asarray(np.abs(pixels - colour).max(axis=-1) <= _NEAR)


def _without_bars(window: NDArray[np.int16], ground: NDArray[np.float64]) -> tuple[int, int]:
    """The rows between bars of another colour above and below, each at most a quarter of the window."""

    def height(rows: NDArray[np.int16]) -> int:
        count = next((n for n in range(most) if not is_bar(rows[n])), most)
        # The row that is half bar and half page would join the bar's ends with the picture.
        return count + bool(count and not _near(rows[count, [0, -1]], ground).any())

    def is_bar(row: NDArray[np.int16]) -> bool:
        colour = np.median(row, axis=0)
        return bool(np.abs(colour - ground).max() > _NEAR and _near(row, colour).mean() >= _BAR)

    most = len(window) // 4
    return height(window), len(window) - height(window[::-1])


def components(mask: NDArray[np.bool_]) -> list[Box]:
    """The boxes of the 8-connected components, by their runs in each row (Rosenfeld and Pfaltz 1966). Shape: (h, w)."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    begin, end = starts.tolist(), ends.tolist()
    of_row = np.searchsorted(rows, np.arange(len(mask) + 1)).tolist()
    parent = list(range(len(begin)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for y in range(1, len(mask)):
        above, run = of_row[y - 1], of_row[y]
        while above < of_row[y] and run < of_row[y + 1]:
            if begin[above] <= end[run] and begin[run] <= end[above]:
                first, second = sorted((root(above), root(run)))
                parent[second] = first
            if end[above] < end[run]:
                above += 1
            else:
                run += 1
    boxes: dict[int, Box] = {}
    for run, y in enumerate(rows.tolist()):
        box = boxes.get(name := root(run))
        boxes[name] = (
            Box(begin[run], y, end[run], y + 1)
            if box is None
            else Box(min(box.left, begin[run]), box.top, max(box.right, end[run]), y + 1)
        )
    return list(boxes.values())
