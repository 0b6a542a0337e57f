"""Stand-ins for layers of which nothing is left, so that a dead branch costs nothing."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class _Shaped(nn.Module):
    """Knows the shape that a module would have written, and writes it without the module."""

    def __init__(self, module: nn.Module, channels: int) -> None:
        super().__init__()
        # on the meta device a module computes shapes and nothing else; hidden from parameters()
        self._shapes = [copy.deepcopy(module).to("meta").eval()]
        self._channels = channels

    def shape(self, x: Tensor) -> list[int]:
        """Shape of the output before pruning."""
        before = [*x.shape]
        before[1] = self._channels
        with torch.no_grad():
            return list(self._shapes[0](torch.empty(before, device="meta")).shape)


class Vanished(_Shaped):
    """A layer that writes no channel any more."""

    def forward(self, x: Tensor) -> Tensor:
        """A tensor without channels, of the right size otherwise."""
        shape = self.shape(x)
        shape[1] = 0
        return x.new_empty(shape)


class Constant(_Shaped):
    """A convolution that reads no channel any more: what is left of it is its bias."""

    def __init__(self, module: nn.Module, channels: int, bias: Tensor | None, width: int) -> None:
        """Keep the bias; `width` channels are written."""
        super().__init__(module, channels)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """The bias at every position."""
        shape = self.shape(x)
        shape[1] = self.width
        if self.bias is None:
            return x.new_zeros(shape)
        column = self.bias.reshape(1, -1, *[1] * (len(shape) - 2))
        return column.to(x.dtype).expand(shape)
