"""The network of the shipped encoder: EfficientNet-Lite0 in two halves, and a vector of two blocks.

The early half (stem and eight blocks) stays as ImageNet left it; the late half and the head are trained. Batch
normalisation is folded into the convolutions: its statistics over batches of one domain would tell the domains apart.

The vector is [structure | colour], each block of a fixed norm. Structure is trained to overlook dye, colour is not, so
that a garment in another colour differs by its colour block alone.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from encoders.backbone import Backbone

SPLIT: Final = 8
"""Blocks 0 to 7 are the early half."""

_STRIDE: Final = 16
"""Pixels a place of what the early half gives."""

LEARNT_PX: Final = 176
"""Side of what the network sees in training."""

EARLY: Final = (86, LEARNT_PX // _STRIDE, LEARNT_PX // _STRIDE)
"""Shape of what the early half gives in training: 80 features and 6 planes of colour, at 11 x 11 places."""

SERVED_PX: Final = 192
"""Side of what the exported network sees. Its weights learn at LEARNT_PX: pooled features of a picture that is seen a
little larger than in training tell more, and training stays cheap (Touvron et al. 2019, FixRes)."""

STRUCTURE, COLOUR = 192, 64
COLOUR_SHARE: Final = 0.15
"""Of the similarity: the square of the colour block's norm."""


