"""Cloth: the palette, the prints, and how cut pieces become a shaded picture of a garment.

It knows nothing of garments: `synthetic` cuts the pieces, this module prints, shades and layers them.
Lengths are in canvas units (1.0 is the side of the square picture), x to the right, y down. Colours are 0..1 and
planar, (3, h, w), which NumPy combines with masks (h, w) several times faster than (h, w, 3).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

# Always float32 at run time; wider here because the stubs promote every mix of float32 and float.
Floats = NDArray[np.floating[Any]]
Point = tuple[float, float]
Print = Literal[
    "plain", "stripes", "pinstripes", "checks", "dots", "floral", "geometric", "chevron", "emblem", "blocks"
]
Fabric = Literal["print", "main", "second", "inside"]

SUPERSAMPLE = 3
RELIEF_STEP_PX = 3
LEAF = np.array([0.16, 0.36, 0.2], np.float32)[:, None, None]
POLLEN = np.array([0.97, 0.8, 0.3], np.float32)[:, None, None]


class Colour(NamedTuple):
    """A named colour; channels are 0..255."""

    name: str
    red: int
    green: int
    blue: int

    @property
    def rgb(self) -> Floats:
        """The channels as 0..1. Shape: (3, 1, 1)."""
        return np.array(self[1:], np.float32)[:, None, None] / np.float32(255)

    def distance(self, other: "Colour") -> float:
        """How unlike two colours look: 0 for equal, about 1 for black and white."""
        pairs = zip((0.3, 0.59, 0.11), self[1:], other[1:], strict=True)
        return math.sqrt(sum(weight * ((a - b) / 255) ** 2 for weight, a, b in pairs))


PALETTE = tuple(
    Colour(*entry)
    for entry in (
        ("white", 244, 243, 239), ("ivory", 238, 226, 200), ("black", 34, 33, 36), ("charcoal", 74, 77, 84),
        ("grey", 158, 161, 166), ("navy", 30, 43, 84), ("blue", 42, 92, 178), ("sky blue", 142, 192, 230),
        ("denim blue", 84, 116, 152), ("teal", 14, 118, 122), ("turquoise", 72, 190, 190), ("mint", 176, 224, 200),
        ("forest green", 30, 84, 58), ("green", 62, 150, 84), ("olive", 110, 112, 58), ("sage", 162, 178, 146),
        ("yellow", 246, 208, 70), ("mustard", 206, 152, 40), ("orange", 236, 126, 44), ("coral", 244, 124, 104),
        ("terracotta", 190, 96, 66), ("red", 204, 40, 48), ("burgundy", 112, 28, 48), ("pink", 240, 158, 184),
        ("blush", 238, 206, 200), ("magenta", 196, 44, 122), ("lavender", 186, 170, 218), ("purple", 104, 62, 142),
        ("brown", 102, 68, 48), ("camel", 192, 150, 104),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """What a garment is made of: a print in up to three colours.

    `scale` is the print's repeat in canvas units; `seed` fixes the print's variant and its random parts.
    """

    print: Print
    colours: tuple[Colour, Colour, Colour]
    scale: float
    seed: int
    knitted: bool = False


@dataclass(frozen=True)
class Part:
    """One piece of a garment: a closed outline, or with `stroke_width` a band along an open line.

    `outline` has shape (points, 2). The print runs in a frame at `origin`, turned by `angle` (radians), so that
    stripes follow a sleeve. `lift` is how strongly the piece shadows what lies under it.
    """

    outline: Floats
    origin: Point = (0.5, 0.1)
    angle: float = 0.0
    fabric: Fabric = "print"
    tint: float = 1.0
    ribbed: bool = False
    lift: float = 0.25
    stroke_width: float = 0.0


@dataclass
class Cut:
    """Everything that is sewn together, lowest piece first.

    seams: lines of shape (points, 2) with a width. buttons: (x, y, radius). folds: creases from a sharp point to
    a wide end, (x0, y0, x1, y1, width). patches: flat shapes with a colour, such as an emblem.
    """

    parts: list[Part] = field(default_factory=list)
    seams: list[tuple[Floats, float]] = field(default_factory=list)
    buttons: list[tuple[float, float, float]] = field(default_factory=list)
    folds: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    patches: list[tuple[Floats, Colour]] = field(default_factory=list)


class Weave(NamedTuple):
    """Where a print is evaluated: cloth coordinates `u`, `v`, with the size of a pixel.

    They broadcast to (h, w): in a piece that is not turned u is (1, w) and v is (h, 1), and stripes cost a line.
    """

    u: Floats
    v: Floats
    px: float


def _inside(distance: Floats, px: float) -> Floats:
    """Anti-aliased coverage: 1 where `distance` (canvas units) is positive, 0 where it is negative."""
    coverage: Floats = distance / px
    coverage += 0.5
    return np.clip(coverage, 0, 1, out=coverage)


def _band(t: Floats, period: float, width: float, px: float, shift: float = 0.5) -> Floats:
    """Coverage of stripes across `t`; `width` and `shift` are fractions of the period."""
    return _inside((width / 2 - np.abs((t / period) % 1 - shift)) * period, px)


def _mix(under: Floats, over: Floats, coverage: Floats) -> Floats:
    """Lay colour `over` (3, 1, 1) on `under`, (3, 1, 1) or (3, h, w), where `coverage` (h, w) says."""
    mixed = coverage * (over - under)
    mixed += under
    return mixed


def _cells(weave: Weave, pitch: float, seed: int, jitter: float) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Offsets (du, dv) to the centre of each pixel's cell in a staggered grid, and the cell's random 0..1023."""
    row = np.floor(weave.v / pitch)
    shifted = weave.u / pitch + 0.5 * (row % 2)
    column = np.floor(shifted)
    table = np.random.default_rng(seed).random((1024, 2), np.float32) - np.float32(0.5)
    key = ((row * 37 + column * 101).astype(np.intp) ^ (row * 11).astype(np.intp)) & 1023
    offset = table[key] * np.float32(jitter)
    du = (shifted - column - 0.5 - offset[..., 0]) * pitch
    dv = (weave.v / pitch - row - 0.5 - offset[..., 1]) * pitch
    return du, dv, key


