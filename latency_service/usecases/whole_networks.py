"""The reference networks of a calibration, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from latency_service.calibration.references import NOTHING, REFERENCES, Reference
from latency_service.calibration.report import NetworkPoint
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.efficiency import Efficiency
from latency_service.core.features import FloatArray
from latency_service.core.predict import Predictor, interval_s
from latency_service.core.profile import FusionRules, Profile
from latency_service.ingest import read_network

# The networks are of floating numbers; without these nothing of them could be told.
_CONVOLUTIONS = ("float32 Conv/dense", "float32 Conv/pointwise")
_MEASURED = (*_CONVOLUTIONS, "float32 Gemm")
# What a kernel may take less among others, or near its data; more than this nothing explains.
_ALONE_S = tuple(0.5e-6 * step for step in range(25))
_NEAR_S = tuple(2e-6 * step for step in range(17))
_NEAR_BYTES = (0.5e6, 1e6, 2e6, 4e6)
# Standard deviation, in logarithms, between calibrations of how fast all kernels come out; less
# than a thousandth is not worth a correction.
_PACE_SPREAD, _LEAST_SHIFT = 0.03, 1e-3


def in_networks(
    efficiency: Efficiency, fusion: FusionRules, networks: Mapping[str, float]
) -> Efficiency:
    """The model with what kernels take less in a network, from the references that help the fit.

    First what a call takes; then `near_s` and `alone_s` in turns, for every `near_bytes`: those
    that make the mean absolute logarithm of predicted / measured least; last, how much slower all
    kernels are. Nothing changes without such networks.

    Args:
        networks: measured seconds by name.
    """
    if not any(name.endswith(_MEASURED) for name in efficiency.families):
        return efficiency
    efficiency = replace(efficiency, call_s=networks.get(NOTHING, 0.0))
    known = [row for row in _costs(efficiency, fusion, networks) if row[0].fitted]
    if not known:
        return efficiency
    convolves = any(name.endswith(_CONVOLUTIONS) for name in efficiency.families)
    measured = [networks[reference.name] for reference, _ in known]

    def logarithms(candidate: Efficiency) -> FloatArray:
        predicted = [Predictor(c, candidate).at(c.sizes).seconds.sum() for _, c in known]
        found: FloatArray = np.log(np.divide(measured, predicted))
        return found

    def error(candidate: Efficiency) -> float:
        return float(np.abs(logarithms(candidate)).mean())

    found = []
    for size in _NEAR_BYTES:
        one = replace(efficiency, near_bytes=size)
        for _ in range(2):
            one = min((replace(one, near_s=seconds) for seconds in _NEAR_S), key=error)
            if convolves:
                one = min((replace(one, alone_s=seconds) for seconds in _ALONE_S), key=error)
        found.append(one)
    best = min(found, key=error)
    best = best if best.near_s else replace(best, near_bytes=0.0)
    large = [not reference.tiny for reference, _ in known]
    return _slower(best, logarithms(best)[large]) if any(large) else best


def _slower(efficiency: Efficiency, logarithms: FloatArray) -> Efficiency:
    """The model with all kernels slower by what whole networks say on the whole.

    From one calibration to the next all kernels come out some per cent faster or slower, while
    readings of whole networks repeat within one. The posterior mean of a normal distribution whose
    prior is no difference (Gelman et al. 2013, equation 2.12), of robust estimates: the median and
    the median absolute deviation.

    Args:
        logarithms: (N,) of measured / predicted.
    """
    middle = float(np.median(logarithms))
    spread = 1.4826 * float(np.median(np.abs(logarithms - middle)))
    variance = np.pi / 2.0 * spread**2 / len(logarithms)  # of the median
    shift = middle * _PACE_SPREAD**2 / (_PACE_SPREAD**2 + variance)
    if abs(shift) < _LEAST_SHIFT:
        return efficiency
    return efficiency.slowed(shift)


def report_points(profile: Profile, networks: Mapping[str, float]) -> list[NetworkPoint]:
    """References that took no part in the fit, predicted by a calibrated profile."""
    if profile.efficiency is None:
        return []
    points = []
    efficiency = profile.efficiency
    for reference, costs in _costs(efficiency, profile.fusion, networks):
        if reference.fitted:
            continue
        name = reference.name
        predictor = Predictor(costs, efficiency)
        structure = predictor.at(costs.sizes)
        low, high = interval_s(predictor, structure) or (None, None)
        points.append(NetworkPoint(name, networks[name], float(structure.seconds.sum()), low, high))
    return points


def _costs(
    efficiency: Efficiency, fusion: FusionRules | None, networks: Mapping[str, float]
) -> Iterator[tuple[Reference, CostModel]]:
    """The networks that were measured."""
    for reference in REFERENCES:
        if reference.name in networks and reference.name != NOTHING:
            graph = read_network(reference.build()[0])
            yield reference, cost_model(graph, fusion=fusion, efficiency=efficiency)
