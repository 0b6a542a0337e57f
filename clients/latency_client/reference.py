"""Cost, penalty and gradient in plain float64 NumPy.

The definition that the frameworks are tested against, and what counts channels outside of training:
expansion, shrinking, budgets.

    cost(f)    = constant + per_in n_in + per_out n_out + per_pair n_in n_out
    penalty(f) = per_in r_in + per_out r_out + per_pair (n_in r_out + n_out r_in)

A layer costs overhead + max(cost(compute), cost(memory)), and nothing without live inputs or
outputs; its penalty is that of the larger form. Source: MorphNet (Gordon et al., 2018) and its
latency regulariser, with forms in place of its per-operator code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_client.resources import CostArrays, FloatArray


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A network at one structure on D devices.

    Attributes:
        costs, penalties: (D, L) by layer.
        gradient: (D, G) derivative of each device's penalty in the groups' strengths.
    """

    costs: FloatArray
    penalties: FloatArray
    gradient: FloatArray

    @property
    def cost(self) -> FloatArray:
        """(D,) of the whole network."""
        return np.asarray(self.costs.sum(axis=1))

    @property
    def penalty(self) -> FloatArray:
        """(D,) of the whole network."""
        return np.asarray(self.penalties.sum(axis=1))


def form_values(forms: FloatArray, n_in: FloatArray, n_out: FloatArray) -> FloatArray:
    """(D, ..., L) values of (D, L, 4) forms at (..., L) live channels."""
    shape = (forms.shape[0], *(1,) * (n_in.ndim - 1), forms.shape[1], 4)
    f = forms.reshape(shape)
    value: FloatArray = f[..., 0] + f[..., 1] * n_in + f[..., 2] * n_out
    value += f[..., 3] * (n_in * n_out)
    return value


def live_layers(arrays: CostArrays, n_in: FloatArray, n_out: FloatArray) -> FloatArray:
    """(..., L) 1 for layers with live inputs and outputs, 0 for dead ones.

    A layer that reads no channels, or writes none, is not dead for that.
    """
    reads, writes = arrays.reads.any(axis=1), arrays.writes.any(axis=1)
    alive = ((n_in > 0) | ~reads) & ((n_out > 0) | ~writes)
    return alive.astype(np.float64)


def costs(arrays: CostArrays, counts: FloatArray) -> FloatArray:
    """(D, ...) cost of whole networks at (..., G) live channels."""
    n_in, n_out = counts @ arrays.reads.T, counts @ arrays.writes.T
    alive = live_layers(arrays, n_in, n_out)
    larger = np.maximum(
        form_values(arrays.compute, n_in, n_out), form_values(arrays.memory, n_in, n_out)
    )
    overhead = arrays.overhead.reshape(len(arrays.devices), *(1,) * (n_in.ndim - 1), -1)
    total: FloatArray = ((overhead + larger) * alive).sum(axis=-1)
    return total


def evaluate(arrays: CostArrays, counts: FloatArray, strengths: FloatArray) -> Evaluation:
    """Cost, penalty and gradient at one structure.

    Args:
        counts: (G,) live channels per group.
        strengths: (G,) sum of the channels' strengths per group.
    """
    n_in, n_out = arrays.reads @ counts, arrays.writes @ counts
    r_in, r_out = arrays.reads @ strengths, arrays.writes @ strengths
    compute = form_values(arrays.compute, n_in, n_out)  # (D, L)
    memory = form_values(arrays.memory, n_in, n_out)
    chosen = np.where((memory > compute)[..., None], arrays.memory, arrays.compute)  # (D, L, 4)
    on_in = chosen[..., 1] + chosen[..., 3] * n_out
    on_out = chosen[..., 2] + chosen[..., 3] * n_in
    alive = live_layers(arrays, n_in, n_out)
    return Evaluation(
        (arrays.overhead + np.maximum(compute, memory)) * alive,
        on_in * r_in + on_out * r_out,
        on_in @ arrays.reads + on_out @ arrays.writes,
    )
