"""Networks of depthwise convolutions for small devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import Activation, SqueezeExcite, conv_bn, multiple_of_8


class InvertedResidual(nn.Module):
    """1x1 wider, depthwise, channel attention, 1x1 narrower without activation; from MobileNetV2.

    Args:
        n_in: channels of the input.
        expanded: channels of the depthwise convolution; no 1x1 precedes it if they are `n_in`.
        n_out: channels of the output.
        kernel: of the depthwise convolution.
        stride: the same.
        act: activation.
        attention: for `expanded` channels.
    """

    def __init__(
        self,
        n_in: int,
        expanded: int,
        n_out: int,
        kernel: int,
        stride: int,
        act: Activation,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != n_in:
            layers.append(conv_bn(n_in, expanded, act=act))
        layers.append(conv_bn(expanded, expanded, kernel, stride, expanded, act))
        if attention is not None:
            layers.append(attention)
        self.body = nn.Sequential(*layers, conv_bn(expanded, n_out, act=None))
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.adds else out


class Classifier(nn.Module):
    """Features, their mean over the image, dense layers."""

    def __init__(self, features: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.features, self.pool = nn.Sequential(*features), nn.AdaptiveAvgPool2d(1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.flatten(self.pool(self.features(x)), 1))
        return out


def mobilenet_v2(width: float = 1.0) -> Classifier:
    """Sandler et al. (2018), "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2."""
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    n_in = multiple_of_8(32 * width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 3, 2, act=nn.ReLU6)]
    for factor, channels, depth, first_stride in plan:
        n_out = multiple_of_8(channels * width)
        for position in range(depth):
            stride = 1 if position else first_stride
            layers.append(InvertedResidual(n_in, factor * n_in, n_out, 3, stride, nn.ReLU6))
            n_in = n_out
    n_out = multiple_of_8(1280 * max(width, 1.0))
    layers.append(conv_bn(n_in, n_out, act=nn.ReLU6))
    return Classifier(layers, nn.Sequential(nn.Dropout(0.2), nn.Linear(n_out, 1000)))


# kernel, expanded, out, attention, hard-swish, stride: table 1 of the paper on MobileNetV3
MOBILENET_V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def mobilenet_v3_layers(width: float = 1.0) -> tuple[list[nn.Module], list[int]]:
    """The stem and the blocks of MobileNetV3-Large, and the channels that each writes."""
    n_in = multiple_of_8(16 * width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 3, 2, act=nn.Hardswish)]
    channels = [n_in]
    for kernel, inner, outer, attends, hard, stride in MOBILENET_V3_LARGE:
        expanded, n_out = multiple_of_8(inner * width), multiple_of_8(outer * width)
        attention = (
            SqueezeExcite(expanded, multiple_of_8(expanded / 4), gate=nn.Hardsigmoid)
            if attends
            else None
        )
        act = nn.Hardswish if hard else nn.ReLU
        layers.append(InvertedResidual(n_in, expanded, n_out, kernel, stride, act, attention))
        n_in = n_out
        channels.append(n_in)
    return layers, channels


def mobilenet_v3(width: float = 1.0) -> Classifier:
    """Howard et al. (2019), "Searching for MobileNetV3", the large one."""
    layers, channels = mobilenet_v3_layers(width)
    last = 6 * channels[-1]
    hidden = multiple_of_8(1280 * width)
    layers.append(conv_bn(channels[-1], last, act=nn.Hardswish))
    head = nn.Sequential(
        nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, 1000)
    )
    return Classifier(layers, head)


def efficientnet(width: float = 1.0, depth: float = 1.0) -> Classifier:
    """Tan and Le (2019), "EfficientNet: Rethinking Model Scaling", table 1: B0, or scaled."""
    plan = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
            (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip
    n_in = multiple_of_8(32 * width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 3, 2, act=nn.SiLU)]
    for factor, kernel, first_stride, channels, repeats in plan:
        n_out = multiple_of_8(channels * width)
        for position in range(math.ceil(repeats * depth)):
            expanded, stride = factor * n_in, 1 if position else first_stride
            attention = SqueezeExcite(expanded, n_in // 4, nn.SiLU)
            layers.append(
                InvertedResidual(n_in, expanded, n_out, kernel, stride, nn.SiLU, attention)
            )
            n_in = n_out
    layers.append(conv_bn(n_in, 4 * n_in, act=nn.SiLU))
    return Classifier(layers, nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * n_in, 1000)))


