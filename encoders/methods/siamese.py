"""One network for both domains, taught by triplets: a picture, its re-rendering in the other domain, another item.

After the Siamese triplet network for consumer-to-shop retrieval (Agarwal and Bhattacharya) and deep ranking (Wang et
al. 2014, arXiv:1404.4661); ours are the pairs, which cost no labels (a garment on white, the same pasted into a street
photo), and the hardest negative of the batch, which never is the same item. `fit` learns the head on frozen features in
seconds; `siamese_network` continues end to end. The domain input is not looked at: both domains share every weight.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from encoders import losses
from encoders.backbone import DIM
from encoders.methods.heads import Head
from encoders.methods.linear import Basis
from encoders.methods.plain import DAMPING, pooled
from encoders.methods.sides import Sides


@dataclass(frozen=True, slots=True)
class Settings:
    """How the head is trained. `margin` is a difference of squared distances of unit vectors, which reach 4."""

    margin: float = 0.5
    steps: int = 300
    batch: int = 256
    learning_rate: float = 1e-3
    damping: float = DAMPING


def fit(sides: Sides, seed: int, dim: int = DIM, settings: Settings | None = None) -> Head:
    """A linear head on frozen features, begun as principal components, the same for both domains."""
    chosen = settings or Settings()
    generator = torch.Generator().manual_seed(seed)
    basis = Basis.of(sides)
    layer = basis.layer(pooled(sides, dim, chosen.damping).catalog)
    clean, scene = (basis.rows(rows) for rows in sides.pairs)
    groups = torch.from_numpy(sides.pair_groups)
    optimizer = torch.optim.Adam(layer.parameters(), lr=chosen.learning_rate)
    for _ in range(chosen.steps):
        drawn = torch.randint(len(groups), (chosen.batch,), generator=generator)
        first, second = (functional.normalize(layer(rows[drawn]), dim=1) for rows in (clean, scene))
        loss = ranking_loss(first, second, groups[drawn], chosen.margin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head = basis.folded(layer)
    return Head(head, head)


def ranking_loss(clean: torch.Tensor, scene: torch.Tensor, groups: torch.Tensor, margin: float) -> torch.Tensor:
    """Triplets asked from both sides: scenes among clean pictures and clean pictures among scenes.

    Shape: clean (n, d), scene (n, d), groups (n,) -> ().
    """
    there = losses.triplet_hard(scene, clean, groups, margin)
    return (there + losses.triplet_hard(clean, scene, groups, margin)) / 2
