"""What a case is: a network, built for one width, and what one run of it is fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Exporter = Literal["dynamo", "torchscript"]

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Case:
    """One file to predict and to measure.

    Attributes:
        name: of the file as well; of small letters, digits, `_` and `-`.
        architecture: what cases share that differ in batch or resolution alone.
        build: the network with weights as PyTorch draws them.
        inputs: what one run is fed, always the same numbers.
        exporter: which of PyTorch's two writes the file.
    """

    name: str
    architecture: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    exporter: Exporter = "dynamo"

    def model(self) -> nn.Module:
        """The network in inference mode, always with the same weights.

        No two parameters are equal, since exporters write equal ones once. Activations stay within
        a few orders of magnitude of 1: values below 1e-38 would take a processor many times as
        long. For that, batch normalisation takes the statistics of these very inputs.
        """
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = self.build()
            for module in model.modules():
                if isinstance(module, _NORMS):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.1)
            normalised = [module for module in model.modules() if isinstance(module, _BatchNorm)]
            for module in normalised:
                module.momentum = 1.0
            if normalised:
                model.train()(*self.inputs())
        return model.eval()


def image_cases(
    architecture: str,
    build: Callable[..., nn.Module],
    sizes: Mapping[int, Sequence[int | tuple[int, int]]],
    *,
    channels: int = 3,
    sized: bool = False,
    exporter: Exporter = "dynamo",
) -> tuple[Case, ...]:
    """Cases of a network that reads images.

    Args:
        architecture: its name.
        build: the network; takes nothing, or `size`.
        sizes: {batch size: resolutions}, square ones or (height, width).
        channels: of the image.
        sized: the network is built for a resolution, which it takes as `size`.
        exporter: which of PyTorch's two writes the files.
    """
    ending = {"dynamo": "", "torchscript": "-torchscript"}[exporter]
    rows = []
    for batch, resolutions in sizes.items():
        for size in resolutions:
            height, width = (size, size) if isinstance(size, int) else size
            label = f"{height}" if height == width else f"{height}x{width}"
            rows.append(
                Case(
                    f"{architecture}-b{batch}-{label}{ending}",
                    architecture,
                    partial(build, size=size) if sized else build,
                    partial(floats, (batch, channels, height, width)),
                    exporter,
                )
            )
    return tuple(rows)


def floats(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Normally distributed numbers, as an image has after normalisation."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def tokens(vocabulary: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Token numbers below `vocabulary`."""
    return (torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0)),)
