"""A stand-in for the backbone that is exported in a moment."""

import torch
from torch import Tensor, nn

from encoders.backbone import FEATURES


class Tiles(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """The mean colour of a picture, over and over.

    Shape: (batch, 224, 224, 3) uint8 -> (batch, 1280).
    """

    def forward(self, pixels: Tensor) -> Tensor:
        colour: Tensor = pixels.to(torch.float32).mean(dim=(1, 2)) / 255  # (batch, 3)
        return colour.repeat(1, FEATURES // 3 + 1)[:, :FEATURES]
