"""Predicted against measured: networks run on this machine now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np

from latency_service.calibration import bench
from latency_service.calibration.backends.onnxruntime_backend import OnnxRuntime
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.errors import CalibrationError
from latency_service.core.graph import LayerGraph
from latency_service.core.predict import Predictor, interval_s
from latency_service.core.profile import Profile
from latency_service.usecases.fitted import REFERENCE

# Runs before those that count; runs of the reference in a row, whose best counts: the network
# before them has left nothing of it in the caches.
_UNTIMED, _IN_A_ROW = 2, 3
_LEAST_TURNS, _MOST_TURNS, _SECONDS = 3, 200, 1.5
# Runs of the network in a turn: what is predicted is one that runs over and over, and behind the
# reference some of its weights have left the caches. One that takes long finds none of them anyway.
_ON_END, _LONG_S, _LEAST_LONG = 4, 20e-3, 7


class Family(TypedDict):
    """One operator family of a network."""

    family: str
    kernels: int
    predicted_s: float


class Validation(TypedDict):
    """One network: `error` is predicted / measured - 1, `inside` whether the interval holds.

    Without an interval both its ends and `inside` are None. `shared` is the share of its runs
    beside which another thread ran on the same core. `pace` is how long a reference kernel took
    between its runs, as a multiple of what it took during the calibration; None: that is not known.
    """

    model: str
    measured_s: float
    spread_s: float
    shared: float
    pace: float | None
    predicted_s: float
    low_s: float | None
    high_s: float | None
    error: float
    inside: bool | None
    families: list[Family]


def feeds(graph: LayerGraph, binding: Binding, floating: str = "float32") -> dict[str, Any]:
    """Inputs of a network: noise for floating tensors, small numbers for the rest.

    A mask says that everything counts. What it hides would take many times as long on processors
    that compute slowly with numbers below 1e-38, which is what its softmax goes through.
    """
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for declared in graph.inputs:
        shape = binding.shapes.get(declared.name) or tuple(
            binding.dims.get(dim, 1) if isinstance(dim, str) else dim for dim in declared.shape
        )
        dtype = declared.dtype or floating
        if dtype == "bool" or "mask" in declared.name.lower():
            found[declared.name] = np.ones(shape, dtype)
        elif dtype.startswith("float"):
            found[declared.name] = rng.standard_normal(shape).astype(dtype)
        else:
            found[declared.name] = rng.integers(0, 2, shape).astype(dtype)
    return found


def validate(
    name: str,
    model: bytes,
    graph: LayerGraph,
    binding: Binding,
    profile: Profile,
    backend: OnnxRuntime,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Run a network and compare.

    Args:
        graph: what the model file holds.
        profile: a calibrated one, for the backend's runtime.

    Raises:
        CalibrationError: if the profile is not calibrated or for another runtime.
    """
    if profile.efficiency is None:
        raise CalibrationError(
            f"{profile.device.slug!r} (runtime {profile.runtime!r}) has not been calibrated; run: "
            f"calibrate --device {profile.device.slug}"
        )
    if profile.runtime != backend.runtime:
        raise CalibrationError(
            f"the profile is for {profile.runtime!r}, what runs here is {backend.runtime!r}; "
            "choose --threads and --provider to match"
        )
    costs = cost_model(graph, binding, fusion=profile.fusion, efficiency=profile.efficiency)
    predictor = Predictor(costs, profile.efficiency, profile.kernels_as)
    structure = predictor.at(costs.sizes)
    predicted = float(structure.seconds.sum())
    low, high = interval_s(predictor, structure) or (None, None)
    progress(name)
    measured, spread, shared, beside = _measure(backend, model, feeds(graph, binding))
    usual = profile.device.facts.get(REFERENCE, {}).get("value")
    families: dict[str, Family] = {}
    for family, seconds in zip(predictor.kernels.families, structure.seconds, strict=True):
        row = families.setdefault(family, {"family": family, "kernels": 0, "predicted_s": 0.0})
        row["kernels"] += 1
        row["predicted_s"] += float(seconds)
    return {
        "model": name,
        "measured_s": measured,
        "spread_s": spread,
        "shared": shared,
        "pace": beside / usual if isinstance(usual, float) and usual > 0 else None,
        "predicted_s": predicted,
        "low_s": low,
        "high_s": high,
        "error": predicted / measured - 1.0,
        "inside": None if low is None or high is None else low <= measured <= high,
        "families": sorted(families.values(), key=lambda row: -row["predicted_s"]),
    }


def _measure(
    backend: OnnxRuntime, model: bytes, inputs: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """A network's runs, and a reference kernel's before some of them.

    Returns:
        (lower quartile, quartile range) of undisturbed runs, the share that was not alone, and the
        reference's median.
    """
    session, reference = backend.network(model, inputs), backend.prepare(bench.REFERENCE)

    def turn(runs: int) -> None:
        for _ in range(_IN_A_ROW):
            reference.run()
        for _ in range(runs):
            session.run()

    try:
        for _ in range(_UNTIMED):
            turn(1)
        long = session.readings[-1].wall_s > _LONG_S
        on_end, least = (1, _LEAST_LONG) if long else (_ON_END, _LEAST_TURNS)
        until = time.monotonic() + _SECONDS
        for count in range(_MOST_TURNS):
            if count >= least and time.monotonic() > until:
                break
            turn(on_end)
    except BaseException:
        # its profile is a file
        with contextlib.suppress(Exception):
            reference.finish()
        raise
    # the first of several behind the reference finds less in the caches
    first = 0 if on_end == 1 else 1
    turns = range(_UNTIMED, len(session.readings), on_end)
    readings = [row for at in turns for row in session.readings[at + first : at + on_end]]
    clock = backend.clock
    seconds = [reading.wall_s for reading in clock.undisturbed(readings)]
    low, high = np.quantile(seconds, [0.25, 0.75])
    shared = [clock.shared(reading) for reading in readings]
    beside = reference.finish()[_UNTIMED * _IN_A_ROW :]
    rounds = [beside[at : at + _IN_A_ROW] for at in range(0, len(beside), _IN_A_ROW)]
    pace_s = bench.median_of_bests(rounds)
    return float(low), float(high - low), sum(shared) / len(shared), pace_s
