"""The page on which a person looks at near pairs that count as unrelated: one HTML file with the pictures in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from encoders.described import FIRES
from streams.cli.calibrating import Suspect
from streams.cli.report import thumbnail
from streams.cli.writing import whole_file

SHOWN: Final = 50


def write_review(suspects: Sequence[Suspect], path: Path) -> int:
    """Write the page; returns how many pairs are on it. Fatal when it cannot be written."""
    cards = [_card(suspect) for suspect in suspects[:SHOWN]]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("review.html").render(cards=cards)
    with whole_file(path) as file:
        file.write(html.encode("utf-8", "replace"))
    return len(cards)


def _card(suspect: Suspect) -> dict[str, object]:
    both = zip(suspect.names, (suspect.a, suspect.b), strict=True)
    fires = suspect.similarity >= FIRES
    return {
        "id": suspect.id,
        "score": "fires the hash rule" if fires else f"similarity {suspect.similarity:.4f}",
        "sides": [{"name": name, "path": path, "picture": thumbnail(path)} for name, path in both],
    }
