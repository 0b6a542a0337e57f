"""The reference networks of a calibration, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
# What a convolution may take less among others; more than this nothing explains.
_ALONE_S = tuple(0.5e-6 * step for step in range(25))
_NEAR_FIXED = tuple(0.1 * step for step in range(11))
# Standard deviation, in logarithms, between calibrations of how fast all kernels come out; less
# than a thousandth is not worth a correction.
_PACE_SPREAD, _LEAST_SHIFT = 0.03, 1e-3
# How often each is found anew, given the others.
_TURNS = 2


def in_networks(
    efficiency: Efficiency, fusion: FusionRules, networks: Mapping[str, float]
) -> Efficiency:
    """The model with what kernels take less in a network, from the references that help the fit.

    First what a call takes; then, in turns, `alone_s`, by which networks of convolutions differ
    least from each other in predicted / measured, how much slower all kernels are, by the middle
    half of them all, and `near_fixed`, by which tiny ones are off least. Nothing changes without
    such networks.

    Args:
        networks: measured seconds by name.
    """
    if not any(name.endswith(_MEASURED) for name in efficiency.families):
        return efficiency
    efficiency = replace(efficiency, call_s=networks.get(NOTHING, 0.0))
    known = [row for row in _costs(efficiency, fusion, networks) if row[0].fitted]
    if not known:
        return efficiency
    tiny, large = ([row for row in known if row[0].tiny is kind] for kind in (True, False))
    convolves = any(name.endswith(_CONVOLUTIONS) for name in efficiency.families)
    convolving = [row for row in large if convolves and _convolves(row[1])]

    def logarithms(
        candidate: Efficiency, rows: Sequence[tuple[Reference, CostModel]]
    ) -> FloatArray:
        predicted = [Predictor(c, candidate).at(c.sizes).seconds.sum() for _, c in rows]
        found: FloatArray = np.log(np.divide([networks[r.name] for r, _ in rows], predicted))
        return found

    def differ(candidate: Efficiency) -> float:
        found = logarithms(candidate, convolving)
        return float(np.abs(found - np.median(found)).mean())

    def off(candidate: Efficiency) -> float:
        return float(np.abs(logarithms(candidate, tiny)).mean())

    best = efficiency
    if tiny:
        best = replace(best, near_bytes=best.core_bytes)
    for _ in range(_TURNS):
        if convolving:
            best = min((replace(best, alone_s=seconds) for seconds in _ALONE_S), key=differ)
        if large:
            best = _slower(best, logarithms(best, large))
        if tiny:
            best = min((replace(best, near_fixed=part) for part in _NEAR_FIXED), key=off)
    return best


def _convolves(costs: CostModel) -> bool:
    assert costs.kernels is not None
    return any(family.startswith("Conv/") for family in costs.kernels.families)


def _slower(efficiency: Efficiency, found: FloatArray) -> Efficiency:
    """The model with kernels of floating numbers slower by what whole networks say on the whole.

    From one calibration to the next all of them come out some per cent faster or slower, while
    readings of whole networks repeat within one. The posterior mean of a normal distribution whose
    prior is no difference (Gelman et al. 2013, equation 2.12), of robust estimates: the mean of the
    middle half, and the median absolute deviation.

    Args:
        found: (N,) logarithms of measured / predicted.
    """
    quarter = len(found) // 4
    middle = float(np.sort(found)[quarter : len(found) - quarter].mean())
    spread = 1.4826 * float(np.median(np.abs(found - np.median(found))))
    shift = middle * _PACE_SPREAD**2 / (_PACE_SPREAD**2 + spread**2 / len(found))
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
