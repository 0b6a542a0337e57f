"""What executes a microbenchmark: one module and one row each.

A backend makes a workload ready to run and says how long its kernels took. Modules are imported on
use; a framework that is not installed is a sentence, not a traceback.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from latency_service.calibration.measurement import Rate
from latency_service.calibration.timing import Clock
from latency_service.core.efficiency import Layout
from latency_service.core.errors import MissingExtraError, OptionError
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Workload


class Run(NamedTuple):
    """Kernel times of one run.

    Attributes:
        kernel_s: of the workload itself, once.
        to_blocks_s, from_blocks_s: of a layout reorder of its input and its output; 0 without.
        clean: whether nothing disturbed it.
        cached: whether it found more in the caches than its workload's first run of a turn did;
            None while they are being filled: it counts as neither.
        shared: whether something else ran on the same core.
    """

    kernel_s: float
    to_blocks_s: float
    from_blocks_s: float
    clean: bool
    cached: bool | None = False
    shared: bool = False


class Prepared(Protocol):
    """A workload that is ready to run."""

    @property
    def most_runs(self) -> int:
        """How often it is worth running in one round."""
        ...

    @property
    def evicts(self) -> bool:
        """Whether it empties the caches before the first run of a turn."""
        ...

    @property
    def at_once(self) -> int:
        """Runs of a turn; 1 where all find the same in the caches, else the first finds least."""
        ...

    def run(self) -> float:
        """Run once; wall seconds, for planning only."""
        ...

    def finish(self) -> list[Run]:
        """Release it; what every run took, in order."""
        ...


class Backend(Protocol):
    """Runs workloads one at a time, on one device, with a fixed number of threads.

    Kernel times leave out what the measurement itself adds. A workload that the runtime cannot run
    raises CalibrationError from `prepare`, and nothing else does. Nothing is measured at import.
    """

    @property
    def runtime(self) -> str:
        """Name of the runtime in a profile ("onnxruntime-cpu-1-thread")."""
        ...

    @property
    def kind(self) -> str:
        """Of the device: "cpu" or "gpu"."""
        ...

    @property
    def units(self) -> int:
        """Processors that share a kernel's tiles; 1 on a CPU."""
        ...

    @property
    def threads(self) -> int:
        """How many of them an operator computes with."""
        ...

    @property
    def resolution_s(self) -> float:
        """Of the clock that times kernels."""
        ...

    @property
    def launches_ahead(self) -> bool:
        """Whether readings hold the launch, which a network hides behind the kernels before."""
        ...

    def prepare(self, work: Workload) -> Prepared:
        """Make a workload ready."""
        ...

    def discover(self, dtype: str) -> tuple[FusionRules, Layout | None]:
        """What the runtime merges, and how it stores images."""
        ...

    def levels(self, seconds: float) -> tuple[tuple[float, Rate], ...]:
        """Bandwidth of the device's memory by working set.

        Args:
            seconds: to spend on it.

        Returns:
            (working set in bytes, rate) ascending; the last is main memory.
        """
        ...

    def facts(self) -> Mapping[str, Any]:
        """Versions and settings that the numbers depend on."""
        ...


@runtime_checkable
class RunsNetworks(Protocol):
    """A backend that runs whole ONNX networks too.

    Attributes:
        clock: that takes their readings.
        threads: of one operator.
    """

    clock: Clock
    threads: int

    def network(self, model: bytes, feeds: Mapping[str, Any]) -> Any:
        """A network that is ready: `run()`, and `readings` of its runs."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """A backend of the registry.

    Attributes:
        module: with a function `open(provider, threads)`.
        extra: the extra of this distribution that installs its framework; None: the base does.
    """

    module: str
    extra: str | None


BACKENDS: Mapping[str, Row] = {
    "onnxruntime": Row("latency_service.calibration.backends.onnxruntime_backend", None),
    "torch": Row("latency_service.calibration.backends.torch_backend", "torch"),
}


def open_backend(name: str, provider: str | None = None, threads: int = 1) -> Backend:
    """A backend by name.

    Raises:
        OptionError: for an unknown name or a provider that is not installed.
        MissingExtraError: if its framework is not installed.
    """
    row = BACKENDS.get(name)
    if row is None:
        raise OptionError(f"runtime {name!r}: choose one of {', '.join(BACKENDS)}")
    if threads < 1:
        raise OptionError(f"threads is {threads}; it must be at least 1")
    try:
        module = importlib.import_module(row.module)
    except ImportError as error:
        if row.extra is None:
            raise
        raise MissingExtraError(
            f"calibration backend {name!r} is not installed ({error}). "
            f"Run: pip install 'latency-service[{row.extra}]'"
        ) from None
    backend: Backend = module.open_backend(provider, threads)
    return backend


def names(backends: Mapping[str, Row] = BACKENDS) -> Sequence[str]:
    """Names of all backends."""
    return tuple(backends)
