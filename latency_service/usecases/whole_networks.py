"""The reference networks of a calibration, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from latency_service.calibration.references import REFERENCES
from latency_service.calibration.report import NetworkPoint
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.predict import Predictor, interval_s
from latency_service.core.profile import FusionRules, Profile
from latency_service.ingest import read_network

# What a convolution may take less among others than alone; more than this nothing explains.
_MOST_S, _STEPS = 6e-6, 25


def alone_s(efficiency: Efficiency, fusion: FusionRules, networks: Mapping[str, float]) -> float:
    """Seconds by which convolutions alone take longer, from the references that help the fit.

    The one that makes the mean absolute logarithm of predicted / measured least; 0 without any.

    Args:
        networks: measured seconds by name.
    """
    if not networks:
        return 0.0
    candidates = np.linspace(0.0, _MOST_S, _STEPS)
    errors = [
        np.mean(
            [
                abs(np.log(predictor.at(predictor.costs.sizes).seconds.sum() / networks[name]))
                for name, predictor in _predictors(
                    replace(efficiency, alone_s=float(less)), fusion, networks, fitted=True
                )
            ]
        )
        for less in candidates
    ]
    return float(candidates[int(np.argmin(errors))])


def report_points(profile: Profile, networks: Mapping[str, float]) -> list[NetworkPoint]:
    """References that took no part in the fit, predicted by a calibrated profile."""
    if profile.efficiency is None:
        return []
    points = []
    for name, predictor in _predictors(profile.efficiency, profile.fusion, networks, fitted=False):
        structure = predictor.at(predictor.costs.sizes)
        low, high = interval_s(predictor, structure) or (None, None)
        points.append(NetworkPoint(name, networks[name], float(structure.seconds.sum()), low, high))
    return points


def _predictors(
    efficiency: Efficiency,
    fusion: FusionRules | None,
    networks: Mapping[str, float],
    fitted: bool,
) -> Iterator[tuple[str, Predictor]]:
    for reference in REFERENCES:
        if reference.fitted is fitted and reference.name in networks:
            graph = read_network(reference.build()[0])
            costs = cost_model(graph, fusion=fusion, efficiency=efficiency)
            yield reference.name, Predictor(costs, efficiency)
