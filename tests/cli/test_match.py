"""`match` without any server: what it says is what the oracle says of a log with the same pictures."""

import asyncio
import csv
import gc
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image as Pillow
from typer.testing import CliRunner, Result

from encoders.evaluation.edits import saved_thumbnail
from streams.cli import main
from streams.decide.policy import load_policy
from streams.embed.encoder import Encoder
from streams.embed.images import CheckedImage
from streams.embed.stage import SourceEvent
from streams.errors import Fatal, Invalid
from streams.events import CatalogUpdate, GeneratedDesign, Image, LogRecord, Policy, encode_event, encode_record
from streams.kafka import app
from streams.kafka.app import make_embed_stage, make_encoder
from streams.settings import load_settings
from tests import oracle
from tests.e2e.test_realdata import DATA, edited
from tests.pictures import cropped, drawn, jpeg, on_the_street, photographed

Row = dict[str, Any]


class Looks:
    """An encoder of which everything is known: mean colours of 4 x 4 cells, and a shift for each domain. It counts the
    pictures of each domain, and fails at a domain when told to."""

    version = "looks"
    dim = 49
    healthy = True

    def __init__(self, fails_at: str = "") -> None:
        self.seen: Counter[str] = Counter()
        self.most_alive = 0
        self._fails_at = fails_at

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[str]) -> NDArray[np.float32]:
        if self._fails_at in domains:
            raise Fatal("the encoder is broken")
        self.seen.update(domains)
        self.most_alive = max(self.most_alive, held())
        cells = pixels.reshape(len(pixels), 4, 56, 4, 56, 3).mean(axis=(2, 4)).reshape(len(pixels), 48)
        shift = np.where(np.array(domains) == "catalog", 20.0, 60.0)
        wide = np.hstack([cells - cells.mean(axis=1, keepdims=True), shift[:, None]])
        unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
        return unit


def held() -> int:
    """How many checked pictures are in memory. (`isinstance` would wake what other libraries keep asleep.)"""
    return sum(type(one) is CheckedImage for one in gc.get_objects())


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return use(monkeypatch, Looks())


def use(monkeypatch: pytest.MonkeyPatch, encoder: Looks) -> Looks:
    monkeypatch.setattr(app, "make_encoder", lambda _: encoder)
    return encoder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main.app, ["match", *map(str, arguments)], catch_exceptions=False)


def match(designs: object, catalog: object, *options: object, code: int = 0) -> list[Row]:
    result = call("--designs", designs, "--catalog", catalog, "--out", "said.jsonl", *options)
    assert result.exit_code == code, result.output
    return [json.loads(text) for text in Path("said.jsonl").read_text().splitlines()]


def write(folder: str, **files: bytes) -> Path:
    """A folder with pictures; `__` in a name is a sub-folder."""
    for name, data in files.items():
        path = Path(folder, *name.split("__")).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path(folder)


def plain(shade: int, quality: int = 90) -> bytes:
    return jpeg(Pillow.new("RGB", (32, 32), (shade, 255 - shade, 128)), quality)


# What the worker would say


def said_by_the_oracle(
    encoder: Encoder, items: Sequence[Path], designs: Sequence[tuple[Path, str]], policy: Policy
) -> list[Row]:
    """Every design judged alone after the catalogue: the worker's first stage makes the log, the oracle folds it."""
    events = [
        SourceEvent("item", "items/0", i, 0, str(path).encode(), _event(CatalogUpdate, path, ""))
        for i, path in enumerate(items)
    ]
    events += [
        SourceEvent("design", "designs/0", i, 0, str(path).encode(), _event(GeneratedDesign, path, category))
        for i, (path, category) in enumerate(designs)
    ]
    records = [record for record in asyncio.run(_records(encoder, events)) if not isinstance(record, Invalid)]
    assert len(records) == len(events)
    log = [LogRecord(kind="config", policy=policy, encoder=encoder.version, log_id="l"), *records[: len(items)]]
    rows = []
    for record in records[len(items) :]:
        folded = oracle.fold(enumerate(map(encode_record, [*log, record])))
        (verdict,) = folded.verdicts.values()
        near = [{"item": n["id"], "similarity": n["similarity"], "signal": n["signal"]} for n in verdict["neighbours"]]
        rows.append({"design": verdict["design_id"], **{n: verdict[n] for n in ("verdict", "threshold")}})
        rows[-1]["neighbours"] = near
    return rows