def mnasnet(width: float = 1.0) -> Classifier:
    """Tan et al. (2019), "MnasNet: Platform-Aware Neural Architecture Search", B1.

    B1, of the reference code, is figure 7 without channel attention.
    """
    plan = ((3, 3, 2, 24, 3), (3, 5, 2, 40, 3), (6, 5, 2, 80, 3), (6, 3, 1, 96, 2),
            (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip
    stem, n_in = multiple_of_8(32 * width), multiple_of_8(16 * width)
    layers: list[nn.Module] = [
        conv_bn(3, stem, 3, 2),
        conv_bn(stem, stem, 3, 1, stem),
        conv_bn(stem, n_in, act=None),
    ]
    for factor, kernel, first_stride, channels, repeats in plan:
        n_out = multiple_of_8(channels * width)
        for position in range(repeats):
            stride = 1 if position else first_stride
            layers.append(InvertedResidual(n_in, factor * n_in, n_out, kernel, stride, nn.ReLU))
            n_in = n_out
    layers.append(conv_bn(n_in, 1280))
    return Classifier(layers, nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000)))


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are interleaved.

    With a stride of 2, both read all channels and both are convolved.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        half = n_out // 2
        self.stride, n_right = stride, n_in if stride == 2 else half
        self.left = (
            nn.Sequential(conv_bn(n_in, n_in, 3, 2, n_in, act=None), conv_bn(n_in, half))
            if stride == 2
            else nn.Identity()
        )
        self.right = nn.Sequential(
            conv_bn(n_right, half),
            conv_bn(half, half, 3, stride, half, act=None),
            conv_bn(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        x = torch.cat((self.left(left), self.right(right)), 1)
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2)
        return x.reshape(n, channels, height, width)


class ShuffleNetV2(nn.Module):
    """Ma et al. (2018), "ShuffleNet V2: Practical Guidelines", table 5.

    `widths` are those of the three stages and of the last convolution.
    """

    def __init__(self, widths: Sequence[int] = (116, 232, 464, 1024)) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
        n_in = 24
        for width, depth in zip(widths[:-1], (4, 8, 4), strict=True):
            for position in range(depth):
                layers.append(ShuffleUnit(n_in, width, 1 if position else 2))
                n_in = width
        self.features = nn.Sequential(*layers, conv_bn(n_in, widths[-1]))
        self.fc = nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(x).mean((2, 3)))
        return out


class Ghost(nn.Module):
    """Half of the output by 1x1 convolution, half from that half by a depthwise one."""

    def __init__(self, n_in: int, n_out: int, act: Activation | None) -> None:
        super().__init__()
        half = math.ceil(n_out / 2)
        self.n_out = n_out
        self.primary = conv_bn(n_in, half, act=act)
        self.cheap = conv_bn(half, half, 3, 1, half, act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat((x, self.cheap(x)), 1)[:, : self.n_out]


class GhostBottleneck(nn.Module):
    """Ghost modules around a depthwise convolution, if it strides, and channel attention."""

    def __init__(
        self, n_in: int, expanded: int, n_out: int, kernel: int, stride: int, attends: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Ghost(n_in, expanded, nn.ReLU)]
        if stride == 2:
            layers.append(conv_bn(expanded, expanded, kernel, 2, expanded, act=None))
        if attends:
            squeezed = multiple_of_8(expanded / 4)
            layers.append(SqueezeExcite(expanded, squeezed, gate=nn.Hardsigmoid))
        self.body = nn.Sequential(*layers, Ghost(expanded, n_out, None))
        self.shortcut = (
            nn.Identity()
            if n_in == n_out and stride == 1
            else nn.Sequential(
                conv_bn(n_in, n_in, kernel, stride, n_in, act=None), conv_bn(n_in, n_out, act=None)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def ghostnet() -> Classifier:
    """Han et al. (2020), "GhostNet: More Features from Cheap Operations", table 7."""
    plan = ((3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2),
            (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1),
            (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2),
            (5, 960, 160, 0, 1), (5, 960, 160, 1, 1), (5, 960, 160, 0, 1),
            (5, 960, 160, 1, 1))  # fmt: skip
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2)]
    n_in = 16
    for kernel, expanded, n_out, attends, stride in plan:
        layers.append(GhostBottleneck(n_in, expanded, n_out, kernel, stride, bool(attends)))
        n_in = n_out
    layers.append(conv_bn(n_in, 960))
    head = nn.Sequential(nn.Linear(960, 1280), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1280, 1000))
    return Classifier(layers, head)


CASES = (
    *image_cases(
        "mobilenet_v2", mobilenet_v2, {1: (128, 160, 192, 224, 256), 2: (160, 224), 4: (192, 224)}
    ),
    *image_cases("mobilenet_v2", mobilenet_v2, {1: (160, 224)}, exporter="torchscript"),
    *image_cases("mobilenet_v2_half", partial(mobilenet_v2, 0.5), {1: (128, 224), 4: (160,)}),
    *image_cases("mobilenet_v2_140", partial(mobilenet_v2, 1.4), {1: (160, 224)}),
    *image_cases(
        "mobilenet_v3_large", mobilenet_v3, {1: (160, 192, 224, 256), 2: (224,), 4: (192,)}
    ),
    *image_cases("mobilenet_v3_large", mobilenet_v3, {1: (224,)}, exporter="torchscript"),
    *image_cases("mobilenet_v3_075", partial(mobilenet_v3, 0.75), {1: (160, 224)}),
    *image_cases("efficientnet_b0", efficientnet, {1: (160, 192, 224, 256), 2: (224,), 4: (160,)}),
    *image_cases("efficientnet_b0", efficientnet, {1: (224,)}, exporter="torchscript"),
    *image_cases("efficientnet_b1", partial(efficientnet, depth=1.1), {1: (240,)}),
    *image_cases("mnasnet", mnasnet, {1: (160, 224), 2: (192,), 4: (224,)}),
    *image_cases("mnasnet_half", partial(mnasnet, 0.5), {1: (160, 224)}),
    *image_cases("shufflenet_v2", ShuffleNetV2, {1: (160, 192, 224, 256), 2: (224,), 4: (192,)}),
    *image_cases("shufflenet_v2", ShuffleNetV2, {1: (224,)}, exporter="torchscript"),
    *image_cases(
        "shufflenet_v2_half", partial(ShuffleNetV2, (48, 96, 192, 1024)), {1: (160, 224), 4: (224,)}
    ),
    *image_cases("ghostnet", ghostnet, {1: (160, 224, 256), 2: (192,), 4: (224,)}),
)
