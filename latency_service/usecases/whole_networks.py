"""The reference networks of a calibration, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from latency_service.calibration.references import NOTHING, REFERENCES, Reference
from latency_service.calibration.report import NetworkPoint
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.efficiency import Efficiency
from latency_service.core.predict import Predictor, interval_s
from latency_service.core.profile import FusionRules, Profile
from latency_service.ingest import read_network

# The networks are of floating numbers; without these nothing of them could be told.
_CONVOLUTIONS = ("float32 Conv/dense", "float32 Conv/pointwise")
_MEASURED = (*_CONVOLUTIONS, "float32 Gemm")
# What a kernel may take less among others, or near its data; more than this nothing explains.
_MOST_S, _STEPS = 10e-6, 41
_MOST_NEAR_S, _NEAR_STEPS = 32e-6, 17
_NEAR_BYTES = (1e6, 2e6, 4e6, 8e6, 16e6)


def in_networks(
    efficiency: Efficiency, fusion: FusionRules, networks: Mapping[str, float]
) -> Efficiency:
    """The model with what kernels take less in a network, from the references that help the fit.

    First what a call takes, then `alone_s` from networks of common size, then `near_s` and
    `near_bytes` from all: those that make the mean absolute logarithm of predicted / measured
    least. Nothing changes without such networks.

    Args:
        networks: measured seconds by name.
    """
    if not any(name.endswith(_MEASURED) for name in efficiency.families):
        return efficiency
    efficiency = replace(efficiency, call_s=networks.get(NOTHING, 0.0))
    known = [row for row in _costs(efficiency, fusion, networks) if row[0].fitted]
    large = [row for row in known if not row[0].tiny]
    if large and any(name.endswith(_CONVOLUTIONS) for name in efficiency.families):
        alone = (replace(efficiency, alone_s=float(s)) for s in np.linspace(0.0, _MOST_S, _STEPS))
        efficiency = _best(alone, large, networks)
    if len(known) > len(large):
        near = (
            replace(efficiency, near_s=float(s), near_bytes=size if s else 0.0)
            for s in np.linspace(0.0, _MOST_NEAR_S, _NEAR_STEPS)
            for size in _NEAR_BYTES
        )
        efficiency = _best(near, known, networks)
    return efficiency


def _best(
    candidates: Iterable[Efficiency],
    rows: Sequence[tuple[Reference, CostModel]],
    networks: Mapping[str, float],
) -> Efficiency:
    """The first of the candidates that errs least."""
    measured = [networks[reference.name] for reference, _ in rows]

    def error(candidate: Efficiency) -> float:
        predicted = [Predictor(c, candidate).at(c.sizes).seconds.sum() for _, c in rows]
        return float(np.abs(np.log(np.divide(predicted, measured))).mean())

    return min(candidates, key=error)


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