class Block(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """An inverted residual block (MobileNetV2) without batch normalisation. Its depthwise filters are not trained:
    their gradient costs a CPU half of the whole step."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        args = block._block_args
        self.expand = fuse_conv_bn_eval(block._expand_conv, block._bn0) if args.expand_ratio != 1 else None
        self.depthwise = fuse_conv_bn_eval(block._depthwise_conv, block._bn1)
        self.depthwise.requires_grad_(False)
        self.project = fuse_conv_bn_eval(block._project_conv, block._bn2)
        self.residual = args.stride in (1, [1]) and args.input_filters == args.output_filters

    def wide(self, x: Tensor) -> Tensor:
        """The expanded features. Shape: (n, c, h, w) -> (n, c * ratio, h, w), from 0 to 6."""
        return x if self.expand is None else nn.functional.relu6(self.expand(x))

    def narrow(self, wide: Tensor, x: Tensor) -> Tensor:
        """The rest of the block, of what `wide` gave for `x`."""
        y = self.project(nn.functional.relu6(self._filtered(wide)))
        return x + y if self.residual else y

    def _filtered(self, wide: Tensor) -> Tensor:
        conv = self.depthwise
        if not (torch.is_grad_enabled() and wide.requires_grad):
            return conv(wide)
        return _FrozenDepthwise.apply(conv.static_padding(wide), conv.weight, conv.bias, conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (n, c, h, w) -> (n, d, h / stride, w / stride)."""
        return self.narrow(self.wide(x), x)


class _FrozenDepthwise(torch.autograd.Function):  # type: ignore[misc]
    """A depthwise convolution whose gradient is one too, with turned filters: several times faster on a CPU than the
    general way back. Padding is the caller's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.places = stride, x.shape[2:]
        return nn.functional.conv2d(x, weight, bias, stride, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        stride, side = ctx.stride, weight.shape[2]
        n, channels, rows, columns = gradient.shape
        apart = gradient.contiguous(memory_format=torch.channels_last)
        if stride > 1:
            apart = apart.new_zeros(n, channels, (rows - 1) * stride + 1, (columns - 1) * stride + 1)
            apart = apart.contiguous(memory_format=torch.channels_last)
            apart[:, :, ::stride, ::stride] = gradient
        back = nn.functional.conv2d(apart, weight.flip(2, 3), padding=side - 1, groups=channels)
        left_over = [place - got for place, got in zip(ctx.places, back.shape[2:], strict=True)]
        return nn.functional.pad(back, (0, left_over[1], 0, left_over[0])), None, None, None


class Early(nn.Module):  # type: ignore[misc]
    """The frozen half, and the picture's colours place by place. `side`: of what it sees, in pixels."""

    def __init__(self, backbone: Backbone, side: int = SERVED_PX) -> None:
        super().__init__()
        self.side = side
        net = backbone.net
        self.pixels_to_input = backbone.to_input
        self.register_buffer("smoothing", backbone.smoothing, persistent=False)
        self.stem = fuse_conv_bn_eval(net._conv_stem, net._bn0)
        self.blocks = nn.Sequential(*(Block(block) for block in net._blocks[:SPLIT]))
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Shape: (n, 224, 224, 3) uint8 -> (n, 86, h, w)."""
        x = self.pixels_to_input(pixels, self.smoothing, self.side)  # (n, 3, side, side) from -1 to 1
        features = self.blocks(nn.functional.relu6(self.stem(x)))  # (n, 80, h, w)
        mean = nn.functional.avg_pool2d(x, _STRIDE)
        spread = (nn.functional.avg_pool2d(x * x, _STRIDE) - mean * mean).clamp(min=1e-6).sqrt()
        return torch.cat([features, mean, spread], dim=1)


class Late(nn.Module):  # type: ignore[misc]
    """The trained half: vectors of what the early half gave."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        net = backbone.net
        self.blocks = nn.ModuleList(Block(block) for block in net._blocks[SPLIT:])
        self.top = fuse_conv_bn_eval(net._conv_head, net._bn1)
        # The first block that halves the places: its wide features are the last ones at 10 x 10.
        self.middle = next(i for i, block in enumerate(self.blocks) if block.depthwise.stride[0] == 2)
        wide = self.blocks[self.middle].expand.out_channels
        self.structure = nn.Linear(self.top.out_channels + wide, STRUCTURE)
        # Set once, before training. Pooled features are all positive: without a centre, the optimiser's steps, all of
        # one size, would move every vector the same way, and all would soon be one.
        self.register_buffer("centre", torch.zeros(self.structure.in_features))
        self.register_buffer("spread", torch.ones(self.structure.in_features))
        self.attention = nn.Conv2d(wide, 1, 1)
        self.hue = nn.Conv2d(EARLY[0] - 80, 64, 1)
        self.colour = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, COLOUR))
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)

    def features(self, early: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features of two scales, and features of colour.

        Shape: (n, 86, h, w) -> (n, 1280 + 672), (n, 128).
        """
        x, wide = self._middle(early)
        x = self.blocks[self.middle].narrow(wide, x)
        for block in self.blocks[self.middle + 1 :]:
            x = block(x)
        top = nn.functional.relu6(self.top(x))  # (n, 1280, 5, 5)
        hues = self.hues(early[:, 80:], self._looked_at(wide))
        return torch.cat([cube_pooled(top), cube_pooled(wide)], dim=1), hues

    def _middle(self, early: Tensor) -> tuple[Tensor, Tensor]:
        """What the middle block is given, and its wide features (n, 672, h, w)."""
        x = early[:, :80]
        for block in self.blocks[: self.middle]:
            x = block(x)
        return x, self.blocks[self.middle].wide(x)

    def _looked_at(self, wide: Tensor) -> Tensor:
        return self.attention(wide).flatten(2).softmax(dim=2)

    def looked_at(self, early: Tensor) -> Tensor:
        """How much each place counts for the garment's colour; the sum is 1. Shape: (n, 86, h, w) -> (n, 1, h * w)."""
        return self._looked_at(self._middle(early)[1])

    def hues(self, colours: Tensor, looked_at: Tensor) -> Tensor:
        """Features of the garment's colours and of everything's. Shape: (n, 6, h, w), (n, 1, h * w) -> (n, 128)."""
        hues = nn.functional.relu(self.hue(colours)).flatten(2)  # (n, 64, h * w)
        return torch.cat([(hues * looked_at).sum(dim=2), hues.mean(dim=2)], dim=1)

    def blocks_of(self, early: Tensor) -> tuple[Tensor, Tensor]:
        """The unit vectors of structure and of colour. Shape: (n, 86, h, w) -> (n, 192), (n, 64)."""
        pooled, hues = self.features(early)
        return unit(self.structure((pooled - self.centre) / self.spread)), unit(self.colour(hues))

    def forward(self, early: Tensor) -> Tensor:
        """Shape: (n, 86, h, w) -> (n, 256), rows of norm 1."""
        return joined(*self.blocks_of(early))


class TwoBlockEncoder(nn.Module):  # type: ignore[misc]
    """What is exported. The domain, an input of the contract, is not looked at: both domains share every weight."""

    def __init__(self, early: Early, late: Late) -> None:
        super().__init__()
        self.early, self.late = early, late

    def forward(self, pixels: Tensor, domain: Tensor) -> Tensor:
        """Shape: pixels (n, 224, 224, 3) uint8, domain (n, 1) int32 -> (n, 256) float32, rows of norm 1."""
        del domain
        vectors: Tensor = self.late(self.early(pixels))
        return vectors


def cube_pooled(x: Tensor) -> Tensor:
    """Generalised-mean pooling with p = 3 (Radenovic et al. 2018). Shape: (n, c, h, w) from 0 on -> (n, c)."""
    return ((x * x * x).mean(dim=(2, 3)) + 1e-6).pow(1 / 3)


def unit(x: Tensor) -> Tensor:
    """Rows of norm 1; the small constant keeps a row of zeros finite."""
    norm: Tensor = x.square().sum(dim=1, keepdim=True).add(1e-12).sqrt()
    return x / norm


def joined(structure: Tensor, colour: Tensor) -> Tensor:
    """One unit vector of two. Shape: (n, 192), (n, 64) -> (n, 256)."""
    return torch.cat([(1 - COLOUR_SHARE) ** 0.5 * structure, COLOUR_SHARE**0.5 * colour], dim=1)
