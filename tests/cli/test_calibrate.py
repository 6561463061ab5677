"""`calibrate` without any server: the rate it promises is that of the oracle's verdicts under the policy it writes."""

import csv
import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from encoders.binomial import allowed_hits, cumulative
from encoders.data import hm
from streams.cli import main
from streams.decide.policy import load_policy
from streams.embed.images import ImageLimits, check_image
from streams.events import LogRecord, Picture, encode_record, lattice
from streams.kafka import app
from tests import oracle
from tests.e2e.test_realdata import DATA
from tests.pictures import drawn

SIDE_PX = 48


class Colours:
    """An encoder of which everything is known: the mean colours of 4 x 4 cells. It counts what it sees."""

    version = "colours"
    dim = 48
    healthy = True

    def __init__(self, turn: float = 0.0) -> None:
        """turn: by how much a design's vector differs from that of the same picture in the catalogue."""
        self.seen: Counter[str] = Counter()
        self._turn = turn

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[str]) -> NDArray[np.float32]:
        self.seen.update(domains)
        return self.vectors(pixels, domains)

    def vectors(self, pixels: NDArray[np.uint8], domains: Sequence[str]) -> NDArray[np.float32]:
        cells = pixels.reshape(len(pixels), 4, 56, 4, 56, 3).mean(axis=(2, 4)).reshape(len(pixels), 48) - 127.5
        cells[np.array(domains) == "generated", 0] += self._turn
        unit: NDArray[np.float32] = (cells / np.linalg.norm(cells, axis=1, keepdims=True)).astype(np.float32)
        return unit


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DESIGN_DEDUP_WINDOWS", "false")  # what is drawn here has no plain ground


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Colours:
    return use(monkeypatch, Colours())


def use(monkeypatch: pytest.MonkeyPatch, encoder: Colours) -> Colours:
    monkeypatch.setattr(app, "make_encoder", lambda _: encoder)
    return encoder


def tiles(seed: int, spread: int = 60) -> Image.Image:
    """16 coloured cells: a random picture around a common one, so that some are near each other."""
    common = np.random.default_rng(0).integers(spread, 256 - spread, (4, 4, 3))
    own = np.random.default_rng((seed, 1)).integers(-spread, spread, (4, 4, 3))
    return Image.fromarray((common + own).astype(np.uint8)).resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)


