"""A suite of one's own: a folder made here, read back, and what is said of a wrong one."""

import re
from pathlib import Path

import pytest
from PIL import Image

from encoders.evaluation import folder
from encoders.evaluation.command import Named, Request, measure

ROWS = """query,item,label,cluster,kind
q/red.png,items/red.png,duplicate,product 1,plain
q/red.png,items/pink.png,different,product 1,plain
q/green.png,items/green.png,duplicate,product 2,plain
q/green.png,items/green2.png,ignore,product 2,plain
,items/blue.png,,,
q/grey.png,,,product 3,new
"""
COLOURS = {
    "q/red.png": (200, 10, 10), "items/red.png": (190, 20, 15), "items/pink.png": (250, 130, 150),
    "q/green.png": (10, 160, 30), "items/green.png": (20, 150, 35), "items/green2.png": (10, 160, 30),
    "items/blue.png": (10, 20, 200), "q/grey.png": (90, 60, 50),
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "my-suite"
    for name, colour in COLOURS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 80), colour).save(root / name)
    (root / "suite.csv").write_text(ROWS)
    return root


def test_a_folder_becomes_a_suite(own: Path) -> None:
    suite = folder.read(own)
    assert suite.name == "my-suite"
    assert [Path(picture.name).name for picture in suite.gallery] == [
        "red.png", "pink.png", "green.png", "green2.png", "blue.png",
    ]  # fmt: skip
    red, green, grey = suite.queries
    assert (red.truth, red.rivals, red.ignored, red.cluster, red.kind) == ((0,), (1,), (), "product 1", "plain")
    assert (green.truth, green.rivals, green.ignored) == ((2,), (), (3,))
    assert (grey.truth, grey.cluster, grey.kind) == ((), "product 3", "new")
    assert red.picture.make().getpixel((5, 5)) == (200, 10, 10)


def test_the_truth_column_instead_of_labels(own: Path) -> None:
    (own / "suite.csv").write_text("query,item,truth\nq/red.png,items/red.png,1\nq/red.png,items/pink.png,0\n")
    (query,) = folder.read(own).queries
    assert (query.truth, query.rivals, query.cluster) == ((0,), (1,), "q/red.png")


def test_it_is_evaluated_like_any_other(own: Path, colours_model: Path) -> None:
    (result,) = measure(Request([Named("colours", colours_model, 0.9)], [str(own)]), lambda *_: None)
    assert result.suite.name == "my-suite"
    assert result.whole.recall[1].value == 1
    assert result.whole.found.value == 1
    assert set(result.kinds) == {"plain", "new"}


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("query,item\nq/red.png,items/red.png\n", "the columns query, item, label"),
        ("query,item,label\nq/none.png,items/red.png,duplicate\n", "line 2: there is no picture"),
        ("query,item,label\nq/red.png,items/red.png,perhaps\n", "line 2: 'perhaps' is none of duplicate"),
        ("query,item,label\n,items/red.png,duplicate\n", "line 2: a label needs a query and an item"),
        ("query,item,label\n,items/red.png,\n", "at least one query and one item"),
    ],
)
def test_a_wrong_table_is_named(own: Path, table: str, what: str) -> None:
    (own / "suite.csv").write_text(table)
    with pytest.raises(ValueError, match=re.escape(what)):
        folder.read(own)


def test_a_folder_without_a_table_and_a_file_that_is_no_picture(own: Path) -> None:
    (own / "q/red.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"red\.png is no picture"):
        folder.read(own).queries[0].picture.make()
    (own / "suite.csv").unlink()
    with pytest.raises(ValueError, match="expected one CSV file, there are 0"):
        folder.read(own)
