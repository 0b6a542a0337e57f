"""Networks of attention over images: ViT, DeiT, Swin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import (
    Attention,
    EncoderLayer,
    Mlp,
)


class ViT(nn.Module):
    """Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words"; Tiny is of Touvron et al. (2021).

    Args:
        width: of a token.
        heads: of the attention.
        fused: the attention is PyTorch's own.
        size: height and width of the image.
        distilled: a second extra token, with a head of its own, as DeiT's distilled models have.
        patch: side of a patch.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        fused: bool,
        size: int = 224,
        distilled: bool = False,
        patch: int = 16,
    ) -> None:
        super().__init__()
        extra = 2 if distilled else 1
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.tokens = nn.Parameter(0.02 * torch.randn(1, extra, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + extra, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, fused) for _ in range(12)))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, 1000) for _ in range(extra))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.tokens.expand(x.shape[0], -1, -1), x), 1) + self.position
        x = self.norm(self.layers(x))
        scores = [head(x[:, index]) for index, head in enumerate(self.heads)]
        out: Tensor = sum(scores[1:], scores[0]) / len(scores)
        return out


vit_tiny = partial(ViT, 192, 3, False)
vit_small = partial(ViT, 384, 6, True)
deit_tiny = partial(ViT, 192, 3, True, distilled=True)
vit_small_32 = partial(ViT, 384, 6, False, patch=32)


class RelativeBias(nn.Module):
    """A learned number for each head and each offset between two places of a square window."""

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn((2 * side - 1) ** 2, heads))
        place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        offset = place[:, None] - place[None] + side - 1
        self.register_buffer("index", offset[..., 0] * (2 * side - 1) + offset[..., 1])

    def forward(self) -> Tensor:
        index = self.get_buffer("index")
        return self.table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)


def windows(x: Tensor, side: int) -> Tensor:
    """(n, height, width, channels) to (n * windows, side * side, channels)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def unwindowed(x: Tensor, side: int, height: int, width: int) -> Tensor:
    """What `windows` was given."""
    x = x.view(-1, height // side, width // side, side, side, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


class SwinBlock(nn.Module):
    """Attention within windows, in every other block of an image rolled by half a window.

    `size` is the resolution of the tokens, a multiple of `side`.
    """

    def __init__(self, width: int, heads: int, side: int, size: int, rolled: bool) -> None:
        super().__init__()
        self.side, self.shift = side, side // 2 if rolled and size > side else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, fused=False)
        self.bias, self.mlp = RelativeBias(side, heads), Mlp(width, 4 * width)
        self.register_buffer("mask", self._mask(size) if self.shift else None)

    def _mask(self, size: int) -> Tensor:
        """(windows, 1, places, places): -100 between places that are no neighbours unrolled."""
        part = torch.zeros(size)
        part[-self.side :], part[-self.shift :] = 1, 2
        regions = windows((3 * part[:, None] + part)[None, :, :, None], self.side)[..., 0]
        differs = regions[:, None, :] != regions[:, :, None]
        return -100.0 * differs.float()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        y: Tensor = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        bias = self.bias()[None]
        if self.shift:
            bias = bias + self.get_buffer("mask").repeat(x.shape[0], 1, 1, 1)
        y = unwindowed(self.attention(windows(y, self.side), bias), self.side, height, width)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    """Four neighbours, normalised, become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = (
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, 2 * width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        out: Tensor = self.reduce(self.norm(torch.cat(corners, -1)))
        return out


class Swin(nn.Module):
    """Liu et al. (2021), "Swin Transformer", table 7: Tiny unless told otherwise.

    The side of a window is a 32nd of `size`: 7 at 224, 8 at 256.
    """

    def __init__(
        self, size: int = 224, width: int = 96, depths: Sequence[int] = (2, 2, 6, 2)
    ) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        layers: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            n_in, resolution = width << stage, size // 4 >> stage
            if stage:
                layers.append(PatchMerging(n_in // 2))
            layers += [
                SwinBlock(n_in, n_in // 32, size // 32, resolution, bool(position % 2))
                for position in range(depth)
            ]
        self.layers = nn.Sequential(*layers)
        n_out = width << len(depths) - 1
        self.norm_last, self.head = nn.LayerNorm(n_out), nn.Linear(n_out, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))
        out: Tensor = self.head(self.norm_last(self.layers(x)).mean((1, 2)))
        return out


CASES = (
    *image_cases("vit_tiny", vit_tiny, {1: (160, 192, 224, 256), 2: (224,), 4: (224,)}, sized=True),
    *image_cases("deit_tiny", deit_tiny, {1: (192, 224, 256), 4: (160,)}, sized=True),
    *image_cases("vit_small", vit_small, {1: (160, 224), 2: (224,)}, sized=True),
    *image_cases("vit_small_32", vit_small_32, {1: (224,)}, sized=True),
    *image_cases("swin_tiny", Swin, {1: (224, 256)}, sized=True),
    *image_cases("swin_pico", partial(Swin, width=64), {1: (160, 224), 2: (192,)}, sized=True),
)
