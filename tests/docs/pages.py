"""The project's pages for people, and what tests and generators read out of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
README: Final = REPOSITORY / "README.md"
CHANGELOG: Final = REPOSITORY / "CHANGELOG.md"
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `language` is the word behind the fence."""

    language: str
    text: str


def blocks(page: Path = README) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [Block(match[1], match[2]) for match in _FENCE.finditer(page.read_text())]


def prose(page: Path = README) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def files() -> dict[str, str]:
    """The Python files that the README shows: a block's first line names it, as `# draw.py`."""
    shown = {}
    for block in blocks():
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\b", block.text)
            assert name, f"this block does not begin with the name of its file: {block.text[:60]}"
            shown[name[1]] = block.text
    return shown


def section(title: str, page: Path = README) -> str:
    """What stands under a heading, up to the next one of its rank."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert match, f"no section {title!r}"
    return match[2]


def headings(page: Path = README) -> Iterator[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def between(marker: str, page: Path = README) -> str:
    """What stands between `<!-- marker -->` and `<!-- /marker -->`."""
    return str(_marked(marker).findall(page.read_text())[0][1])


def replace_between(marker: str, text: str, page: Path = README) -> None:
    """Put `text` there."""
    page.write_text(_marked(marker).sub(lambda match: match[1] + text + match[3], page.read_text()))


def _marked(marker: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {marker} -->\n)(.*?)(<!-- /{marker} -->)", re.DOTALL)
