"""The arms of the comparison: each a way to make a head, with at most four settings to choose among.

Every arm gets the same features, dimension, pictures and number of trials. `plain` has nothing to choose. Settings are
chosen on photographs that neither learning nor testing sees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from encoders.methods import adversarial, coral, plain, siamese
from encoders.methods.heads import Affine, Head
from encoders.methods.sides import Sides

Fit = Callable[[Sides, int], Head]
"""Unpaired and paired rows, and a seed -> a head."""

_Settings = TypeVar("_Settings", adversarial.Settings, coral.DeepSettings, siamese.Settings)

ADVERSARIAL: Final = "adversarial"
RIVALS: Final = ("centring", "CORAL", "auto-encoder, λ = 0", "shuffled labels")
"""What the adversarial arm must beat to be said to work."""

_DAMPINGS: Final = (0.0, 0.25, 0.5, 1.0)
_ADVERSARIAL: Final = (
    adversarial.Settings(),
    adversarial.Settings(damping=0.25),
    adversarial.Settings(own_means=False),
    adversarial.Settings(own_means=False, strength=3.0),
)
_ALONE: Final = tuple(
    adversarial.Settings(strength=0.0, own_means=own_means, damping=damping)
    for own_means in (True, False)
    for damping in (0.25, 0.5)
)
_DEEP: Final = tuple(coral.DeepSettings(weight, damping) for weight in (1.0, 10.0) for damping in (0.0, 0.5))
_SIAMESE: Final = tuple(
    siamese.Settings(margin=margin, learning_rate=rate) for margin in (0.2, 0.5) for rate in (3e-4, 1e-3)
)


def adapters(steps: int | None = None) -> Mapping[str, Sequence[Fit]]:
    """What can stand on any shared features. `steps`, where given, shortens what is trained by steps."""
    return {
        "centring": [_unseeded(partial(plain.centred, damping=damping)) for damping in _DAMPINGS],
        "CORAL": [
            _unseeded(partial(coral.aligned, damping=damping, ridge=ridge))
            for damping in (0.0, 0.5)
            for ridge in (0.1, 1.0)
        ],
        "deep CORAL": [partial(coral.deep, settings=_short(settings, steps)) for settings in _DEEP],
        ADVERSARIAL: [partial(adversarial.fit, settings=_short(settings, steps)) for settings in _ADVERSARIAL],
    }


def alone(steps: int | None = None) -> Mapping[str, Sequence[Fit]]:
    """Every arm that stands on the frozen features, in the order of the table."""
    over_all = adapters(steps)
    return {
        "plain": [_unseeded(plain.plain)],
        "PCA": [_unseeded(partial(plain.pooled, damping=damping)) for damping in _DAMPINGS],
        "centring": over_all["centring"],
        RIVALS[2]: [partial(adversarial.fit, settings=_short(settings, steps)) for settings in _ALONE],
        "CORAL": over_all["CORAL"],
        "deep CORAL": over_all["deep CORAL"],
        ADVERSARIAL: over_all[ADVERSARIAL],
        RIVALS[3]: [_shuffled(fit) for fit in over_all[ADVERSARIAL]],
        "siamese": [partial(siamese.fit, settings=_short(settings, steps)) for settings in _SIAMESE],
    }


def stacked(base: Callable[[int], Affine], adapter: Fit) -> Fit:
    """The adapter learnt on what a map, the same for both domains, makes of the features. `base` gives it by seed."""

    def fit(sides: Sides, seed: int) -> Head:
        shared = base(seed)
        return adapter(sides.through(shared), seed).after(shared)

    return fit


def _shuffled(fit: Fit) -> Fit:
    return lambda sides, seed: fit(sides.shuffled(seed), seed)


def _unseeded(fit: Callable[[Sides], Head]) -> Fit:
    return lambda sides, _: fit(sides)


def _short(settings: _Settings, steps: int | None) -> _Settings:
    return settings if steps is None else replace(settings, steps=steps)
