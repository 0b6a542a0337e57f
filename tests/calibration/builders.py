"""A small measurement: shapes over distinct primes, times of a machine that never was."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from latency_service.calibration.measurement import Measurement, Rate
from latency_service.core.efficiency import Layout
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Sample, Workload

# Of the machine that never was.
FLOPS_PER_S, BYTES_PER_S, FIXED_S = 53e9, 11e9, 2e-6


def samples() -> tuple[Sample, ...]:
    """Products of matrices and ReLUs; the larger, the closer to the machine's rates."""
    found = []
    for rows, depth, cols in itertools.product((7, 29, 61), (13, 37, 89), (17, 43)):
        seconds = FIXED_S + 2 * rows * depth * cols / FLOPS_PER_S * (1 + 1 / rows)
        work = Workload("MatMul", ((rows, depth), (depth, cols)), outputs=((rows, cols),))
        found.append(Sample(work, seconds, (seconds, 1.01 * seconds)))
    for height, width in itertools.product((11, 101, 211), (23, 103, 307)):
        moved = 4 * 2 * height * width
        work = Workload("Relu", ((height, width),), outputs=((height, width),))
        found.append(Sample(work, FIXED_S + moved / BYTES_PER_S))
    return tuple(found)


def measurement(**changes: Any) -> Measurement:
    """A whole measurement."""
    whole = Measurement(
        runtime="onnxruntime-cpu-1-thread",
        samples=samples(),
        rates={"float32": Rate(59e9, 57e9, 61e9)},
        levels=((32768.0, Rate(97e9, 89e9, 101e9)), (2**27, Rate(11e9, 10e9, 13e9))),
        dispatch_s=3e-7,
        resolution_s=1e-6,
        layout=Layout(16, 4, ("Conv",), ("Relu",)),
        fusion=FusionRules(fold=("BatchNormalization",), sequences=("Conv Relu",)),
        slow_runs={"masked": 71e-9},
        environment={"processor": "Abacus 5", "governor": None, "load": [0.5, 0.25]},
    )
    return replace(whole, **changes)
