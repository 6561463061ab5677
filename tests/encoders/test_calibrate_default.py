"""The default thresholds: the arithmetic of choosing them, and that the record is of the shipped model."""

import json
import tomllib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoders.calibrate_default import (
    FALSE_RATE,
    Pairs,
    choose_hash_rule,
    crosswise,
    describe,
    near_pairs,
    policy,
    products_half,
    rate,
)
from encoders.calibration import Negatives, calibrate
from encoders.described import Described, HashRule
from encoders.embedding import session
from encoders.export import RECORDS
from encoders.negatives import Neighbours
from encoders.preprocess import canary_pixels, encoder_version
from streams.decide.policy import load_policy
from streams.embed.images import ImageLimits, check_image
from streams.local import REPOSITORY
from tests.encoders.test_export import MODEL


def described(bits: list[list[int]], colour: list[int], quality: int = 100) -> Described:
    n = len(bits)
    return Described(
        np.full((n, 4), 1024, np.float32),
        np.array(bits, np.int8),
        np.full(n, quality, np.int16),
        np.repeat(np.array(colour, np.int16)[:, None], 48, axis=1),
        np.empty((0, 4), np.float32),
        np.empty(0, np.intp),
    )


def test_near_pairs_are_allowed_ones_only() -> None:
    pictures = described([[1] * 256, [1] * 246 + [-1] * 10, [-1] * 256], [5, 9, 0])
    pairs = near_pairs(pictures, pictures, ~np.eye(3, dtype=bool))
    assert pairs.query.tolist() == [0, 1]
    assert pairs.distance.tolist() == [10, 10]
    assert pairs.colour.tolist() == [4, 4]


@pytest.mark.parametrize("size", [(150, 220), (60, 80), (448, 300), (288, 288), (900, 700), (40, 1000)], ids=str)
def test_pictures_are_described_as_in_the_service(size: tuple[int, int]) -> None:
    """To the last bit: JPEG and PNG, small and large, up to the size from which the service scales them down first."""
    noise = np.random.default_rng(size).integers(0, 60, (*canary_pixels().shape,), np.uint8)
    image = Image.fromarray(canary_pixels() // 2 + noise).resize(size)
    for kind in ("PNG", "JPEG"):
        file = BytesIO()
        image.save(file, kind)
        checked = check_image(file.getvalue(), ImageLimits())
        with Image.open(file) as opened:
            ours = describe([opened.convert("RGB")], session(MODEL))
        assert np.packbits(ours.bits[0] > 0).tobytes() == checked.hash
        assert ours.quality[0] == checked.quality
        assert ours.colour[0].astype(np.uint8).tobytes() == checked.colour
        assert np.abs(ours.vectors[0]).max() > 100


def pairs(*rows: tuple[int, int, int, int]) -> Pairs:
    query, distance, colour, quality = np.array(rows, np.int64).reshape(-1, 4).T
    return Pairs(query, distance.astype(np.int16), colour.astype(np.int16), quality.astype(np.int16))


def test_the_rule_finds_most_copies_without_a_false_one() -> None:
    copies = {"reencode": pairs((0, 8, 2, 90), (1, 20, 4, 90), (2, 40, 4, 90)), "resize": pairs((0, 10, 3, 90))}
    false = pairs((0, 18, 30, 90), (1, 36, 4, 90))  # the first one needs the colour limit, the second the distance
    distance, colour, quality = choose_hash_rule(false, copies, allowed=0)
    assert 20 <= distance < 32
    assert 4 <= colour < 28
    assert quality == 80
    assert choose_hash_rule(false, copies, allowed=1)[0] >= 40


def test_no_rule_fires_when_everything_is_false() -> None:
    copies = {"reencode": pairs((0, 8, 2, 90)), "resize": pairs()}
    assert choose_hash_rule(pairs((0, 0, 0, 100)), copies, allowed=0) == (0, 0, 100)


def test_the_interval_holds_the_rate() -> None:
    interval = rate(5, 1000)
    assert interval["low"] < interval["rate"] < interval["high"]
    assert rate(0, 100)["low"] == 0
    assert rate(0, 100)["high"] == pytest.approx(0.037, abs=0.001)


def test_other_products_are_counted_at_what_the_other_half_chose() -> None:
    """One half has low scores and the other one high ones, so that each is judged by the other's threshold."""
    names = [f"p{n}" for n in range(4000)]
    half = products_half(names)
    rng = np.random.default_rng(0)
    scores = np.where(half, rng.uniform(0.1, 0.3, 4000), rng.uniform(0.5, 0.7, 4000))[None]
    found = crosswise(Neighbours(Negatives([1023], scores, np.full(4000, "")), names, np.arange(4000), np.arange(4000)))
    assert found["other_products_vector"] == rate(int((~half).sum()), 4000)
    assert found["other_products_by_rows"] == [{"rows": 1023, **rate(int((~half).sum()), 4000)}]
    alike = Negatives([1023], rng.uniform(0.1, 0.3, (1, 4000)), np.full(4000, ""))
    crossed: Any = crosswise(Neighbours(alike, names, np.arange(4000), np.arange(4000)))["other_products_vector"]
    assert 0 < crossed["rate"] < FALSE_RATE


def test_the_policy_that_is_written_can_be_read_and_names_its_record(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(0.2, 0.9, (1, 4000))
    made = calibrate(Negatives([3000], scores, np.full(4000, "")), FALSE_RATE)
    record = {"encoder_version": "v", "chosen": "so", "command": "c", "seed": 0, "data_sha256": "d"}
    record |= {"hash_distance": 12, "hash_colour": 8, "hash_quality": 50, "leave_out": 64}
    path = tmp_path / "policy.toml"
    path.write_text(policy(record, made, REPOSITORY / "encoders/records/threshold-v.json"))
    read = load_policy(path)
    assert read.similarity == made.buckets[0].pooled.similarity
    assert read.leave_out == 64
    assert [step.rows for step in read.steps] == [1 << k for k in range(10, 21)]
    assert (read.use_hash, HashRule(read.hash_distance, read.hash_colour, read.hash_quality)) == (True, (12, 8, 50))
    kept = tomllib.loads(path.read_text())["record"]
    assert kept["file"] == "encoders/records/threshold-v.json"
    assert kept["encoder_version"] == "v"


def test_the_record_is_of_the_shipped_model() -> None:
    version = encoder_version(MODEL)
    record = json.loads((RECORDS / f"threshold-{version}.json").read_text())
    assert record["encoder_version"] == version
    assert 0.5 < record["similarity"] <= 1
    assert record["false_duplicates"]["other_products_vector"]["rate"] < 0.01
