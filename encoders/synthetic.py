"""Synthetic fashion: garments with a known identity, as clean designs and as catalogue photographs.

The default images of the demo. Every picture follows from its seeds alone; nothing is read from disk. It is a stand-in
with exact truth, not a substitute for real photographs: figures measured on it say nothing about a real catalogue.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from encoders.synthetic_prints import (
    PALETTE,
    Cloth,
    Colour,
    Cut,
    Fabric,
    Floats,
    Part,
    Print,
    emblem,
    resized,
    sew,
    slope,
    xy,
)

Kind = Literal["t-shirt", "shirt", "sweater", "hoodie", "dress", "skirt", "trousers", "shorts", "jacket"]
Neckline = Literal["none", "round", "V", "boat", "turtle", "collar"]
Sleeves = Literal["none", "short", "long"]

# What is worn with what: the prints that each kind of garment comes in.
_PRINTS: dict[Kind, tuple[Print, ...]] = {
    "t-shirt": ("plain", "stripes", "dots", "floral", "geometric", "chevron", "emblem", "blocks", "pinstripes"),
    "shirt": ("plain", "stripes", "pinstripes", "checks", "dots", "floral", "geometric"),
    "sweater": ("plain", "stripes", "chevron", "geometric", "emblem", "blocks", "dots"),
    "hoodie": ("plain", "stripes", "emblem", "blocks", "chevron"),
    "dress": ("plain", "stripes", "pinstripes", "checks", "dots", "floral", "geometric", "chevron", "blocks"),
    "skirt": ("plain", "stripes", "pinstripes", "checks", "dots", "floral", "geometric", "chevron"),
    "trousers": ("plain", "pinstripes", "checks", "dots", "floral"),
    "shorts": ("plain", "pinstripes", "checks", "dots", "floral", "geometric"),
    "jacket": ("plain", "checks", "pinstripes", "blocks", "floral"),
}
_NECKLINES: dict[Kind, tuple[Neckline, ...]] = {
    "t-shirt": ("round", "V", "boat"),
    "shirt": ("collar",),
    "sweater": ("round", "V", "turtle"),
    "hoodie": ("round",),
    "dress": ("round", "V", "boat", "collar"),
    "jacket": ("collar", "V", "turtle"),
}
_SLEEVES: dict[Kind, tuple[Sleeves, ...]] = {
    "t-shirt": ("short", "short", "long", "none"),
    "shirt": ("long", "short"),
    "sweater": ("long",),
    "hoodie": ("long",),
    "dress": ("none", "short", "long"),
    "jacket": ("long",),
}
_COMBINATIONS = tuple(
    (kind, print_, colour) for colour in PALETTE for kind, prints in _PRINTS.items() for print_ in prints
)
# Coprime to the number of combinations: neighbouring seeds never share kind, print and main colour.
_STRIDE = 1009
_ADJECTIVES: dict[Print, str] = {
    "plain": "Plain",
    "stripes": "Striped",
    "pinstripes": "Vertically striped",
    "checks": "Checked",
    "dots": "Dotted",
    "floral": "Floral",
    "geometric": "Geometric",
    "chevron": "Chevron",
    "emblem": "Emblem",
    "blocks": "Colour-block",
}


@dataclass(frozen=True)
class Garment:
    """One garment's identity: every picture of it shows the same cut, print and colours.

    length, fit and flare run from 0 (short, slim, straight) to 1 (long, loose, wide). `scale` is the print's repeat in
    canvas units (1.0 is the side of the picture); `print_seed` fixes the print's variant; `trim` the cut's extras.
    """

    kind: Kind
    neckline: Neckline
    sleeves: Sleeves
    length: float
    fit: float
    flare: float
    trim: int
    print: Print
    colours: tuple[Colour, Colour, Colour]
    scale: float
    print_seed: int

    @property
    def category(self) -> str:
        """The catalogue's category word, such as "shirts"."""
        plurals = {"dress": "dresses", "trousers": "trousers", "shorts": "shorts"}
        return plurals.get(self.kind, f"{self.kind}s")

    @property
    def title(self) -> str:
        """What a shop would print, such as "Striped short-sleeved shirt, navy and white"."""
        words = [_ADJECTIVES[self.print]]
        if self.kind in ("t-shirt", "shirt", "dress"):
            words.append({"none": "sleeveless", "short": "short-sleeved", "long": "long-sleeved"}[self.sleeves])
        if self.kind in ("t-shirt", "sweater", "dress") and self.neckline in ("V", "boat", "turtle"):
            words.append({"V": "V-neck", "boat": "boat-neck", "turtle": "turtleneck"}[str(self.neckline)])
        if self.kind in ("dress", "skirt"):
            words.append("mini" if self.length < 0.33 else "midi" if self.length < 0.67 else "maxi")
        if self.kind == "trousers":
            words.append("slim" if self.flare < 0.33 else "straight" if self.flare < 0.67 else "wide-leg")
        inks = 1 if self.print == "plain" and not self._contrasts else 2
        return f"{' '.join([*words, self.kind])}, {' and '.join(colour.name for colour in self.colours[:inks])}"

    @property
    def _contrasts(self) -> bool:
        """Whether the sleeves or bands are cut from the second colour."""
        return self.print in ("plain", "emblem") and self.trim % 3 == 0

    @property
    def _ribbed(self) -> bool:
        """Whether hem and cuffs end in ribbed bands."""
        return self.kind in ("sweater", "hoodie") or (self.kind == "jacket" and self.neckline == "turtle")

    @property
    def _edging(self) -> Fabric:
        return "second" if self._contrasts else "main"


