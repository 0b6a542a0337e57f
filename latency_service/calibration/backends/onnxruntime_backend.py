"""Measuring operators through onnxruntime.

In a network a layer's weights have left the nearer caches when it runs again, while its input has
just been written. Workloads therefore take turns, and a kernel of another operator writes the input
of each (onnx_placement.py, onnxruntime_session.py). The runtime's own profile says how long each
kernel took, so that layout reorders around a convolution are told apart from the convolution
itself. Writing the profile costs time inside the kernels that it times; a network of small ones,
run with it and without, says how much, and that is taken off.

Other execution providers run too, timed as latency_service/calibration/backends/
onnxruntime_accelerator.py says; none but the CPU's has been run on hardware yet.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from latency_service.calibration import bandwidth
from latency_service.calibration.backends import Backend, Prepared, onnx_models, onnx_placement
from latency_service.calibration.backends.onnx_models import mixed_network
from latency_service.calibration.backends.onnxruntime_accelerator import (
    DeviceSession,
    empty_call_s,
    trivial_model,
)
from latency_service.calibration.backends.onnxruntime_process import share_memory, share_threads
from latency_service.calibration.backends.onnxruntime_rules import discover
from latency_service.calibration.backends.onnxruntime_session import Session, turn_of
from latency_service.calibration.measurement import Rate
from latency_service.calibration.timing import Clock, bootstrap_interval
from latency_service.core.efficiency import Layout
from latency_service.core.errors import CalibrationError, OptionError
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Workload

# What stands around a kernel that runs in another type or layout, put there by the runtime or by
# the workload's model. In a network these stand at the ends only: between two such kernels they
# cancel out.
_AROUND = frozenset({"Cast", "Transpose", onnx_models.BLOCKER})
# These take blocks of channels only from a neighbour; workloads of whole blocks get one.
_FOLLOWERS = frozenset({"Concat", "Resize", "GlobalAveragePool", "GlobalMaxPool"})
_WHOLE_BLOCKS = 32
# Size of the network that tells what the profile costs, how often it runs, and how often anew.
_MIXED_BLOCKS, _ADDED_RUNS, _ADDED_ROUNDS = 12, 60, 9
_LEVEL_RUNS = 15
# Runs before what is timed: long enough to bring a core's clock to where a network has it, and
# small enough to leave a core's own cache as it is.
_PRODUCT = Workload("MatMul", ((128, 128), (128, 128)), outputs=((128, 128),))


def open_backend(provider: str | None, threads: int) -> Backend:
    """The runtime with one of its execution providers.

    Raises:
        OptionError: if the provider is not installed.
    """
    wanted = provider or "CPUExecutionProvider"
    installed = onnxruntime.get_available_providers()
    if wanted not in installed:
        raise OptionError(
            f"onnxruntime has no provider {wanted!r} here; installed: {', '.join(installed)}"
        )
    return OnnxRuntime(wanted, threads)


class OnnxRuntime:
    """onnxruntime with one execution provider and a fixed number of threads."""

    def __init__(self, provider: str, threads: int) -> None:
        self.provider = provider
        self.threads = threads
        self.clock = Clock(threads)
        self.resolution_s = 1e-6  # the profile counts whole microseconds
        self.units = 1
        self.launches_ahead = False
        self._added_s: float | None = None
        self._call_s: float | None = None
        self._product: tuple[onnxruntime.InferenceSession, onnxruntime.IOBinding] | None = None
        self._folder: Path | None = None
        self._profiles = 0

    @property
    def kind(self) -> str:
        """Of the device."""
        return "cpu" if self.provider == "CPUExecutionProvider" else "gpu"

    @property
    def runtime(self) -> str:
        """Its name in a profile."""
        if self.kind == "cpu":
            return f"onnxruntime-cpu-{self.threads}-thread{'' if self.threads == 1 else 's'}"
        return "onnxruntime-" + self.provider.removesuffix("ExecutionProvider").lower()

    def facts(self) -> Mapping[str, Any]:
        """Versions and settings that the numbers depend on."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "provider": self.provider,
            "threads": self.threads,
        }

    @property
    def added_s(self) -> float:
        """Seconds that the profile adds to every kernel, measured once.

        Beside another thread on the same core it is twice as much, and some kernels take no more
        than that in all: the lower quartile of several.
        """
        if self._added_s is None:
            found = [self._measure_added() for _ in range(_ADDED_ROUNDS)]
            self._added_s = _quarter(found)
        return self._added_s

    @property
    def call_s(self) -> float:
        """Seconds that a run takes on an accelerator beside its kernels, measured once."""
        if self._call_s is None:
            self._call_s = empty_call_s(self)
        return self._call_s

    def levels(self, seconds: float) -> tuple[tuple[float, Rate], ...]:
        """(working set in bytes, rate) ascending; the last is main memory."""
        if self.kind == "cpu":
            return bandwidth.levels(seconds, self.threads)
        found: list[tuple[float, Rate]] = []
        for size in [1 << power for power in range(20, 31)]:
            model, feeds = trivial_model((size // 8,))
            session = DeviceSession(self, model, feeds, call_s=self.call_s)
            for _ in range(3 + _LEVEL_RUNS):
                session.run()
            rates = [size / run.kernel_s for run in session.finish()[3:]]
            low, high = bootstrap_interval(rates)
            found.append((float(size), Rate(float(np.median(rates)), low, high)))
        return tuple(found)

    def prepare(self, work: Workload) -> Prepared:
        """Make a workload ready.

        Raises:
            CalibrationError: if the runtime cannot run it.
        """
        if self.kind == "gpu" and work.op in onnx_placement.VIEWS:
            raise CalibrationError(f"{work.op} is no kernel of an accelerator")
        copies = onnx_placement.copies_of(work) if self.kind == "gpu" else 1
        try:
            model, feeds = onnx_models.build_model(
                work, copies, blocked=_stands_in_blocks(work), lead=self.kind == "cpu"
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"{work.op} cannot be written as a model: {error}") from None
        if self.kind == "gpu":
            return DeviceSession(self, model, feeds, copies, self.call_s)
        around = (_AROUND | {*onnx_placement.leads(work.op)}) - {work.op}
        prepared = Session(self, model, feeds, turn=turn_of(work), around=around)
        if work.outputs:
            prepared.place(work, feeds)
        return prepared

    def network(self, model: bytes | str, feeds: Mapping[str, Any]) -> Session:
        """A whole network that is ready to run."""
        return Session(self, model, feeds, profiled=False)

    def discover(self, dtype: str) -> tuple[FusionRules, Layout | None]:
        """What the runtime merges, and how it stores images."""
        return discover(self.provider, self.runtime, self.threads)

    def options(self, profile_prefix: str | None = None) -> onnxruntime.SessionOptions:
        """The runtime's defaults, with so many threads for one operator.

        Args:
            profile_prefix: of the profile that a workload writes; None for a whole network, which
                runs as its users run it.
        """
        options = onnxruntime.SessionOptions()
        share_threads(options, self.threads)
        options.log_severity_level = 4
        if profile_prefix is not None:
            if self.kind == "cpu":
                share_memory(options)
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        return options

    def multiply(self) -> None:
        """Multiply two matrices on all threads: some 25 microseconds on one."""
        if self._product is None:
            model, feeds = onnx_models.build_model(_PRODUCT, 1)
            session = onnxruntime.InferenceSession(model, self.options(), providers=[self.provider])
            binding = session.io_binding()
            for name, value in feeds.items():
                binding.bind_cpu_input(name, value)
            binding.bind_output(session.get_outputs()[0].name, "cpu")
            self._product = session, binding
        session, binding = self._product
        session.run_with_iobinding(binding)

    def next_profile(self) -> str:
        """Where the next profile goes; the folder lives as long as the backend."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="latency-service-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._profiles += 1
        return str(self._folder / f"profile-{self._profiles}")

    def _measure_added(self) -> float:
        """A network of small and different kernels, with the profile and without.

        Between different kernels the profile's own code and data leave the caches, as the
        network's do; a chain of equal ones would show half of what it costs.
        """
        mixed, alone = mixed_network(_MIXED_BLOCKS), mixed_network(0)
        call, plain = (Session(self, *model, profiled=False) for model in (alone, mixed))
        profiled = Session(self, *mixed)
        for _ in range(_ADDED_RUNS):
            # in turns, so that what slows the machine slows all three
            for session in (call, plain, profiled):
                self.multiply()  # all three at the clock of what is profiled
                session.run()
        runs = profiled.kernels()
        quiet = self.clock.undisturbed(profiled.readings)
        pairs = zip(runs, profiled.readings, strict=True)
        kernels_s = _quarter([sum(run.values()) for run, reading in pairs if reading in quiet])
        plain_s = self._undisturbed_s(plain) - self._undisturbed_s(call)
        return max((kernels_s - plain_s) / max(len(runs[-1]), 1), 0.0)

    def _undisturbed_s(self, session: Session) -> float:
        """Wall seconds of a run."""
        return _quarter([reading.wall_s for reading in self.clock.undisturbed(session.readings)])


def _quarter(seconds: Sequence[float]) -> float:
    """Their lower quartile."""
    return float(np.quantile(seconds, 0.25))


def _stands_in_blocks(work: Workload) -> bool:
    images = all(len(shape) == 4 and shape[1] % _WHOLE_BLOCKS == 0 for shape in work.inputs)
    return work.op in _FOLLOWERS and images and work.attributes.get("axis", 1) == 1
