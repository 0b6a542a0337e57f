"""What a byte saves that is found in a nearer cache, from kernels that were measured both ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency_service.core.efficiency import filling
from latency_service.core.family import moved_bytes
from latency_service.core.features import FloatArray
from latency_service.core.sample import Sample

# Samples that say what a cache saves; fewer say nothing.
_LEAST_PAIRS = 5
# Those that find less than this share of the core's own cache tell other things.
_LEAST_NEAR = 0.01


def cached_s_per_byte(samples: Sequence[Sample], constant_bytes: FloatArray) -> float:
    """What a byte of constants saves that is in the last cache, whatever is multiplied with it.

    The median over the bytes: with little of them other things come from afar too.

    Args:
        samples: of kernels that multiply.
        constant_bytes: (N,) of each.
    """
    return _median(_pairs(samples, constant_bytes))


def nearby_s_per_byte(
    samples: Sequence[Sample], dims: FloatArray, itemsize: float, core_bytes: float
) -> float:
    """What a byte saves a family of kernels whose output lies in the core's own cache.

    The median over the bytes of the samples that tell: of small ones the code came from afar too.

    Args:
        dims: (N, D) geometries.
    """
    near = filling(moved_bytes(dims, itemsize), core_bytes)
    pairs = _pairs(samples, near)
    return _median([(each, size) for each, size in pairs if size > _LEAST_NEAR * core_bytes])


def _pairs(samples: Sequence[Sample], sizes: FloatArray) -> list[tuple[float, float]]:
    """(seconds that each byte saves, bytes) of those that were measured both ways."""
    return [
        ((sample.latency_s - sample.cached_s) / max(size, 1e-30), size)
        for sample, size in zip(samples, sizes.tolist(), strict=True)
        if sample.cached_s is not None
    ]


def _median(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the first, weighted by the second; nothing where few were measured, never negative."""
    if len(pairs) < _LEAST_PAIRS:
        return 0.0
    values, weights = np.array(sorted(pairs)).T
    total = np.cumsum(weights)
    middle = float(values[np.searchsorted(total, 0.5 * total[-1])])
    return float(f"{max(middle, 0.0):.4g}")
