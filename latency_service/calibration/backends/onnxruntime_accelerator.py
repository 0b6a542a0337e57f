"""Timing onnxruntime on an accelerator, where the profile sees only the host's side.

Inputs and outputs are bound on the device. One reading is a run and the wait for its end; what a
model of one trivial operator takes is taken off, and the rest is shared by the copies. Written
after onnxruntime's manual: it has run with the CPU in the accelerator's place, not on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime
from onnx import helper

from latency_service.calibration.backends import Run
from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.timing import Clock
from latency_service.core.errors import CalibrationError

# Where a provider's tensors live; of providers that are not named here, in the host's memory.
MEMORY: Mapping[str, str] = {
    "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda",
    "MIGraphXExecutionProvider": "cuda", "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}  # fmt: skip
_LEAST_S = 1e-7
_EMPTY_RUNS = 100


class Host(Protocol):
    """What a session needs to know of its backend."""

    provider: str
    clock: Clock

    def options(self) -> onnxruntime.SessionOptions:
        """Of every session."""
        ...


class DeviceSession:
    """A model that is ready to run on an accelerator.

    Attributes:
        copies: of the workload in the model.
        call_s: what a run takes that computes nothing.
    """

    most_runs = 30
    evicts, at_once = False, 1

    def __init__(
        self,
        backend: Host,
        model: bytes,
        feeds: Mapping[str, Any],
        copies: int = 1,
        call_s: float = 0.0,
        memory: str | None = None,
    ) -> None:
        self.copies, self.call_s = copies, call_s
        self._clock = backend.clock
        where = MEMORY.get(backend.provider, "cpu") if memory is None else memory
        try:
            self._session = onnxruntime.InferenceSession(
                model, backend.options(), providers=[backend.provider]
            )
            self._binding = self._session.io_binding()
            for name, value in feeds.items():
                there = onnxruntime.OrtValue.ortvalue_from_numpy(value, where, 0)
                self._binding.bind_ortvalue_input(name, there)
            for output in self._session.get_outputs():
                self._binding.bind_output(output.name, where, 0)
        except Exception as error:  # the binding's exceptions share no base class
            raise CalibrationError(f"onnxruntime cannot run the model: {error}") from None
        self._runs: list[Run] = []

    def run(self) -> float:
        """Run once and wait for the end; wall seconds."""
        with self._clock.reading() as reading:
            try:
                self._session.run_with_iobinding(self._binding)
                self._binding.synchronize_outputs()
            except Exception as error:
                raise CalibrationError(f"onnxruntime cannot run the model: {error}") from None
        seconds = max((reading.wall_s - self.call_s) / self.copies, _LEAST_S)
        # the host waits while the device computes, so that its CPU time says nothing
        self._runs.append(Run(seconds, 0.0, 0.0, True))
        return reading.wall_s

    def finish(self) -> list[Run]:
        """End the session; what every run took."""
        return self._runs


def empty_call_s(backend: Host) -> float:
    """What running a model of one trivial operator takes, and waiting for its end."""
    session = DeviceSession(backend, *trivial_model((1, 16)))
    readings = [session.run() for _ in range(_EMPTY_RUNS)]
    return float(np.median(readings[_EMPTY_RUNS // 5 :]))


def trivial_model(shape: tuple[int, ...]) -> tuple[bytes, dict[str, Any]]:
    """(model, feeds) that read a tensor and write it again."""
    feeds: dict[str, Any] = {"x": noise(shape)}
    return assemble([helper.make_node("Neg", ["x"], ["y"])], feeds, ["y"], []), feeds
