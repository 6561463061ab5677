"""The adversarial auto-encoders: what holds identities, what the domain loss does, and that a seed settles it all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoders.methods import adversarial, plain
from encoders.methods.adversarial import AutoEncoder, Settings
from encoders.methods.heads import Head
from encoders.methods.sides import Sides
from tests.encoders.methods.toys import mean_gap, recall, unpaired

DIM = 16
BRISK = Settings(steps=300, learning_rate=1e-2, discriminator_rate=3e-3, own_means=False, batch=64, hidden=32)


@pytest.fixture(scope="module")
def sides() -> Sides:
    return unpaired()


@pytest.fixture(scope="module")
def before(sides: Sides) -> Head:
    """Where all of it begins: the same principal components for both domains."""
    return plain.pooled(sides, DIM)


@pytest.fixture(scope="module")
def adapted(sides: Sides) -> Head:
    return adversarial.fit(sides, 0, DIM, BRISK)


def test_the_domain_loss_brings_the_domains_together(sides: Sides, before: Head, adapted: Head) -> None:
    assert mean_gap(adapted, sides) < mean_gap(before, sides) / 3
    assert recall(adapted) > recall(before) + 0.1


def test_a_random_beginning_aligns_as_well_and_loses_who_is_who(sides: Sides, before: Head, adapted: Head) -> None:
    lost = adversarial.fit(sides, 0, DIM, replace(BRISK, same_beginning=False))
    assert mean_gap(lost, sides) < mean_gap(before, sides) / 3
    assert recall(lost) < 0.05  # of 300 items, one is found by chance
    assert recall(adapted) > 0.8


def test_shuffled_domain_labels_and_no_domain_loss_align_nothing(sides: Sides, before: Head) -> None:
    shuffled = adversarial.fit(sides.shuffled(0), 0, DIM, BRISK)
    alone = adversarial.fit(sides, 0, DIM, replace(BRISK, strength=0.0))
    assert mean_gap(shuffled, sides) > 0.8 * mean_gap(before, sides)
    assert mean_gap(alone, sides) > 0.8 * mean_gap(before, sides)


def test_it_begins_as_the_principal_components(sides: Sides, before: Head) -> None:
    untrained = adversarial.fit(sides, 0, DIM, replace(BRISK, steps=0))
    assert np.allclose(untrained.catalog(sides.catalog), before.catalog(sides.catalog), atol=1e-4)
    own = adversarial.fit(sides, 0, DIM, replace(BRISK, steps=0, own_means=True))
    expected = plain.centred(sides, DIM)
    assert np.allclose(own.generated(sides.generated), expected.generated(sides.generated), atol=1e-4)
    assert np.allclose(own.generated(sides.generated).mean(axis=0), 0, atol=1e-4)


def test_one_seed_gives_one_head_and_leaves_the_global_generator_alone(sides: Sides) -> None:
    brief = replace(BRISK, steps=5)
    state = torch.get_rng_state()
    first, again, other = (adversarial.fit(sides, seed, DIM, brief) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for domain in ("catalog", "generated"):
        assert getattr(first, domain).weight.tobytes() == getattr(again, domain).weight.tobytes()
        assert getattr(first, domain).bias.tobytes() == getattr(again, domain).bias.tobytes()
        assert getattr(first, domain).weight.tobytes() != getattr(other, domain).weight.tobytes()


def test_a_decoder_begins_as_the_inverse_of_its_encoder() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        coder = AutoEncoder(torch.nn.Linear(6, 4))
        codes = torch.randn(5, 4)
    assert torch.allclose(coder.encoder(coder.decoder(codes)), codes, atol=1e-5)
