"""What `calibrate` reads: a catalogue, pairs that a person labelled, and the pairs a person took out. No picture is
opened here."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import typer

from streams.cli.listing import open_listing
from streams.cli.pictures import in_folder_or_list
from streams.errors import Invalid

_LISTINGS: Final = frozenset({".csv", ".jsonl", ".ndjson"})
_NAMED: Final = 5

Label = Literal["duplicate", "different"]


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a catalogue. product: what it shares with other pictures of the same thing; they are never counted
    as unrelated."""

    path: Path
    product: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair somebody looked at: a design `a` against an item `b`. names: of the two, as in the file. cluster: only one
    pair of it is counted."""

    a: Path
    b: Path
    names: tuple[str, str]
    label: Label
    category: str
    cluster: str


def catalogue(source: str, products: Path | None) -> list[Item]:
    """The pictures of a folder, a list of paths, or a CSV or JSONL file as `catalog load` reads it. BadParameter.

    Every picture is a product of its own (called by its path below the folder), of a CSV or JSONL file every line (by
    its id), unless `products`, a CSV file with the columns id and product, says otherwise.
    """
    items = _listed(Path(source)) if Path(source).suffix.lower() in _LISTINGS else _pictured(source)
    groups = _products(products) if products else {}
    if unknown := sorted(groups.keys() - {item.product for item in items}):
        raise typer.BadParameter(f"{products}: not in {source}: {_some(unknown)}")
    return [replace(item, product=groups.get(item.product, item.product)) for item in items]


def _listed(path: Path) -> list[Item]:
    try:
        rows = [row for row in open_listing(path).rows() for _ in row.images]
        images = [image for row in open_listing(path).rows() for image in row.images]
    except Invalid as error:
        raise typer.BadParameter(str(error)) from error
    if far := [image for image in images if isinstance(image, str)]:
        raise typer.BadParameter(f"{path}: pictures must be files here, not {_some(far)}")
    return [Item(Path(image), row.id, row.category) for row, image in zip(rows, images, strict=True)]


def _pictured(source: str) -> list[Item]:
    root = Path(source)
    return [
        Item(one.path, one.path.relative_to(root).as_posix() if root.is_dir() else one.name, one.category)
        for one in in_folder_or_list(source)
    ]


def _products(path: Path) -> dict[str, str]:
    return {row["id"]: row["product"] for _, row in _rows(path, ("id", "product"))}


def labelled(path: Path) -> list[Labelled]:
    """The pairs of a CSV file with the columns a, b and label (duplicate or different), perhaps category and cluster.
    Paths are relative to the file's folder. Without a cluster, all pairs of one `a` are one. BadParameter."""
    pairs = []
    for line, row in _rows(path, ("a", "b", "label")):
        label = row["label"].strip().lower()
        if label not in ("duplicate", "different"):
            raise typer.BadParameter(f"{path}, line {line}: label must be duplicate or different, not {row['label']!r}")
        word: Label = "duplicate" if label == "duplicate" else "different"
        a, b = path.parent / row["a"], path.parent / row["b"]
        pairs.append(
            Labelled(a, b, (row["a"], row["b"]), word, row.get("category") or "", row.get("cluster") or row["a"])
        )
    return pairs


def removed(path: Path | None) -> list[str]:
    """The ids in a text file, one a line; what follows a # is a remark. BadParameter."""
    if path is None:
        return []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(word for line in lines for word in line.split("#")[0].split()))


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, row) of a CSV file whose rows have something in each of `columns`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(columns) - set(reader.fieldnames or ()):
                raise typer.BadParameter(f"{path} has no column {', '.join(sorted(missing))}")
            for row in reader:
                if empty := [name for name in columns if not row[name]]:
                    raise typer.BadParameter(f"{path}, line {reader.line_num}: no {empty[0]}")
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