def _event(kind: type[CatalogUpdate] | type[GeneratedDesign], path: Path, category: str) -> bytes:
    return encode_event(kind(images=(Image(data=path.read_bytes()),), category=category))


async def _records(encoder: Encoder, events: Sequence[SourceEvent]) -> list[LogRecord | Invalid]:
    await encoder.start()
    stage = make_embed_stage(load_settings(), encoder)
    try:
        return await stage.embed(events)
    finally:
        await stage.close()
        await encoder.close()


def test_a_garment_on_the_street_is_found_through_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shipped encoder."""
    count = 12
    catalog = write("catalog", **{f"{n:02}": on_the_street(n) for n in range(count)})
    designs = write("designs", **{f"{n:02}": drawn(n) for n in range(count)})
    found = {}
    for windows in ("true", "false"):
        monkeypatch.setenv("DESIGN_DEDUP_WINDOWS", windows)
        rows = match(designs, catalog, "--top", 1)
        found[windows] = sum(Path(row["design"]).name == Path(row["neighbours"][0]["item"]).name for row in rows)
    assert found["true"] == count > found["false"]


POLICIES: Final = (
    "similarity = 0.97\n[hash]\ndistance = 20\ncolour = 8\nquality = 0\n[categories]\ntops = 0.3\n",
    "similarity = 0.9\nuse_digest = false\nuse_hash = false\nneighbours = 1\n[categories]\ntops = 1.0\n",
    "similarity = 0.2\n[[steps]]\nrows = 2\nsimilarity = 0.999\n[[steps]]\nrows = 4\nsimilarity = 0.8\n"
    "categories = {tops = 0.98}\n[hash]\ndistance = 60\ncolour = 255\nquality = 50\n",
)


def pool() -> Iterator[bytes]:
    """Pictures of which some are equal, some near, some without any structure, and some only look equal."""
    for seed in range(3):
        yield photographed(seed)
        yield photographed(seed, 60)
        yield drawn(seed)
    yield cropped(0)
    yield from (plain(255), plain(255, 60), plain(10))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    for number, data in enumerate(pool()):
        (folder / f"{number}.jpg").write_bytes(data)
    return sorted(folder.iterdir())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_it_says_what_the_oracle_says(
    data: st.DataObject, shown: list[Path], looks: Looks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("example")
    items = data.draw(st.lists(st.sampled_from(shown), min_size=1, max_size=12))
    drawn_designs = data.draw(
        st.lists(st.tuples(st.sampled_from(shown), st.sampled_from(["", "tops", "other"])), min_size=1, max_size=5)
    )
    top, rules = data.draw(st.integers(1, 14)), data.draw(st.sampled_from(POLICIES))
    (folder / "policy.toml").write_text(rules)
    (folder / "items.txt").write_text("\n".join(map(str, items)))
    designs = []
    for number, (path, category) in enumerate(drawn_designs):
        name = folder / "tops" / category / f"{number}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(path.read_bytes())
        designs.append((name, category))

    rows = match(folder / "tops", folder / "items.txt", "--top", top, "--policy", folder / "policy.toml")
    policy = replace(load_policy(folder / "policy.toml"), neighbours=top)
    assert rows == said_by_the_oracle(Looks(), items, sorted(designs), policy)


def test_the_real_encoder_says_what_the_oracle_says() -> None:
    write("photos", **{f"p{n}": photographed(n) for n in range(30)})
    write("new", again=photographed(3, 50), exact=photographed(4), line=drawn(5), fresh=drawn(70), tops__cut=cropped(6))
    rows = match("new", "photos", "--top", 30)
    assert len(rows) == 5
    encoder = make_encoder(load_settings(encoder="local"))
    designs = [(path, "tops" if path.parent.name == "tops" else "") for path in sorted(Path("new").rglob("*.jpg"))]
    policy = replace(load_policy(None), neighbours=30)
    expected = said_by_the_oracle(encoder, sorted(Path("photos").iterdir()), designs, policy)
    for row, other in zip(rows, expected, strict=True):
        assert [near.pop("similarity") for near in row["neighbours"]] == pytest.approx(
            [near.pop("similarity") for near in other["neighbours"]], abs=1e-3
        )
        assert row == other
    said = {row["design"]: (row["verdict"], row["neighbours"][0]) for row in rows}
    assert said["new/exact.jpg"] == ("duplicate", {"item": "photos/p4.jpg", "signal": "digest"})
    assert said["new/again.jpg"][0] == "duplicate"
    assert said["new/again.jpg"][1]["item"] == "photos/p3.jpg"
    assert said["new/fresh.jpg"][0] == "accept"


# Neighbours


@pytest.mark.parametrize("top", [1, 5, 50, 64, 100])
def test_any_number_of_neighbours(looks: Looks, top: int) -> None:
    """More than a policy allows, and more than there are: against dot products of all pairs."""
    names = [f"i{n:02}" for n in range(64)]
    write("photos", **{name: plain(4 * n) for n, name in enumerate(names)})
    write("new", one=drawn(1))
    Path("policy.toml").write_text("similarity = 1.0\nuse_hash = false")
    (row,) = match("new", "photos", "--top", top, "--policy", "policy.toml")
    similarities = [near["similarity"] for near in row["neighbours"]]
    assert len(similarities) == min(top, 64)
    assert similarities == sorted(similarities, reverse=True)
    (rest,) = match("new", "photos", "--top", 64, "--policy", "policy.toml")
    assert row["neighbours"] == rest["neighbours"][:top]
    assert {near["item"] for near in rest["neighbours"]} == {f"photos/{name}.jpg" for name in names}


def test_designs_are_not_compared_with_each_other(looks: Looks) -> None:
    write("photos", one=photographed(1))
    write("new", a=drawn(2), b=drawn(2), c=photographed(1, 60))
    rows = match("new", "photos")
    assert [row["verdict"] for row in rows] == ["accept", "accept", "duplicate"]
    assert rows[0]["neighbours"] == rows[1]["neighbours"]
    Path("new.txt").write_text("new/c.jpg\nnew/b.jpg\nnew/a.jpg\n")
    assert match("new.txt", "photos") == rows[::-1]


# Names, order and repetition


def test_names_are_as_given(looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("in/photos", b=photographed(1), deep__er__a=photographed(2))
    write("in/new", x=drawn(1), tops__y=drawn(2))
    (tmp_path / "in/new.txt").write_text(
        "\ufeff./new/x.jpg\r\n\r\nnew/../new/x.jpg\r\n" + f"{tmp_path}/in/new/x.jpg\n\n", "utf-8"
    )

    def names(designs: str, catalog: str) -> tuple[list[str], set[str]]:
        rows = match(designs, catalog)
        return [row["design"] for row in rows], {near["item"] for row in rows for near in row["neighbours"]}

    designs, items = names("./in/new/", f"{tmp_path}/in/photos")
    assert designs == ["./in/new/tops/y.jpg", "./in/new/x.jpg"]
    assert items == {f"{tmp_path}/in/photos/b.jpg", f"{tmp_path}/in/photos/deep/er/a.jpg"}
    designs, items = names("in/new.txt", "in/photos")
    assert designs == ["./new/x.jpg", "new/../new/x.jpg", f"{tmp_path}/in/new/x.jpg"]
    assert items == {"in/photos/b.jpg", "in/photos/deep/er/a.jpg"}


def test_a_file_is_encoded_once_for_each_domain(looks: Looks) -> None:
    write("photos", **{f"p{n:02}": plain(3 * n) for n in range(40)})
    designs = [f"photos/p{n:02}.jpg" for n in (7, 39, 7, 2, 7)]
    Path("new.txt").write_text("\n".join([*designs, "photos/../photos/p39.jpg"]))
    Path("photos.txt").write_text("\n".join([f"photos/p{n:02}.jpg" for n in (*range(40), 7)] + ["./photos/p07.jpg"]))
    rows = match("new.txt", "photos.txt", "--top", 50)
    assert looks.seen == {"catalog": 40, "generated": 3}
    assert [row["design"] for row in rows] == [*designs, "photos/../photos/p39.jpg"]
    assert rows[0] == rows[2] == rows[4]
    assert rows[1]["neighbours"] == rows[5]["neighbours"]
    # An item is a name, and there are two of this file.
    items = [near["item"] for near in rows[0]["neighbours"]]
    assert len(items) == len(set(items)) == 41
    same = [near["item"] for near in rows[0]["neighbours"] if near["signal"] == "digest"]
    assert same == ["photos/p07.jpg", "./photos/p07.jpg"]


def test_no_more_than_a_batch_of_pictures_is_held(looks: Looks) -> None:
    before = held()
    write("photos", **{f"p{n}": plain(n) for n in range(150)})
    write("new", **{f"n{n}": plain(n, 60) for n in range(100)})
    assert len(match("new", "photos")) == 100
    assert looks.seen == {"catalog": 150, "generated": 100}
    assert 0 < looks.most_alive - before <= 2 * 32


# What cannot be used


def test_what_cannot_be_used(looks: Looks) -> None:
    write("photos", good=photographed(1), empty=b"", other=photographed(2))
    Path("new.txt").write_text("missing.jpg\nphotos/good.jpg\nbroken.jpg\nphotos\nbroken.jpg\n")
    Path("broken.jpg").write_bytes(drawn(1)[:300])
    result = call("--designs", "new.txt", "--catalog", "photos", "--out", "said.jsonl", "--top", 9)
    assert result.exit_code == 1
    rows = [json.loads(text) for text in Path("said.jsonl").read_text().splitlines()]
    assert [row.get("error", "").partition(":")[0] for row in rows] == [
        "no_file", "", "broken_image", "no_file", "broken_image"
    ]  # fmt: skip
    assert rows[0] == {"design": "missing.jpg", "error": "no_file: No such file or directory"}
    assert all(set(row) == {"design", "error"} for row in rows if "error" in row)
    assert [near["item"] for near in rows[1]["neighbours"]] == ["photos/good.jpg", "photos/other.jpg"]
    assert "photos/empty.jpg: empty_image: the file is empty" in result.stderr
    assert "1 of 3 pictures of the catalogue cannot be used and are left out" in result.stderr
    assert "4 of 5 designs cannot be used; their lines say why" in result.stderr
    assert "5 designs against 2 pictures: 1 duplicate, 0 accept" in result.stderr


@pytest.mark.parametrize("broken", ["design", "item"])
def test_one_that_cannot_be_used_is_exit_code_1(looks: Looks, broken: str) -> None:
    write("photos", good=photographed(1), **({"bad": b"x"} if broken == "item" else {}))
    write("new", good=drawn(1), **({"bad": b"x"} if broken == "design" else {}))
    rows = match("new", "photos", code=1)
    assert len(rows) == (2 if broken == "design" else 1)
    assert rows[-1]["verdict"] == "accept"


def test_a_catalogue_of_broken_pictures_is_no_catalogue(looks: Looks) -> None:
    write("photos", bad=b"x")
    write("new", good=drawn(1))
    result = call("--designs", "new", "--catalog", "photos", "--out", "said.jsonl")
    assert result.exit_code == 1
    assert "photos/bad.jpg: not_an_image" in result.stderr
    assert "design-dedup: no picture of the catalogue can be used; nothing was written" in result.stderr
    assert not Path("said.jsonl").exists()


# The answer


def test_lines_come_all_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Looks(fails_at="generated"))
    write("photos", one=photographed(1))
    write("new", **{f"n{n}": plain(n) for n in range(40)})
    Path("said.jsonl").write_text("of yesterday")
    result = call("--designs", "new", "--catalog", "photos", "--out", "said.jsonl")
    assert result.exit_code == 1
    assert "design-dedup: the encoder is broken" in result.stderr
    assert Path("said.jsonl").read_text() == "of yesterday"
    assert {path.name for path in Path().iterdir()} == {"photos", "new", "said.jsonl"}


def test_lines_on_standard_output(looks: Looks) -> None:
    write("photos", one=photographed(1))
    write("new", a=drawn(1), b=photographed(1))
    rows = match("new", "photos")
    result = call("--designs", "new", "--catalog", "photos", "--out", "-")
    assert result.exit_code == 0
    assert [json.loads(text) for text in result.stdout.splitlines()] == rows


def test_a_place_where_nothing_can_be_written(looks: Looks) -> None:
    write("photos", one=photographed(1))
    result = call("--designs", "photos", "--catalog", "photos", "--out", "nowhere/said.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "design-dedup: cannot write nowhere/said.jsonl: No such file or directory\n"
    assert looks.seen == {}


def test_the_policy_of_the_settings_is_the_default(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    write("photos", one=photographed(1))
    Path("loose.toml").write_text("similarity = 0.25")
    Path("strict.toml").write_text("similarity = 0.75")
    assert match("photos", "photos")[0]["threshold"] == load_policy(None).similarity
    monkeypatch.setenv("DESIGN_DEDUP_POLICY_FILE", "loose.toml")
    assert match("photos", "photos")[0]["threshold"] == 0.25
    assert match("photos", "photos", "--policy", "strict.toml")[0]["threshold"] == 0.75


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--designs missing --catalog photos --out o", "missing: No such file"),
        ("--designs photos --catalog bare --out o", "no pictures in bare"),
        ("--designs empty.txt --catalog photos --out o", "empty.txt is empty"),
        ("--designs photos/one.jpg --catalog photos --out o", "photos/one.jpg: "),
        ("--designs binary.txt --catalog photos --out o", "binary.txt is not a text file"),
        ("--designs photos --catalog photos --out o --top 0", "--top"),
        ("--designs photos --catalog photos --out o --policy missing.toml", "missing.toml"),
        ("--designs photos --catalog photos --out o --encoder faiss", "--encoder"),
        ("--designs photos --catalog photos", "--out"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: str, said: str) -> None:
    write("photos", one=photographed(1))
    Path("bare").mkdir()
    Path("bare/notes.md").write_text("no picture")
    Path("empty.txt").write_text("\n\n")
    Path("binary.txt").write_bytes(b"a\0b")
    result = call(*arguments.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert not Path("o").exists()


# Photographs


def small(photo: Path, number: int) -> bytes:
    """A thumbnail of 60 x 80 px, by another filter each time."""
    return jpeg(saved_thumbnail(Pillow.open(photo).convert("RGB"), np.random.default_rng(number)))


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "hm").is_dir(), reason=f"no photographs in {DATA}")
def test_copies_of_photographs_are_found() -> None:
    rng = random.Random(4)
    with (DATA / "hm" / "articles.csv").open() as file:
        products = {row["article_id"]: row["product_code"] for row in csv.DictReader(file)}
    photos = sorted((DATA / "hm" / "images").glob("*.jpg"))
    rng.shuffle(photos)
    items, hanging = photos[:150], {products[path.stem] for path in photos[:150]}
    others = [path for path in photos[150:] if products[path.stem] not in hanging][:15]
    others += rng.sample(sorted((DATA / "clothing" / "images").glob("*.jpg")), 15)
    copied = rng.sample(items, 30)
    files = {f"copy-{path.stem}": edited(path.read_bytes(), rng) for path in copied}
    files |= {f"thumbnail-{path.stem}": small(path, number) for number, path in enumerate(copied)}
    files |= {f"new-{path.stem}": path.read_bytes() for path in others}
    files |= {"broken-0": b"", "broken-1": b"no picture", "broken-2": items[0].read_bytes()[:900]}
    write("designs", **files)
    names = [f"designs/{name}.jpg" for name in files]
    rng.shuffle(names)
    Path("designs.txt").write_text("\n".join(names))
    Path("items.txt").write_text("\n".join(map(str, items)))

    rows = match("designs.txt", "items.txt", "--top", 150, code=1)
    assert [row["design"] for row in rows] == names
    kinds: dict[str, list[Row]] = {kind: [] for kind in ("copy", "thumbnail", "new", "broken")}
    for row in rows:
        kinds[Path(row["design"]).stem.partition("-")[0]].append(row)
    assert {kind: len(found) for kind, found in kinds.items()} == {"copy": 30, "thumbnail": 30, "new": 30, "broken": 3}
    for row in kinds["copy"] + kinds["thumbnail"]:
        assert Path(row["neighbours"][0]["item"]).stem == Path(row["design"]).stem.partition("-")[2]
    assert all(row["verdict"] == "duplicate" for row in kinds["copy"])
    assert sum(row["verdict"] == "duplicate" for row in kinds["thumbnail"]) >= 28
    assert sum(row["verdict"] == "duplicate" for row in kinds["new"]) <= 1
    assert all(set(row) == {"design", "error"} for row in kinds["broken"])
    everything = set(map(str, items))
    assert all({near["item"] for near in row["neighbours"]} == everything for row in kinds["copy"] + kinds["new"])
