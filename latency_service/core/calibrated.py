"""A calibrated layer as the answer states it: effective rates, utilisation and secant slopes.

The prediction of a layer is a number of seconds. It is stated as `overhead + max(compute, memory)`,
both of them the device's roofline divided by the layer's utilisation, so that the value is exact at
the requested structure; the slopes of the larger one are secants to the next lower multiple of the
hardware's channel step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_service.core.costs import FloatArray
from latency_service.core.live import live_counts
from latency_service.core.predict import Structure
from latency_service.core.roofline import LatencyModel
from latency_service.core.scoring import evaluate

_LEAST = 1e-15


@dataclass(frozen=True, slots=True)
class Stated:
    """Layers at one structure; L layers.

    Attributes:
        compute, memory: (L, 4) forms in seconds.
        overhead_s, compute_s, memory_s: (L,) at the structure.
        flops_per_s, bytes_per_s: (L,) effective rates.
        utilisation: (L,) of the roofline.
        kernels: the prediction behind it; None without one.
    """

    compute: FloatArray
    memory: FloatArray
    overhead_s: FloatArray
    compute_s: FloatArray
    memory_s: FloatArray
    flops_per_s: FloatArray
    bytes_per_s: FloatArray
    utilisation: FloatArray
    kernels: Structure | None


def state(model: LatencyModel, counts: FloatArray) -> Stated:
    """The layers of a model at (G,) live channels."""
    costs = model.costs
    n_in, n_out, alive = live_counts(costs, counts)
    compute_s = evaluate(costs.flops, n_in, n_out) * alive / model.flops_per_s
    memory_s = evaluate(costs.bytes, n_in, n_out) * alive / model.bytes_per_s
    if model.predictor is None:
        return Stated(
            model.compute,
            model.memory,
            model.overhead_s,
            compute_s,
            memory_s,
            model.flops_per_s,
            model.bytes_per_s,
            np.ones(len(compute_s)),
            None,
        )
    kernels = model.predictor.at(counts)
    seconds = _by_layer(model, kernels.seconds)
    bandwidth = model.predictor.bandwidths(evaluate(costs.bytes, n_in, n_out))
    memory_s = evaluate(costs.bytes, n_in, n_out) * alive / bandwidth
    roofline = np.maximum(compute_s, memory_s)
    overhead = np.where(roofline > 0, _by_layer(model, kernels.fixed_s), seconds)
    rest = np.maximum(seconds - overhead, 0.0)
    utilisation = np.where(rest > 0, roofline / np.maximum(rest, _LEAST), 1.0)
    utilisation = np.where(roofline > 0, np.maximum(utilisation, 1e-9), 1.0)
    flops_per_s = model.flops_per_s * utilisation
    bytes_per_s = bandwidth * utilisation
    compute = costs.flops / flops_per_s[:, None]
    memory = costs.bytes / bytes_per_s[:, None]
    binding = compute_s >= memory_s
    target = np.where(binding[:, None], compute, memory)
    sloped = _secants(model, counts, target, rest, n_in, n_out)
    compute = np.where(binding[:, None], sloped, compute)
    memory = np.where(binding[:, None], memory, sloped)
    return Stated(
        compute,
        memory,
        overhead,
        evaluate(compute, n_in, n_out) * alive,
        evaluate(memory, n_in, n_out) * alive,
        flops_per_s,
        bytes_per_s,
        utilisation,
        kernels,
    )


def _by_layer(model: LatencyModel, values: FloatArray) -> FloatArray:
    """(L,) sums of (P,) values of kernels."""
    assert model.costs.kernels is not None
    out = np.zeros(len(model.costs.names))
    np.add.at(out, model.costs.kernels.layers, values)
    return out


def _secants(
    model: LatencyModel,
    counts: FloatArray,
    forms: FloatArray,
    rest: FloatArray,
    n_in: FloatArray,
    n_out: FloatArray,
) -> FloatArray:
    """(L, 4) forms of the same values whose slopes are those down to the last step.

    What remains bilinear is as much of the pair term as both slopes allow; the rest of each slope
    is linear, and the constant keeps the value. No slope is negative: a step that costs nothing
    has slope 0.
    """
    assert model.predictor is not None
    step = float(model.predictor.efficiency.channel_step)
    slope_in = model.predictor.slopes(counts, step, of_inputs=True)
    slope_out = model.predictor.slopes(counts, step, of_inputs=False)
    prunable = (forms[:, 1:] != 0).any(axis=1)
    pair = np.where(
        forms[:, 3] > 0,
        np.minimum(slope_in / np.maximum(n_out, 1.0), slope_out / np.maximum(n_in, 1.0)),
        0.0,
    )
    per_in = np.where(forms[:, 1] + forms[:, 3] > 0, slope_in - pair * n_out, 0.0)
    per_out = np.where(forms[:, 2] + forms[:, 3] > 0, slope_out - pair * n_in, 0.0)
    constant = rest - per_in * n_in - per_out * n_out - pair * n_in * n_out
    stated = np.stack([constant, per_in, per_out, pair], axis=1)
    result: FloatArray = np.where(prunable[:, None], stated, forms)
    return result
