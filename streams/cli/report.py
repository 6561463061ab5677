"""The demo's report: one HTML file with everything in it, pictures included, to be opened years later without a network.

Takes what was published and what was said, and knows nothing of Kafka or of how the demo ran.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from streams.events import Neighbour, Signal, Verdict

THUMBNAIL_PX: Final = 200
_QUALITY: Final = 78
_NEIGHBOURS: Final = 3
_MOST: Final[Mapping[str, int]] = {"duplicates": 400, "accepted": 120, "letters": 300, "mistakes": 60}
"""Cards a section may have: a report on thousands of designs must still open."""

WHY: Final[Mapping[Signal, tuple[str, str]]] = {
    "digest": ("same file", "the same file, byte for byte"),
    "hash": ("same picture", "the same picture, saved, resized or touched up again: the perceptual hashes agree"),
    "vector": ("looks alike", "a picture that looks alike: the encoder's vectors are near each other"),
}
"""What a signal means: in two words, and in a sentence."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that the report may show, and the words that stand beside it."""

    path: Path
    title: str = ""
    category: str = ""
    truth: str | None = None
    """What a design was made to be, where that is known: such as "edited copy of item-00007"."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A picture that could not be used. `file` is its name, never its content."""

    id: str
    kind: str
    file: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the report tells. `mistakes` maps a design's id to what was wrong about its verdict."""

    made_at: datetime
    figures: Sequence[tuple[str, str, str]]
    """(figure, what it is, how it was measured)."""
    items: Mapping[str, Shown]
    designs: Mapping[str, Shown]
    verdicts: Sequence[Verdict]
    letters: Sequence[Letter]
    mistakes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Match:
    id: str
    kind: str
    similarity: str
    signal: str
    title: str
    picture: str


@dataclass(frozen=True, slots=True)
class _Card:
    verdict: Verdict
    shown: Shown
    picture: str
    similarity: str
    threshold: str
    signal: str
    why: str
    mistake: str
    matches: Sequence[_Match]


def write_report(report: Report, path: Path, progress: Callable[[int, int], None] = lambda _done, _of: None) -> None:
    """Render to a file; an existing one is replaced once the new one is whole. `progress` hears (cards made, of)."""
    html = render(report, progress)
    half = path.with_name(f".{path.name}.part")
    half.write_text(html, encoding="utf-8")
    half.replace(path)


def render(report: Report, progress: Callable[[int, int], None] = lambda _done, _of: None) -> str:
    """The report as one HTML document."""
    nearest_first = sorted(report.verdicts, key=lambda verdict: -verdict.similarity)
    chosen = {
        "mistakes": [verdict for verdict in report.verdicts if verdict.design_id in report.mistakes],
        "duplicates": [verdict for verdict in report.verdicts if verdict.verdict == "duplicate"],
        "accepted": [verdict for verdict in nearest_first if verdict.verdict == "accept"],
    }
    totals = {name: len(verdicts) for name, verdicts in chosen.items()} | {"letters": len(report.letters)}
    count = sum(min(totals[name], _MOST[name]) for name in chosen)
    sections: dict[str, list[_Card]] = {}
    done = 0
    for name, verdicts in chosen.items():
        sections[name] = []
        for verdict in verdicts[: _MOST[name]]:
            sections[name].append(_card(report, verdict))
            done += 1
            progress(done, count)
    signals = [(signal, WHY[signal][0]) for signal in WHY if any(c.signal == signal for c in sections["duplicates"])]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        sections=sections,
        letters=report.letters[: _MOST["letters"]],
        totals=totals,
        most=_MOST,
        signals=signals,
        made_at=f"{report.made_at:%d %B %Y, %H:%M}",
    )


def _card(report: Report, verdict: Verdict) -> _Card:
    shown = report.designs[verdict.design_id]
    nearest = verdict.neighbours[0] if verdict.neighbours else None
    return _Card(
        verdict=verdict,
        shown=shown,
        picture=thumbnail(shown.path),
        similarity=f"{verdict.similarity:.3f}",
        threshold=f"{verdict.threshold:.3f}",
        signal=nearest.signal if nearest else "",
        why=WHY[nearest.signal][1] if nearest else "",
        mistake=report.mistakes.get(verdict.design_id, ""),
        matches=[_match(report, near) for near in verdict.neighbours[:_NEIGHBOURS]],
    )


def _match(report: Report, near: Neighbour) -> _Match:
    shown = (report.items if near.kind == "item" else report.designs).get(near.id)
    return _Match(
        id=near.id,
        kind="catalogue item" if near.kind == "item" else "earlier design",
        similarity=f"{near.similarity:.3f}",
        signal=WHY[near.signal][0],
        title=shown.title if shown else "",
        picture=thumbnail(shown.path) if shown else "",
    )


def thumbnail(path: Path) -> str:
    """A small JPEG of a picture as a data URI; empty when it cannot be drawn. Only for pictures the worker has taken:
    what it refused is not decoded here either."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), reducing_gap=2.0)
            out = io.BytesIO()
            _on_white(upright).save(out, "JPEG", quality=_QUALITY)
    except Exception:  # noqa: BLE001 - a decoder may fail in any way, and a report without one picture is still one
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white
