"""The latency of every layer on a device: overhead + max(compute, memory).

Source: the roofline of Williams et al. (2009), applied layer by layer as in MorphNet (Gordon et
al., 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_service.core.costs import CostModel, FloatArray
from latency_service.core.predict import Predictor
from latency_service.core.profile import Profile


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """A network on a device; L layers.

    Attributes:
        flops_per_s, bytes_per_s: (L,) effective rates.
        overhead_s: (L,) seconds that a layer costs whatever its size.
        math: precision of the multiply for the request's dtype.
        assumptions: what the rates rest on.
        predictor: the calibrated kernels; None: layers run at the roofline.
    """

    costs: CostModel
    flops_per_s: FloatArray
    bytes_per_s: FloatArray
    overhead_s: FloatArray
    math: str
    assumptions: tuple[str, ...]
    predictor: Predictor | None = None

    @property
    def compute(self) -> FloatArray:
        """(L, 4) forms in seconds."""
        return self.costs.flops / self.flops_per_s[:, None]

    @property
    def memory(self) -> FloatArray:
        """(L, 4) forms in seconds."""
        return self.costs.bytes / self.bytes_per_s[:, None]


def latency_model(
    costs: CostModel, profile: Profile, math: str | None = None, calibrated: bool = False
) -> LatencyModel:
    """Apply a device's rooflines to a network.

    Args:
        calibrated: whether the profile's efficiency model applies; `costs` then holds kernels.
        math: precision of the multiply for the request's dtype; None is the profile's default.
            Layers of another dtype (quantised ones) take the default of theirs.

    Raises:
        MissingRateError: if the device has no rate for a dtype that the network multiplies in.
    """
    rate, assumption = profile.rate(costs.dtype, math)
    assumptions = [assumption] if assumption else []
    by_dtype = {costs.dtype: rate.flops_per_s}
    for dtype in dict.fromkeys(costs.rate_dtype):
        if dtype is not None and dtype not in by_dtype:
            other, why = profile.rate(dtype)
            by_dtype[dtype] = other.flops_per_s
            assumptions += [why] if why else []
    predictor = None
    if calibrated and profile.efficiency is not None:
        predictor = Predictor(costs, profile.efficiency, profile.kernels_as)
        assumptions += predictor.assumptions
    rates = [by_dtype[dtype or costs.dtype] for dtype in costs.rate_dtype]
    layers = len(rates)
    return LatencyModel(
        costs,
        np.array(rates, dtype=np.float64),
        np.full(layers, profile.memory.bytes_per_s),
        np.zeros(layers),
        rate.math,
        tuple(assumptions),
        predictor,
    )
