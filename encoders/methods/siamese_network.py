"""The siamese network end to end: the last blocks of the backbone learn with the head, on freshly rendered pairs.

Batch normalisation keeps its ImageNet statistics throughout: those of a batch of one domain would tell the domains
apart, and the frozen part would not stay what it was. Everything before the chosen blocks is bit-identical afterwards.
For a CPU of two cores the head alone (`siamese.fit`) is the default; this is some 100 times slower a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.backbone import Backbone, rooted
from encoders.methods.heads import Affine, Head
from encoders.methods.siamese import ranking_loss
from encoders.preprocess import Pixels

Batch = tuple[Pixels, Pixels, np.ndarray[tuple[int], np.dtype[np.int64]]]
"""Clean pictures and scenes (n, 224, 224, 3), and the item of each pair (n,)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the network is trained; the backbone learns at a tenth of the head's rate."""

    margin: float = 0.5
    learning_rate: float = 1e-4
    backbone_share: float = 0.1


def unfreeze(backbone: Backbone, blocks: int) -> list[nn.Parameter]:
    """Let the last `blocks` of the 16 blocks learn, with the convolution behind them; the rest is frozen.

    Raises: ValueError for fewer than 0 or more than all blocks.
    """
    stages = backbone.net._blocks
    if not 0 <= blocks <= len(stages):
        raise ValueError(f"the backbone has {len(stages)} blocks, {blocks} cannot be unfrozen")
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    if blocks == 0:
        return []
    open_parts = [*stages[len(stages) - blocks :], backbone.net._conv_head, backbone.net._bn1]
    chosen = [parameter for part in open_parts for parameter in part.parameters()]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def finetune(backbone: Backbone, head: Head, pairs: Iterator[Batch], blocks: int, settings: Settings) -> Head:
    """Train the last blocks (in place) and the head; returns the new head.

    The head's catalogue map is taken for both domains, since the network is shared.
    """
    weight, bias = (
        torch.from_numpy(array).float().requires_grad_() for array in (head.catalog.weight, head.catalog.bias)
    )
    opened = unfreeze(backbone, blocks)
    backbone.eval()  # the statistics of batch normalisation stay
    groups = [{"params": [weight, bias], "lr": settings.learning_rate}]
    if opened:
        groups.append({"params": opened, "lr": settings.learning_rate * settings.backbone_share})
    optimizer = torch.optim.Adam(groups)

    def vectors(pixels: Pixels) -> Tensor:
        return functional.normalize(rooted(backbone(torch.from_numpy(pixels))) @ weight + bias, dim=1)

    for clean, scene, items in pairs:
        loss = ranking_loss(vectors(clean), vectors(scene), torch.from_numpy(items), settings.margin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shared = Affine(weight.detach().double().numpy(), bias.detach().double().numpy())
    return Head(shared, shared)
