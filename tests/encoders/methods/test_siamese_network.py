"""End to end: only what was opened learns, batch statistics stay, and the seed settles it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from encoders.backbone import FEATURES, Backbone, imagenet_backbone
from encoders.methods.heads import Affine, Head
from encoders.methods.siamese_network import Batch, Settings, finetune, unfreeze

DIM = 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pairs(seed: int) -> Iterator[Batch]:
    """Two small batches of noise in which pairs share their colour."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        colour = rng.integers(0, 200, (3, 1, 1, 3))
        clean, scene = (np.clip(colour + rng.integers(0, 56, (3, 224, 224, 3)), 0, 255) for _ in range(2))
        yield clean.astype(np.uint8), scene.astype(np.uint8), np.arange(3)


def head() -> Head:
    one = Affine(np.random.default_rng(0).normal(size=(FEATURES, DIM)) / 30, np.zeros(DIM))
    return Head(one, one)


def trained(blocks: int, seed: int = 0) -> tuple[Backbone, Head]:
    backbone = imagenet_backbone()
    return backbone, finetune(backbone, head(), pairs(seed), blocks, Settings(margin=4.0, learning_rate=1e-3))


def test_only_the_opened_blocks_learn_and_statistics_stay() -> None:
    backbone, learnt = trained(blocks=2)
    before = imagenet_backbone().state_dict()
    opened = ("net._blocks.14.", "net._blocks.15.", "net._conv_head.", "net._bn1.")
    changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(opened) for name in changed)
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert {name.rsplit(".", 2)[0] for name in changed} >= {"net._blocks.14", "net._blocks.15", "net"}
    assert not np.array_equal(learnt.catalog.weight, head().catalog.weight)
    assert learnt.catalog is learnt.generated


def test_without_opened_blocks_the_backbone_stays_and_the_head_learns() -> None:
    backbone, learnt = trained(blocks=0)
    before = imagenet_backbone().state_dict()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not np.array_equal(learnt.catalog.weight, head().catalog.weight)


def test_one_seed_gives_one_network() -> None:
    (first, first_head), (again, again_head) = trained(1), trained(1)
    assert first_head.catalog.weight.tobytes() == again_head.catalog.weight.tobytes()
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="16 blocks, 17 cannot"):
        unfreeze(imagenet_backbone(), 17)
