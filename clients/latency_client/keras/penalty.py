"""Cost and penalty as a handful of tensor operations, whatever the number of layers.

The same formula as `latency_client.reference`, in float32 of the backend: coefficients are about
1e-9 s, which a 16-bit number rounds to zero, and counts are exact.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from latency_client.channels import ChannelMap
from latency_client.resources import CostArrays

Tensor = Any


class Charges:
    """What the channels of a network cost on D devices; L layers, G groups, C channels."""

    def __init__(self, arrays: CostArrays, channels: ChannelMap) -> None:
        """Keep what does not change as tensors, and the coefficients as variables."""
        layers = len(arrays.layers)
        times = np.concatenate([arrays.reads, arrays.writes])  # (2 L, G)
        rows, columns = np.nonzero(times)
        self._rows, self._columns = _integers(rows), _integers(columns)
        self._times = _floats(times[rows, columns][:, None])
        self._layers = layers
        self._entries = _integers(channels.entries)
        self._channel = _integers(channels.channels)
        self._group_of = _integers(channels.group_of)
        self._channel_count = channels.channel_count
        self._table = _integers(_entries_by_channel(channels))
        self._group_count = len(arrays.groups)
        self._fixed = _floats(channels.fixed_counts)
        self._reads = _floats(~arrays.reads.any(axis=1))
        self._writes = _floats(~arrays.writes.any(axis=1))
        self._forms = [_variable(arrays.compute), _variable(arrays.memory)]  # (D, L, 4)
        self._overhead = _variable(arrays.overhead)  # (D, L)

    def assign(self, arrays: CostArrays) -> None:
        """Other coefficients for the same layers and groups."""
        self._forms[0].assign(arrays.compute.astype(np.float32))
        self._forms[1].assign(arrays.memory.astype(np.float32))
        self._overhead.assign(arrays.overhead.astype(np.float32))

    def largest(self, flat: Tensor) -> Tensor:
        """(C,) the maximum over each channel's entries; ties share its gradient equally.

        Args:
            flat: all source vectors, one after another.
        """
        held = keras.ops.take(flat, self._entries, axis=0)
        return keras.ops.segment_max(held, self._channel, num_segments=self._channel_count)

    def any_on(self, flat: Tensor) -> Tensor:
        """(C,) probability that one of a channel's entries is on: 1 - prod(1 - p)."""
        padded = keras.ops.concatenate([flat, keras.ops.zeros((1,), dtype=flat.dtype)])
        off = 1.0 - keras.ops.take(padded, self._table, axis=0)  # (C, most entries)
        # a product, not a sum of logarithms: gates that are 1 have a gradient, too
        return 1.0 - keras.ops.prod(off, axis=1)

    def evaluate(self, alive: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and penalty of every layer.

        Args:
            alive: (C,) whether each channel lives.
            strengths: (C,) of each channel, differentiable.

        Returns:
            (D, L) each; a layer without live inputs or outputs costs nothing.
        """
        ops = keras.ops
        live = ops.stop_gradient(ops.cast(alive, "float32"))
        held = ops.stack([live, strengths], axis=1)  # (C, 2)
        sums = ops.segment_sum(held, self._group_of, num_segments=self._group_count)
        counts = sums + self._fixed[:, None] * np.array([1.0, 0.0], np.float32)  # (G, 2)
        seen = ops.take(counts, self._columns, axis=0) * self._times
        through = ops.segment_sum(seen, self._rows, num_segments=2 * self._layers)  # (2 L, 2)
        n_in, n_out = through[: self._layers, 0], through[self._layers :, 0]
        r_in, r_out = through[: self._layers, 1], through[self._layers :, 1]
        compute, memory = (ops.convert_to_tensor(form) for form in self._forms)
        basis = ops.stack([ops.ones_like(n_in), n_in, n_out, n_in * n_out], axis=1)  # (L, 4)
        by_compute, by_memory = ops.sum(compute * basis, 2), ops.sum(memory * basis, 2)
        chosen = ops.where((by_memory > by_compute)[..., None], memory, compute)
        pull = ops.stack(
            [ops.zeros_like(r_in), r_in, r_out, n_in * r_out + n_out * r_in], axis=1
        )  # (L, 4)
        lives = ops.cast((n_in + self._reads > 0) & (n_out + self._writes > 0), "float32")
        costs = (self._overhead + ops.maximum(by_compute, by_memory)) * lives
        return costs, ops.sum(chosen * pull, 2)


def _entries_by_channel(channels: ChannelMap) -> npt.NDArray[np.int64]:
    """(C, most entries) positions in the flat vector; one beyond its end fills the rows up."""
    count = np.bincount(channels.channels, minlength=channels.channel_count)
    table = np.full((count.size, count.max(initial=1)), sum(channels.lengths), dtype=np.int64)
    first = np.cumsum(count) - count
    place = np.arange(channels.channels.size) - first[channels.channels]
    table[channels.channels, place] = channels.entries
    return table


def _integers(values: Any) -> Tensor:
    return keras.ops.convert_to_tensor(np.asarray(values, dtype=np.int32))


def _floats(values: Any) -> Tensor:
    return keras.ops.convert_to_tensor(np.asarray(values, dtype=np.float32))


def _variable(values: Any) -> Any:
    return keras.Variable(
        np.asarray(values, dtype=np.float32), trainable=False, dtype="float32", autocast=False
    )