def folder(path: Path, seeds: Iterable[int], category: str = "") -> list[Path]:
    """Pictures on disk, by seed."""
    (path / category).mkdir(parents=True, exist_ok=True)
    files = [path / category / f"{seed:04}.png" for seed in seeds]
    for file in files:
        tiles(int(file.stem)).save(file)
    return files


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main.app, ["calibrate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def record_of(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = tomllib.loads(path.read_text())["record"]
    return kept


def picture(path: Path, domain: str, encoder: Colours) -> Picture:
    """What the log would keep."""
    seen = check_image(path.read_bytes(), ImageLimits())
    vector = lattice(encoder.vectors(seen.pixels, [domain]))[0].tobytes()
    return Picture(seen.digest, seen.hash, seen.quality, seen.colour, vector)


def duplicates(files: Sequence[Path], policy: Path, encoder: Colours, categories: Sequence[str]) -> list[str]:
    """The verdicts of the oracle when each picture is a design and all others are the catalogue."""
    log = [LogRecord(kind="config", policy=load_policy(policy), log_id="L")]
    items = [
        LogRecord(kind="upsert", id=str(i), pictures=(picture(file, "catalog", encoder),), encoder="e")
        for i, file in enumerate(files)
    ]
    log += [msgspec.structs.replace(item, src=i) for i, item in enumerate(items)]
    for i, file in enumerate(files):
        log.append(LogRecord(kind="delete", id=str(i), src=1000 + i))
        seen = (picture(file, "generated", encoder),)
        log.append(LogRecord(kind="design", id=str(i), src=2 * i, pictures=seen, encoder="e", category=categories[i]))
        log.append(LogRecord(kind="withdraw", id=str(i), src=2 * i + 1))
        log.append(msgspec.structs.replace(items[i], src=2000 + i))
    folded = oracle.fold((i, encode_record(record)) for i, record in enumerate(log))
    assert set(folded.rows.values()) == {len(files) - 1}
    return [verdict["design_id"] for verdict in folded.verdicts.values() if verdict["verdict"] == "duplicate"]


# A catalogue


@pytest.mark.parametrize("turn", [0.0, 25.0])
def test_the_promised_rate_is_that_of_the_oracles_verdicts(monkeypatch: pytest.MonkeyPatch, turn: float) -> None:
    """256 products: the first bucket ends where the data do, so the hits that the bound allows are exactly those."""
    encoder = use(monkeypatch, Colours(turn))
    files = [*folder(Path("photos"), range(160), "hats"), *folder(Path("photos"), range(160, 256), "socks")]
    call("--catalog", "photos", "--rate", 0.02, "--out", "policy.toml", "--copies", 3)
    hits = allowed_hits(256, 0.02)
    categories = ["hats"] * 160 + ["socks"] * 96
    found = duplicates(files, Path("policy.toml"), encoder, [""] * 256)
    # Without a turn two pictures may be each other's nearest, at one score: both reach it, or neither may.
    assert len(found) == hits == 1 if turn else len(found) <= hits
    similarity = load_policy(Path("policy.toml")).similarity
    text = Path("policy.toml").read_text().replace(f"similarity = {similarity}", f"similarity = {similarity - 1e-4}", 1)
    Path("lower.toml").write_text(text)
    assert len(duplicates(files, Path("lower.toml"), encoder, [""] * 256)) > hits
    hats = [name for name in duplicates(files, Path("policy.toml"), encoder, categories) if int(name) < 160]
    assert len(hats) == allowed_hits(160, 0.02) == 0
    policy, record = load_policy(Path("policy.toml")), record_of(Path("policy.toml"))
    assert set(policy.categories) == {"hats"}
    assert record["pooled_categories"] == {"socks": 96}
    assert (record["clusters"], record["rows"], record["rate"], record["clusters_needed"]) == (256, 255, 0.02, 149)
    assert (record["encoder_version"], record["seed"]) == ("colours", 0)
    assert record["command"] == "design-dedup calibrate --catalog photos --rate 0.02 --out policy.toml --copies 3"


def test_larger_catalogues_have_thresholds_without_a_guarantee(colours: Colours) -> None:
    folder(Path("photos"), range(190))
    result = call("--catalog", "photos", "--rate", 0.03, "--out", "policy.toml", "--copies", 2)
    policy = load_policy(Path("policy.toml"))
    assert [step.rows for step in policy.steps] == [1 << k for k in range(7, 21)]
    assert all(step.extrapolated for step in policy.steps)
    thresholds = [policy.similarity, *(step.similarity for step in policy.steps)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1] <= 1
    for text in (result.stdout, Path("policy.toml").read_text()):
        assert text.count("extrapolated, no guarantee") == len(policy.steps)
    buckets = record_of(Path("policy.toml"))["buckets"]
    assert [bucket["basis"] for bucket in buckets[:2]] == ["measured", "union bound"]
    assert buckets[-1]["basis"] == "tail"
    assert all(bucket["bound"] <= 0.03 for bucket in buckets if bucket["basis"] != "tail")


def test_too_few_products_are_refused_with_how_many_are_needed(colours: Colours) -> None:
    folder(Path("photos"), range(30))
    result = call("--catalog", "photos", "--rate", 0.01, "--out", "p.toml", "--review", "near.html", code=1)
    assert "30 clusters of unrelated pictures are too few" in result.stderr
    assert "299" in result.stderr
    result = call("--catalog", "photos", "--rate", 0.001, "--out", "p.toml", code=1)
    assert "2995" in result.stderr
    assert not Path("p.toml").exists()
    assert Path("near.html").exists()


def test_true_duplicates_are_shown_and_taken_out_by_hand_only(colours: Colours) -> None:
    folder(Path("photos"), range(110))
    tiles(7).point(lambda level: min(255, level + 2)).save("photos/again.png")  # sold under two numbers
    Path("base.toml").write_text("similarity = 0.5\n")
    arguments = ("--catalog", "photos", "--rate", 0.03, "--copies", 0, "--policy", "base.toml")
    call(*arguments, "--out", "before.toml", "--review", "near.html")
    page = Path("near.html").read_text()
    ids = re.findall(r'value="([0-9a-f]{12}-[0-9a-f]{12})"', page)
    assert len(ids) == len(set(ids)) == 50
    first = page.split("<article>")[1]
    assert {"0007.png", "again.png"} <= set(re.findall(r"<figcaption>([^<]+)<", first))
    assert first.count("data:image/jpeg;base64,") == 2
    before = load_policy(Path("before.toml"))
    Path("same.txt").write_text(f"{ids[0]}  # one photo twice\n\n# nothing here\n0-0\n")
    result = call(*arguments, "--out", "after.toml", "--removed", "same.txt", "--review", "again.html")
    assert "no such pair here: 0-0" in result.stderr
    assert ids[0] not in Path("again.html").read_text()
    record = record_of(Path("after.toml"))
    assert record["removed"] == [ids[0]]
    assert record["clusters"] == record_of(Path("before.toml"))["clusters"] == 111
    after = load_policy(Path("after.toml"))
    assert after.threshold("", 111) < before.threshold("", 111)
    assert before.threshold("", 111) > 0.999


def test_equal_files_are_no_negatives_and_products_may_be_named(colours: Colours) -> None:
    folder(Path("photos"), range(105))
    near = tiles(3).point(lambda level: min(255, level + 4))
    for name, image in (("same", tiles(5)), ("near", near)):
        image.save(f"photos/{name}.png")
    call("--catalog", "photos", "--rate", 0.03, "--out", "strict.toml", "--copies", 0)
    Path("products.csv").write_text("id,product\nnear.png,three\n0003.png,three\n")
    call("--catalog", "photos", "--rate", 0.03, "--out", "loose.toml", "--copies", 0, "--products", "products.csv")
    strict, loose = load_policy(Path("strict.toml")), load_policy(Path("loose.toml"))
    assert strict.similarity > 0.99 > loose.similarity
    assert (record_of(Path("strict.toml"))["clusters"], record_of(Path("loose.toml"))["clusters"]) == (107, 106)


def test_a_listing_says_what_is_a_product(colours: Colours) -> None:
    files = folder(Path("photos"), range(120))
    with Path("items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "images", "category"])
        for i in range(0, 120, 2):
            writer.writerow([f"i{i}", f"{files[i]};{files[i + 1]}", "hats"])
    call("--catalog", "items.csv", "--rate", 0.05, "--out", "policy.toml", "--copies", 0)
    record = record_of(Path("policy.toml"))
    assert (record["clusters"], record["products"], record["pictures"], record["rows"]) == (60, 60, 120, 118)
    assert set(load_policy(Path("policy.toml")).categories) == {"hats"}


def test_edited_copies_are_found_or_not(colours: Colours) -> None:
    folder(Path("photos"), range(70))
    result = call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 10)
    found = {row["kind"]: row for row in record_of(Path("policy.toml"))["duplicates_found"]}
    assert set(found) == {"reencode", "resize", "crop", "tone", "mirror"}
    assert all(row["of"] == 10 for row in found.values())
    assert found["reencode"]["found"] == found["resize"]["found"] == 10
    assert found["mirror"]["found"] < 10
    assert "100.0%" in result.stdout


def test_pictures_that_cannot_be_used_are_named_and_left_out(colours: Colours) -> None:
    folder(Path("photos"), range(61))
    Path("photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    result = call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 0)
    assert "photos/broken.png: broken_image" in result.stderr
    assert record_of(Path("policy.toml"))["clusters"] == 61
    Path("none").mkdir()
    Path("none/x.png").write_bytes(b"")
    assert "no picture can be used" in call("--catalog", "none", "--out", "p.toml", code=1).stderr


def test_the_rest_of_the_policy_is_kept(colours: Colours) -> None:
    folder(Path("photos"), range(61))
    Path("base.toml").write_text("similarity = 0.5\nneighbours = 9\nadvisory = true\nuse_digest = false\n")
    call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 0, "--policy", "base.toml")
    policy = load_policy(Path("policy.toml"))
    assert (policy.neighbours, policy.advisory, policy.use_digest, policy.use_hash) == (9, True, False, False)
    Path("base.toml").write_text("similarity = 0.5\nhash = { distance = 256, colour = 255, quality = 0 }\n")
    said = call(
        "--catalog", "photos", "--rate", 0.05, "--out", "p.toml", "--copies", 0, "--policy", "base.toml", code=1
    )
    assert "61 of 61 unrelated pictures are as near as equal ones or fire the hash rule" in said.stderr


def test_names_of_files_do_not_break_the_page_or_the_policy(colours: Colours) -> None:
    folder(Path("photos"), range(60), 'a "b" = <i>')
    tiles(99).save(Path('photos/a "b" = <i>/<script>.png'))
    call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--review", "near.html", "--copies", 0)
    assert 'a "b" = <i>' in load_policy(Path("policy.toml")).categories
    page = Path("near.html").read_text()
    assert page.count("<script>") == 1
    assert "<i>" not in page


# What is encoded


def test_a_model_that_ignores_the_domain_is_asked_once(colours: Colours) -> None:
    folder(Path("photos"), range(70))
    call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 4)
    assert colours.seen == {"catalog": 70, "generated": 32 + 5 * 4}


