"""Networks that answer with a map over the image: U-Net and a text detector."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.case import image_cases
from benchmarks.networks.layers import conv_bn
from benchmarks.networks.mobile import mobilenet_v3_layers


class UNet(nn.Module):
    """Ronneberger et al. (2015), "U-Net", padded and normalised by batch as it is used today.

    Args:
        width: channels at full resolution; 64 in the paper.
        learned: ConvTranspose goes up, as in the paper; else interpolation and a 1x1 convolution.
    """

    def __init__(self, width: int = 32, learned: bool = True) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(
            self.block(n_in, n_out) for n_in, n_out in zip([3, *widths], widths, strict=False)
        )
        self.up, self.refine = nn.ModuleList(), nn.ModuleList()
        for n_out in reversed(widths[:-1]):
            self.up.append(
                nn.ConvTranspose2d(2 * n_out, n_out, 2, 2)
                if learned
                else nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                    nn.Conv2d(2 * n_out, n_out, 1),
                )
            )
            self.refine.append(self.block(2 * n_out, n_out))
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def block(n_in: int, n_out: int) -> nn.Sequential:
        """Two convolutions."""
        return nn.Sequential(conv_bn(n_in, n_out, 3), conv_bn(n_out, n_out, 3))

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, refine, beside in zip(self.up, self.refine, reversed(kept[:-1]), strict=True):
            x = refine(torch.cat((beside, up(x)), 1))
        out: Tensor = self.head(x)
        return out


class TextDetector(nn.Module):
    """Liao et al. (2020), "Real-time Scene Text Detection with Differentiable Binarization".

    At inference: the probability map alone. The backbone is MobileNetV3-Large of half the width
    and the pyramid has 96 channels, after the mobile models of Du et al. (2020), "PP-OCR".

    Args:
        width: of the backbone, relative to the paper's.
        channels: of the pyramid.
    """

    def __init__(self, width: float = 0.5, channels: int = 96) -> None:
        super().__init__()
        layers, widths = mobilenet_v3_layers(width)
        ends = (4, 7, 13, 16)  # where the resolution is a 4th, 8th, 16th, 32nd
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[start:end]) for start, end in zip((0, *ends), ends, strict=False)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(widths[end - 1], channels, 1, bias=False) for end in ends
        )
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False) for _ in ends
        )
        inner = channels // 4
        self.head = nn.Sequential(
            conv_bn(channels, inner, 3),
            nn.ConvTranspose2d(inner, inner, 2, 2),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.ConvTranspose2d(inner, 1, 2, 2),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for level in (2, 1, 0):
            above = F.interpolate(levels[level + 1], scale_factor=2.0, mode="nearest")
            levels[level] = levels[level] + above
        smoothed = [
            F.interpolate(smooth(data), scale_factor=float(2**level), mode="nearest")
            if level
            else smooth(data)
            for level, (smooth, data) in enumerate(zip(self.smooth, levels, strict=True))
        ]
        out: Tensor = self.head(torch.cat(smoothed[::-1], 1))
        return out


unet_interpolated = partial(UNet, 16, learned=False)

CASES = (
    *image_cases("unet", UNet, {1: (128, 192), 2: (128,)}),
    *image_cases("unet", UNet, {1: (160,)}, exporter="torchscript"),
    *image_cases("unet_half", partial(UNet, 16), {1: (96, 128, 256), 2: (64,), 4: (128,)}),
    *image_cases("unet_interpolated", unet_interpolated, {1: (128, 192), 2: (128,)}),
    *image_cases("text_detector", TextDetector, {1: (320, (256, 480), 640), 2: (320,)}),
    *image_cases("text_detector", TextDetector, {1: (480,)}, exporter="torchscript"),
    *image_cases("text_detector_wide", partial(TextDetector, 1.0, 256), {1: (320,)}),
)
