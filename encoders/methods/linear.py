"""What the learned heads share: a short basis of the features, linear maps begun as a known one, batches by seed.

Not for losses and not for choosing settings. Everything is float32 on one thread and drawn from a seed, so the same
seed gives the same weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from encoders.methods.heads import Affine
from encoders.methods.plain import principal
from encoders.methods.sides import Rows, Sides

WIDTH: Final = 512
"""Principal components that learning works on: 96 % of the variance of the 1,280 features at 40 % of the products."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The leading principal components of both domains, each row of mean squared length 1."""

    map: Affine

    @classmethod
    def of(cls, sides: Sides, width: int = WIDTH) -> "Basis":
        """About the mean of both domains together."""
        both = sides.both()
        return cls(principal(both, min(width, both.shape[1]), damping=0.0))

    def rows(self, features: Rows) -> Tensor:
        """Shape: (n, features) -> (n, width) float32."""
        return torch.from_numpy(self.map(features)).float()

    def layer(self, start: Affine) -> nn.Linear:
        """A linear layer on the basis that computes what `start` computes on the features.

        Exact where the basis spans the directions of `start`, as with fewer principal components of the same rows.
        """
        back = np.linalg.pinv(self.map.weight)  # (width, features)
        inside = Affine(back @ start.weight, start.bias - self.map.bias @ back @ start.weight)
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, *inside.weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(inside.weight.T))
            layer.bias.copy_(torch.from_numpy(inside.bias))
        return layer

    def folded(self, layer: nn.Linear) -> Affine:
        """Basis and layer as one map of the features.

        Raises: FloatingPointError where learning has run away.
        """
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise FloatingPointError("learning ran away: too few pictures, or too high a learning rate")
        return self.map.then(Affine(weight.T, bias))


def batches(sides: tuple[Tensor, ...], size: int, steps: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """As many rows of every side in each step, drawn with replacement; sides may differ in length.

    Shape: each side (n, width) -> each batch (size, width).
    """
    for _ in range(steps):
        yield [rows[torch.randint(len(rows), (size,), generator=generator)] for rows in sides]
