"""The network of two blocks, and a run that is the same run whether or not it was interrupted."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.backbone import NETWORK_PX, Backbone, imagenet_backbone
from encoders.training.colour import ColourRecipe, learn_colour
from encoders.training.network import (
    COLOUR_SHARE,
    EARLY,
    SERVED_PX,
    STRUCTURE,
    Early,
    Late,
    TwoBlockEncoder,
    _FrozenDepthwise,
    cube_pooled,
)
from encoders.training.train import Queue, Recipe, Views, initialised, rate_at, step_loss, train
from encoders.training.views import SAME, VIEWS

RECIPE = Recipe(steps=4, things=8, queue=24)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return imagenet_backbone()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views of 40 things that are noise around a point of their own."""
    folder = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 1, *EARLY))
    early = points + 0.3 * rng.normal(size=(40, VIEWS, *EARLY))
    early[:, SAME:, 80:] += rng.normal(size=(40, VIEWS - SAME, EARLY[0] - 80, 1, 1))
    np.save(folder / "early.npy", early.astype(np.float16))
    there = np.ones((40, VIEWS), bool)
    there[::5, 4:] = False
    np.save(folder / "there.npy", there)
    (folder / "things.json").write_text(json.dumps({"groups": [str(n % 4) for n in range(40)]}))
    return folder


@pytest.fixture(scope="module")
def begun(folder: Path) -> Late:
    """What every run begins with; its eigenvectors take a while."""
    return initialised(Views(folder), 0)