def test_a_model_that_looks_at_the_domain_is_asked_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = use(monkeypatch, Colours(30.0))
    folder(Path("photos"), range(70))
    call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 0)
    assert encoder.seen == {"catalog": 70, "generated": 70}


@pytest.mark.parametrize("windows", ["false", "true"])
def test_vectors_are_kept_for_the_next_run(monkeypatch: pytest.MonkeyPatch, colours: Colours, windows: str) -> None:
    monkeypatch.setenv("DESIGN_DEDUP_WINDOWS", windows)
    folder(Path("photos"), range(70))
    arguments = ("--catalog", "photos", "--rate", 0.05, "--copies", 4, "--cache", "kept")
    call(*arguments, "--out", "one.toml")
    before = colours.seen.copy()
    assert before["catalog"] == 70 * (15 if windows == "true" else 1)
    call(*arguments, "--out", "two.toml")
    assert colours.seen == before
    assert load_policy(Path("one.toml")) == load_policy(Path("two.toml"))
    assert record_of(Path("one.toml")) | {"command": ""} == record_of(Path("two.toml")) | {"command": ""}


def test_the_shipped_model_calibrates() -> None:
    Path("photos").mkdir()
    for seed in range(60):
        Path(f"photos/{seed}.jpg").write_bytes(drawn(seed))
    call("--catalog", "photos", "--rate", 0.05, "--out", "policy.toml", "--copies", 2)
    policy = load_policy(Path("policy.toml"))
    assert 0.2 < policy.similarity < 1
    assert policy.use_hash