def _colours(main: Colour, rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    """`main` and two that stand out from it and from each other, each a shade off the palette."""
    chosen = [main]
    for floor in (0.3, 0.2):
        fitting = [c for c in PALETTE if all(c.distance(other) > floor for other in chosen)]
        chosen.append(fitting[int(rng.integers(len(fitting)))])
    shades = [Colour(c.name, *(int(np.clip(x + rng.integers(-9, 10), 0, 250)) for x in c[1:])) for c in chosen]
    return shades[0], shades[1], shades[2]


def _scale(print_: Print, rng: np.random.Generator) -> float:
    if print_ == "blocks":
        return float(rng.uniform(-0.06, 0.1))
    low, high = (0.028, 0.05) if print_ == "pinstripes" else (0.038, 0.088)
    return float(rng.uniform(low, high))


def garment(seed: int) -> Garment:
    """The garment of a seed. Neighbouring seeds differ in kind, print or main colour."""
    kind, print_, main = _COMBINATIONS[(seed * _STRIDE) % len(_COMBINATIONS)]
    rng = np.random.default_rng((seed, 1))
    necklines, sleeves = _NECKLINES.get(kind, ("none",)), _SLEEVES.get(kind, ("none",))
    return Garment(
        kind=kind,
        neckline=necklines[int(rng.integers(len(necklines)))],
        sleeves=sleeves[int(rng.integers(len(sleeves)))],
        length=float(rng.random()),
        fit=float(rng.random()),
        flare=float(rng.random()),
        trim=int(rng.integers(60)),
        print=print_,
        colours=_colours(main, rng),
        scale=_scale(print_, rng),
        print_seed=int(rng.integers(1 << 31)),
    )


def near_miss(g: Garment, seed: int) -> Garment:
    """Another garment of the same cut in clearly other colours, and mostly another print. Not a duplicate."""
    rng = np.random.default_rng((seed, 2))
    unlike = [colour for colour in PALETTE if colour.distance(g.colours[0]) > 0.3]
    colours = _colours(unlike[int(rng.integers(len(unlike)))], rng)
    other: Print = g.print
    if rng.random() < 0.6:
        prints = [p for p in _PRINTS[g.kind] if p != g.print]
        other = prints[int(rng.integers(len(prints)))]
    return replace(g, print=other, colours=colours, scale=_scale(other, rng), print_seed=int(rng.integers(1 << 31)))


# Cutting: outlines in canvas units. Paths run clockwise, so that a positive bend swells outwards.


def _path(*corners: tuple[float, float] | tuple[float, float, float]) -> Floats:
    """An open path through corners (x, y, bend of the edge that leaves it as a fraction of its length)."""
    t = np.linspace(0, 1, 12, endpoint=False, dtype=np.float32)[:, None]
    pieces = []
    for a, b in pairwise(corners):
        start, end = np.array(a[:2], np.float32), np.array(b[:2], np.float32)
        bend = a[2] if len(a) == 3 else 0.0
        along = end - start
        middle = (start + end) / 2 + np.array([along[1], -along[0]], np.float32) * np.float32(2 * bend)
        pieces.append((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end)
    return np.concatenate([*pieces, np.array([corners[-1][:2]], np.float32)])


def _flip(path: Floats) -> Floats:
    """The mirror image about the picture's middle, in the reverse order."""
    return np.stack([1 - path[::-1, 0], path[::-1, 1]], 1)


def _both(half: Floats) -> Floats:
    """The whole outline of a symmetric piece from its right half."""
    return np.concatenate([half, _flip(half)])


def _pair(cut: Cut, part: Part) -> None:
    """Add a piece and its mirror image."""
    cut.parts.append(
        replace(part, outline=_flip(part.outline), origin=(1 - part.origin[0], part.origin[1]), angle=-part.angle)
    )
    cut.parts.append(part)


def _seam(cut: Cut, path: Floats, width: float = 0.003, mirrored: bool = True) -> None:
    cut.seams.append((path, width))
    if mirrored:
        cut.seams.append((_flip(path), width))


def _fold(cut: Cut, *crease: float, mirrored: bool = True) -> None:
    """A crease (x0, y0, x1, y1, width), and its mirror image a little longer, as cloth is never quite even."""
    x0, y0, x1, y1, width = crease
    cut.folds.append((x0, y0, x1, y1, width))
    if mirrored:
        cut.folds.append((1 - x0, y0 + 0.008, 1 - x1 - 0.01, y1 + 0.012, width * 1.15))


@dataclass(frozen=True)
class _Torso:
    """The measures of an upper body: half widths from the middle line, and heights in the picture."""

    neck: float
    neck_depth: float
    neck_bend: float
    shoulder: float
    chest: float
    waist: float
    hem: float
    top_y: float
    shoulder_y: float
    armpit_y: float
    waist_y: float
    hem_y: float

    @property
    def neckline(self) -> Floats:
        """The right half of the front neckline, from the middle up to the shoulder seam. Shape: (points, 2)."""
        return _path((0.5, self.top_y + self.neck_depth, self.neck_bend), (0.5 + self.neck, self.top_y))


def _torso(g: Garment) -> _Torso:
    """The measures of everything that has shoulders."""
    neck, depth, bend = {
        "none": (0.09, 0.06, -0.2),
        "round": (0.083, 0.07, -0.22),
        "V": (0.08, 0.19, -0.03),
        "boat": (0.128, 0.032, -0.1),
        "turtle": (0.07, 0.035, -0.1),
        "collar": (0.072, 0.085, -0.02),
    }[g.neckline]
    if g.kind == "dress":
        shoulder = neck + 0.045 if g.sleeves == "none" else max(0.15, neck + 0.03)
        waist = 0.102 + 0.022 * g.fit
        return _Torso(
            neck=neck * 0.9, neck_depth=depth * 0.85, neck_bend=bend, shoulder=shoulder, chest=0.136 + 0.012 * g.fit,
            waist=waist, hem=waist, top_y=0.08, shoulder_y=0.105, armpit_y=0.235, waist_y=0.345, hem_y=0.37,
        )  # fmt: skip
    bulk = {"sweater": 0.018, "hoodie": 0.03, "jacket": 0.022}.get(g.kind, 0.0) + 0.03 * g.fit
    blazer = g.kind == "jacket" and g.neckline == "V"
    shoulder = neck + 0.05 if g.sleeves == "none" else 0.19 + bulk * 0.8
    hem_y = 0.64 + 0.15 * g.length + (0.06 if g.kind == "shirt" else 0)
    waist = 0.175 + bulk - (0.014 if g.fit < 0.5 else 0) - (0.012 if blazer else 0)
    return _Torso(
        neck=neck, neck_depth=0.36 if blazer else depth, neck_bend=bend, shoulder=shoulder, chest=0.182 + bulk,
        waist=waist, hem=0.182 + bulk + 0.02 * g.flare, top_y=0.12, shoulder_y=0.158,
        armpit_y=0.325 + 0.02 * g.fit, waist_y=0.5, hem_y=hem_y,
    )  # fmt: skip


def _sew_sleeves(cut: Cut, g: Garment, t: _Torso) -> None:
    """The two sleeves, with cuffs; they lie under the body."""
    if g.sleeves == "none":
        return
    slender = 0.8 if g.kind == "dress" else 1.0
    long = g.sleeves == "long"
    turn = math.radians((66 if long else 44) + 7 * (1 - g.fit))
    along, across = (math.cos(turn), math.sin(turn)), (math.sin(turn), -math.cos(turn))
    reach = ((0.47 if long else 0.145) + 0.02 * g.flare) * slender
    cuff = ((0.046 if long else 0.078) + 0.012 * g.fit) * slender
    top, pit = (0.5 + t.shoulder, t.shoulder_y), (0.5 + t.chest, t.armpit_y)
    end = ((top[0] + pit[0]) / 2 + along[0] * reach, (top[1] + pit[1]) / 2 + along[1] * reach)
    outer = (end[0] + across[0] * cuff, end[1] + across[1] * cuff)
    inner = (end[0] - across[0] * cuff, end[1] - across[1] * cuff)
    fabric: Fabric = "second" if g._contrasts or g.print == "blocks" else "print"
    outline = _path(
        (top[0] - 0.05, top[1]),
        (*top, 0.05),
        (*outer, 0.03),
        (*inner, -0.04 if long else 0.0),
        pit,
        (pit[0] - 0.05, pit[1]),
    )
    frame = Part(outline, origin=top, angle=turn - math.pi / 2, fabric=fabric, lift=0.3)
    _pair(cut, frame)
    if long and (g._ribbed or g.kind == "shirt"):
        depth = 0.042
        band = np.array(
            [outer, inner, *((x - along[0] * depth, y - along[1] * depth) for x, y in (inner, outer))], np.float32
        )
        _pair(cut, replace(frame, outline=band, fabric=g._edging if g._ribbed else fabric, ribbed=g._ribbed, lift=0.2))
    else:
        back = [(x - along[0] * 0.018, y - along[1] * 0.018) for x, y in (outer, inner)]
        _seam(cut, np.array(back, np.float32), 0.0022)
    elbow = ((pit[0] + inner[0]) / 2, (pit[1] + inner[1]) / 2)
    _fold(cut, elbow[0] + 0.055, elbow[1] - 0.045, *elbow, 0.022)
    _fold(cut, pit[0] + 0.05 * along[1], pit[1] - 0.075, pit[0] + 0.01, pit[1] + 0.012, 0.02)
    if long:
        _fold(cut, elbow[0] + 0.07, elbow[1] + 0.03, elbow[0] + 0.008, elbow[1] + 0.045, 0.02)
        _fold(cut, outer[0] - 0.05, outer[1] - 0.13, outer[0] - 0.03, outer[1] - 0.04, 0.016)


def _sew_body(cut: Cut, g: Garment, t: _Torso) -> None:
    """The inside of the back that shows in the neck, the sleeves and the body."""
    stand = 0.026 if g.neckline == "collar" or g.kind == "jacket" else 0.0
    depth = t.top_y + t.neck_depth
    cut.parts.append(
        Part(_both(_path((0.5, t.top_y + 0.016 - stand, 0.03), (0.5 + t.neck, t.top_y - stand),
                         (0.5 + t.neck, t.top_y + 0.01), (0.5 + t.neck * 0.7, depth), (0.5, depth + 0.015))),
             fabric="inside", lift=0.0)
    )  # fmt: skip
    _sew_sleeves(cut, g, t)
    drop = {"shirt": 0.03, "dress": 0.0}.get(g.kind, 0.008) - (0.03 if g._ribbed else 0)
    side = t.hem_y - (0.035 if g.kind == "shirt" or g._ribbed else 0)
    outline = np.concatenate([
        t.neckline[:-1],
        _path((0.5 + t.neck, t.top_y, 0.02), (0.5 + t.shoulder, t.shoulder_y, -0.2 if g.sleeves == "none" else -0.07),
              (0.5 + t.chest, t.armpit_y, -0.02), (0.5 + t.waist, t.waist_y, -0.01),
              (0.5 + t.hem, side, 0.07 if g.kind == "shirt" else 0.0), (0.5, t.hem_y + drop)),
    ])  # fmt: skip
    cut.parts.append(Part(_both(outline), origin=(0.5, t.top_y), lift=0.3))
    _fold(cut, 0.5 + t.chest - 0.1, t.armpit_y - 0.02, 0.5 + t.chest, t.armpit_y + 0.012, 0.02)
    _fold(cut, 0.5 + t.waist - 0.13, t.waist_y + 0.03, 0.5 + t.waist, t.waist_y - 0.02, 0.026)
    if g.kind != "dress":
        _fold(cut, 0.5 + t.waist * 0.5, t.waist_y - 0.1, 0.5 + t.hem * 0.62, t.hem_y, 0.034)
        _fold(cut, 0.47, t.waist_y + 0.02, 0.455, t.hem_y, 0.03, mirrored=False)
        _fold(cut, 0.5 + t.waist * 0.8, t.waist_y, 0.5 + t.hem * 0.88, t.hem_y, 0.02)


def _sew_collar(cut: Cut, g: Garment, t: _Torso) -> None:
    """What finishes the neck: a knitted band, a roll neck, or a folded collar."""
    if g.neckline == "turtle":
        roll = _path((0.5, t.top_y - 0.052), (0.5 + t.neck * 0.94, t.top_y - 0.05, 0.04),
                     (0.5 + t.neck + 0.006, t.top_y + 0.018), (0.5 + t.neck, t.top_y + 0.022, 0.12),
                     (0.5, t.top_y + t.neck_depth + 0.012))  # fmt: skip
        cut.parts.append(Part(_both(roll), fabric=g._edging, ribbed=True, lift=0.35))
    elif g.neckline == "collar":
        x, y = 0.5, t.top_y
        spread = 0.012 * (g.trim % 4)
        flap = _path((x, y + t.neck_depth), (x + t.neck * 0.96, y - 0.03, 0.05), (x + t.neck + 0.018, y + 0.012, -0.03),
                     (x + 0.062 + spread, y + 0.118 - spread * 0.5), (x, y + t.neck_depth))  # fmt: skip
        fabric: Fabric = "second" if g._contrasts else "print"
        _pair(cut, Part(flap, origin=(x + t.neck, y), angle=0.6, fabric=fabric, tint=1.03, lift=0.55))
    else:
        line = np.concatenate([_flip(t.neckline), t.neckline])
        thick = g.kind in ("sweater", "hoodie")
        cut.parts.append(Part(line, fabric=g._edging, ribbed=thick, lift=0.2, stroke_width=0.026 if thick else 0.013))


def _button_front(cut: Cut, g: Garment, t: _Torso, low_y: float) -> None:
    """A placket with buttons down the middle, from the neck to `low_y`."""
    high_y = t.top_y + t.neck_depth
    _seam(cut, np.array([(0.515, high_y), (0.515, low_y)], np.float32), 0.0026)
    count = max(3, round((low_y - high_y) / 0.085))
    cut.buttons += [(0.5, float(y), 0.0085) for y in np.linspace(high_y + 0.03, low_y - 0.05, count)]


def _hem_band(cut: Cut, g: Garment, t: _Torso) -> None:
    """A ribbed band that closes a sweater or a bomber jacket."""
    half = _path(
        (0.5, t.hem_y - 0.048),
        (0.5 + t.hem - 0.003, t.hem_y - 0.054, 0.06),
        (0.5 + t.hem - 0.014, t.hem_y + 0.002),
        (0.5, t.hem_y + 0.01),
    )
    cut.parts.append(Part(_both(half), fabric=g._edging, ribbed=True, lift=0.3))


def _chest_pocket(cut: Cut, x: float, y: float, flap: bool) -> None:
    wide, tall = 0.042, 0.088
    sides = [
        (x - wide, y),
        (x + wide, y),
        (x + wide, y + tall - 0.012),
        (x, y + tall),
        (x - wide, y + tall - 0.012),
        (x - wide, y),
    ]
    _seam(cut, np.array(sides, np.float32), 0.003, mirrored=flap)
    if flap:
        _seam(
            cut,
            np.array(
                [(x - wide, y), (x - wide, y + 0.024), (x, y + 0.036), (x + wide, y + 0.024), (x + wide, y)], np.float32
            ),
        )
        cut.buttons += [(x, y + 0.022, 0.007), (1 - x, y + 0.022, 0.007)]


def _cut_top(cut: Cut, g: Garment) -> None:
    """T-shirts, shirts, sweaters and hoodies."""
    t = _torso(g)
    if g.kind == "hoodie":
        hood = _path((0.5, t.top_y - 0.1, 0.2), (0.5 + 0.128, t.top_y + 0.02, 0.12), (0.5, t.top_y + 0.12))
        opening = _path((0.5, t.top_y - 0.062, 0.18), (0.5 + 0.085, t.top_y + 0.01, 0.1), (0.5, t.top_y + 0.1))
        cut.parts += [Part(_both(hood), fabric="print"), Part(_both(opening), fabric="inside", tint=0.8, lift=0.2)]
    _sew_body(cut, g, t)
    if g._ribbed:
        _hem_band(cut, g, t)
    elif g.kind == "t-shirt":
        _seam(cut, _path((0.5 + t.hem, t.hem_y - 0.018), (0.5, t.hem_y - 0.01)), 0.0022)
    if g.print == "emblem":
        cut.patches += emblem(_cloth(g), (0.5, 0.385 + (0.04 if g.neckline == "V" else 0)), 0.088 + 0.03 * g.flare)
    elif g.kind == "t-shirt" and g.trim % 5 == 0:
        _chest_pocket(cut, 0.5 + t.chest * 0.5, t.armpit_y - 0.02, flap=False)
    if g.kind == "hoodie":
        pouch = _path(
            (0.5, t.hem_y - 0.2),
            (0.5 + 0.09, t.hem_y - 0.2, -0.06),
            (0.5 + 0.14, t.hem_y - 0.11),
            (0.5 + 0.14, t.hem_y - 0.05),
            (0.5, t.hem_y - 0.05),
        )
        cut.parts.append(Part(_both(pouch), origin=(0.5, t.top_y), lift=0.45))
        for x in (0.462, 0.538):
            cord = _path((x, t.top_y + 0.055, 0.03), (x + (x - 0.5) * 0.3, t.top_y + 0.21 + 0.2 * (x - 0.46)))
            cut.parts.append(Part(cord, fabric="second", lift=0.4, stroke_width=0.009))
    if g.kind == "shirt":
        _button_front(cut, g, t, t.hem_y + 0.028)
        if g.trim % 2:
            _chest_pocket(cut, 0.5 + t.chest * 0.52, t.armpit_y - 0.005, flap=g.trim % 4 == 1)
    _sew_collar(cut, g, t)


def _cut_jacket(cut: Cut, g: Garment) -> None:
    """A denim jacket (collar), a blazer (V) or a bomber (roll collar)."""
    t = _torso(g)
    _sew_body(cut, g, t)
    low_y = t.hem_y + 0.006
    pocket_y = t.hem_y - 0.17
    if g.neckline == "collar":
        _button_front(cut, g, t, low_y)
        _chest_pocket(cut, 0.5 + t.chest * 0.55, t.armpit_y - 0.02, flap=True)
        _seam(cut, _path((0.5 + t.hem, t.hem_y - 0.042), (0.5, t.hem_y - 0.036)))
        _seam(cut, _path((0.5 + t.chest * 0.72, t.armpit_y + 0.07), (0.5 + t.hem * 0.45, t.hem_y - 0.04)))
        _sew_collar(cut, g, t)
    elif g.neckline == "turtle":
        _hem_band(cut, g, t)
        _sew_collar(cut, g, t)
        zip_line = np.array([(0.5, t.top_y - 0.045), (0.5, low_y)], np.float32)
        cut.parts.append(Part(zip_line, fabric="inside", lift=0.5, stroke_width=0.012))
        _seam(cut, zip_line, 0.004, mirrored=False)
        _seam(cut, np.array([(0.5 + t.hem * 0.45, pocket_y + 0.09), (0.5 + t.hem * 0.68, pocket_y)], np.float32), 0.006)
    else:
        x, y, button_y = 0.5, t.top_y, t.top_y + t.neck_depth
        shirt = _path((x, y + 0.03), (x + t.neck, y - 0.012), (x, button_y))
        cut.parts.insert(1, Part(_both(shirt), fabric="second", lift=0.0))
        lapel = _path((x + t.neck * 0.8, y - 0.03), (x + t.neck + 0.05, y + 0.07), (x + t.neck + 0.022, y + 0.092),
                      (x + t.neck + 0.07, y + 0.115, 0.06), (x, button_y, -0.02),
                      (x + t.neck * 0.8, y - 0.03))  # fmt: skip
        _pair(cut, Part(lapel, origin=(x, y), angle=0.35, fabric="print", tint=1.05, lift=0.5))
        _seam(cut, _path((x, button_y, 0.0), (x, low_y - 0.08, -0.1), (x + 0.02, low_y)), 0.004, mirrored=False)
        cut.buttons += [(x - 0.014, button_y + 0.02, 0.0105), (x - 0.014, button_y + 0.1, 0.0105)]
        for depth in (0.0, 0.034):
            _seam(
                cut, np.array([(x + 0.07, pocket_y + depth), (x + 0.15, pocket_y + depth - 0.006)], np.float32), 0.004
            )
        _seam(cut, np.array([(x + 0.1, y + 0.2), (x + 0.15, y + 0.19)], np.float32), 0.006, mirrored=False)


def _sew_skirt(cut: Cut, g: Garment, *, waist: float, waist_y: float, hem_y: float, hem: float) -> None:
    """A skirt from the waist to a hem that falls in waves."""
    x = np.linspace(1, 0, 40, dtype=np.float32)
    waves = 2 + g.trim % 3
    lie = 0.03 * (1 - x**2) * hem / 0.3 + np.float32(0.009 * g.flare) * np.cos(x * math.pi * 2 * waves)
    bottom = np.stack([0.5 + x * hem, hem_y + lie], 1)
    pencil = _path(
        (0.5, waist_y), (0.5 + waist, waist_y - 0.004, 0.05 - 0.09 * g.flare), (0.5 + hem, hem_y + float(lie[0]))
    )
    cut.parts.append(Part(_both(np.concatenate([pencil, bottom])), origin=(0.5, waist_y), lift=0.2))
    for step in np.linspace(-0.92, 0.92, 4 * waves + 1):
        sharp_y = waist_y + 0.02 + 0.1 * (1 - g.flare) * abs(math.sin(7 * step))
        width = (0.014 + 0.03 * g.flare) * (1.1 - 0.4 * abs(step))
        _fold(cut, 0.5 + waist * step * 0.9, sharp_y, 0.5 + hem * step, hem_y + 0.03, width, mirrored=False)
    banded = g._contrasts and g.kind == "skirt"
    if g.trim % 7 == 1:
        for step in np.linspace(0.12, 0.9, 7):
            _seam(cut, _path((0.5 + waist * step, waist_y + 0.03), (0.5 + hem * step, hem_y + 0.01)), 0.0026)
    elif not banded:
        _seam(cut, bottom - xy(0, 0.018), 0.0022)
    if banded:
        edge = bottom - xy(0, 0.016)
        cut.parts.append(Part(np.concatenate([edge, _flip(edge)]), fabric="second", lift=0.0, stroke_width=0.034))


def _waistband(cut: Cut, half: float, y: float, fabric: Fabric, height: float = 0.03) -> None:
    band = _path((0.5, y + 0.006), (0.5 + half, y), (0.5 + half + 0.003, y + height), (0.5, y + height + 0.006))
    cut.parts.append(Part(_both(band), origin=(0.5, y), fabric=fabric, lift=0.35))


def _cut_dress(cut: Cut, g: Garment) -> None:
    t = _torso(g)
    _sew_body(cut, g, t)
    hem_y, hem = 0.58 + 0.34 * g.length, 0.15 + 0.17 * g.flare
    _sew_skirt(cut, g, waist=t.waist + 0.002, waist_y=t.waist_y + 0.018, hem_y=hem_y, hem=hem)
    if g._contrasts or g.trim % 2:
        _waistband(cut, t.waist + 0.003, t.waist_y + 0.005, "second", 0.026)
    if g.neckline == "collar":
        _button_front(cut, g, t, t.waist_y)
    _sew_collar(cut, g, t)


def _cut_skirt(cut: Cut, g: Garment) -> None:
    waist = 0.112 + 0.015 * g.fit
    hem_y = 0.46 + 0.36 * g.length
    _sew_skirt(cut, g, waist=waist, waist_y=0.12, hem_y=hem_y, hem=0.16 + 0.17 * g.flare)
    _waistband(cut, waist + 0.002, 0.1, g._edging, 0.036)
    if g.trim % 3 == 1:
        cut.buttons += [(0.5, float(y), 0.009) for y in np.linspace(0.17, hem_y - 0.04, 5)]
        _seam(cut, np.array([(0.5, 0.14), (0.5, hem_y + 0.02)], np.float32), 0.003, mirrored=False)


def _cut_legs(cut: Cut, g: Garment) -> None:
    """Trousers and shorts."""
    shorts = g.kind == "shorts"
    waist, hip = 0.12 + 0.012 * g.fit, 0.15 + 0.02 * g.fit
    top_y, hip_y, crotch_y = 0.08, 0.22, 0.335
    hem_y = 0.42 + 0.12 * g.length if shorts else 0.84 + 0.11 * g.length
    middle = 0.5 + 0.092 + 0.018 * g.flare
    cuff = 0.082 + 0.016 * g.flare if shorts else 0.036 + 0.05 * g.flare
    outer, inner = middle + cuff, max(0.507, middle - cuff)
    leg = _path((0.5, top_y), (0.5 + waist, top_y, 0.03), (0.5 + hip, hip_y, 0.0 if shorts else -0.03 * (1 - g.flare)),
                (outer, hem_y, 0.02), (inner, hem_y + 0.006, -0.01), (0.503, crotch_y, 0.0), (0.5, top_y))  # fmt: skip
    tilt = 0.0 if g.print == "plain" else -0.05
    _pair(cut, Part(leg, origin=(0.5, top_y), angle=tilt, lift=0.2))
    side = _path(
        (0.5 + waist - 0.006, top_y, 0.03),
        (0.5 + hip - 0.01, hip_y, 0.0 if shorts else -0.03 * (1 - g.flare)),
        (outer - 0.01, hem_y - 0.002),
    )
    if g._contrasts:
        _pair(cut, Part(side, fabric="second", lift=0.0, stroke_width=0.024))
    _waistband(cut, waist + 0.001, top_y - 0.012, "second" if g._contrasts else "print", 0.036)
    _seam(cut, np.array([(0.5, top_y), (0.5, crotch_y + 0.004)], np.float32), 0.003, mirrored=False)
    _seam(cut, _path((0.5 + waist * 0.55, top_y + 0.026, -0.12), (0.5 + hip - 0.008, hip_y - 0.04)), 0.0035)
    _seam(cut, np.array([(outer, hem_y - 0.022), (inner, hem_y - 0.016)], np.float32), 0.0024)
    if shorts and g.trim % 2:
        for x in (0.485, 0.515):
            cord = _path((0.5, top_y + 0.008, 0.1), (x + (x - 0.5), top_y + 0.1))
            cut.parts.append(Part(cord, fabric="second", lift=0.4, stroke_width=0.008))
    else:
        _seam(
            cut,
            _path((0.53, top_y + 0.03, 0.06), (0.524, hip_y - 0.01, 0.2), (0.5, hip_y + 0.03)),
            0.0026,
            mirrored=False,
        )
        cut.buttons.append((0.5, top_y + 0.01, 0.0085))
    if not shorts and g.trim % 2:
        _seam(cut, _path((middle - 0.01, hip_y), (middle, hem_y)), 0.002)
    if not shorts and g.trim % 4 >= 2:
        cargo_y = 0.5
        box = [
            (outer - 0.09, cargo_y),
            (outer - 0.015, cargo_y),
            (outer - 0.015, cargo_y + 0.1),
            (outer - 0.09, cargo_y + 0.1),
            (outer - 0.09, cargo_y),
        ]
        _seam(cut, np.array(box, np.float32) + xy(0.012 * (1 - g.flare), 0), 0.0032)
    _fold(cut, 0.5 + hip * 0.6, crotch_y + 0.02, 0.506, crotch_y - 0.02, 0.024)
    _fold(cut, 0.5 + hip * 0.75, crotch_y + 0.05, 0.512, crotch_y + 0.03, 0.02)
    _fold(cut, middle, hip_y + 0.1, middle + 0.01, hem_y, 0.03)
    if not shorts:
        _fold(cut, middle + 0.05, 0.6, inner + 0.004, 0.615, 0.02)
        _fold(cut, middle - 0.03, 0.645, outer - 0.002, 0.655, 0.02)
        _fold(cut, outer - 0.02, hem_y - 0.09, inner, hem_y - 0.05, 0.022)


def _fitted(cut: Cut) -> Cut:
    """The cut scaled and moved to fill the picture with a margin."""
    points = np.concatenate([part.outline for part in cut.parts])
    low, high = points.min(0), points.max(0)
    grow = float(min(0.84 / (high[1] - low[1]), 0.88 / (high[0] - low[0]), 1.45))
    shift = np.float32(0.5) - (low + high) / 2 * np.float32(grow)
    dx, dy = float(shift[0]), float(shift[1])

    def at(points: Floats) -> Floats:
        placed: Floats = points * np.float32(grow) + shift
        return placed

    return Cut(
        parts=[
            replace(p, outline=at(p.outline), origin=(p.origin[0] * grow + dx, p.origin[1] * grow + dy),
                    stroke_width=p.stroke_width * grow)
            for p in cut.parts
        ],
        seams=[(at(line), width) for line, width in cut.seams],
        buttons=[(x * grow + dx, y * grow + dy, radius * grow) for x, y, radius in cut.buttons],
        folds=[(a * grow + dx, b * grow + dy, c * grow + dx, d * grow + dy, w * grow) for a, b, c, d, w in cut.folds],
        patches=[(at(shape), ink) for shape, ink in cut.patches],
    )  # fmt: skip


def _cloth(g: Garment) -> Cloth:
    return Cloth(g.print, g.colours, g.scale, g.print_seed, knitted=g.kind == "sweater")


def _cut(g: Garment) -> Cut:
    cut = Cut()
    cutter = {
        "dress": _cut_dress,
        "skirt": _cut_skirt,
        "trousers": _cut_legs,
        "shorts": _cut_legs,
        "jacket": _cut_jacket,
    }
    cutter.get(g.kind, _cut_top)(cut, g)
    return _fitted(cut)


# Pictures.


def _picture(pixels: Floats, mode: str = "RGB") -> Image.Image:
    """An image of planar colours 0..1. Shape: (bands, h, w)."""
    scaled = pixels * 255
    planes = np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)
    return Image.merge(mode, [Image.fromarray(plane) for plane in planes])


def _planes(image: Image.Image) -> Floats:
    """The planar colours 0..1 of an image. Shape: (bands, h, w)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)) * np.float32(1 / 255)


def _blurred(field: Floats, radius_px: float) -> Floats:
    """A field of 0..1, blurred. Shape: as given."""
    image = Image.fromarray((field * 255).clip(0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(radius_px)), np.float32) / 255


def design(g: Garment, size_px: int = 384) -> Image.Image:
    """A clean generated design: the garment from the front on near white. RGB, size_px by size_px."""
    colour, opacity = sew(_cut(g), _cloth(g), size_px, (-0.55, -0.6), g.print_seed)
    ground = np.full((size_px, size_px), 0.972, np.float32)
    shadow = np.roll(_blurred(opacity, size_px * 0.014), size_px // 90, (0, 1))
    ground *= 1 - np.float32(0.16) * shadow
    return _picture(colour + ground * (1 - opacity))


def _noise(rng: np.random.Generator, rows: int, columns: int, size_px: int) -> Floats:
    """Random hills of about -2..2, smooth where they are wide. Shape: (size_px, size_px)."""
    how = Image.Resampling.BILINEAR if rows * columns > 200 else Image.Resampling.BICUBIC
    return resized(rng.standard_normal((rows, columns), np.float32), size_px, size_px, how)


def _tint(rng: np.random.Generator, low: float, high: float, spread: float) -> Floats:
    """A random muted colour. Shape: (3, 1, 1)."""
    return (rng.uniform(low, high) + rng.uniform(-spread, spread, (3, 1, 1))).clip(0.03, 0.97).astype(np.float32)


def _wood(rng: np.random.Generator, size_px: int) -> Floats:
    """Planks seen from above. Shape: (3, size_px, size_px)."""
    planks = int(rng.integers(4, 8))
    across = np.linspace(0, planks, size_px, endpoint=False, dtype=np.float32) + np.float32(rng.random())
    plank = across.astype(int)
    tone = 1 + rng.uniform(-0.13, 0.13, planks + 2).astype(np.float32)[plank]
    gap = np.abs((across % 1) - 0.5) > 0.488
    grain = 1 + 0.06 * _noise(rng, 5, 90, size_px) + 0.04 * _noise(rng, 3, 200, size_px)
    hue = np.array([1, rng.uniform(0.72, 0.85), rng.uniform(0.5, 0.7)], np.float32)[:, None, None]
    wood: Floats = grain * (tone * np.where(gap, np.float32(0.55), np.float32(1)) * np.float32(rng.uniform(0.4, 0.8)))
    return hue * (wood if rng.random() < 0.5 else np.ascontiguousarray(wood.T))


def _room(rng: np.random.Generator, size_px: int) -> Floats:
    """A wall, a floor, and things out of focus before them. Shape: (3, size_px, size_px)."""
    side = 96
    room = np.empty((3, side, side), np.float32)
    room[:] = _tint(rng, 0.55, 0.88, 0.06)
    floor_y = int(side * rng.uniform(0.7, 0.88))
    for _ in range(int(rng.integers(2, 7))):
        left, wide = int(rng.integers(-10, side)), int(rng.integers(8, 34))
        top = int(rng.integers(0, floor_y - 8))
        tall = floor_y - top if rng.random() < 0.5 else int(rng.integers(8, 30))
        room[:, top : min(floor_y, top + tall), max(0, left) : left + wide] = _tint(rng, 0.25, 0.9, 0.16)
    room[:, floor_y:] = _tint(rng, 0.3, 0.7, 0.08)
    room[:, floor_y - 2 : floor_y] = _tint(rng, 0.8, 0.92, 0.02)
    soft = _picture(room).filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.6)))
    return _planes(soft.resize((size_px, size_px), Image.Resampling.BICUBIC))


def _backdrop(rng: np.random.Generator, size_px: int) -> Floats:
    """What the garment lies on or hangs before. Shape: (3, size_px, size_px)."""
    scene = int(rng.integers(5))
    if scene == 0:
        return _wood(rng, size_px)
    if scene == 1:
        return _room(rng, size_px)
    base = _tint(rng, 0.4, 0.9, 0.09)
    if scene == 2:  # plaster or concrete
        texture = 0.045 * _noise(rng, 7, 7, size_px) + 0.03 * _noise(rng, 40, 40, size_px)
        texture += 0.02 * _noise(rng, 160, 160, size_px)
    elif scene == 3:  # a crumpled sheet
        hills = resized(_noise(rng, 7, 7, 96) + np.abs(_noise(rng, 9, 6, 96)), size_px, size_px)
        texture = slope(hills, (-0.5, -0.5)) * np.float32(size_px / 150)
    else:  # a carpet
        pitch = rng.uniform(0.05, 0.14)
        x, y = np.meshgrid(*(np.arange(size_px, dtype=np.float32) / np.float32(size_px * pitch),) * 2)
        x, y = np.sin(x * np.float32(2 * math.pi)), np.sin(y * np.float32(2 * math.pi))
        rib = x * y if rng.random() < 0.5 else x
        texture = np.float32(0.1) * np.clip(rib * 5, -1, 1) + 0.05 * _noise(rng, 190, 190, size_px)
    lit: Floats = (1 + texture) * base
    return lit


def _pose(rng: np.random.Generator, size_px: int) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """A mesh that turns, scales, shifts and gently bends a picture: (box, corners of the source)."""
    cells = 6
    turn, grow = math.radians(rng.normal(0, 4)), rng.uniform(0.8, 0.98)
    shift = rng.uniform(-0.03, 0.03, 2)
    grid = np.linspace(0, 1, cells + 1)
    x, y = np.meshgrid(grid - 0.5 - shift[0], grid - 0.5 - shift[1])
    bend = rng.standard_normal((2, 4, 4)).astype(np.float32)
    dx, dy = (resized(b, cells + 1, cells + 1) * 0.011 for b in bend)
    source_x = ((x * math.cos(turn) - y * math.sin(turn)) / grow + 0.5 + dx) * size_px
    source_y = ((x * math.sin(turn) + y * math.cos(turn)) / grow + 0.5 + dy) * size_px
    edges = [round(g * size_px) for g in grid]
    mesh = []
    for r in range(cells):
        for c in range(cells):
            corners = ((r, c), (r + 1, c), (r + 1, c + 1), (r, c + 1))
            quad = tuple(float(v) for at in corners for v in (source_x[at], source_y[at]))
            mesh.append(((edges[c], edges[r], edges[c + 1], edges[r + 1]), quad))
    return mesh


def _touched(cover: Floats, quad: tuple[float, ...]) -> bool:
    """Whether anything opaque lies around the corners (x, y, x, y, ..; px) of a quad."""
    left, right, top, bottom = (int(max(0, edge)) for x in (quad[::2], quad[1::2]) for edge in (min(x) - 1, max(x) + 2))
    return bool(cover[top:bottom, left:right].any())


def photo(g: Garment, seed: int, size_px: int = 384) -> Image.Image:
    """A catalogue photograph of the garment: background, light, pose and camera follow from `seed`.

    RGB, size_px by size_px.
    """
    rng = np.random.default_rng((seed, 3))
    sun = rng.uniform(-2.6, -0.5)
    light = (math.cos(sun) * 0.95, math.sin(sun) * 0.95)
    worn, cover = sew(_cut(g), _cloth(g), size_px, light, int(rng.integers(1 << 31)))
    mesh = [(box, quad) for box, quad in _pose(rng, size_px) if _touched(cover, quad)]
    # As RGBX colour and opacity bend together; RGBA would premultiply what already is.
    flat = _picture(np.concatenate([worn, cover[None]]), "RGBX")
    posed = _planes(flat.transform((size_px, size_px), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR))
    opacity = posed[3]
    scene = _backdrop(rng, size_px)
    distance_px = size_px * rng.uniform(0.012, 0.05)
    offset = (round(-light[1] * distance_px), round(-light[0] * distance_px))
    shadow = np.roll(_blurred(opacity, distance_px * 0.6 + 1), offset, (0, 1))
    scene *= (1 - np.float32(rng.uniform(0.3, 0.6)) * shadow) * (1 - opacity)
    scene += posed[:3]
    y, x = np.mgrid[-1:1:24j, -1:1:24j].astype(np.float32)
    lamp = 1 + rng.uniform(0.05, 0.2) * (x * light[0] + y * light[1]) - rng.uniform(0.03, 0.14) * (x**2 + y**2)
    warmth = rng.uniform(-0.09, 0.09)
    exposure = rng.uniform(0.88, 1.08)
    scene *= resized((lamp * exposure).astype(np.float32), size_px, size_px)
    scene *= np.array([1 + warmth, 1, 1 - warmth], np.float32)[:, None, None]
    scene += rng.uniform(0.02, 0.075) * (rng.random((size_px, size_px), np.float32) - np.float32(0.5))
    return _picture(scene).filter(ImageFilter.BoxBlur(rng.uniform(0.15, 0.6)))


# Edits that leave a duplicate a duplicate.

EDITS = ("reencode", "resize", "crop", "tone", "mirror")


def edit(image: Image.Image, seed: int, among: Sequence[str] = EDITS) -> tuple[Image.Image, str]:
    """A slightly changed copy of an RGB image, and the name of the change, one of `among`."""
    rng = np.random.default_rng((seed, 4))
    name = among[int(rng.integers(len(among)))]
    width, height = image.size
    if name == "reencode":
        with Image.open(io.BytesIO(_jpeg(image, int(rng.integers(60, 91))))) as again:
            return again.convert("RGB"), name
    if name == "resize":
        share = rng.uniform(0.5, 0.9)
        return image.resize((round(width * share), round(height * share)), Image.Resampling.LANCZOS), name
    if name == "crop":
        cut, left, top = rng.uniform(0.02, 0.08), rng.random(), rng.random()
        x, y = round(width * cut * left), round(height * cut * top)
        return image.crop((x, y, x + round(width * (1 - cut)), y + round(height * (1 - cut)))), name
    if name == "tone":
        bright = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.15))
        return ImageEnhance.Contrast(bright).enhance(rng.uniform(0.85, 1.15)), name
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), name


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


# Streams for the demo.


@dataclass(frozen=True)
class Sample:
    """One picture with its truth.

    `truth` is the id of the catalogue item or earlier design that a design duplicates, or None where it is new;
    `reason` says in words why.
    """

    id: str
    kind: Literal["item", "design"]
    image: bytes
    category: str
    title: str
    truth: str | None
    reason: str


def _seed(seed: int, index: int) -> int:
    """The garment seed of a stream's index: apart for other streams, neighbouring within one."""
    return seed * 10_000_019 + index


def catalogue(n: int, seed: int) -> Iterator[Sample]:
    """The catalogue items item-00001.. as photographs."""
    for index in range(n):
        yield _item(index, seed)


def _item(index: int, seed: int) -> Sample:
    at = _seed(seed, index)
    g = garment(at)
    return Sample(_item_id(index), "item", _jpeg(photo(g, at), 90), g.category, g.title, None, "catalogue item")


def _item_id(index: int) -> str:
    return f"item-{index + 1:05d}"


def _broken(picture: bytes, rng: np.random.Generator) -> bytes:
    """What cannot be decoded: a JPEG cut short, or no picture at all."""
    if rng.random() < 0.5:
        return picture[: int(len(picture) * rng.uniform(0.05, 0.6))]
    return b"This is a text file, not a picture.\n"


def designs(n: int, n_items: int, seed: int, cross_domain: float = 0.0) -> Iterator[Sample]:
    """A stream of n designs against `catalogue(n_items, seed)`: mostly new, some copies, a few broken files.

    `cross_domain` is the share of clean designs of garments that the catalogue shows as photographs; it is taken from
    the new ones.
    """
    shares = {
        "new": 0.55 - cross_domain,
        "exact copy": 0.12,
        "edited copy": 0.18,
        "twin of an earlier design": 0.10,
        "near miss": 0.03,
        "broken file": 0.02,
        "photograph's own clean design": cross_domain,
    }
    earlier: list[tuple[str, Garment]] = []
    for index in range(n):
        rng = np.random.default_rng((seed, index, 5))
        what = str(rng.choice(list(shares), p=list(shares.values())))
        if (what == "twin of an earlier design" and not earlier) or (
            n_items == 0 and what.endswith(("copy", "clean design"))
        ):
            what = "new"
        name = f"design-{index + 1:05d}"
        item = int(rng.integers(max(1, n_items)))
        if what in ("exact copy", "edited copy"):
            original = _item(item, seed)
            image, why = original.image, what
            if what == "edited copy":
                with Image.open(io.BytesIO(original.image)) as opened:
                    changed, why = edit(opened.convert("RGB"), _seed(seed, index), ("reencode", "resize", "crop"))
                image = _jpeg(changed, 88)
            yield replace(original, id=name, kind="design", image=image, truth=original.id, reason=why)
            continue
        truth: str | None = None
        if what == "twin of an earlier design":
            truth, g = earlier[int(rng.integers(len(earlier)))]
            picture, _ = edit(design(g), _seed(seed, index), ("reencode", "resize", "crop"))
        elif what == "photograph's own clean design":
            truth, g = _item_id(item), garment(_seed(seed, item))
            picture = design(g)
        else:
            g = garment(_seed(seed, n_items + index))
            if what == "near miss":
                like = earlier[int(rng.integers(len(earlier)))][1] if earlier else garment(_seed(seed, item))
                g = near_miss(like, _seed(seed, index))
            picture = design(g)
            if what != "broken file":
                earlier.append((name, g))
        image = _jpeg(picture, 92)
        yield Sample(
            name, "design", _broken(image, rng) if what == "broken file" else image, g.category, g.title, truth, what
        )
