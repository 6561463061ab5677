"""The report: complete in one file, and nothing that a stranger wrote becomes markup."""

import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from streams.cli.report import (
    Letter,
    Outcome,
    Score,
    Source,
    as_object,
    cards,
    figures,
    percentile,
    render,
    score,
    thumbnail,
    write_report,
)
from streams.events import Neighbour, Verdict, Word

NOW = datetime(2026, 11, 21, 12, 30)
EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x.png>"


def said(name: str, word: Word, position: int, *near: Neighbour, similarity: float = 0.5) -> Verdict:
    return Verdict(
        verdict_id=f"v-{name}",
        design_id=name,
        verdict=word,
        similarity=near[0].similarity if near else similarity,
        threshold=0.93,
        neighbours=near,
        category="",
        tenant="default",
        generator="",
        encoder_version="e",
        policy_version="p",
        image_digests=(),
        position=position,
        shard=0,
        submitted_at_ms=0,
        advisory=False,
    )


def picture(folder: Path, name: str, colour: str = "red", mode: str = "RGB") -> Path:
    path = folder / f"{name}.png"
    Image.new(mode, (640, 480), colour).save(path)
    return path


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    items = [Source("item-1", picture(tmp_path, "item-1"), "shirts", EVIL)]
    designs = [
        Source("twin", picture(tmp_path, "twin"), "shirts", "A shirt", "item-1", True, "exact copy"),
        Source(EVIL, picture(tmp_path, "new", "blue"), "shirts", EVIL, None, True, "new"),
        Source("lonely", picture(tmp_path, "lonely", "green"), "", "", None, True, "new"),
        Source("bad", tmp_path / "bad.jpg", "", "", None, True, "broken file"),
    ]
    verdicts = [
        said("twin", "duplicate", 1, Neighbour("item-1", "item", 1.0, "digest")),
        said(
            EVIL, "accept", 2, Neighbour("item-1", "item", 0.71, "vector"), Neighbour("twin", "design", 0.3, "vector")
        ),
        said("lonely", "accept", 3),
    ]
    letters = [Letter("bad", "design", f"{EVIL}.jpg", "broken_image", EVIL)]
    return Outcome(items, designs, verdicts, letters, 12.34, [5.0, 10.0, 40.0], 6.0, score(designs, verdicts))


class Page(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


class TestPage:
    def test_nothing_comes_from_elsewhere(self, outcome: Outcome) -> None:
        html = render(outcome, NOW)
        page = Page(html)
        links = [
            str(a[name]) for _, a in page.tags for name in ("src", "href", "srcset", "action", "data") if name in a
        ]
        assert links
        assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
        assert not [tag for tag, _ in page.tags if tag in {"link", "iframe", "base", "object", "embed"}]
        assert not re.search(r"@import|url\(", html)

    def test_strangers_words_are_only_words(self, outcome: Outcome) -> None:
        page = Page(render(outcome, NOW))
        assert len(page.all("script")) == 1
        assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]

    def test_tells_each_kind(self, outcome: Outcome) -> None:
        html = render(outcome, NOW)
        assert "1 duplicate among 4 designs" in html
        assert "byte for byte" in html
        assert "exact copy of item-1" in html
        assert "nothing to compare with" in html
        assert "broken_image" in html
        assert "Where the verdict differs" not in html
        assert len(Page(html).all("article")) == cards(outcome) == 3

    def test_shows_mistakes_first(self, outcome: Outcome) -> None:
        wrong = Score(0.0, None, {"twin": "Called a duplicate, but it is new (made as: new)."})
        html = render(replace(outcome, score=wrong), NOW)
        assert html.index("Where the verdict differs") < html.index('id="duplicates"')
        assert html.count("Called a duplicate, but it is new") == 2

    def test_long_lists_are_cut_and_say_so(self, outcome: Outcome) -> None:
        verdicts = [said("lonely", "accept", n) for n in range(500)]
        html = render(replace(outcome, verdicts=verdicts), NOW)
        assert "380 more are not shown" in html

    def test_an_empty_run(self) -> None:
        html = render(Outcome([], [], [], [], 0.0, [], None, Score(None, None, {})), NOW)
        assert "No design was called a duplicate" in html

    def test_is_replaced_whole(self, outcome: Outcome, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        path.write_text("old")
        ticks: list[None] = []
        write_report(outcome, path, NOW, lambda: ticks.append(None))
        assert path.read_text().startswith("<!doctype html>")
        assert len(ticks) == cards(outcome)
        assert not list(tmp_path.glob(".*"))


class TestThumbnail:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
    def test_any_mode(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
        Image.new(mode, (400, 300)).save(path)
        assert thumbnail(path).startswith("data:image/jpeg;base64,/9j/")

    def test_no_picture(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jpg"
        path.write_text("no picture")
        assert thumbnail(path) == thumbnail(tmp_path / "none.jpg") == ""


class TestScore:
    def design(self, name: str, truth: str | None, note: str = "new") -> Source:
        return Source(name, Path(name), "", "", truth, True, note)

    def test_all_right(self) -> None:
        designs = [self.design("a", "item"), self.design("b", None)]
        assert score(designs, [said("a", "duplicate", 0), said("b", "accept", 1)]) == Score(1.0, 1.0, {})

    def test_counts_both_kinds_of_mistake(self) -> None:
        designs = [self.design("a", "item"), self.design("b", None), self.design("c", "item")]
        got = score(designs, [said("a", "accept", 0), said("b", "duplicate", 1), said("c", "duplicate", 2)])
        assert (got.precision, got.recall) == (0.5, 0.5)
        assert set(got.mistakes) == {"a", "b"}
        assert "shows what item shows" in got.mistakes["a"]

    def test_of_twins_the_first_decided_is_new(self) -> None:
        designs = [self.design("a", None), self.design("b", "a"), self.design("c", "b")]
        verdicts = [said("c", "accept", 0), said("a", "duplicate", 1), said("b", "duplicate", 2)]
        assert score(designs, verdicts) == Score(1.0, 1.0, {})

    def test_nothing_known(self) -> None:
        assert score([Source("a", Path("a"))], [said("a", "duplicate", 0)]) == Score(None, None, {})


class TestFigures:
    @pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0), (0.26, 2.0)])
    def test_percentile(self, share: float, value: float) -> None:
        assert percentile([1.0, 2.0, 3.0, 4.0], share) == value

    def test_percentile_of_nothing(self) -> None:
        assert percentile([], 0.5) is None

    def test_says_how_the_latency_was_measured(self, outcome: Outcome) -> None:
        assert "3 designs at 6/s" in figures(outcome)[4][2]
        burst = replace(outcome, paced_per_s=None)
        assert "burst" in figures(burst)[4][2]

    def test_precision_only_where_the_truth_is_known(self, outcome: Outcome) -> None:
        names = [name for _, name, _ in figures(outcome)]
        assert "precision" in names
        unknown = replace(outcome, designs=[Source("a", Path("a"))])
        assert "precision" not in [name for _, name, _ in figures(unknown)]

    def test_the_object_adds_up(self, outcome: Outcome) -> None:
        said = as_object(outcome, Path("report.html"))
        assert said["designs"] == said["accepted"] + said["duplicates"] + said["dead_letters"] == 4
        assert [v["design_id"] for v in said["verdicts"]] == ["twin", EVIL, "lonely"]
        assert said["verdicts"][0]["neighbours"][0]["id"] == "item-1"
        assert (said["latency_p50_ms"], said["latency_p99_ms"]) == (10.0, 40.0)
        assert said["dead_letter_list"] == [{"design_id": "bad", "reason": "broken_image", "message": EVIL}]
