"""Networks of residual blocks with full or grouped convolutions: ResNet and RegNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import SqueezeExcite, conv_bn


class Basic(nn.Module):
    """Two 3x3 convolutions, added to the input."""

    EXPANSION = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(n_in, width, 3, stride), conv_bn(width, width, 3, act=None)
        )
        self.shortcut = _shortcut(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the input; the stride is in the 3x3."""

    EXPANSION = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = 4 * width
        self.body = nn.Sequential(
            conv_bn(n_in, width),
            conv_bn(width, width, 3, stride),
            conv_bn(width, n_out, act=None),
        )
        self.shortcut = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    same = n_in == n_out and stride == 1
    return nn.Identity() if same else conv_bn(n_in, n_out, 1, stride, act=None)


class ResNet(nn.Module):
    """He et al. (2016), "Deep Residual Learning for Image Recognition", table 1.

    Args:
        block: of what kind.
        depths: number of blocks in each of the four stages.
        width: channels of the first stage's 3x3 convolutions.
    """

    def __init__(
        self, block: type[Basic | Bottleneck], depths: Sequence[int], width: int = 64
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        n_in = width
        for stage, depth in enumerate(depths):
            for position in range(depth):
                stride = 2 if stage and not position else 1
                layers.append(block(n_in, width << stage, stride))
                n_in = block.EXPANSION * width << stage
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_in, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.flatten(self.pool(self.features(x)), 1))
        return out


class RegNetBlock(nn.Module):
    """The X block: 1x1, grouped 3x3, 1x1 of one width; with channel attention the Y block.

    `squeezed` is the width of the attention; 0: there is none.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, group_width: int, squeezed: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(n_in, n_out),
            conv_bn(n_out, n_out, 3, stride, n_out // group_width),
            SqueezeExcite(n_out, squeezed) if squeezed else nn.Identity(),
            conv_bn(n_out, n_out, act=None),
        )
        self.shortcut = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class RegNet(nn.Module):
    """Radosavovic et al. (2020), "Designing Network Design Spaces".

    Args:
        depths: number of blocks in each of the four stages.
        widths: of each stage.
        group_width: channels of a group.
        squeeze: the attention's width over that of the block's input; 0 for RegNetX.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        group_width: int,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
        n_in = 32
        for depth, width in zip(depths, widths, strict=True):
            for position in range(depth):
                squeezed = round(squeeze * n_in)
                stride = 1 if position else 2
                layers.append(RegNetBlock(n_in, width, stride, group_width, squeezed))
                n_in = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(n_in, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return out


resnet18 = partial(ResNet, Basic, (2, 2, 2, 2))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))

# appendix, tables 13 and 14
regnet_x_400mf = partial(RegNet, (1, 2, 7, 12), (32, 64, 160, 400), 16)
regnet_y_400mf = partial(RegNet, (1, 3, 6, 6), (48, 104, 208, 440), 8, 0.25)

CASES = (
    *image_cases("resnet18", resnet18, {1: (160, 224, 256), 2: (192,), 4: (224,)}),
    *image_cases("resnet18", resnet18, {1: (224,)}, exporter="torchscript"),
    *image_cases(
        "resnet18_half", partial(resnet18, width=32), {1: (160, 224, 320), 2: (192,), 4: (160,)}
    ),
    *image_cases("resnet50", resnet50, {1: (160, 224), 2: (192,)}),
    *image_cases("resnet50", resnet50, {1: (224,)}, exporter="torchscript"),
    *image_cases(
        "resnet50_half", partial(resnet50, width=32), {1: (160, 192, 224), 2: (224,), 4: (160,)}
    ),
    *image_cases("regnet_x_400mf", regnet_x_400mf, {1: (160, 224, 288), 2: (192,), 4: (224,)}),
    *image_cases("regnet_x_400mf", regnet_x_400mf, {1: (224,)}, exporter="torchscript"),
    *image_cases("regnet_y_400mf", regnet_y_400mf, {1: (160, 224, 288), 2: (192,), 4: (224,)}),
)
