"""One affine map for each domain on shared features: what every method here boils down to, and its export.

An affine map folds centring, projection, alignment and a linear encoder into one matrix and one bias, so all methods
cost the service the same. Not for learning (each method has a file of its own).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.backbone import DIM, Backbone, example_inputs, rooted
from encoders.export import write_onnx
from encoders.preprocess import DOMAINS, Domain, domain_index

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Affine:
    """rows -> rows @ weight + bias.

    Shape: weight (width, dim), bias (dim,).
    """

    weight: Floats
    bias: Floats

    def __call__(self, rows: NDArray[np.floating]) -> Floats:
        """Shape: (n, width) -> (n, dim)."""
        mapped: Floats = rows.astype(np.float64) @ self.weight + self.bias
        return mapped

    def then(self, after: "Affine") -> "Affine":
        """This map followed by another, as one map."""
        return Affine(self.weight @ after.weight, self.bias @ after.weight + after.bias)


@dataclass(frozen=True, slots=True)
class Head:
    """The map of each domain from features to codes, which are compared by their cosine."""

    catalog: Affine
    generated: Affine

    def of(self, domain: Domain) -> Affine:
        """The map of a domain."""
        return (self.catalog, self.generated)[domain_index(domain)]

    def vectors(self, features: NDArray[np.floating], domain: Domain) -> Floats:
        """Unit rows.

        Shape: (n, width) -> (n, dim).
        """
        return unit(self.of(domain)(features))

    def after(self, before: Affine) -> "Head":
        """This head on the output of a map that both domains share, as one head."""
        return Head(before.then(self.catalog), before.then(self.generated))


class TwoDomainEncoder(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """Backbone, square root, the affine map of the picture's domain, L2 norm: the contract's graph.

    Both maps are computed and one is chosen for each row: 2 x 1280 x 256 products, a thousandth of the backbone's.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        if head.catalog.weight.shape[1] != DIM:
            raise ValueError(f"the contract's vectors have {DIM} numbers, not {head.catalog.weight.shape[1]}")
        self.backbone = backbone
        maps = [head.of(domain) for domain in DOMAINS]
        self.register_buffer("weight", torch.from_numpy(np.stack([one.weight for one in maps])).float())
        self.register_buffer("bias", torch.from_numpy(np.stack([one.bias for one in maps])).float())
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, pixels: Tensor, domain: Tensor) -> Tensor:
        """Shape: pixels (batch, 224, 224, 3) uint8, domain (batch, 1) int32 -> (batch, 256) float32, rows of norm 1."""
        features = rooted(self.backbone(pixels))  # (batch, 1280)
        catalog, generated = (features @ self.weight[i] + self.bias[i] for i in range(len(DOMAINS)))
        codes = torch.where(domain == domain_index("generated"), generated, catalog)
        norm: Tensor = codes.square().sum(dim=1, keepdim=True).add(1e-12).sqrt()
        return codes / norm


def export(backbone: Backbone, head: Head, path: Path) -> str:
    """Write backbone and head as one ONNX file of the contract and return its version."""
    pixels, domain = example_inputs(2)
    return write_onnx(TwoDomainEncoder(backbone, head), path, {"pixels": pixels, "domain": domain}, "embedding")


def unit(rows: Floats) -> Floats:
    """Rows divided by their norms; a row of zeros stays one.

    Shape: (n, d) -> (n, d).
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    divided: Floats = rows / np.maximum(norms, 1e-12)
    return divided
