"""The results as one HTML file with everything in it: figures side by side, curves, and a contact sheet of the worst
mistakes. It holds small copies of the pictures, so it must not go where the pictures may not go.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from encoders.evaluation import table
from encoders.evaluation.run import Mistake, Result
from encoders.evaluation.suites import Picture

MISTAKES: Final = 8  # of a suite and a model
THUMBNAIL_PX: Final = 150
_QUALITY: Final = 78
_CURVE: Final = (300, 150)  # px of a chart's inside
_COLOURS: Final = ("#3465a4", "#c4561b", "#2e7d4f", "#8e3b8a", "#8a6d00", "#00797f")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of figures, one cell a model."""

    what: str
    cells: Sequence[str]


@dataclass(frozen=True, slots=True)
class Card:
    """A mistake with its pictures as data URIs; empty where there is none."""

    reason: str
    kind: str
    query: str
    query_name: str
    truth: str
    truth_name: str
    truth_similarity: str
    wrong: str
    wrong_name: str
    wrong_similarity: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """The worst mistakes of one model in a suite, out of `total`."""

    model: str
    total: int
    cards: Sequence[Card]


@dataclass(frozen=True, slots=True)
class Line:
    """One model's curve: `points` as SVG wants them, the height of its threshold."""

    model: str
    colour: str
    points: str
    dots: Sequence[tuple[float, float, str]]
    threshold: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Similarity against strength of one kind of change."""

    title: str
    marks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Section:
    """A suite."""

    name: str
    title: str
    size: str
    rows: Sequence[Row]
    kinds: Sequence[Row]
    charts: Sequence[Chart]
    sheets: Sequence[Sheet]


def write_report(results: Sequence[Result], path: Path, made_at: datetime, how: str) -> None:
    """Render to a file; an existing one is replaced once the new one is whole. `how`: the command, for the footer."""
    html = render(results, made_at, how)
    part = path.with_name(f".{path.name}.part")
    part.write_text(html, encoding="utf-8")
    part.replace(path)


def render(results: Sequence[Result], made_at: datetime, how: str) -> str:
    """The report as one HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        models=table.models(results),
        colours=_COLOURS,
        sections=[section(same) for same in table.by_suite(results)],
        curve=_CURVE,
        made_at=f"{made_at:%d %B %Y, %H:%M}",
        how=how,
    )


def section(same: Sequence[Result]) -> Section:
    """One suite by all models."""
    first = same[0]
    return Section(
        name=first.suite.name,
        title=first.suite.title,
        size=f"{first.whole.queries} queries in {first.whole.clusters} clusters, "
        f"{len(first.suite.gallery)} pictures in the gallery",
        rows=[Row(what, cells) for what, cells in table.lines(same)],
        kinds=[Row(kind, cells) for kind, cells in table.kind_lines(same)],
        charts=charts(same),
        sheets=[
            Sheet(r.model, len(r.mistakes), [card(r, mistake) for mistake in r.mistakes[:MISTAKES]])
            for r in same
            if r.mistakes
        ],
    )


def card(result: Result, mistake: Mistake) -> Card:
    """A mistake with its pictures."""
    query = result.suite.queries[mistake.query]
    truth, wrong = (result.suite.gallery[at] if at >= 0 else None for at in (mistake.truth, mistake.wrong))
    return Card(
        reason=mistake.reason,
        kind=query.kind,
        query=thumbnail(query.picture),
        query_name=query.picture.name,
        truth=thumbnail(truth) if truth else "",
        truth_name=truth.name if truth else "",
        truth_similarity=_three(mistake.truth_similarity),
        wrong=thumbnail(wrong) if wrong else "",
        wrong_name=wrong.name if wrong else "",
        wrong_similarity=_three(mistake.wrong_similarity),
    )


def charts(same: Sequence[Result]) -> list[Chart]:
    """A chart for every change that a suite tries at several strengths (kinds such as "warp 2%")."""
    strengths: dict[str, list[float]] = {}
    for kind in same[0].kinds:
        change, _, strength = kind.rpartition(" ")
        if change and strength.endswith("%") and strength[:-1].isdigit():
            strengths.setdefault(change, []).append(float(strength[:-1]))
    return [_chart(change, steps, same) for change, steps in strengths.items() if len(steps) > 1]


def thumbnail(picture: Picture) -> str:
    """A small JPEG as a data URI."""
    image = picture.make()
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _chart(change: str, steps: Sequence[float], same: Sequence[Result]) -> Chart:
    width, height = _CURVE
    at = [width * (step - steps[0]) / (steps[-1] - steps[0]) for step in steps]
    lines = []
    for result, colour in zip(same, _COLOURS * len(same), strict=False):
        values = [result.kinds[f"{change} {step:.0f}%"].median_truth for step in steps]
        dots = [(x, height * (1 - max(0.0, value)), f"{value:.3f}") for x, value in zip(at, values, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
        lines.append(Line(result.model, colour, points, dots, height * (1 - result.threshold)))
    marks = [(x, f"{step:.0f} %") for x, step in zip(at, steps, strict=True)]
    return Chart(change, marks, lines)


def _three(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""
