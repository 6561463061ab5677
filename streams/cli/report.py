"""What the demo tells of a run: figures, the object of `--json`, and one HTML file with everything in it, pictures
included, to be opened years later without a network. Knows nothing of Kafka or of how the demo ran.
"""

import base64
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

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
class Source:
    """One picture to publish. `truth`: the id it copies, None where it is new; `known`: whether that is known."""

    id: str
    path: Path
    category: str = ""
    title: str = ""
    truth: str | None = None
    known: bool = False
    note: str = ""
    """How it was made, in words."""

    @property
    def made_as(self) -> str:
        """What it was made to be, such as "edited copy of item-00007"; empty where that is not known."""
        return f"{self.note} of {self.truth}" if self.truth and self.note else self.note


@dataclass(frozen=True, slots=True)
class Score:
    """Verdicts against the truth. `mistakes` says of a design's id what was wrong."""

    precision: float | None
    recall: float | None
    mistakes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Letter:
    """A picture that could not be used. `file` is its name, never its content."""

    id: str
    kind: str
    file: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole run, as figures and lists."""

    items: Sequence[Source]
    designs: Sequence[Source]
    verdicts: Sequence[Verdict]
    letters: Sequence[Letter]
    """Of designs and of catalogue items."""
    verdicts_per_s: float
    latencies_ms: Sequence[float]
    """Ascending; of the designs that came at the pace below."""
    paced_per_s: float | None
    """None when there were too few designs for a part at a pace: the latencies are those of the burst."""
    score: Score

    def count(self, word: str) -> int:
        """How many designs got this verdict."""
        return sum(verdict.verdict == word for verdict in self.verdicts)

    @property
    def dead_designs(self) -> list[Letter]:
        """The dead letters of designs."""
        return [letter for letter in self.letters if letter.kind == "design"]

    def latency_ms(self, share: float) -> float | None:
        """A percentile."""
        return percentile(self.latencies_ms, share)


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)] if ascending else None


def score(designs: Sequence[Source], verdicts: Sequence[Verdict]) -> Score:
    """Verdicts, in the order they were decided, against what the designs were made to be.

    Copies of an item are duplicates. Of designs that copy each other the one decided first is new, whichever was drawn
    first: several partitions have no common order.
    """
    known = {design.id: design for design in designs if design.known}
    right = wrong = missed = 0
    mistakes: dict[str, str] = {}
    seen: set[str] = set()
    for verdict in verdicts:
        if verdict.design_id not in known:
            continue
        root = verdict.design_id
        while root in known and (copied := known[root].truth) is not None:
            root = copied
        is_copy = root not in known or root in seen
        seen.add(root)
        if verdict.verdict == "duplicate":
            right, wrong = right + is_copy, wrong + (not is_copy)
        else:
            missed += is_copy
        if (verdict.verdict == "duplicate") != is_copy:
            note = known[verdict.design_id].note
            said = "Called a duplicate, but it is new" if not is_copy else f"Accepted, but it shows what {root} shows"
            mistakes[verdict.design_id] = f"{said} (made as: {note})."
    return Score(
        precision=right / (right + wrong) if right + wrong else None,
        recall=right / (right + missed) if right + missed else None,
        mistakes=mistakes,
    )


def as_object(outcome: Outcome, report: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "designs": len(outcome.designs),
        "accepted": outcome.count("accept"),
        "duplicates": outcome.count("duplicate"),
        "dead_letters": len(outcome.dead_designs),
        "verdicts_per_s": round(outcome.verdicts_per_s, 2),
        "latency_p50_ms": outcome.latency_ms(0.5),
        "latency_p99_ms": outcome.latency_ms(0.99),
        "latency_at_per_s": outcome.paced_per_s and round(outcome.paced_per_s, 2),
        "precision": outcome.score.precision,
        "recall": outcome.score.recall,
        "catalog_items": len(outcome.items),
        "verdicts": [
            {
                "design_id": verdict.design_id,
                "verdict": verdict.verdict,
                "similarity": verdict.similarity,
                "threshold": verdict.threshold,
                "neighbours": [
                    {"id": near.id, "kind": near.kind, "similarity": near.similarity, "signal": near.signal}
                    for near in verdict.neighbours
                ],
            }
            for verdict in outcome.verdicts
        ],
        "dead_letter_list": [
            {"design_id": letter.id, "reason": letter.reason, "message": letter.message}
            for letter in outcome.dead_designs
        ],
        "catalog_dead_letter_list": [
            {"item_id": letter.id, "reason": letter.reason, "message": letter.message}
            for letter in outcome.letters
            if letter.kind == "item"
        ],
        "report": str(report),
    }


def figures(outcome: Outcome) -> list[tuple[str, str, str]]:
    """(figure, what it is, how it was measured)."""
    milliseconds = [f"{at:.0f} ms" if at is not None else "-" for at in map(outcome.latency_ms, (0.5, 0.99))]
    if outcome.paced_per_s is None:
        how = "publish to verdict, in a burst: mostly waiting in line"
    else:
        how = f"publish to verdict, {len(outcome.latencies_ms)} designs at {outcome.paced_per_s:.0f}/s, half the rate"
    shares = [f"{share:.1%}" if share is not None else "-" for share in (outcome.score.precision, outcome.score.recall)]
    known = any(design.known for design in outcome.designs)
    return [
        (str(outcome.count("duplicate")), "duplicates", "of a catalogue item or of an earlier accepted design"),
        (str(outcome.count("accept")), "accepted", "nothing near enough exists"),
        (str(len(outcome.dead_designs)), "dead letters", "files that are no usable picture"),
        (f"{outcome.verdicts_per_s:.0f}", "verdicts per second", "designs published all at once"),
        (f"{milliseconds[0]}", "latency p50", how),
        (f"{milliseconds[1]}", "latency p99", how),
        *(
            [
                (shares[0], "precision", "of the designs called duplicates, how many are"),
                (shares[1], "recall", "of the true duplicates, how many were found"),
            ]
            if known
            else []
        ),
    ]


# The page


@dataclass(frozen=True, slots=True)
class _Match:
    id: str
    kind: str
    similarity: str
    title: str
    picture: str


@dataclass(frozen=True, slots=True)
class _Card:
    verdict: Verdict
    title: str
    truth: str
    picture: str
    similarity: str
    threshold: str
    signal: str
    why: str
    mistake: str
    matches: Sequence[_Match]


def write_report(outcome: Outcome, path: Path, made_at: datetime, tick: Callable[[], None] = lambda: None) -> None:
    """Render to a file; an existing one is replaced once the new one is whole. `tick` hears of every card."""
    html = render(outcome, made_at, tick)
    part = path.with_name(f".{path.name}.part")
    part.write_text(html, encoding="utf-8")
    part.replace(path)


def render(outcome: Outcome, made_at: datetime, tick: Callable[[], None] = lambda: None) -> str:
    """The report as one HTML document."""
    chosen = _chosen(outcome)
    album = _Album(outcome)
    sections: dict[str, list[_Card]] = {name: [] for name in chosen}
    for name, verdicts in chosen.items():
        for verdict in verdicts[: _MOST[name]]:
            sections[name].append(album.card(verdict, 1 if name == "accepted" else _NEIGHBOURS))
            tick()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        outcome=outcome,
        figures=figures(outcome),
        sections=sections,
        letters=outcome.letters[: _MOST["letters"]],
        totals={name: len(verdicts) for name, verdicts in chosen.items()} | {"letters": len(outcome.letters)},
        most=_MOST,
        signals=[(signal, WHY[signal][0]) for signal in WHY if signal in {c.signal for c in sections["duplicates"]}],
        made_at=f"{made_at:%d %B %Y, %H:%M}",
    )


def cards(outcome: Outcome) -> int:
    """How many cards the page will have."""
    return sum(min(len(verdicts), _MOST[name]) for name, verdicts in _chosen(outcome).items())


def _chosen(outcome: Outcome) -> dict[str, list[Verdict]]:
    """The verdicts of each section, in the order they are shown."""
    nearest_first = sorted(outcome.verdicts, key=lambda verdict: -verdict.similarity)
    return {
        "mistakes": [verdict for verdict in outcome.verdicts if verdict.design_id in outcome.score.mistakes],
        "duplicates": [verdict for verdict in outcome.verdicts if verdict.verdict == "duplicate"],
        "accepted": [verdict for verdict in nearest_first if verdict.verdict == "accept"],
    }


class _Album:
    """Cards with their pictures."""

    def __init__(self, outcome: Outcome) -> None:
        self._items = {source.id: source for source in outcome.items}
        self._designs = {source.id: source for source in outcome.designs}
        self._mistakes = outcome.score.mistakes

    def card(self, verdict: Verdict, neighbours: int) -> _Card:
        source = self._designs[verdict.design_id]
        nearest = verdict.neighbours[0] if verdict.neighbours else None
        return _Card(
            verdict=verdict,
            title=source.title,
            truth=source.made_as,
            picture=thumbnail(source.path),
            similarity=f"{verdict.similarity:.3f}",
            threshold=f"{verdict.threshold:.3f}",
            signal=nearest.signal if nearest else "",
            why=WHY[nearest.signal][1] if nearest else "",
            mistake=self._mistakes.get(verdict.design_id, ""),
            matches=[self._match(near) for near in verdict.neighbours[:neighbours]],
        )

    def _match(self, near: Neighbour) -> _Match:
        source = (self._items if near.kind == "item" else self._designs).get(near.id)
        return _Match(
            id=near.id,
            kind="catalogue item" if near.kind == "item" else "earlier design",
            similarity=f"{near.similarity:.3f}",
            title=source.title if source else "",
            picture=thumbnail(source.path) if source else "",
        )


@functools.lru_cache(2048)
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
