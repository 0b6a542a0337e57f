"""Cost and penalty of all layers at once, as a handful of tensor operations.

The arithmetic of `latency_client.reference` on tensors. It is done in double precision where the
device has it, autocast or not: coefficients are about 1e-9 s, and sums run over thousands of
channels. What is done per step is a gather, a segment maximum, two segment sums, two small matrix
products and the forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latency_client.channels import ChannelMap
from latency_client.resources import CostArrays


class Layerwise(NamedTuple):
    """(D, L) costs and penalties; only the penalties have gradients."""

    costs: Tensor
    penalties: Tensor


def working_dtype(device: torch.device) -> torch.dtype:
    """Double precision; single where a device has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.is_floating_point():
        return tensor.to(device, working_dtype(device))
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class ChannelTensors:
    """A `ChannelMap` on a device.

    Attributes:
        entries: (E,) positions in the flat vector of sources.
        channels: (E,) channel of each entry; None where every channel has exactly one.
        group_of: (C,) group of each channel.
        fixed_counts: (G,) channels of groups that have no source.
    """

    entries: Tensor
    channels: Tensor | None
    group_of: Tensor
    fixed_counts: Tensor

    @classmethod
    def of(cls, channels: ChannelMap, device: torch.device) -> ChannelTensors:
        """The same on a device."""
        single = channels.entries.size == channels.channel_count
        return cls(
            _tensor(channels.entries, device),
            None if single else _tensor(channels.channels, device),
            _tensor(channels.group_of, device),
            _tensor(channels.fixed_counts, device),
        )

    def largest(self, flat: Tensor) -> Tensor:
        """(C,) maximum over each channel's entries; ties share its gradient equally."""
        taken = flat[self.entries]
        if self.channels is None:
            return taken
        # below every entry: PyTorch lets the start take part in ties, even where it is left out
        start = taken.new_full((self.group_of.shape[0],), -torch.inf)
        return start.scatter_reduce(0, self.channels, taken, "amax")

    def any_on(self, flat: Tensor) -> Tensor:
        """(C,) probability that any entry of a channel is on: 1 - prod(1 - p)."""
        taken = flat[self.entries]
        if self.channels is None:
            return taken
        empty = taken.new_ones(self.group_of.shape[0])
        return 1.0 - empty.scatter_reduce(0, self.channels, 1.0 - taken, "prod")

    def group_sums(self, values: Tensor) -> Tensor:
        """(G,) sums of (C,) values."""
        empty = self.fixed_counts.new_zeros(self.fixed_counts.shape[0])
        return empty.index_add(0, self.group_of, values)


@dataclass(frozen=True, slots=True)
class CostTensors:
    """`CostArrays` on a device; D devices, L layers, G groups.

    Attributes:
        reads, writes: (L, G).
        has_reads, has_writes: (L,) whether a layer's channels can die at all.
        compute, memory: (D, L, 4).
        overhead: (D, L).
    """

    reads: Tensor
    writes: Tensor
    has_reads: Tensor
    has_writes: Tensor
    compute: Tensor
    memory: Tensor
    overhead: Tensor

    @classmethod
    def of(cls, arrays: CostArrays, device: torch.device) -> CostTensors:
        """The same on a device."""
        return cls(
            _tensor(arrays.reads, device),
            _tensor(arrays.writes, device),
            _tensor(np.asarray(arrays.reads.any(axis=1)), device),
            _tensor(np.asarray(arrays.writes.any(axis=1)), device),
            _tensor(arrays.compute, device),
            _tensor(arrays.memory, device),
            _tensor(arrays.overhead, device),
        )

    def evaluate(self, counts: Tensor, strengths: Tensor) -> Layerwise:
        """Costs and penalties by device and layer.

        Args:
            counts: (G,) live channels per group, without gradient.
            strengths: (G,) sum of the channels' strengths.
        """
        both = torch.stack((counts, strengths), dim=1)  # (G, 2)
        n_in, r_in = (self.reads @ both).unbind(1)
        n_out, r_out = (self.writes @ both).unbind(1)
        pair = n_in * n_out
        compute, memory = (
            f[..., 0] + f[..., 1] * n_in + f[..., 2] * n_out + f[..., 3] * pair
            for f in (self.compute, self.memory)
        )
        alive = ((n_in > 0) | ~self.has_reads) & ((n_out > 0) | ~self.has_writes)
        costs = (self.overhead + torch.maximum(compute, memory)) * alive
        chosen = torch.where((memory > compute).unsqueeze(-1), self.memory, self.compute)
        penalties = (
            chosen[..., 1] * r_in
            + chosen[..., 2] * r_out
            + chosen[..., 3] * (n_in.detach() * r_out + n_out.detach() * r_in)
        )
        return Layerwise(costs.detach(), penalties)
