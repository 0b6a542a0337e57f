"""Layers that several of the architectures share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


def conv_bn(
    n_in: int,
    n_out: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    group: int = 1,
    act: Activation | None = nn.ReLU,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation.

    By default, padding keeps the resolution.
    """
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=group, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(n_out)]
    return nn.Sequential(*layers, *([act()] if act else []))


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below `channels`.

    From the reference code of MobileNetV2.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SqueezeExcite(nn.Module):
    """Hu et al. (2018), "Squeeze-and-Excitation Networks": a factor for every channel."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        act: Activation = nn.ReLU,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.act = nn.Conv2d(channels, squeezed, 1), act()
        self.excite, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))
        return out


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of an image, which it makes last and second again."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Sequential):
    """Two dense layers with GELU between."""

    def __init__(self, width: int, hidden: int, act: Activation = nn.GELU) -> None:
        super().__init__(nn.Linear(width, hidden), act(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Vaswani et al. (2017), "Attention Is All You Need": several heads over (n, length, width).

    One matrix makes queries, keys and values.

    Args:
        width: of a token.
        heads: `width` is a multiple of it.
        fused: PyTorch's scaled_dot_product_attention; else products and softmax written out.
        causal: a token attends to no later one.
    """

    def __init__(self, width: int, heads: int, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.causal = heads, fused, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` is added to the scores before the softmax."""
        n, length, width = x.shape
        depth = width // self.heads
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, bias, is_causal=self.causal)
        else:
            scores = (query * depth**-0.5) @ key.transpose(-2, -1)
            if bias is not None:
                scores = scores + bias
            if self.causal:
                later = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            mixed = scores.softmax(-1) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class EncoderLayer(nn.Module):
    """Attention and two dense layers on normalised tokens, each added to its input."""

    def __init__(self, width: int, heads: int, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, fused, causal)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
