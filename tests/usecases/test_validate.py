"""What networks are fed to be timed, and which of their runs count."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from latency_service.calibration.backends import Run
from latency_service.calibration.backends.onnxruntime_backend import OnnxRuntime
from latency_service.calibration.timing import Clock, Reading
from latency_service.core.binding import Binding
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output
from latency_service.usecases.validate import _measure, feeds


def graph(*inputs: GraphInput) -> LayerGraph:
    layer = Layer("y", "Identity", (inputs[0].name,), (Output("y"),))
    return LayerGraph(inputs, (layer,), ("y",))


def test_feeds_have_the_bound_shapes_and_the_stated_dtypes() -> None:
    found = feeds(
        graph(
            GraphInput("image", ("N", 3, 11)),
            GraphInput("half", (5, 7), "float16"),
            GraphInput("ids", ("N", "T"), "int64"),
            GraphInput("known", (13,), "bool"),
        ),
        Binding(dims={"N": 2, "T": 17}, shapes={"half": (5, 19)}),
    )
    shapes = {name: (array.dtype.name, array.shape) for name, array in found.items()}
    assert shapes == {
        "image": ("float32", (2, 3, 11)),
        "half": ("float16", (5, 19)),
        "ids": ("int64", (2, 17)),
        "known": ("bool", (13,)),
    }
    assert found["image"].std() > 0.5
    assert set(np.unique(found["ids"])) == {0, 1}


def test_a_mask_hides_nothing() -> None:
    found = feeds(
        graph(GraphInput("Attention_Mask", (2, 7), "int64"), GraphInput("mask", (2, 7))), Binding()
    )
    for array in found.values():
        assert (array == 1).all()


class Machine:
    """A backend whose network takes half as long again behind the reference."""

    def __init__(self, network_s: float) -> None:
        self.clock = Clock(1)
        self.network_s = network_s
        self.ran: list[str] = []
        self.readings: list[Reading] = []

    def network(self, *_: Any) -> Machine:
        return self

    def prepare(self, *_: Any) -> Beside:
        return Beside(self.ran)

    def run(self) -> float:
        last = 1.0 if self.ran[-1] == "network" else 1.5
        self.readings.append(Reading(last * self.network_s))
        self.ran.append("network")
        return self.readings[-1].wall_s


class Beside:
    """The reference kernel."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    def run(self) -> float:
        self.ran.append("reference")
        return 1e-4

    def finish(self) -> list[Run]:
        return [Run(1e-4, 0.0, 0.0, True)] * self.ran.count("reference")


@pytest.mark.parametrize(
    ("network_s", "measured_s", "on_end"), [(7e-3, 7e-3, 4), (30e-3, 45e-3, 1)]
)
def test_a_short_network_is_timed_on_end(
    monkeypatch: pytest.MonkeyPatch, network_s: float, measured_s: float, on_end: int
) -> None:
    monkeypatch.setattr("latency_service.usecases.validate._SECONDS", 0.0)
    machine = Machine(network_s)
    low, spread, shared, pace_s = _measure(cast(OnnxRuntime, machine), b"", {})
    assert (low, spread, pace_s) == pytest.approx((measured_s, 0.0, 1e-4))
    assert shared == 0.0
    # two turns that do not count
    assert machine.ran[:8] == [*["reference"] * 3, "network"] * 2
    assert machine.ran[8 : 11 + on_end] == [*["reference"] * 3, *["network"] * on_end]
