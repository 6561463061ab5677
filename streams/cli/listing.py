"""What `catalog load` and `publish` read: a folder of pictures, a CSV or a JSONL file, as rows. No picture is opened
here, so a listing of any length costs little."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.errors import Invalid
from streams.events import MAX_IMAGES, Id, Label

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif"})
FIELDS: Final = ("id", "images", "category", "title", "design_id", "version", "tenant", "generator")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to send. images: paths, or references that hold `://`. Empty text: the event's own default."""

    id: Id
    images: tuple[Path | str, ...]
    category: Label = ""
    title: str = ""
    design_id: str = ""
    version: int = 0
    tenant: Label = ""
    generator: Label = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A source of rows that can be read again. `remarks`: what a person should know about what is left out."""

    path: Path
    count: int
    remarks: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """The rows, read from the disk while one goes."""
        return _rows(self.path)


def open_listing(path: Path) -> Listing:
    """Read a listing once, so that a mistake in it is found before anything is sent. Invalid: `bad_listing`."""
    remarks = []
    if path.is_dir():
        others = sum(1 for file in path.rglob("*") if file.is_file() and file.suffix.lower() not in PICTURES)
        if others:
            remarks.append(f"{others} files in {path} are no pictures ({' '.join(sorted(PICTURES))}) and are left out")
    elif ignored := _unknown_fields(path):
        remarks.append(f"{path}: ignored {', '.join(ignored)} (known: {', '.join(FIELDS)})")
    count = sum(1 for _ in _rows(path))
    if not count:
        raise _bad(path, None, "nothing to send")
    return Listing(path, count, tuple(remarks))


def _rows(path: Path) -> Iterator[Row]:
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise _bad(path, None, "no such file or folder")
    if path.suffix.lower() == ".csv":
        return _csv(path)
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return _jsonl(path)
    raise _bad(path, None, "must be a folder, a .csv or a .jsonl file")


def _folder(path: Path) -> Iterator[Row]:
    """Every picture below a folder: its stem is the id, the name of its sub-folder the category."""
    seen: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if not file.is_file() or file.suffix.lower() not in PICTURES:
            continue
        if (other := seen.setdefault(file.stem, file)) is not file:
            raise _bad(path, None, f"{other} and {file} would have the same id; use a CSV or JSONL file")
        fields = {"id": file.stem, "category": "" if file.parent == path else file.parent.name}
        yield _row(path, None, fields, (file,))


def _csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for number, fields in enumerate(csv.DictReader(file), start=2):
                yield _fields(path, number, {name: value for name, value in fields.items() if name and value})
        except (csv.Error, UnicodeDecodeError) as error:
            raise _bad(path, None, str(error)) from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                fields = msgspec.json.decode(text, type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise _bad(path, number, f"not a JSON object: {error}") from error
            yield _fields(path, number, {name: value for name, value in fields.items() if value is not None})


def _fields(path: Path, number: int, fields: Mapping[str, Any]) -> Row:
    names = fields.get("images", fields.get("image"))
    if isinstance(names, str):
        names = _split(path, number, names)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise _bad(path, number, "`images` must name one picture, or several")
    if not 1 <= len(names) <= MAX_IMAGES:
        raise _bad(path, number, f"{len(names)} pictures, 1 to {MAX_IMAGES} are allowed")
    images = tuple(name if "://" in name else path.parent / name for name in names)
    known = {name: value for name, value in fields.items() if name in FIELDS and name != "images"}
    return _row(path, number, known, images)


def _split(path: Path, number: int, text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [name.strip() for name in text.split(";") if name.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        raise _bad(path, number, f"`images` begins like a JSON list and is none: {error}") from error


def _row(path: Path, number: int | None, fields: Mapping[str, Any], images: tuple[Path | str, ...]) -> Row:
    try:
        # str: a number is as good an id as a word, and CSV knows no numbers.
        words = {name: value if name == "version" else str(value) for name, value in fields.items()}
        # Without the pictures: msgspec knows no Path.
        row = msgspec.convert({**words, "images": []}, _Fields, strict=False)
    except msgspec.ValidationError as error:
        raise _bad(path, number, str(error)) from error
    return Row(**{**msgspec.structs.asdict(row), "images": images})


class _Fields(Row, frozen=True, kw_only=True):
    images: tuple[str, ...]


def _unknown_fields(path: Path) -> list[str]:
    """Columns of a CSV, or fields of a JSONL's first line, that nothing reads: perhaps a misspelling."""
    if path.suffix.lower() == ".csv" and path.is_file():
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            names = next(csv.reader(file), [])
    elif path.is_file():
        with path.open("rb") as file:
            try:
                names = list(msgspec.json.decode(file.readline(), type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                names = []
    else:
        names = []
    return [name for name in names if name not in (*FIELDS, "image")]


def _bad(path: Path, number: int | None, message: str) -> Invalid:
    return Invalid("bad_listing", f"{path}{'' if number is None else f', line {number}'}: {message}")
