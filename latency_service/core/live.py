"""Live channels of every layer at a structure."""

from __future__ import annotations

import numpy as np

from latency_service.core.costs import CostModel, FloatArray


def live_counts(costs: CostModel, counts: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """n_in, n_out and whether a layer is alive, each (..., L), at (..., G) live channels.

    A layer with no live output, or none of its inputs alive, is dead and costs nothing.
    """
    n_in = counts @ costs.read_times.T
    n_out = counts @ costs.write_times.T
    reads = costs.read_times.any(axis=1)
    writes = costs.write_times.any(axis=1)
    alive = ((n_in > 0) | ~reads) & ((n_out > 0) | ~writes)
    return n_in, n_out, alive.astype(np.float64)
