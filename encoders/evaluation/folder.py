"""Suites of one's own: a folder with pictures and a table.

The table is the one CSV file of the folder. Columns:
  query    path of a picture; empty: the row only adds `item` to the gallery
  item     path of a picture of the gallery; empty: the row only adds a query that duplicates nothing
  label    duplicate | different | ignore | (empty: unrelated, and nothing more is said of the pair)
  truth    instead of `label`: 1 for a duplicate, 0 for a near miss that must not be called one
  cluster  what is not independent, such as the product's number; empty: every query is on its own
  kind     optional, for the breakdown
Paths are relative to the folder. Every item is compared with every query: `different` marks near misses, whose rate is
reported by itself, and needs not be said of pairs that have nothing to do with each other.
"""

import csv
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from encoders.data import load
from encoders.evaluation.suites import Picture, Query, Suite

_LABELS: Final = {"duplicate": "truth", "1": "truth", "different": "rivals", "0": "rivals", "ignore": "ignored"}


@dataclass
class _Asked:
    """A query as it is gathered from its rows."""

    cluster: str
    kind: str
    truth: list[int] = field(default_factory=list)
    rivals: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)


def read(folder: Path) -> Suite:
    """The suite of a folder, named as the folder is.

    ValueError, with file and line, for a table that says something else than the above or names a picture that is not
    there.
    """
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise ValueError(f"{folder}: expected one CSV file, there are {len(tables)}")
    place: dict[str, int] = {}
    asked: dict[str, _Asked] = {}
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = {"query", "item"} - set(rows.fieldnames or ())
        if missing or not {"label", "truth"} & set(rows.fieldnames or ()):
            raise ValueError(f"{tables[0]}: the columns query, item, label (or truth) and cluster are needed")
        for row in rows:
            try:
                _take({key: (value or "").strip() for key, value in row.items() if key}, folder, place, asked)
            except ValueError as error:
                raise ValueError(f"{tables[0]}, line {rows.line_num}: {error}") from None
    if not asked or not place:
        raise ValueError(f"{tables[0]}: at least one query and one item are needed")
    gallery = [_picture(folder, name) for name in place]
    queries = [
        Query(_picture(folder, name), q.cluster, q.kind, tuple(q.truth), tuple(q.rivals), tuple(q.ignored))
        for name, q in asked.items()
    ]
    return Suite(folder.resolve().name, f"the pictures of {folder}", gallery, queries)


def _take(row: dict[str, str], folder: Path, place: dict[str, int], asked: dict[str, _Asked]) -> None:
    query, item = row["query"], row["item"]
    for name in filter(None, (query, item)):
        if not (folder / name).is_file():
            raise ValueError(f"there is no picture {folder / name}")
    if item:
        place.setdefault(item, len(place))
    if query:
        asked.setdefault(query, _Asked(row.get("cluster") or query, row.get("kind", "")))
    label = (row.get("label") or row.get("truth") or "").lower()
    if label and label not in _LABELS:
        raise ValueError(f"{label!r} is none of {', '.join(_LABELS)}")
    if label and not (query and item):
        raise ValueError("a label needs a query and an item")
    if label:
        getattr(asked[query], _LABELS[label]).append(place[item])


def _picture(folder: Path, name: str) -> Picture:
    return Picture(str(folder / name), partial(_load, folder / name))


def _load(path: Path) -> Image.Image:
    try:
        return load(path)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} is no picture: {error}") from error
