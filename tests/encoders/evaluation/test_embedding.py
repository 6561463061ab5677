"""The embedder against the session it wraps, and its cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.embedding import Embedder, VectorCache, Vectors, session
from encoders.preprocess import DOMAINS, Domain, Pixels, canary_pixels, encoder_version, to_pixels
from tests.encoders.evaluation.conftest import DIM


def pictures(n: int) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(n)]


def test_vectors_are_what_the_model_says(colours_model: Path) -> None:
    some = pictures(11)
    vectors = Embedder(colours_model).pixels(some, "generated")
    assert vectors.shape == (11, DIM)
    assert vectors.dtype == np.float32
    for picture, vector in zip(some, vectors, strict=True):
        inputs = {"pixels": picture[None], "domain": np.ones((1, 1), np.int32)}
        assert session(colours_model).run(None, inputs)[0][0] == pytest.approx(vector, abs=1e-6)


def test_images_are_preprocessed_as_everywhere(colours_model: Path) -> None:
    image = Image.fromarray(canary_pixels()).resize((100, 160))
    embedder = Embedder(colours_model)
    assert (embedder.images([image], "catalog") == embedder.pixels([to_pixels(image)], "catalog")).all()


def test_nothing_is_computed_twice(colours_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VectorCache(tmp_path)
    first = Embedder(colours_model, cache).pixels(pictures(5), "catalog")
    again = Embedder(colours_model, cache)
    ran: list[int] = []
    run = again._run

    def counted(new: Sequence[Pixels], domain: Domain) -> Vectors:
        ran.append(len(new))
        return run(new, domain)

    monkeypatch.setattr(again, "_run", counted)
    assert (again.pixels(pictures(5), "catalog") == first).all()
    assert ran == []
    assert (again.pixels(pictures(7), "catalog")[:5] == first).all()
    assert ran == [2]
    cache.close()


def test_model_and_domain_are_part_of_the_key(colours_model: Path, flag_model: Path, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    some = pictures(2)
    kept = {}
    for model in (colours_model, flag_model):
        for domain in DOMAINS:
            kept[model, domain] = Embedder(model, cache).pixels(some, domain)
    for (model, domain), vectors in kept.items():
        assert vectors == pytest.approx(Embedder(model).pixels(some, domain))
    assert not np.allclose(kept[flag_model, "catalog"], kept[flag_model, "generated"])
    cache.close()


def test_one_picture_twice_in_a_call(colours_model: Path, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    one = pictures(1)[0]
    vectors = Embedder(colours_model, cache).pixels([one, one], "catalog")
    assert (vectors[0] == vectors[1]).all()
    assert Embedder(colours_model, cache).pixels([], "catalog").shape == (0, DIM)
    cache.close()


def test_version_and_refusals(colours_model: Path, tmp_path: Path) -> None:
    assert Embedder(colours_model).version == encoder_version(colours_model)
    assert Embedder(colours_model).dim == DIM
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        Embedder(tmp_path / "none.onnx")
