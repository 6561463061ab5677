"""The default thresholds: the arithmetic of choosing them, and that the record is of the shipped model."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from encoders.calibrate_default import (
    Described,
    Pairs,
    choose_hash_rule,
    describe,
    distances,
    near_pairs,
    rate,
    similarity,
)
from encoders.export import RECORDS, session
from encoders.preprocess import canary_pixels, encoder_version
from streams.embed.images import ImageLimits, check_image
from tests.encoders.test_export import MODEL


def described(bits: list[list[int]], colour: list[int], quality: int = 100) -> Described:
    n = len(bits)
    return Described(
        np.full((n, 4), 1024, np.float32),
        np.array(bits, np.int8),
        np.full(n, quality, np.int16),
        np.repeat(np.array(colour, np.int16)[:, None], 48, axis=1),
    )


def test_distances_and_similarities_are_exact() -> None:
    a = described([[1] * 256, [-1] * 256], [0, 0])
    b = described([[1] * 250 + [-1] * 6], [0])
    assert distances(a, b).tolist() == [[6], [250]]
    assert similarity(a, b).tolist() == [[1.0], [1.0]]


def test_near_pairs_are_allowed_ones_only() -> None:
    pictures = described([[1] * 256, [1] * 246 + [-1] * 10, [-1] * 256], [5, 9, 0])
    pairs = near_pairs(pictures, pictures, ~np.eye(3, dtype=bool))
    assert pairs.query.tolist() == [0, 1]
    assert pairs.distance.tolist() == [10, 10]
    assert pairs.colour.tolist() == [4, 4]


def test_pictures_are_described_as_in_the_service() -> None:
    image = Image.fromarray(canary_pixels()).resize((150, 220))
    file = BytesIO()
    image.save(file, "PNG")
    checked = check_image(file.getvalue(), ImageLimits())
    ours = describe([image], session(MODEL))
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


def test_the_record_is_of_the_shipped_model() -> None:
    version = encoder_version(MODEL)
    record = json.loads((RECORDS / f"threshold-{version}.json").read_text())
    assert record["encoder_version"] == version
    assert 0.5 < record["similarity"] <= 1
    assert record["false_duplicates"]["other_products_vector"]["rate"] < 0.01
