"""The reference networks of a calibration, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from latency_service.calibration.references import REFERENCES
from latency_service.calibration.report import NetworkPoint
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.efficiency import Efficiency
from latency_service.core.predict import Predictor, interval_s
from latency_service.core.profile import FusionRules, Profile
from latency_service.ingest import read_network

# The networks are of floating numbers; without these nothing could start sooner.
_CONVOLUTIONS = ("float32 Conv/dense", "float32 Conv/pointwise")
# What a convolution may take less among others than alone; more than this nothing explains.
_MOST_S, _STEPS = 6e-6, 25


def alone_s(efficiency: Efficiency, fusion: FusionRules, networks: Mapping[str, float]) -> float:
    """Seconds by which convolutions alone take longer, from the references that help the fit.

    The one that makes the mean absolute logarithm of predicted / measured least; 0 without any.

    Args:
        networks: measured seconds by name.
    """
    if not any(name.endswith(_CONVOLUTIONS) for name in efficiency.families):
        return 0.0
    known = [
        (costs, networks[name]) for name, costs in _costs(efficiency, fusion, networks, fitted=True)
    ]
    if not known:
        return 0.0
    candidates = np.linspace(0.0, _MOST_S, _STEPS)
    errors = []
    for less in candidates:
        sooner = replace(efficiency, alone_s=float(less))
        predicted = [Predictor(costs, sooner).at(costs.sizes).seconds.sum() for costs, _ in known]
        measured = [seconds for _, seconds in known]
        errors.append(np.abs(np.log(np.divide(predicted, measured))).mean())
    return float(candidates[int(np.argmin(errors))])


def report_points(profile: Profile, networks: Mapping[str, float]) -> list[NetworkPoint]:
    """References that took no part in the fit, predicted by a calibrated profile."""
    if profile.efficiency is None:
        return []
    points = []
    efficiency = profile.efficiency
    for name, costs in _costs(efficiency, profile.fusion, networks, fitted=False):
        predictor = Predictor(costs, efficiency)
        structure = predictor.at(costs.sizes)
        low, high = interval_s(predictor, structure) or (None, None)
        points.append(NetworkPoint(name, networks[name], float(structure.seconds.sum()), low, high))
    return points


def _costs(
    efficiency: Efficiency,
    fusion: FusionRules | None,
    networks: Mapping[str, float],
    fitted: bool,
) -> Iterator[tuple[str, CostModel]]:
    for reference in REFERENCES:
        if reference.fitted is fitted and reference.name in networks:
            graph = read_network(reference.build()[0])
            yield reference.name, cost_model(graph, fusion=fusion, efficiency=efficiency)
