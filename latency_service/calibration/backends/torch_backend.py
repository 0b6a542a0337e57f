"""Measuring operators through eager PyTorch: on the CPU, on CUDA, and on MPS and XPU.

Every sample holds the launch, since eager PyTorch pays it for each operator: an event before the
call, one after it, on a device that waits for nothing else. Before each run on an accelerator a
buffer larger than its caches is cleared. float32 multiplies in float32 (no TF32), and cuDNN chooses
algorithms by its heuristics, not by trying them.

Only the CPU's part has run on hardware yet; CUDA, MPS and XPU are written after their manuals.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_service.calibration import bandwidth
from latency_service.calibration.backends import Prepared, Run
from latency_service.calibration.backends.eager import EAGER
from latency_service.calibration.backends.torch_operators import Compute, compute_of
from latency_service.calibration.measurement import Rate
from latency_service.calibration.timing import Clock, Reading, bootstrap_interval
from latency_service.core.efficiency import Layout
from latency_service.core.errors import CalibrationError, OptionError
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Workload

# Weights of a workload's copies together; below the least one copy will do.
_SMALL_WEIGHTS, _COLD_BYTES, _MOST_COPIES = 64e3, 24e6, 8
_FLUSH_BYTES = 256 << 20
_LEAST_S = 1e-8
_FLOATS = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64,
           "bfloat16": torch.bfloat16}  # fmt: skip


def devices() -> list[str]:
    """What PyTorch can run on here, accelerators first."""
    found = [
        name
        for name in ("cuda", "xpu", "mps")
        if (part := getattr(torch, name, None)) is not None and part.is_available()
    ]
    return [*found, "cpu"]


def open_backend(provider: str | None, threads: int) -> Torch:
    """Eager PyTorch on one of its devices; the first of `devices()` unless one is named.

    Raises:
        OptionError: if the device is not there.
    """
    installed = devices()
    wanted = provider or installed[0]
    if wanted not in installed:
        raise OptionError(f"torch has no device {wanted!r} here; it has: {', '.join(installed)}")
    return Torch(wanted, threads)


class Torch:
    """Eager PyTorch on one device."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = device
        self.threads = threads
        self.clock = Clock(threads)
        self.resolution_s = 0.5e-6 if device == "cuda" else 0.1e-6
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._flush = None if device == "cpu" else torch.zeros(
            _FLUSH_BYTES // 4, dtype=torch.float32, device=device
        )  # fmt: skip
        self._empty_s = self._measure_empty()

    @property
    def kind(self) -> str:
        """Of the device."""
        return "cpu" if self.device == "cpu" else "gpu"

    @property
    def runtime(self) -> str:
        """Its name in a profile."""
        if self.kind == "cpu":
            return f"pytorch-eager-cpu-{self.threads}-thread{'' if self.threads == 1 else 's'}"
        return f"pytorch-eager-{self.device}"

    @property
    def units(self) -> int:
        """Processors that share a kernel's tiles."""
        if self.device == "cuda":
            return int(torch.cuda.get_device_properties(0).multi_processor_count)
        if self.device == "xpu":
            return int(torch.xpu.get_device_properties(0).max_compute_units)
        return 1

    @property
    def launches_ahead(self) -> bool:
        """Whether kernels are launched while others run: on every accelerator."""
        return self.kind == "gpu"

    def facts(self) -> Mapping[str, Any]:
        """Versions and settings that the numbers depend on."""
        found: dict[str, Any] = {
            "torch": torch.__version__,
            "device": self.device,
            "threads": self.threads,
            "tf32": False,
        }
        if self.device == "cuda":
            found["gpu"] = torch.cuda.get_device_name(0)
            found["cuda"] = torch.version.cuda
            cudnn: Any = torch.backends.cudnn
            found["cudnn"] = cudnn.version()
            found |= _clocks()
        return found

    def discover(self, dtype: str) -> tuple[FusionRules, Layout | None]:
        """What one call of PyTorch does; images keep their layout."""
        return EAGER, None

    def prepare(self, work: Workload) -> Prepared:
        """Make a workload ready.

        Raises:
            CalibrationError: if eager PyTorch cannot run it.
        """
        compute = compute_of(work)
        if compute is None or work.merges or work.dtype not in _FLOATS:
            what = f"merging {' '.join(work.merges)}" if work.merges else f"in {work.dtype}"
            raise CalibrationError(f"eager PyTorch has no {work.op} {what}")
        try:
            return _Prepared(self, work, compute)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise CalibrationError(f"eager PyTorch cannot run {work.op}: {error}") from None

    def levels(self, seconds: float) -> tuple[tuple[float, Rate], ...]:
        """(working set in bytes, rate) ascending, of this device's memory."""
        if self.kind == "cpu":
            return bandwidth.levels(seconds, self.threads)
        found: list[tuple[float, Rate]] = []
        sizes = [1 << power for power in range(20, 31)]
        for size in sizes:
            source = torch.ones(size // 8, dtype=torch.float32, device=self.device)
            target = torch.empty_like(source)
            rounds: list[float] = []
            until = time.perf_counter() + seconds / len(sizes)
            while len(rounds) < 5 or time.perf_counter() < until:
                copy = partial(target.copy_, source)
                best = min(self.timed(copy, cold=False)[0] for _ in range(5))
                rounds.append(size / best)
            low, high = bootstrap_interval(rounds)
            found.append((float(size), Rate(float(np.median(rounds)), low, high)))
        return tuple(found)

    def timed(
        self, call: Callable[[], Any], cold: bool = True, patience_s: float = 0.0
    ) -> tuple[float, Reading]:
        """(seconds of a call, what the clock says of it); of an accelerator it says nothing.

        Args:
            cold: clear the accelerator's caches first.
            patience_s: as `Clock.reading` has it.
        """
        if self.kind == "cpu":
            with self.clock.reading(patience_s) as reading:
                call()
            return max(reading.wall_s - self._empty_s, _LEAST_S), reading
        if cold and self._flush is not None:
            self._flush.zero_()
        self._synchronise()
        if self.device == "cuda":
            event: Any = torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            return max(begin.elapsed_time(end) * 1e-3, _LEAST_S), Reading()
        with self.clock.reading() as reading:
            call()
            self._synchronise()
        return max(reading.wall_s - self._empty_s, _LEAST_S), Reading()

    def _synchronise(self) -> None:
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def _measure_empty(self) -> float:
        """What a reading of nothing takes."""
        taken = []
        for _ in range(200):
            with self.clock.reading() as reading:
                pass
            taken.append(reading.wall_s)
        return float(np.median(taken))


class _Prepared:
    """An operator and its operands, once or several times."""

    most_runs = 30
    evicts, at_once = False, 1

    def __init__(self, backend: Torch, work: Workload, compute: Compute) -> None:
        self._backend = backend
        self._compute = compute
        generator = torch.Generator().manual_seed(0)
        size = torch.empty((), dtype=_FLOATS[work.dtype]).element_size()
        weights = size * sum(int(np.prod(work.inputs[place])) for place in work.learned)
        copies = 1
        if weights >= _SMALL_WEIGHTS:
            copies = int(np.clip(np.ceil(_COLD_BYTES / weights), 2, _MOST_COPIES))
        shared = {
            place: self._operand(work, place, generator)
            for place in range(len(work.inputs))
            if place not in work.learned
        }
        self._operands: list[list[Tensor]] = [
            [
                shared[place] if place in shared else self._operand(work, place, generator)
                for place in range(len(work.inputs))
            ]
            for _ in range(copies)
        ]
        self._runs: list[tuple[float, Reading]] = []
        with torch.inference_mode():
            compute(self._operands[0])  # what cannot be run shows here
        backend._synchronise()

    def _operand(self, work: Workload, place: int, generator: torch.Generator) -> Tensor:
        shape = work.inputs[place]
        if work.op == "Where" and place == 0:
            return torch.rand(shape, generator=generator).gt(0.5).to(self._backend.device)
        if work.op == "OneHot":
            indices = torch.randint(int(work.attributes["depth"]), shape, generator=generator)
            return indices.to(self._backend.device)
        if work.op == "Pow" and place == 1 and not shape:
            # what networks write; runtimes have a kernel of its own for it
            return torch.tensor(2.0, dtype=_FLOATS[work.dtype], device=self._backend.device)
        # positive, so that variances, divisors and roots are usable
        data = torch.rand(shape, generator=generator) + 0.1
        return data.to(_FLOATS[work.dtype]).to(self._backend.device)

    def run(self) -> float:
        """Run every copy once; the seconds of all."""
        total, reading = 0.0, Reading()
        with torch.inference_mode():
            if self._backend.kind == "cpu":
                patience_s = self._runs[-1][0] if self._runs else 0.0
                total, reading = self._backend.timed(self._all, patience_s=patience_s)
            else:
                for operands in self._operands:
                    seconds, _ = self._backend.timed(partial(self._compute, operands))
                    total += seconds
        self._runs.append((total, reading))
        return total

    def _all(self) -> None:
        for operands in self._operands:
            self._compute(operands)

    def finish(self) -> list[Run]:
        """Release the operands; what every run took."""
        copies, self._operands = len(self._operands), []
        return [
            Run(total / copies, 0.0, 0.0, r.clean, shared=self._backend.clock.shared(r))
            for total, r in self._runs
        ]


def _clocks() -> dict[str, str]:
    """Clocks, power and temperature of the first NVIDIA card, if its tool is installed."""
    fields = "driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,persistence_mode"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(fields.split(","), values, strict=False))
