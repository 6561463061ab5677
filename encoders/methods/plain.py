"""The baselines: frozen features with no adaptation, and the two cheapest corrections.

`plain` stands where the VGG features stand in the sources. It projects to the contract's 256 numbers for the size of
the vector only: without centring, on the directions that keep most of the features' length, so that cosines change as
little as a projection can let them (Eckart and Young 1936). `pooled` is principal component analysis about the mean of
both domains together, `centred` about the mean of each; both may damp the strongest directions.
"""

from typing import Final

import numpy as np

from encoders.backbone import DIM
from encoders.methods.heads import Affine, Floats, Head
from encoders.methods.sides import Sides

DAMPING: Final = 0.5
"""Codes are divided by their variance to half this power: 0 keeps the features' own scale, 1 whitens."""


def plain(sides: Sides, dim: int = DIM) -> Head:
    """The best projection without centring, the same for both domains."""
    shared = Affine(directions(sides.both(), dim, damping=0.0), np.zeros(dim))
    return Head(shared, shared)


def pooled(sides: Sides, dim: int = DIM, damping: float = DAMPING) -> Head:
    """Principal components about the mean of both domains together, the same map for both."""
    shared = principal(sides.both(), dim, damping)
    return Head(shared, shared)


def centred(sides: Sides, dim: int = DIM, damping: float = DAMPING) -> Head:
    """Each domain about its own mean, then principal components of both together: aligns the means and no more."""
    means = [rows.mean(axis=0, dtype=np.float64) for rows in (sides.catalog, sides.generated)]
    weight = directions(np.concatenate([sides.catalog - means[0], sides.generated - means[1]]), dim, damping)
    return Head(*(Affine(weight, -mean @ weight) for mean in means))


def principal(rows: Floats, dim: int, damping: float) -> Affine:
    """Principal component analysis of all rows as one set.

    Shape: (n, width) -> a map from width to dim.
    """
    mean = rows.mean(axis=0)
    weight = directions(rows - mean, dim, damping)
    return Affine(weight, -mean @ weight)


def directions(rows: Floats, dim: int, damping: float) -> Floats:
    """The directions of largest second moment, each divided by its moment to half the power `damping`.

    Scaled so that the codes of `rows` have a mean squared length of 1; signs are fixed by the largest entry, or they
    would be the linear algebra library's whim. Directions in which the rows do not differ are left at zero.

    Shape: (n, width) -> (width, dim).
    Raises: ValueError where width is below dim.
    """
    if rows.shape[1] < dim:
        raise ValueError(f"cannot make {dim} numbers of {rows.shape[1]} features")
    moments, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    moments, axes = moments[::-1][:dim], axes[:, ::-1][:, :dim]
    held = moments > moments[0] * 1e-9  # fewer rows than numbers leave directions in which nothing differs
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    moments = np.where(held, moments, 1.0)
    weight: Floats = np.where(held, axes * moments ** (-damping / 2), 0.0)
    weight = weight / np.sqrt((moments ** (1 - damping))[held].sum())
    return weight
