"""Correlation alignment: the generated domain is given the catalogue's covariance and mean.

Sun, Feng and Saenko 2016, "Return of frustratingly easy domain adaptation" (arXiv:1511.05547) colour source features
with target statistics; here the generated domain is the source. They normalise means beforehand; here the means are
aligned within the same affine map. `deep` uses the difference of covariances as a loss instead (Sun and Saenko 2016,
arXiv:1607.01719), beside distillation, since there are no labels to hold identities by.
"""

from dataclasses import dataclass

import numpy as np
import torch

from encoders import losses
from encoders.backbone import DIM
from encoders.methods.heads import Affine, Floats, Head
from encoders.methods.linear import Basis, batches
from encoders.methods.plain import DAMPING, pooled
from encoders.methods.sides import Sides


def aligned(sides: Sides, dim: int = DIM, damping: float = DAMPING, ridge: float = 1.0) -> Head:
    """Principal components about the pooled mean; the generated domain's codes are whitened and recoloured.

    `ridge`, a share of the mean variance, is added to both covariances (they add 1 to standardised features); 0 makes
    mean and covariance of the training codes equal exactly, and noisier from few pictures.
    """
    shared = pooled(sides, dim, damping).catalog
    recoloured = alignment(shared(sides.generated), shared(sides.catalog), ridge)
    return Head(shared, shared.then(recoloured))


def alignment(source: Floats, target: Floats, ridge: float) -> Affine:
    """The map that gives source rows the mean and covariance of target rows.

    Shape: source (n, d), target (m, d) -> a map from d to d.
    """
    covariances = [np.cov(rows, rowvar=False) for rows in (source, target)]
    added = ridge * np.mean([np.trace(one) for one in covariances]) / source.shape[1] * np.eye(source.shape[1])
    weight = _power(covariances[0] + added, -0.5) @ _power(covariances[1] + added, 0.5)
    return Affine(weight, target.mean(axis=0) - source.mean(axis=0) @ weight)


@dataclass(frozen=True, slots=True)
class DeepSettings:
    """How `deep` is trained. `weight` is of the alignment loss beside distillation (weight 1)."""

    weight: float = 10.0
    damping: float = DAMPING
    steps: int = 300
    batch: int = 256
    learning_rate: float = 1e-3


def deep(sides: Sides, seed: int, dim: int = DIM, settings: DeepSettings | None = None) -> Head:
    """One linear encoder a domain, both begun as the same principal components: covariances and means are drawn
    together, the similarities within each domain are held to those of the features.
    """
    chosen = settings or DeepSettings()
    basis = Basis.of(sides)
    start = pooled(sides, dim, chosen.damping).catalog
    layers = [basis.layer(start) for _ in range(2)]
    optimizer = torch.optim.Adam([each for layer in layers for each in layer.parameters()], lr=chosen.learning_rate)
    rows = (basis.rows(sides.catalog), basis.rows(sides.generated))
    begun = basis.layer(start).requires_grad_(False)
    for batch in batches(rows, chosen.batch, chosen.steps, torch.Generator().manual_seed(seed)):
        codes = [layer(side) for layer, side in zip(layers, batch, strict=True)]
        kept = sum(losses.relational_distillation(code, begun(side)) for code, side in zip(codes, batch, strict=True))
        means = (codes[0].mean(dim=0) - codes[1].mean(dim=0)).square().sum()
        # Scaled so that a coordinate has variance near 1, as Deep CORAL's loss presumes.
        covariances = losses.coral(*(dim**0.5 * code for code in codes))
        optimizer.zero_grad()
        (kept + chosen.weight * (covariances + means)).backward()
        optimizer.step()
    return Head(*(basis.folded(layer) for layer in layers))


def _power(symmetric: Floats, exponent: float) -> Floats:
    """A power of a symmetric positive matrix.

    Shape: (d, d) -> (d, d).
    """
    values, axes = np.linalg.eigh(symmetric)
    powered: Floats = (axes * np.maximum(values, values[-1] * 1e-12) ** exponent) @ axes.T
    return powered
