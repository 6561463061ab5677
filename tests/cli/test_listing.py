"""What `catalog load` and `publish` read."""

import json
from pathlib import Path

import pytest

from streams.cli.listing import Row, open_listing
from streams.errors import Invalid


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def read(path: Path) -> list[Row]:
    listing = open_listing(path)
    rows = list(listing.rows())
    assert len(rows) == listing.count
    assert rows == list(listing.rows())
    return rows


def test_a_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "b.JPG", "shirt/a.png", "shirt/deep/c.webp", "notes.txt")
    rows = read(tmp_path)
    assert {row.id: row.category for row in rows} == {"b": "", "a": "shirt", "c": "deep"}
    assert next(row.images for row in rows if row.id == "b") == (tmp_path / "b.JPG",)
    assert "1 files" in open_listing(tmp_path).remarks[0]


def test_a_folder_with_one_id_twice(tmp_path: Path) -> None:
    pictures(tmp_path, "x/a.jpg", "y/a.png")
    with pytest.raises(Invalid, match="the same id"):
        open_listing(tmp_path)


def test_a_csv(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(
        "\ufeffid,images,category,title,design_id,version,tenant,colour\n"
        '1,a.jpg,shirt,"A, shirt",d1,3,shop,red\n'
        "2,a.jpg; sub/b.jpg,,,,,,\n"
        '3,"[""a;b.jpg"", ""https://host/x?y=1;2""]",,,,,,\n'
        "\n"
    )
    rows = read(file)
    assert rows[0] == Row(
        id="1", images=(tmp_path / "a.jpg",), category="shirt", title="A, shirt", design_id="d1", version=3,
        tenant="shop",
    )  # fmt: skip
    assert rows[1].images == (tmp_path / "a.jpg", tmp_path / "sub/b.jpg")
    assert rows[2].images == (tmp_path / "a;b.jpg", "https://host/x?y=1;2")
    assert "ignored colour" in open_listing(file).remarks[0]


def test_a_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    lines: list[object] = [
        {"id": 7, "images": ["a.jpg", "s3://bucket/b.jpg"], "generator": "g1", "title": None},
        {"id": "é", "image": "/abs/c.jpg", "version": 2},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    rows = read(file)
    assert rows[0] == Row(id="7", images=(tmp_path / "a.jpg", "s3://bucket/b.jpg"), generator="g1")
    assert rows[1] == Row(id="é", images=(Path("/abs/c.jpg"),), version=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "id,images\na,\n", "line 2: `images` must name"),
        ("x.csv", "id,images\na,b.jpg\n,c.jpg\n", "line 3.*id"),
        ("x.csv", f"id,images\na,{';'.join('123456789')}\n", "9 pictures"),
        ("x.csv", "id,images,version\na,b.jpg,new\n", "version"),
        ("x.csv", 'id,images\na,"[""b"""\n', "begins like a JSON list"),
        ("x.csv", "id,images\n", "nothing to send"),
        ("x.jsonl", "nothing\n", "line 1: not a JSON object"),
        ("x.jsonl", '{"id": "a\\nb", "images": "x.jpg"}', "regex"),
        ("x.jsonl", '{"id": "a", "images": [1]}', "must name"),
        ("x.txt", "a", "must be a folder"),
    ],
)
def test_a_mistake_is_found_before_anything_is_sent(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Invalid, match=message):
        open_listing(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no such file"):
        open_listing(tmp_path / "nothing.csv")
