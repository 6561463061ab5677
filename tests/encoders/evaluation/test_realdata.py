"""Every suite on the photographs, very small: that they can be made, and that nothing fitted is scored."""

from pathlib import Path

import pytest

from encoders.data import HELD_OUT
from encoders.embedding import Embedder
from encoders.evaluation import catalogue
from encoders.evaluation.library import Model
from encoders.evaluation.run import Result, evaluate
from encoders.evaluation.sources import Limits, Sources
from streams.local import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (DATA / "hm").is_dir(), reason=f"no photographs in {DATA}"),
]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(DATA, Limits(gallery=60, queries=3, of_a_kind=1, largest=0), seed=0)


@pytest.fixture(scope="module")
def results(sources: Sources, colours_model: Path) -> list[Result]:
    model = Model("colours", Embedder(colours_model), 0.9)
    entries = [entry for entry in catalogue.chosen([], sources) if entry.needs]
    return list(evaluate([model], (e.make(sources) for e in entries), catalogue.calibration(sources), lambda *_: None))


def test_every_suite_can_be_made(results: list[Result]) -> None:
    expected = {entry.name for entry in catalogue.SUITES if entry.needs and not entry.entries}
    # Among 60 packshots there may be no two of one silhouette.
    assert expected - {"silhouettes/hm"} <= {result.suite.name for result in results} <= expected
    for result in results:
        assert len(result.suite.gallery) <= 4 * 60  # the cut-outs of 60 street photos are the largest


def test_only_what_was_held_out_is_scored(sources: Sources) -> None:
    assert {int(item.group.split()[-1]) % HELD_OUT for item in sources.clothing} == {0}


def test_colourways_stay_together(sources: Sources) -> None:
    kept = {item.group for item in sources.hm}
    whole = [item for item in sources.all_hm if item.group in kept]
    assert len(whole) == len(sources.hm) <= 60


def test_the_box_of_a_cut_out_is_where_it_was_cut(sources: Sources) -> None:
    for cut_out in sources.ccp_items[:20]:
        photo = sources.ccp_photos[cut_out.photo].make()
        left, top, right, bottom = (edge * photo.width for edge in cut_out.box)
        assert 0 <= left < right <= photo.width + 1
        assert 0 <= top < bottom <= photo.height + 1
        width, height = cut_out.picture.make().size
        assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.1)
