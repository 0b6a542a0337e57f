"""Chains of convolutions, and networks that concatenate what they compute.

VGG, SqueezeNet, DenseNet, GoogLeNet, Inception.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import conv_bn


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """Convolution with bias, activation."""
    layer = nn.Conv2d(n_in, n_out, kernel, stride, padding)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.ReLU(inplace=True))


class VGG(nn.Module):
    """Simonyan and Zisserman (2015), "Very Deep Convolutional Networks", table 1, A: 11 layers.

    Args:
        width: channels of the first convolution.
        hidden: width of the dense layers.
        size: height and width of the image, a multiple of 32.
    """

    def __init__(self, width: int = 64, hidden: int = 4096, size: int = 224) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 3
        for factor, pools in zip((1, 2, 4, 4, 8, 8, 8, 8), (1, 1, 0, 1, 0, 1, 0, 1), strict=True):
            layers.append(conv(n_in, factor * width, 3, padding=1))
            n_in = factor * width
            if pools:
                layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear((size // 32) ** 2 * n_in, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return out


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 beside each other."""

    def __init__(self, n_in: int, squeezed: int, n_out: int) -> None:
        super().__init__()
        self.squeeze = conv(n_in, squeezed, 1)
        self.one = conv(squeezed, n_out // 2, 1)
        self.three = conv(squeezed, n_out // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat((self.one(x), self.three(x)), 1)


class SqueezeNet(nn.Module):
    """Iandola et al. (2016), "SqueezeNet", in the version 1.1 of its repository."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 64, 3, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 128),
            Fire(128, 16, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 256),
            Fire(256, 32, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 384),
            Fire(384, 48, 384),
            Fire(384, 64, 512),
            Fire(512, 64, 512),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), conv(512, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


class DenseLayer(nn.Module):
    """Reads all before it, and appends `growth` channels to them."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(n_in),
            nn.ReLU(),
            conv_bn(n_in, 4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


class DenseNet(nn.Module):
    """Huang et al. (2017), "Densely Connected Convolutional Networks", table 1."""

    def __init__(self, depths: Sequence[int] = (6, 12, 24, 16), growth: int = 32) -> None:
        super().__init__()
        width = 2 * growth
        layers: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for block, depth in enumerate(depths):
            if block:
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
                layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
                width //= 2
            for _ in range(depth):
                layers.append(DenseLayer(width, growth))
                width += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        out: Tensor = self.classifier(torch.flatten(x, 1))
        return out


class Beside(nn.ModuleList):
    """What its members make of one input, concatenated over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def inception_v1(n_in: int, *widths: int) -> Beside:
    """GoogLeNet's module: 1x1; 3x3; 5x5 as a 3x3, as torchvision has it; pooling.

    `widths` are in the order of the paper's table 1.
    """
    one, three_in, three, five_in, five, pooled = widths
    return Beside(
        [
            conv_bn(n_in, one),
            nn.Sequential(conv_bn(n_in, three_in), conv_bn(three_in, three, 3)),
            nn.Sequential(conv_bn(n_in, five_in), conv_bn(five_in, five, 3)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(n_in, pooled)),
        ]
    )


class GoogLeNet(nn.Module):
    """Szegedy et al. (2015), "Going Deeper with Convolutions", table 1, normalised by batch."""

    PLAN = ((192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64),
            (480, 192, 96, 208, 16, 48, 64), (512, 160, 112, 224, 24, 64, 64),
            (512, 128, 128, 256, 24, 64, 64), (512, 112, 144, 288, 32, 64, 64),
            (528, 256, 160, 320, 32, 128, 128), (832, 256, 160, 320, 32, 128, 128),
            (832, 384, 192, 384, 48, 128, 128))  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        modules = [inception_v1(*row) for row in self.PLAN]
        self.features = nn.Sequential(
            conv_bn(3, 64, 7, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            conv_bn(64, 64),
            conv_bn(64, 192, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *modules[:2],
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *modules[2:7],
            nn.MaxPool2d(2, 2, ceil_mode=True),
            *modules[7:],
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out


def inception_a(n_in: int, pooled: int) -> Beside:
    """Figure 5: two 3x3 for a 5x5. The 5x5 beside it stays, as in the reference code."""
    return Beside(
        [
            conv_bn(n_in, 64),
            nn.Sequential(conv_bn(n_in, 48), conv_bn(48, 64, 5)),
            nn.Sequential(conv_bn(n_in, 64), conv_bn(64, 96, 3), conv_bn(96, 96, 3)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(n_in, pooled)),
        ]
    )


def inception_c(n_in: int, inner: int) -> Beside:
    """Figure 6: 1x7 and 7x1 in turn."""
    low, high = (1, 7), (7, 1)
    return Beside(
        [
            conv_bn(n_in, 192),
            nn.Sequential(
                conv_bn(n_in, inner), conv_bn(inner, inner, low), conv_bn(inner, 192, high)
            ),
            nn.Sequential(
                conv_bn(n_in, inner),
                conv_bn(inner, inner, high),
                conv_bn(inner, inner, low),
                conv_bn(inner, inner, high),
                conv_bn(inner, 192, low),
            ),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(n_in, 192)),
        ]
    )


def inception_e(n_in: int) -> Beside:
    """Figure 7: 1x3 beside 3x1."""

    def pair(inner: int) -> Beside:
        return Beside([conv_bn(inner, 384, (1, 3)), conv_bn(inner, 384, (3, 1))])

    return Beside(
        [
            conv_bn(n_in, 320),
            nn.Sequential(conv_bn(n_in, 384), pair(384)),
            nn.Sequential(conv_bn(n_in, 448), conv_bn(448, 384, 3), pair(384)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(n_in, 192)),
        ]
    )


class InceptionV3(nn.Module):
    """Szegedy et al. (2016), "Rethinking the Inception Architecture", without the second head."""

    def __init__(self) -> None:
        super().__init__()
        low, high = (1, 7), (7, 1)
        reduce_first = Beside(
            [
                conv_bn(288, 384, 3, 2, padding=0),
                nn.Sequential(
                    conv_bn(288, 64), conv_bn(64, 96, 3), conv_bn(96, 96, 3, 2, padding=0)
                ),
                nn.MaxPool2d(3, 2),
            ]
        )
        reduce_second = Beside(
            [
                nn.Sequential(conv_bn(768, 192), conv_bn(192, 320, 3, 2, padding=0)),
                nn.Sequential(
                    conv_bn(768, 192),
                    conv_bn(192, 192, low),
                    conv_bn(192, 192, high),
                    conv_bn(192, 192, 3, 2, padding=0),
                ),
                nn.MaxPool2d(3, 2),
            ]
        )
        self.features = nn.Sequential(
            conv_bn(3, 32, 3, 2, padding=0),
            conv_bn(32, 32, 3, padding=0),
            conv_bn(32, 64, 3),
            nn.MaxPool2d(3, 2),
            conv_bn(64, 80),
            conv_bn(80, 192, 3, padding=0),
            nn.MaxPool2d(3, 2),
            inception_a(192, 32),
            inception_a(256, 64),
            inception_a(288, 64),
            reduce_first,
            *(inception_c(768, inner) for inner in (128, 160, 160, 192)),
            reduce_second,
            inception_e(1280),
            inception_e(2048),
        )
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return out


vgg11_quarter = partial(VGG, 16, 1024)

CASES = (
    *image_cases(
        "squeezenet", SqueezeNet, {1: (128, 160, 192, 224, 256), 2: (160, 224), 4: (192, 224)}
    ),
    *image_cases("squeezenet", SqueezeNet, {1: (224,), 2: (192,)}, exporter="torchscript"),
    *image_cases("vgg11", VGG, {1: (224,)}, sized=True),
    *image_cases("vgg11_quarter", vgg11_quarter, {1: (160, 224, 256), 4: (224,)}, sized=True),
    *image_cases("vgg11_quarter", vgg11_quarter, {2: (192,)}, sized=True, exporter="torchscript"),
    *image_cases("densenet121", DenseNet, {1: (160, 224), 2: (192,)}),
    *image_cases("densenet121", DenseNet, {1: (192, 256), 4: (160,)}, exporter="torchscript"),
    *image_cases("densenet121_half", partial(DenseNet, growth=16), {1: (160, 224), 2: (224,)}),
    *image_cases("googlenet", GoogLeNet, {1: (160, 192, 224), 2: (192,), 4: (224,)}),
    *image_cases("googlenet", GoogLeNet, {1: (256,)}, exporter="torchscript"),
    *image_cases("inception_v3", InceptionV3, {1: (299,)}),
    *image_cases("inception_v3", InceptionV3, {1: (224,)}, exporter="torchscript"),
)
