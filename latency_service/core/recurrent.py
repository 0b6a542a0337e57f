"""What recurrent layers take, part by part.

All their inputs are multiplied at once, as any product; then step after step the state is
multiplied with the recurrence, which is read anew from a cache each time, and the gates are
computed. A roofline of the sum says little: of two layers with the same work, one over wide inputs
and one with a wide state, the latter takes several times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from latency_service.core.features import FloatArray
from latency_service.core.geometry import Dim
from latency_service.core.least_squares import nonnegative_parts


def _steps(dims: FloatArray) -> FloatArray:
    steps: FloatArray = dims[..., Dim.STEPS] * dims[..., Dim.BATCH]
    return steps


def _of_inputs(dims: FloatArray) -> FloatArray:
    wide = dims[..., Dim.DEPTH] - dims[..., Dim.INNER]
    work: FloatArray = _steps(dims) * dims[..., Dim.ROWS] * wide * dims[..., Dim.COLS]
    return work


def _of_states(dims: FloatArray) -> FloatArray:
    work: FloatArray = _reads(dims) * dims[..., Dim.ROWS]
    return work


def _reads(dims: FloatArray) -> FloatArray:
    reads: FloatArray = _steps(dims) * dims[..., Dim.INNER] * dims[..., Dim.COLS]
    return reads


def _weights(dims: FloatArray) -> FloatArray:
    weights: FloatArray = dims[..., Dim.BATCH] * dims[..., Dim.DEPTH] * dims[..., Dim.COLS]
    return weights


def _gates(dims: FloatArray) -> FloatArray:
    gates: FloatArray = _steps(dims) * dims[..., Dim.ROWS] * dims[..., Dim.COLS]
    return gates


# Amounts at (..., D) dimensions: steps of all directions, multiplications of inputs and of states,
# elements of the recurrence that are read for the steps, all weights once, and gates.
PARTS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "steps": _steps, "inputs": _of_inputs, "states": _of_states, "reads": _reads,
    "weights": _weights, "gates": _gates,
}  # fmt: skip


def parts_s(dims: FloatArray, parts: Mapping[str, float]) -> FloatArray:
    """(...) seconds of all parts at (..., D) dimensions.

    Args:
        parts: seconds of one, by name.
    """
    total = np.zeros(dims.shape[:-1])
    for name, seconds in parts.items():
        total = total + seconds * PARTS[name](dims)
    return total


def fit_parts(dims: FloatArray, seconds: FloatArray) -> tuple[float, dict[str, float]]:
    """Fixed seconds, and those of each part, that fit (N,) measurements at (N, D) dimensions.

    None is negative, errors are relative, and outliers pull little.
    """
    amounts = np.stack([np.ones(len(dims)), *(part(dims) for part in PARTS.values())], axis=1)
    fixed, *found = nonnegative_parts(amounts, seconds).tolist()
    named = zip(PARTS, found, strict=True)
    return fixed, {name: float(f"{s:.4g}") for name, s in named if s > 0}