@pytest.mark.realdata
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (DATA / "hm").is_dir(), reason=f"no photographs in {DATA}")
def test_products_that_were_not_measured_keep_the_rate() -> None:
    """Half of 640 products choose a threshold for 1 %; the others are designs against 255 of them. Eleven false
    duplicates among 320 would be rarer than one in a thousand, were the chance of one 1 %."""
    photos = {photo.group: photo for photo in hm(DATA)}
    chosen = [photos[group] for group in sorted(photos, key=lambda group: hashlib.sha256(group.encode()).digest())]
    for name, part in (("all.txt", chosen[:320]), ("shop.txt", chosen[:255]), ("new.txt", chosen[320:640])):
        Path(name).write_text("\n".join(str(photo.path) for photo in part))
    call("--catalog", "all.txt", "--rate", 0.01, "--out", "policy.toml", "--copies", 40)
    options = ["--catalog", "shop.txt", "--designs", "new.txt", "--out", "said.jsonl", "--policy", "policy.toml"]
    assert CliRunner().invoke(main.app, ["match", *options]).exit_code == 0
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert len(said) == 320
    assert {row["threshold"] for row in said} == {load_policy(Path("policy.toml")).similarity}
    assert cumulative(10, 320, 0.01)[-1] > 0.999
    assert sum(row["verdict"] == "duplicate" for row in said) <= 10
    found = {row["kind"]: row["found"] / row["of"] for row in record_of(Path("policy.toml"))["duplicates_found"]}
    assert min(found["reencode"], found["resize"]) >= 0.9


# Labelled pairs


def labels(path: Path, rows: Iterable[tuple[object, ...]], header: str = "a,b,label,category,cluster") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def similarity(a: Path, b: Path, encoder: Colours) -> float:
    x, y = (
        np.frombuffer(picture(path, domain, encoder).vector, "<i2").astype(int)
        for path, domain in ((a, "generated"), (b, "catalog"))
    )
    return min(1.0, int(x @ y) / 2048**2)


