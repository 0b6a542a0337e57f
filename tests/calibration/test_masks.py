"""What masks cost, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from latency_service.calibration.backends import RunsNetworks, open_backend
from latency_service.calibration.masks import slow_runs
from latency_service.calibration.timing import Clock, Reading
from latency_service.core.masks import CAUSES


class Undisturbed(Clock):
    """Finds all readings undisturbed."""

    def undisturbed(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        return readings


class FakeSession:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.readings: list[Reading] = []

    def run(self) -> float:
        # every fourth run is disturbed
        late = 1e-3 if len(self.readings) % 4 == 3 else 0.0
        self.readings.append(Reading(self.seconds + late))
        return self.seconds


class FakeBackend:
    """A processor that is slow with numbers below 1e-38, if at all."""

    threads = 1

    def __init__(self, masked_s: float, subnormal_s: float, product_s: float) -> None:
        self.slow = masked_s, subnormal_s, product_s
        self.clock: Clock = Undisturbed()

    def network(self, model: bytes, feeds: Mapping[str, Any]) -> FakeSession:
        masked_s, subnormal_s, product_s = self.slow
        if "scores" in feeds:
            scores = feeds["scores"]
            runs = scores.reshape(*scores.shape[:-1], -1, 16)
            left = ((runs < -87.4) & (runs > -104)).any(axis=-1)
            gone = (runs < -87.4).any(axis=-1) & ~left
            return FakeSession(40e-6 + gone.sum() * masked_s + left.sum() * subnormal_s)
        shares, values = feeds["shares"], feeds["values"]
        tiny = ((shares != 0) & (np.abs(shares) < 1e-38)).sum()
        return FakeSession(80e-6 + tiny * values.shape[-1] / 16 * product_s)


def test_each_cause_is_told_from_its_own_pair():
    found = slow_runs(FakeBackend(71e-9, 139e-9, 37e-9))
    assert found == pytest.approx({"masked": 71e-9, "subnormal": 139e-9, "product": 37e-9})


def test_a_processor_that_is_never_slow_has_none():
    assert slow_runs(FakeBackend(1e-12, 0.0, 0.0)) == {}


def test_what_is_no_microcode_is_noise():
    # a tenth longer, and more, but by less than a cycle or two a run
    assert slow_runs(FakeBackend(0.0, 0.0, 0.9e-9)) == {}


def test_the_runtime_of_this_machine_is_measured():
    backend = open_backend("onnxruntime")
    assert isinstance(backend, RunsNetworks)
    found = slow_runs(backend)
    assert set(found) <= set(CAUSES)
    # a hundred cycles or so, on those that are
    assert all(1e-9 < seconds < 1e-6 for seconds in found.values())
