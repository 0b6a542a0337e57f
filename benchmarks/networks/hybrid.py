"""Between convolutions and transformers: MaxViT, ConvNeXt, MLP-Mixer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import Attention, ChannelNorm, Mlp, SqueezeExcite, conv_bn
from benchmarks.networks.vision_transformers import RelativeBias, unwindowed, windows


class MBConv(nn.Module):
    """MaxViT's: normalised first, GELU, a strided average beside it."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        inner = 4 * n_out
        self.body = nn.Sequential(
            nn.BatchNorm2d(n_in),
            conv_bn(n_in, inner, act=nn.GELU),
            conv_bn(inner, inner, 3, stride, inner, nn.GELU),
            SqueezeExcite(inner, n_out // 4, nn.SiLU),
            nn.Conv2d(inner, n_out, 1),
        )
        pool = [nn.AvgPool2d(3, 2, 1)] if stride == 2 else []
        match = [nn.Conv2d(n_in, n_out, 1)] if n_in != n_out else []
        self.shortcut = nn.Sequential(*pool, *match)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


class PartitionAttention(nn.Module):
    """Attention within windows, or across them between places alike: (n, height, width, c)."""

    def __init__(self, width: int, side: int, grid: bool) -> None:
        super().__init__()
        self.side, self.grid = side, grid
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width // 32, fused=True)
        self.bias, self.mlp = RelativeBias(side, width // 32), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        y: Tensor = self.norm1(x)
        if self.grid:
            y = y.view(n, self.side, height // self.side, self.side, width // self.side, channels)
            y = y.permute(0, 2, 4, 1, 3, 5).reshape(-1, self.side**2, channels)
            y = self.attention(y, self.bias()[None])
            y = y.view(n, height // self.side, width // self.side, self.side, self.side, channels)
            y = y.permute(0, 3, 1, 4, 2, 5).reshape(n, height, width, channels)
        else:
            y = self.attention(windows(y, self.side), self.bias()[None])
            y = unwindowed(y, self.side, height, width)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MaxViTBlock(nn.Module):
    """MBConv, attention within windows, attention across them."""

    def __init__(self, n_in: int, n_out: int, stride: int, side: int) -> None:
        super().__init__()
        self.conv = MBConv(n_in, n_out, stride)
        self.window = PartitionAttention(n_out, side, grid=False)
        self.grid = PartitionAttention(n_out, side, grid=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grid(self.window(self.conv(x).permute(0, 2, 3, 1)))
        return x.permute(0, 3, 1, 2)


class MaxViT(nn.Module):
    """Tu et al. (2022), "MaxViT: Multi-Axis Vision Transformer", table 1: T has a width of 64.

    The side of a window is a 32nd of `size`.
    """

    def __init__(self, size: int = 224, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv_bn(3, width, 3, 2, act=nn.GELU),
            nn.Conv2d(width, width, 3, padding=1),
        ]
        n_in = width
        for stage, depth in enumerate((2, 2, 5, 2)):
            for position in range(depth):
                n_out, stride = width << stage, 1 if position else 2
                layers.append(MaxViTBlock(n_in, n_out, stride, size // 32))
                n_in = n_out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.LayerNorm(n_in), nn.Linear(n_in, n_in), nn.Tanh(), nn.Linear(n_in, 1000, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return out


class MixerBlock(nn.Module):
    """Dense layers across positions, then across channels."""

    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.positions = Mlp(positions, width // 2)
        self.channels = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


class Mixer(nn.Module):
    """Tolstikhin et al. (2021), "MLP-Mixer", table 1: S has 8 layers of width 512."""

    def __init__(self, patch: int = 16, size: int = 224, width: int = 512) -> None:
        super().__init__()
        positions = (size // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.layers = nn.Sequential(*(MixerBlock(width, positions) for _ in range(8)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.patches(x).flatten(2).transpose(1, 2))
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then normalisation and dense layers over channels, scaled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)
        self.scale = nn.Parameter(torch.empty(width).uniform_(0.05, 0.15))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.spatial(x).permute(0, 2, 3, 1)))
        out: Tensor = x + (self.scale * y).permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """Liu et al. (2022), "A ConvNet for the 2020s": T unless told otherwise."""

    def __init__(
        self,
        widths: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (3, 3, 9, 3),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                n_in = widths[stage - 1]
                layers += [ChannelNorm(n_in), nn.Conv2d(n_in, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.features(x).mean((2, 3))))
        return out


# Woo et al. (2023), "ConvNeXt V2", section 3.1, gives these sizes; the blocks are those of V1
convnext_atto = partial(ConvNeXt, (40, 80, 160, 320), (2, 2, 6, 2))
mixer_half = partial(Mixer, width=256)

CASES = (
    *image_cases("maxvit_pico", MaxViT, {1: (160, 192, 224, 256), 2: (160,)}, sized=True),
    *image_cases("maxvit_tiny", partial(MaxViT, width=64), {1: (224,)}, sized=True),
    *image_cases("mixer_s16", Mixer, {1: (224,)}, sized=True),
    *image_cases("mixer_s32", partial(Mixer, 32), {1: (224,)}, sized=True),
    *image_cases("mixer_half", mixer_half, {1: (160, 192, 224), 4: (224,)}, sized=True),
    *image_cases("convnext_tiny", ConvNeXt, {1: (160, 224)}),
    *image_cases("convnext_atto", convnext_atto, {1: (160, 192, 224, 288), 2: (224,), 4: (160,)}),
)
