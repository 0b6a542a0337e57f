"""Many sub-networks of one graph on several devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from latency_service.core import scoring
from latency_service.core.binding import Binding
from latency_service.core.costs import FloatArray, Pruning
from latency_service.core.errors import GraphTooLargeError, OptionError
from latency_service.core.graph import LayerGraph
from latency_service.core.roofline import LatencyModel, latency_model
from latency_service.usecases.coefficients import (
    DeviceUsed,
    address,
    choose,
    costed,
    device_used,
    find_revision,
    keep,
)
from latency_service.usecases.workbench import Workbench

QUANTITIES = ("latency_s", "flops", "weights", "parameters")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Sub-networks of a graph.

    Attributes:
        graph: a graph that came with the request, or the id of a stored one.
        groups: the channel groups that the columns of `alive` are about.
        alive: (N, K) live channels.
        quantities: which of QUANTITIES to compute.
    """

    devices: Sequence[str]
    graph: LayerGraph | str
    groups: Sequence[str]
    alive: FloatArray
    binding: Binding = field(default_factory=Binding)
    pruning: Pruning = field(default_factory=Pruning)
    math: str | None = None
    runtime: str | None = None
    revision: str | None = None
    model: str | None = None
    fusion: str | None = None
    quantities: Sequence[str] = QUANTITIES


class Scores(TypedDict, total=False):
    """Arrays of N rows; `latency_s` is (N, D)."""

    latency_s: FloatArray
    flops: FloatArray
    weights: FloatArray
    parameters: FloatArray
    devices: list[DeviceUsed]
    graph_id: str


def scores(bench: Workbench, request: ScoreRequest) -> Scores:
    """Latency, FLOPs, weights and parameters of many sub-networks at once.

    Raises:
        GraphTooLargeError: if there are more rows than this installation accepts.
        OptionError: if a group is unknown, or a count impossible.
    """
    most = bench.settings.max_score_rows
    if request.alive.shape[0] > most:
        raise GraphTooLargeError(
            f"{request.alive.shape[0]} sub-networks in one request; this installation accepts "
            f"{most} (LATENCY_SERVICE_MAX_SCORE_ROWS): send them in parts"
        )
    if not request.devices:
        raise OptionError("devices names no device")
    if request.revision is not None and len(request.devices) > 1:
        raise OptionError("revision pins one device's profile; name one device with it")
    catalogue = bench.catalogue()
    graph = address(bench, request.graph, request.binding)
    models: list[LatencyModel] = []
    used: list[DeviceUsed] = []
    for device in request.devices:
        revision = find_revision(bench, catalogue, device, request.runtime, request.revision)
        kind, fusion = choose(revision.profile, request.model, request.fusion)
        costs = costed(
            bench, graph, request.binding, request.pruning, revision.profile, kind, fusion
        )
        models.append(latency_model(costs, revision.profile, request.math, kind == "calibrated"))
        used.append(device_used(catalogue, device, revision))
    costs = models[0].costs
    counts = scoring.structures(costs, request.groups, np.asarray(request.alive, dtype=np.float64))
    found: Scores = {"devices": used, "graph_id": graph.graph_id}
    if "latency_s" in request.quantities:
        found["latency_s"] = scoring.latencies_s(models, counts)
    if "flops" in request.quantities:
        found["flops"] = scoring.totals(costs, costs.flops, counts)
    if "weights" in request.quantities:
        found["weights"] = scoring.totals(costs, costs.weights, counts)
    if "parameters" in request.quantities:
        found["parameters"] = scoring.totals(costs, costs.parameters, counts)
    keep(bench, graph)
    return found