def test_of_labelled_pairs_the_nearest_of_each_cluster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = use(monkeypatch, Colours(20.0))
    a, b = folder(Path("made"), range(130)), folder(Path("shop"), range(500, 630))
    rows: list[tuple[object, ...]] = [(a[i], b[i], "different", "hats", f"c{i % 65}") for i in range(130)]
    rows += [(a[i], a[i], "duplicate", "hats", "") for i in range(10)]
    base = Path("base.toml")
    base.write_text("similarity = 0.5\nuse_digest = false\n")
    file = labels(Path("pairs.csv"), rows)
    call("--pairs", file, "--rate", 0.05, "--out", "policy.toml", "--policy", base, "--rows", 4000)
    scores = [similarity(x, y, encoder) for x, y in zip(a, b, strict=True)]
    highest = max(max(scores[i], scores[i + 65]) for i in range(65))
    policy, record = load_policy(Path("policy.toml")), record_of(Path("policy.toml"))
    assert allowed_hits(65, 0.05) == 0
    assert highest < policy.similarity <= highest + 1.01e-4
    assert policy.threshold("hats", 4000) >= policy.threshold("hats", 100) == policy.similarity
    assert [step.rows for step in policy.steps][:3] == [1024, 2048, 4096]
    assert [step.extrapolated for step in policy.steps][:2] == [False, True]  # 2,048 to 4,095 is beyond 4,000
    assert (record["clusters"], record["rows"], record["labelled_duplicate"]) == (65, 4000, 10)
    expected = sum(similarity(x, x, encoder) >= policy.threshold("hats", 4000) for x in a[:10])
    assert record["duplicates_found"][0]["found"] == expected


def test_without_clusters_every_first_picture_is_one(colours: Colours) -> None:
    a, b = folder(Path("made"), range(60)), folder(Path("shop"), range(500, 502))
    rows = [(x.name, f"../shop/{y.name}", "Different") for x in a for y in b]
    file = labels(Path("made/pairs.csv"), rows, "a,b,label")
    call("--pairs", file, "--rate", 0.05, "--out", "policy.toml", "--review", "near.html")
    record = record_of(Path("policy.toml"))
    assert (record["clusters"], record["rows"], record["pairs"]) == (60, 2, 120)
    first = re.findall(r'value="([0-9a-f-]+)"', Path("near.html").read_text())[0]
    Path("same.txt").write_text(first)
    call("--pairs", file, "--rate", 0.05, "--out", "again.toml", "--removed", "same.txt")
    assert record_of(Path("again.toml"))["removed"] == [first]
    assert load_policy(Path("again.toml")).similarity <= load_policy(Path("policy.toml")).similarity


def test_a_file_that_differs_from_itself_is_left_out(colours: Colours) -> None:
    a = folder(Path("made"), range(62))
    rows = [(a[0], a[0], "different", "", "")]
    rows += [(one, other, "different", "", "") for one, other in zip(a[1:], a, strict=False)]
    result = call("--pairs", labels(Path("pairs.csv"), rows), "--rate", 0.05, "--out", "policy.toml")
    assert "1 pairs are labelled different and are the same file" in result.stderr
    assert record_of(Path("policy.toml"))["clusters"] == 61


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --catalog or --pairs"),
        (["--catalog", "photos", "--pairs", "pairs.csv", "--out", "x"], "either --catalog or --pairs"),
        (["--catalog", "photos"], "--out, --review, or both"),
        (["--catalog", "photos", "--rows", "5", "--out", "x"], "--rows"),
        (["--pairs", "pairs.csv", "--products", "pairs.csv", "--out", "x"], "--products"),
        (["--catalog", "nowhere", "--out", "x"], "No such file"),
        (["--catalog", "nowhere.csv", "--out", "x"], "no such file or folder"),
        (["--pairs", "nowhere.csv", "--out", "x"], "No such file"),
        (["--pairs", "pairs.csv", "--out", "x"], "line 2: label must be duplicate or different, not 'maybe'"),
        (["--pairs", "half.csv", "--out", "x"], "has no column label"),
        (["--pairs", "gap.csv", "--out", "x"], "line 3: no b"),
        (["--catalog", "far.csv", "--out", "x"], "pictures must be files here, not https://a/b.jpg"),
        (["--catalog", "photos", "--products", "other.csv", "--out", "x"], "not in photos: zz"),
        (["--catalog", "photos", "--removed", "nowhere.txt", "--out", "x"], "No such file"),
        (["--catalog", "photos", "--policy", "pairs.csv", "--out", "x"], "policy file"),
        (["--catalog", "photos", "--rate", "0.6", "--out", "x"], "less than or equal to 0.5"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, colours: Colours) -> None:
    folder(Path("photos"), range(2))
    Path("pairs.csv").write_text("a,b,label\nx,y,maybe\n")
    Path("half.csv").write_text("a,b\nx,y\n")
    Path("gap.csv").write_text("a,b,label\nx,y,different\nx,,different\n")
    Path("far.csv").write_text("id,images\ni,https://a/b.jpg\n")
    Path("other.csv").write_text("id,product\nzz,1\n0000.png,1\n")
    result = call(*arguments, code=2)
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not Path("x").exists()