def _stripes(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    variant, width = seed % 3, (0.5, 0.3, 0.4)[seed % 3]
    cloth = _mix(ink[0], ink[1], _band(weave.v, scale, width, weave.px))
    if variant == 2:
        cloth = _mix(cloth, ink[2], _band(weave.v, scale, 0.1, weave.px, 0.08))
    return cloth


def _pinstripes(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    return _stripes(Weave(weave.v, weave.u, weave.px), scale, ink, seed)


def _checks(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    variant = seed % 3
    across, down = _band(weave.u, scale, 0.5, weave.px), _band(weave.v, scale, 0.5, weave.px)
    if variant == 0:
        return _mix(ink[0], ink[1], (across + down) / 2)
    lines = np.maximum(_band(weave.u, scale, 0.09, weave.px, 0.1), _band(weave.v, scale, 0.09, weave.px, 0.1))
    if variant == 1:
        return _mix(_mix(ink[0], ink[1], across * 0.55 + down * 0.4), ink[2], lines * 0.9)
    pane = np.maximum(_band(weave.u, scale, 0.12, weave.px), _band(weave.v, scale, 0.12, weave.px))
    return _mix(ink[0], ink[1], pane)


def _dots(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    du, dv, key = _cells(weave, scale, seed, 0.0)
    radius = scale * (0.2, 0.27, 0.34)[seed % 3]
    spot = _inside(radius - np.hypot(du, dv), weave.px)
    if seed % 2:
        return _mix(ink[0], ink[1], spot)
    return _mix(_mix(ink[0], ink[1], spot * (key % 3 > 0)), ink[2], spot * (key % 3 == 0))


def _floral(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    pitch = scale * 1.5
    du, dv, key = _cells(weave, pitch, seed, 0.24)
    away, turn = np.hypot(du, dv), np.arctan2(dv, du) + (key % 7).astype(np.float32)
    petals = 5 + seed % 2
    size = pitch * (0.29 + 0.08 * (key % 5 > 1)).astype(np.float32)
    leaf = ink[1] * np.float32(0.35) + LEAF * np.float32(0.65)
    leaves = _inside(size * 1.45 * np.abs(np.cos(turn + 1.1)) ** 3 - away, weave.px)
    petal = _inside(size * (0.62 + 0.38 * np.abs(np.cos(turn * (petals / 2)))) - away, weave.px)
    cloth = _mix(_mix(ink[0], leaf, leaves), ink[1], petal * (key % 3 > 0))
    cloth = _mix(cloth, ink[2], petal * (key % 3 == 0))
    return _mix(cloth, POLLEN, _inside(size * 0.27 - away, weave.px))


def _geometric(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    variant, pitch = seed % 4, scale * 1.4
    if variant == 0:  # argyle
        a, b = weave.u / pitch + weave.v / (pitch * 1.5), weave.u / pitch - weave.v / (pitch * 1.5)
        diamond = _inside((0.25 - np.abs(a % 1 - 0.5)) * pitch, weave.px) * _inside(
            (0.25 - np.abs(b % 1 - 0.5)) * pitch, weave.px
        )
        line = np.maximum(_band(a * pitch, pitch, 0.05, weave.px, 0.02), _band(b * pitch, pitch, 0.05, weave.px, 0.02))
        return _mix(_mix(ink[0], ink[1], diamond), ink[2], line)
    du, dv, key = _cells(weave, pitch, seed, 0.0)
    if variant == 1:  # triangles
        shape = _inside(np.minimum(pitch * 0.3 - dv, dv + pitch * 0.34 - 2 * np.abs(du)), weave.px)
    elif variant == 2:  # rings
        away = np.hypot(du, dv)
        shape = _inside(np.maximum(pitch * 0.09 - np.abs(away - pitch * 0.34), pitch * 0.1 - away), weave.px)
    else:  # squares in squares
        away = np.maximum(np.abs(du), np.abs(dv))
        shape = _inside(np.maximum(pitch * 0.07 - np.abs(away - pitch * 0.36), pitch * 0.16 - away), weave.px)
    return _mix(_mix(ink[0], ink[1], shape * (key % 2 == 0)), ink[2], shape * (key % 2 == 1))


def _chevron(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    zigzag = np.abs((weave.u / (scale * 1.6)) % 1 - 0.5) * (scale * 1.6)
    return _stripes(Weave(weave.u, weave.v + zigzag * (1.0 + 0.3 * (seed % 2)), weave.px * 1.4), scale, ink, seed)


def _blocks(weave: Weave, scale: float, ink: Floats, seed: int) -> Floats:
    variant = seed % 4
    if variant == 0:  # two bands
        upper, lower = (_inside(weave.v - y - scale, weave.px) for y in (0.2, 0.36))
        return _mix(_mix(ink[0], ink[1], upper), ink[2], lower)
    if variant == 1:  # halves
        return _mix(ink[0], ink[1], _inside(weave.u, weave.px))
    slope = weave.v - 0.28 - scale + weave.u * (0.8 if variant == 2 else -0.8)
    sash = _inside(0.022 - np.abs(slope), weave.px * 1.3)
    return _mix(_mix(ink[0], ink[1], _inside(slope, weave.px * 1.3)), ink[2], sash)


_PRINTS: dict[Print, Callable[[Weave, float, Floats, int], Floats]] = {
    "stripes": _stripes,
    "pinstripes": _pinstripes,
    "checks": _checks,
    "dots": _dots,
    "floral": _floral,
    "geometric": _geometric,
    "chevron": _chevron,
    "blocks": _blocks,
}


def xy(x: float, y: float) -> Floats:
    """A point or a shift. Shape: (2,)."""
    return np.array((x, y), np.float32)


def ring(radius: float, count: int = 48, pinch: float = 0.0, lobes: int = 0, turn: float = 0.0) -> Floats:
    """A closed curve around 0: a circle, or with `lobes` a rosette `pinch` deep. Shape: (count, 2)."""
    angle = np.linspace(0, 2 * math.pi, count, endpoint=False)
    away = radius * (1 - pinch * (0.5 - 0.5 * np.cos(lobes * angle)))
    return np.stack([away * np.sin(angle + turn), -away * np.cos(angle + turn)], 1).astype(np.float32)


def _star(points: int, radius: float, depth: float) -> Floats:
    corners = ring(radius, 2 * points)
    corners[1::2] *= np.float32(depth)
    return corners


def _heart(radius: float) -> Floats:
    t = np.linspace(0, 2 * math.pi, 60)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3, y], 1).astype(np.float32) * np.float32(radius / 16)


def emblem(cloth: Cloth, centre: Point, radius: float) -> list[tuple[Floats, Colour]]:
    """The patches of a big chest emblem, lowest first; `radius` in canvas units."""
    rng = np.random.default_rng(cloth.seed)
    _, second, third = cloth.colours
    points = int(rng.integers(5, 9))
    bolt = np.array([(0.1, -1), (-0.55, 0.15), (-0.05, 0.15), (-0.2, 1), (0.55, -0.25), (0.05, -0.25)], np.float32)
    peaks = np.array([(-0.8, 0.5), (-0.25, -0.5), (0.05, 0), (0.3, -0.3), (0.8, 0.5)], np.float32)
    bar = np.array([(-1, -0.2), (1, -0.2), (1, 0.2), (-1, 0.2)], np.float32)
    shapes: list[list[Floats]] = [
        [_star(5, 1.0, 0.42), _star(5, 0.55, 0.42)],
        [_heart(1.0), _heart(0.55)],
        [ring(1.0), bolt * np.float32(0.8)],
        [ring(1.0), peaks],
        [_star(points * 2, 1.0, 0.72), ring(0.55)],
        [ring(1.0, 96, 0.45, points), ring(0.32)],
        [bar + xy(0, -0.6), bar, bar * xy(0.6, 1) + xy(0, 0.6)],
        [ring(1.0, 4), ring(0.66, 4), ring(0.3, 4)],
        [ring(1.0, 3), ring(0.5, 3, turn=math.pi)],
        [ring(1.0), ring(0.76), ring(0.48), ring(0.22)],
    ]
    chosen = shapes[int(rng.integers(len(shapes)))]
    return [(s * np.float32(radius) + xy(*centre), (second, third)[i % 2]) for i, s in enumerate(chosen)]


def _dye(cloth: Cloth, part: Part, weave: Weave) -> Floats:
    """The unlit colour of a piece. Shape: (3, h, w), or (3, 1, 1) where it is one colour."""
    ink = np.stack([colour.rgb for colour in cloth.colours])
    draw = _PRINTS.get(cloth.print)
    if part.fabric == "print" and draw is not None:
        return draw(weave, cloth.scale, ink, cloth.seed) * part.tint
    plain: Floats = ink[1] if part.fabric == "second" else ink[0]
    return plain * (0.62 if part.fabric == "inside" else part.tint)


def resized(hills: Floats, width_px: int, height_px: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Floats:
    """A smooth field stretched to (height_px, width_px)."""
    return np.asarray(Image.fromarray(hills).resize((width_px, height_px), how), np.float32)


def _coverage(shapes: Sequence[tuple[Floats, float]], box: tuple[int, int, int, int], size_px: int) -> Floats:
    """Anti-aliased coverage of outlines (or lines of a width) within `box` (left, top, right, bottom; px)."""
    left, top, right, bottom = box
    big = Image.new("L", ((right - left) * SUPERSAMPLE, (bottom - top) * SUPERSAMPLE))
    pen = ImageDraw.Draw(big)
    for outline, width in shapes:
        path = ((outline * size_px - (left, top)) * SUPERSAMPLE).ravel().tolist()
        if width:
            pen.line(path, fill=255, width=max(1, round(width * size_px * SUPERSAMPLE)), joint="curve")
        else:
            pen.polygon(path, fill=255)
    return np.asarray(big.reduce(SUPERSAMPLE), np.float32) / 255


def _box(outline: Floats, margin: float, size_px: int) -> tuple[int, int, int, int]:
    low = np.floor((outline.min(0) - margin) * size_px).clip(0, size_px - 2).astype(int)
    high = np.ceil((outline.max(0) + margin) * size_px).clip(2, size_px).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def slope(height: Floats, light: Point) -> Floats:
    """How much each point of a relief faces the light (a direction in the picture). Shape: as `height`."""
    down, right = np.gradient(height)
    return np.asarray(-light[0] * right - light[1] * down, np.float32)


def _creases(cut: Cut, size_px: int, light: Point, rng: np.random.Generator) -> Floats:
    """Light and shadow of the folds, around 0. Shape: (size_px, size_px)."""
    side = 160
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1, width in cut.folds:
        nx, ny = (y1 - y0), (x0 - x1)
        half = width / 2 / max(1e-6, math.hypot(nx, ny))
        ends = [(x0, y0), (x1 + nx * half, y1 + ny * half), (x1 - nx * half, y1 - ny * half)]
        pen.polygon([(x * side, y * side) for x, y in ends], fill=210)
    height = np.asarray(image.filter(ImageFilter.GaussianBlur(1.7)), np.float32) / 255
    drape = resized(rng.standard_normal((9, 14), np.float32), side, side) * np.float32(0.55)
    return resized(slope(height + drape, light) * np.float32(0.85), size_px, size_px, Image.Resampling.BILINEAR)


def _weave(part: Part, box: tuple[int, int, int, int], size_px: int) -> Weave:
    """The print's coordinates over a box of pixels."""
    left, top, right, bottom = box
    x = np.arange(left, right, dtype=np.float32)[None, :] / size_px - part.origin[0]
    y = np.arange(top, bottom, dtype=np.float32)[:, None] / size_px - part.origin[1]
    if not part.angle:
        return Weave(x, y, 1 / size_px)
    cos, sin = math.cos(part.angle), math.sin(part.angle)
    return Weave(x * cos + y * sin, y * cos - x * sin, 1 / size_px)


def _relief(mask: Floats, light: Point, size_px: int) -> tuple[Floats, Floats]:
    """How a padded piece catches the light, around 0, and the contact shadow it throws. Shapes: as `mask`, (h, w)."""
    height_px, width_px = mask.shape
    small = (-(-width_px // RELIEF_STEP_PX), -(-height_px // RELIEF_STEP_PX))
    soft = Image.fromarray((mask * 255).astype(np.uint8)).resize(small, Image.Resampling.BOX)
    contact_px, round_px = size_px * 0.007 / RELIEF_STEP_PX, size_px * 0.03 / RELIEF_STEP_PX
    contact, height = (
        np.asarray(soft.filter(ImageFilter.GaussianBlur(px)), np.float32) / 255 for px in (contact_px, round_px)
    )
    volume = slope(height, light) * (0.68 * round_px) + (height - 1) * 0.2
    smooth = Image.Resampling.BILINEAR
    return resized(volume, width_px, height_px, smooth), resized(contact, width_px, height_px, smooth)


def sew(cut: Cut, cloth: Cloth, size_px: int, light: Point, seed: int) -> tuple[Floats, Floats]:
    """Print, shade and layer the pieces.

    `light` points towards the light in the picture; its length is the contrast. `seed` fixes how the cloth lies.
    Returns premultiplied colour (3, size_px, size_px) and opacity (size_px, size_px).
    """
    rng = np.random.default_rng(seed)
    colour = np.zeros((3, size_px, size_px), np.float32)
    opacity = np.zeros((size_px, size_px), np.float32)
    creases = _creases(cut, size_px, light, rng)
    for part in cut.parts:
        left, top, right, bottom = box = _box(part.outline, 0.025, size_px)
        here = np.s_[top:bottom, left:right]
        mask = _coverage([(part.outline, part.stroke_width)], box, size_px)
        weave = _weave(part, box, size_px)
        shade, contact = _relief(mask, light, size_px)
        shade = shade + creases[here] + 1
        if part.ribbed:
            shade += 0.07 * np.sin(weave.u * (2 * math.pi / 0.011))
        elif cloth.knitted:
            shade += 0.03 * np.sin(weave.u * 520 + 2 * np.sin(weave.v * 520))
        lit = _dye(cloth, part, weave) * np.clip(shade, 0.25, 1.5, out=shade)
        np.minimum(lit, 1, out=lit)
        lit *= mask
        colour[:, *here] *= (1 - part.lift * contact) * (1 - mask)
        colour[:, *here] += lit
        opacity[here] += mask * (1 - opacity[here])
    _trim(cut, colour, opacity, creases, dark_buttons=float(cloth.colours[0].rgb.mean()) > 0.5)
    return colour, opacity


def _trim(cut: Cut, colour: Floats, opacity: Floats, creases: Floats, dark_buttons: bool) -> None:
    """Draw patches, seams and buttons into premultiplied `colour` (3, n, n)."""
    size_px = colour.shape[1]
    for shape, ink in cut.patches:
        left, top, right, bottom = box = _box(shape, 0.01, size_px)
        here = np.s_[top:bottom, left:right]
        mask = _coverage([(shape, 0.0)], box, size_px) * opacity[here]
        colour[:, *here] += mask * (np.clip(ink.rgb * (1 + creases[here]), 0, 1) - colour[:, *here])
    if cut.seams:
        left, top, right, bottom = box = _box(np.concatenate([line for line, _ in cut.seams]), 0.02, size_px)
        here = np.s_[top:bottom, left:right]
        stitched = _coverage(cut.seams, box, size_px) * opacity[here]
        grain = colour[:, *here].mean(0)
        # Dark cloth shows a lighter seam, or black trousers would have none.
        tone = np.where(grain < 0.24, np.float32(0.2), np.float32(-0.42) * grain) * stitched
        colour[:, *here] += tone
    face = np.float32(0.26 if dark_buttons else 0.9)
    for x, y, radius in cut.buttons:
        disc, spot = ring(radius) + xy(x, y), ring(radius * 0.34, 12) + xy(x, y)
        left, top, right, bottom = box = _box(disc, 0.01, size_px)
        here = np.s_[top:bottom, left:right]
        rim = _coverage([(disc + xy(0.0012, 0.002), 0.0)], box, size_px)
        colour[:, *here] *= 1 - np.float32(0.45) * rim
        colour[:, *here] += _coverage([(disc, 0.0)], box, size_px) * (face - colour[:, *here])
        colour[:, *here] += _coverage([(spot, 0.0)], box, size_px) * (face * np.float32(0.72) - colour[:, *here])