@pytest.fixture
def quick(begun: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs begin with a copy."""
    monkeypatch.setattr("encoders.training.train.initialised", lambda *_: copy.deepcopy(begun))


@pytest.mark.parametrize("side", [NETWORK_PX, SERVED_PX])
def test_the_two_halves_are_the_whole_backbone(backbone: Backbone, pixels: torch.Tensor, side: int) -> None:
    early, late = Early(backbone, side).eval(), Late(backbone).eval()
    with torch.no_grad():
        expected = backbone.net.extract_features(backbone.to_input(pixels, backbone.smoothing, side))
        x = early(pixels)[:, :80]
        for block in late.blocks:
            x = block(x)
        got = torch.nn.functional.relu6(late.top(x))
    assert (got - expected).abs().max() < 1e-4


def test_colour_planes_are_means_and_deviations_of_places(backbone: Backbone, pixels: torch.Tensor) -> None:
    early = Early(backbone).eval()
    seen = backbone.to_input(pixels, backbone.smoothing, SERVED_PX).numpy()
    planes = early(pixels)[:, 80:].numpy()
    place = seen[1, :, 16:32, 48:64]
    assert np.allclose(planes[1, :3, 1, 3], place.mean(axis=(1, 2)), atol=1e-5)
    assert np.allclose(planes[1, 3:, 1, 3], place.std(axis=(1, 2)), atol=1e-4)


def test_a_vector_is_two_blocks_of_fixed_norm(backbone: Backbone, pixels: torch.Tensor) -> None:
    encoder = TwoBlockEncoder(Early(backbone), Late(backbone)).eval()
    with torch.no_grad():
        vectors, flagged = (encoder(pixels, torch.full((3, 1), flag, dtype=torch.int32)) for flag in (0, 1))
    assert torch.equal(vectors, flagged)
    squares = vectors.square()
    assert torch.allclose(squares[:, STRUCTURE:].sum(1), torch.full((3,), COLOUR_SHARE), atol=1e-5)
    assert torch.allclose(squares.sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(("stride", "side"), [(1, 3), (1, 5), (2, 3), (2, 5)])
def test_the_fast_gradient_of_a_depthwise_filter_is_the_gradient(stride: int, side: int) -> None:
    torch.manual_seed(0)
    for places in (9, 10):
        x = torch.randn(2, 6, places, places, dtype=torch.double, requires_grad=True)
        weight, bias = torch.randn(6, 1, side, side, dtype=torch.double), torch.randn(6, dtype=torch.double)
        expected = torch.nn.functional.conv2d(x, weight, bias, stride, groups=6)
        found = _FrozenDepthwise.apply(x, weight, bias, stride)
        assert torch.allclose(found, expected)
        upstream = torch.randn_like(expected)
        slow, fast = (torch.autograd.grad(y, x, upstream)[0] for y in (expected, found))
        assert torch.allclose(fast, slow)


def test_cube_pooling() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert cube_pooled(x).item() == pytest.approx(((0 + 1 + 8 + 27) / 4) ** (1 / 3), abs=1e-5)


def test_a_batch_has_one_sender_for_half(folder: Path) -> None:
    views, rng = Views(folder), np.random.default_rng(0)
    for _ in range(20):
        things = views.some(16, rng)
        assert len(set(things.tolist())) == 16
        assert len(set(views.groups[things[:8]])) == 1


def test_a_batch_has_things_with_what_they_are_like(folder: Path, begun: Late) -> None:
    views, rng = Views(folder), np.random.default_rng(0)
    alike = views.alike(begun, 5)
    assert alike.shape == (40, 5)
    assert (views.groups[alike] != views.groups[:, None]).all(), "of other senders"
    for _ in range(20):
        things = views.some(16, rng, alike)
        assert len(set(things.tolist())) == 16
        companions = [len(set(alike[thing]) & set(things)) for thing in things]
        assert sum(count >= 3 for count in companions) >= 2


def test_alike_is_what_a_slow_comparison_says(folder: Path, begun: Late) -> None:
    views = Views(folder)
    at = np.where(views.there[:, 4], 4, 0)
    with torch.no_grad():
        structure = begun.blocks_of(views.take(np.arange(40), at))[0].numpy()
    for thing, found in enumerate(views.alike(begun, 3)):
        others = [n for n in range(40) if views.groups[n] != views.groups[thing]]
        assert list(found) == sorted(others, key=lambda n: -structure[thing] @ structure[n])[:3]


def test_two_views_are_there_and_differ(folder: Path) -> None:
    views, rng = Views(folder), np.random.default_rng(0)
    things = np.arange(40)
    drawn = [views.two(things, rng) for _ in range(30)]
    for pairs in drawn:
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert views.there[things[:, None], pairs].all()
    assert set(np.unique(drawn)) == set(range(SAME))
    near = views.near(things, rng)
    assert ((near == -1) == (things % 5 == 0)).all()
    assert set(near[near >= 0]) <= set(range(SAME, VIEWS))


def test_a_thing_is_no_negative_of_itself(folder: Path, backbone: Backbone) -> None:
    """What stands in the queue of a thing in the batch would weigh heavily, were it taken for another thing."""
    views, late = Views(folder), Late(backbone).eval()
    things = np.array([1, 2, 3, 6])
    losses = []
    with torch.no_grad():
        structure, _ = late.blocks_of(views.take(things, np.zeros(4, int)))
        for called in (things, things + 100):
            queue = Queue(100)
            queue.push(structure, torch.from_numpy(called))
            parts = step_loss(late, late, views, things, np.random.default_rng(5), queue, RECIPE)[1]
            losses.append((parts["same"], parts["logistic"]))
    right, wrong = losses
    assert right[0] < wrong[0] - 0.05, losses
    assert right[1] < wrong[1], losses


def test_the_first_reduction_tells_the_things_apart(folder: Path, begun: Late) -> None:
    views, things = Views(folder), np.arange(40)
    with torch.no_grad():
        first, other = (begun.blocks_of(views.take(things, np.full(40, view)))[0] for view in (0, 1))
    assert ((first @ other.T).argmax(dim=1).numpy() == things).mean() > 0.9


def test_half_of_the_result_is_the_average_of_the_middle(folder: Path, tmp_path: Path) -> None:
    views = Views(folder)
    train(views, RECIPE, tmp_path / "one")
    mixed = train(views, replace(RECIPE, middle=2), tmp_path / "mixed").state_dict()
    kept = torch.load(tmp_path / "mixed" / "checkpoint.pt", weights_only=True)
    last = torch.load(tmp_path / "one" / "checkpoint.pt", weights_only=True)["average"]
    name = "structure.weight"
    assert torch.equal(kept["average"][name], last[name]), "the middle changes nothing of the training"
    assert not torch.equal(kept["middle"][name], last[name])
    assert torch.allclose(mixed[name], (kept["middle"][name] + last[name]) / 2)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_is_the_same_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = Views(folder)
    recipe = replace(RECIPE, alike=5, middle=2)
    whole = train(views, recipe, tmp_path / "whole")
    calls = 0

    def stops(*arguments: object) -> tuple[torch.Tensor, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return step_loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("encoders.training.train.SAVE_STEPS", 2)
    monkeypatch.setattr("encoders.training.train.step_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train(views, recipe, tmp_path / "parts")
    monkeypatch.setattr("encoders.training.train.step_loss", step_loss)
    again = train(views, recipe, tmp_path / "parts")
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(ValueError, match="another recipe"):
        train(views, replace(recipe, things=6), tmp_path / "parts")


@pytest.mark.usefixtures("quick")
def test_training_lowers_the_loss_and_leaves_the_early_half(
    folder: Path, tmp_path: Path, backbone: Backbone, begun: Late
) -> None:
    views = Views(folder)

    def loss(late: Late) -> float:
        with torch.no_grad():
            return float(step_loss(late, late, views, np.arange(16), np.random.default_rng(9), Queue(0), RECIPE)[0])

    assert loss(train(views, replace(RECIPE, steps=12), tmp_path)) < loss(begun)
    assert not any(p.requires_grad for p in Early(backbone).parameters())


def test_a_step_makes_nothing_on_another_device(folder: Path, begun: Late) -> None:
    """What named no device would be on one that nothing else is on, as on a GPU it would be on the CPU."""
    queue = Queue(100)
    for _ in range(2):  # the second meets what the first left in the queue
        loss, parts = step_loss(begun, begun, Views(folder), np.arange(16), np.random.default_rng(9), queue, RECIPE)
    with torch.device("meta"):
        again = Queue(100, torch.device("cpu"))
        for _ in range(2):
            same, said = step_loss(begun, begun, Views(folder), np.arange(16), np.random.default_rng(9), again, RECIPE)
    assert same.item() == loss.item()
    assert said == pytest.approx(parts, nan_ok=True)


@pytest.mark.usefixtures("quick")
def test_without_a_rate_of_their_own_the_blocks_stay_bit_for_bit(folder: Path, tmp_path: Path, begun: Late) -> None:
    begun = copy.deepcopy(begun)
    head = train(Views(folder), replace(RECIPE, learning_rate=0.0), tmp_path, begun)
    same = {name for name, weight in head.state_dict().items() if torch.equal(weight, begun.state_dict()[name])}
    assert {name for name in head.state_dict() if name.startswith(("blocks.", "top.", "centre", "spread"))} == same


@pytest.mark.usefixtures("quick")
def test_the_blocks_of_a_vector_learn_apart(folder: Path, begun: Late) -> None:
    """Were structure to be rewarded for a colour, or the other way round, one of them would do all the work."""
    late = copy.deepcopy(begun)
    structure_only = replace(RECIPE, colour_weight=0.0, dyed_weight=0.0)
    for recipe, colour_learns in ((structure_only, False), (RECIPE, True)):
        late.zero_grad()
        step_loss(late, begun, Views(folder), np.arange(16), np.random.default_rng(9), Queue(8), recipe)[0].backward()
        moved = {name for name, weight in late.named_parameters() if weight.requires_grad and weight.grad.abs().sum()}
        assert "structure.weight" in moved
        assert ("colour.0.weight" in moved) == colour_learns


def test_the_rate_warms_up_and_falls() -> None:
    rates = [rate_at(step, 500) for step in range(500)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == 1
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_the_colour_block_learns_alone(folder: Path, begun: Late) -> None:
    """A dyed garment ends farther away than another view, and nothing but the colour layers moves."""
    views, late = Views(folder), copy.deepcopy(begun)
    before = {name: weight.clone() for name, weight in late.state_dict().items()}
    learn_colour(late, views, ColourRecipe(steps=60, batch=16, things=30))
    moved = {name for name, weight in late.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if name.startswith(("hue.", "colour."))}
    things = np.flatnonzero(views.there[:, 8:].all(axis=1))
    with torch.no_grad():
        one, other, dyed = (late.blocks_of(views.take(things, np.full(len(things), view)))[1] for view in (1, 2, 8))
    assert (one * other).sum(dim=1).mean() > (one * dyed).sum(dim=1).mean() + 0.3
    again = copy.deepcopy(begun)
    learn_colour(again, views, ColourRecipe(steps=60, batch=16, things=30))
    assert torch.equal(again.colour[0].weight, late.colour[0].weight)
