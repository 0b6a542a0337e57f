"""A model in onnxruntime on a CPU that is ready to run, and to tell how long its kernels took.

What a workload's run finds in the caches is what a network's layer finds there. Its weights have
left the nearer ones; its input has just been written, and where it writes is where the kernel
before the last one has read. And its core has just multiplied, as it does in a network most of the
time: many processors lower their clock for products of wide vectors, and leave it there for some
hundred microseconds.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from latency_service.calibration.backends import Run, onnx_placement
from latency_service.calibration.backends.onnx_types import NUMPY
from latency_service.calibration.timing import Clock, Reading
from latency_service.core.errors import CalibrationError
from latency_service.core.sample import Workload

# All workloads write to one place, and find it in the caches, as layers of a network reuse each
# other's buffers. Its pages are the system's usual ones, as those of the runtime's own memory are:
# NumPy asks for huge ones, over which channels that lie 2^n bytes apart evict each other.
_SCRATCH = np.frombuffer(mmap.mmap(-1, 64_000_000), dtype=np.float64)
# Bytes of a cache line.
_LINE = 64
_LEAST_S = 1e-7
# Reading this evicts everything else, and reading its beginning all that a core has for itself.
_EVERYTHING = np.ones(16_000_000, dtype=np.float64)
_NEARER, _NOTHING = _EVERYTHING[:500_000], _EVERYTHING[:0]
_MOST_RUNS, _MOST_COLD_RUNS = 16, 4


class Step(NamedTuple):
    """What one run of a turn finds in the caches.

    Attributes:
        cached: as `Run.cached` tells it.
        evicts: what is read before, and drives out as much.
        afar: whether it writes where no kernel has been for a while.
    """

    cached: bool | None
    evicts: npt.NDArray[np.float64] = _NOTHING
    afar: bool = False


# All runs alike, near or afar; one that writes afar and one near; and large weights from main
# memory, on their way, and twice from the last cache: a cache that takes what nearer ones drop
# keeps only what comes again.
ALIKE = (Step(False),)
AFAR = (Step(False, _NEARER, afar=True),)
OUTPUTS = (Step(False, _NEARER, afar=True), Step(True))
WEIGHTS = (
    Step(False, _EVERYTHING), Step(None, _NEARER), Step(True, _NEARER), Step(True, _NEARER),
)  # fmt: skip


def turn_of(work: Workload) -> tuple[Step, ...]:
    """The runs of one turn of a workload."""
    if onnx_placement.is_cold(work):
        return WEIGHTS
    if onnx_placement.is_product(work):
        return AFAR
    return OUTPUTS if onnx_placement.writes_afar(work) else ALIKE


class Host(Protocol):
    """What a session needs to know of its backend."""

    provider: str
    clock: Clock

    @property
    def added_s(self) -> float:
        """Seconds that the profile adds to every kernel."""
        ...

    def options(self, profile_prefix: str | None = None) -> onnxruntime.SessionOptions:
        """Of every session."""
        ...

    def next_profile(self) -> str:
        """Where the next profile goes."""
        ...

    def multiply(self) -> None:
        """Multiply matrices for a moment."""
        ...


class Session:
    """A model that is ready to run and to tell how long its kernels took.

    Attributes:
        turn: what its runs find, one after the other.
        around: operators whose kernels are not the workload's.
    """

    def __init__(
        self,
        backend: Host,
        model: bytes | str,
        feeds: Mapping[str, Any],
        profiled: bool = True,
        turn: tuple[Step, ...] = ALIKE,
        around: frozenset[str] = frozenset(),
    ) -> None:
        self.backend = backend
        # a whole network is called as its users call it
        self._feeds = None if profiled else dict(feeds)
        self.turn, self.around = turn, around
        self._raw = [
            value.reshape(-1).view(np.uint8) for value in feeds.values() if value.dtype.kind != "f"
        ]
        self._written = self._read = self._original = _SCRATCH[:0]
        prefix = backend.next_profile() if profiled else None
        try:
            self._session = onnxruntime.InferenceSession(
                model, backend.options(prefix), providers=[backend.provider]
            )
            self._near = self._far = self._bound(feeds)
            if any(step.afar for step in turn):
                self._far = self._bound(feeds)
        except Exception as error:  # the binding's exceptions share no base class
            raise CalibrationError(f"onnxruntime cannot run the model: {error}") from None
        self.readings: list[Reading] = []

    @property
    def evicts(self) -> bool:
        """Whether it empties the caches before the first run of a turn."""
        return self.turn[0].evicts is _EVERYTHING

    @property
    def most_runs(self) -> int:
        """How often it is worth running in one round."""
        return _MOST_COLD_RUNS if self.evicts else _MOST_RUNS

    @property
    def at_once(self) -> int:
        """Runs of a turn."""
        return len(self.turn)

    def _bound(self, feeds: Mapping[str, Any]) -> onnxruntime.IOBinding:
        """A binding that reads the feeds, and writes where the runtime likes."""
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, "cpu")
        return binding

    def place(self, work: Workload, feeds: Mapping[str, Any]) -> None:
        """Write where all workloads do, one output behind the other.

        What a kernel before the workload reads lies in the same place, unless it writes afar: in a
        network a layer's output goes where the input of the layer before it was, which is needed no
        more.
        """
        outputs = self._session.get_outputs()
        kind, name = NUMPY[work.dtype], _type_name(work.dtype)
        sizes = [math.prod(shape) * np.dtype(kind).itemsize for shape in work.outputs]
        # each begins with a cache line
        ends = np.cumsum([-(-size // _LINE) * _LINE for size in sizes])
        if len(sizes) != len(outputs) or any(output.type != name for output in outputs):
            return
        if ends[-1] > _SCRATCH.nbytes:
            return
        for output, shape, begin in zip(outputs, work.outputs, [0, *ends[:-1]], strict=True):
            place = _SCRATCH.ctypes.data + int(begin)
            for binding in (self._near, self._far):
                binding.bind_output(output.name, "cpu", 0, kind, list(shape), place)
        self._written = _SCRATCH[: ends[-1] // _SCRATCH.itemsize]
        for consumed in onnx_placement.consumed(work):
            if feeds[consumed].dtype.kind == "f" and feeds[consumed].nbytes <= _SCRATCH.nbytes:
                self._read_there(consumed, feeds[consumed])
                return

    def _read_there(self, name: str, original: npt.NDArray[Any]) -> None:
        """Let an input lie where the outputs go; every run finds it there anew."""
        self._original = original.reshape(-1)
        self._read = _SCRATCH.view(original.dtype)[: original.size]
        self._near.bind_input(
            name, "cpu", 0, original.dtype.type, list(original.shape), _SCRATCH.ctypes.data
        )

    def run(self) -> float:
        """Run once; wall seconds."""
        step = self.turn[len(self.readings) % self.at_once]
        if step.afar:
            self._written.fill(0.0)
        step.evicts.sum()
        if not step.afar:
            self._written.fill(0.0)
            self._read[:] = self._original
        for raw in self._raw:
            np.bitwise_or(raw, raw, out=raw)
        # longer than a run takes, another run is worth more than a wait
        patience_s = self.readings[-1].wall_s if self.readings else 0.0
        with self.backend.clock.reading(patience_s) as reading:
            try:
                if self._feeds is None:
                    self.backend.multiply()
                    self._session.run_with_iobinding(self._far if step.afar else self._near)
                else:
                    self._session.run(None, self._feeds)
            except Exception as error:
                raise CalibrationError(f"onnxruntime cannot run the model: {error}") from None
        self.readings.append(reading)
        return reading.wall_s

    def finish(self) -> list[Run]:
        """End the session; what every run took."""
        added = self.backend.added_s
        found = []
        for number, (kernels, reading) in enumerate(
            zip(self.kernels(), self.readings, strict=True)
        ):
            own = to_blocks = from_blocks = 0.0
            for (_, op), seconds in kernels.items():
                if op == "ReorderInput":
                    to_blocks += seconds - added
                elif op == "ReorderOutput":
                    from_blocks += seconds - added
                elif op not in self.around:
                    own += seconds - added
            found.append(
                Run(
                    max(own, _LEAST_S),
                    to_blocks,
                    from_blocks,
                    reading.clean,
                    self.turn[number % self.at_once].cached,
                    self.backend.clock.shared(reading),
                )
            )
        return found

    def kernels(self) -> list[dict[tuple[int, str], float]]:
        """End the session; per run, seconds of each kernel by (node, operator)."""
        path = Path(self._session.end_profiling())
        try:
            events = json.loads(path.read_text())
        except (OSError, ValueError):
            raise CalibrationError(
                f"the profile {path} of onnxruntime cannot be read: is there room in its folder? "
                "Set TMPDIR to another one"
            ) from None
        finally:
            path.unlink(missing_ok=True)
        runs: list[dict[tuple[int, str], float]] = []
        now: dict[tuple[int, str], float] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                arguments = event["args"]
                key = int(arguments["node_index"]), str(arguments["op_name"])
                now[key] = now.get(key, 0.0) + event["dur"] * 1e-6
            elif event.get("name") == "model_run":
                runs.append(now)
                now = {}
        return runs


def _type_name(dtype: str) -> str:
    return {"float32": "tensor(float)", "float16": "tensor(float16)"}.get(dtype, dtype)
