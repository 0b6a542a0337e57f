"""What a calibration run brings home, before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_service.core.efficiency import Layout
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Sample


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured peak rate with its 90 % interval, in units per second."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One device under one runtime.

    Attributes:
        runtime: "onnxruntime-cpu-1-thread", "pytorch-eager-cuda", ...
        samples: measured operators.
        rates: peak FLOP/s by dtype.
        levels: (working set in bytes, bytes per second), ascending; the last is main memory.
        dispatch_s: what the runtime spends between two kernels.
        resolution_s: of the clock that timed the kernels.
        units: processors that share a kernel's tiles; 1 on a CPU.
        layout: how images are stored in blocks of channels; None where there is one layout.
        fusion: what the runtime merges.
        slow_runs: seconds that masks cost, by cause (core/masks.py).
        kept_s: after which the last cache has lost half of what it held; 0: it loses nothing.
        environment: hardware, versions and state of the machine.
        networks: seconds of the reference networks (calibration/references.py) by name.
        launches_ahead: whether samples hold their launch, which networks hide behind other kernels.
        noise: why the run is not to be trusted, in words; None: it is.
    """

    runtime: str
    samples: tuple[Sample, ...]
    rates: Mapping[str, Rate]
    levels: tuple[tuple[float, Rate], ...]
    dispatch_s: float
    resolution_s: float
    units: int = 1
    layout: Layout | None = None
    fusion: FusionRules = field(default_factory=FusionRules)
    environment: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, float] = field(default_factory=dict)
    slow_runs: Mapping[str, float] = field(default_factory=dict)
    kept_s: float = 0.0
    launches_ahead: bool = False
    noise: str | None = None
