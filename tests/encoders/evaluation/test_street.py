"""Street photos: cut-outs and try-on, on a made-up set of the same layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from encoders.evaluation import ccp, scenes, tryon
from encoders.evaluation.foreground import mask
from encoders.evaluation.sources import CCP_WIDTH_PX, Limits, Sources
from encoders.evaluation.suites import Picture

BOX = (150, 200, 350, 500)  # of the garment, in the full-size photo
RED, BLUE, GREY = (200, 20, 20), (20, 40, 190), (120, 130, 120)
SCALE = 300 / CCP_WIDTH_PX


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Two people: one in a red, one in a blue dress, each with a small green hat that nobody else wears."""
    (tmp_path / "ccp/photos").mkdir(parents=True)
    (tmp_path / "ccp/items").mkdir()
    rows = ["photo,label,file,area_frac,x0,y0,x1,y1"]
    for number, colour in (("0001", RED), ("0002", BLUE)):
        photo = Image.new("RGB", (300, 448), GREY)
        left, top, right, bottom = BOX
        worn = (left + 10, top + 10, right - 11, bottom - 11)  # as in the cut-out
        ImageDraw.Draw(photo).rectangle([edge * SCALE for edge in worn], fill=colour)
        photo.save(tmp_path / f"ccp/photos/{number}.jpg", quality=98)
        cut = Image.new("RGB", (200, 300), (255, 255, 255))
        ImageDraw.Draw(cut).rectangle((10, 10, 189, 289), fill=colour)
        cut.save(tmp_path / f"ccp/items/{number}_dress.jpg", quality=98)
        rows.append(f"{number},dress,items/{number}_dress.jpg,0.1,{','.join(str(edge) for edge in BOX)}")
        cut.save(tmp_path / f"ccp/items/{number}_hat.jpg")
        rows.append(f"{number},hat,items/{number}_hat.jpg,0.01,200,100,240,130")
    rows.append("0003,dress,items/0003_dress.jpg,0.1,1,1,9,9")  # held back
    (tmp_path / "ccp/items.csv").write_text("\n".join(rows) + "\n")
    return Sources(tmp_path, Limits(gallery=50, queries=10, of_a_kind=5, largest=0), seed=0)


def test_a_cut_out_asks_for_its_photo(sources: Sources) -> None:
    suite = ccp.cut_outs(sources)
    assert [picture.name for picture in suite.gallery] == ["ccp/0001", "ccp/0002"]
    assert {(q.picture.name, q.truth, q.cluster) for q in suite.queries} == {
        ("ccp/0001_dress", (0,), "0001"), ("ccp/0002_dress", (1,), "0002"),
    }  # fmt: skip
    assert {query.picture.name for query in ccp.accessories(sources).queries} == {"ccp/0001_hat", "ccp/0002_hat"}


def test_the_garment_of_the_query_is_worn_and_the_decoy_is_gone(sources: Sources) -> None:
    suite = tryon.try_on(sources)
    names = [picture.name for picture in suite.gallery]
    asked = {query.picture.name: query for query in suite.queries}
    red_on_blue = asked["ccp/0001_dress on ccp/0002_dress"]
    assert [names[at] for at in red_on_blue.truth] == ["ccp/0001_dress"]
    assert [names[at] for at in red_on_blue.rivals] == ["ccp/0002_dress"]
    picture = np.asarray(red_on_blue.picture.make(), float)
    left, top, right, bottom = (round(edge * SCALE) for edge in BOX)
    middle = picture[top + 40 : bottom - 40, left + 30 : right - 30]
    assert np.abs(middle - RED).max() < 30
    before = np.asarray(sources.ccp_photos["0002"].make(), float)
    outside = np.ones(before.shape[:2], bool)
    outside[top : bottom + 1, left : right + 1] = False
    assert (picture[outside] == before[outside]).all()
    blue = np.abs(picture - BLUE).max(axis=2) < 60
    assert blue.mean() < 0.01


def test_a_packshot_is_pasted_into_the_scene() -> None:
    canvas = np.full((144, 96, 3), 248, np.uint8)
    canvas[20:110, 25:70] = (30, 120, 60)
    packshot = Picture("shot", lambda: Image.fromarray(canvas))
    ground = Picture("ground", lambda: Image.new("RGB", (300, 400), (150, 120, 130)))
    shares = []
    for number in range(8):
        scene = np.asarray(scenes.rendered(packshot, ground, f"scene {number}", 0), float)
        assert max(scene.shape) == 400
        green = scene[..., 1] > scene[..., [0, 2]].max(axis=2) + 15
        rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
        shares.append((rows[-1] - rows[0]) / 400)
        # A garment twice as high as wide, at most a fifth of it hidden, and no rim of its white ground.
        assert 1.3 < (rows[-1] - rows[0]) / (columns[-1] - columns[0]) < 2.9
        assert not (scene > 225).all(axis=2).any()
    assert 0.4 < min(shares) < max(shares) <= 0.91
    assert len({round(share, 2) for share in shares}) > 3


def test_no_scene_without_a_mask() -> None:
    white = Picture("white", lambda: Image.new("RGB", (96, 144), (250, 250, 250)))
    assert mask(white.make()) is None
    with pytest.raises(ValueError, match="cannot be told from the ground"):
        scenes.rendered(white, white, "scene", 0)
