"""The answer to "what does each layer cost": rows as they go over the wire (docs/api.md)."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np

from latency_service.core.calibrated import Stated, state
from latency_service.core.channels import Share
from latency_service.core.costs import FloatArray, Group
from latency_service.core.live import live_counts
from latency_service.core.predict import interval_s
from latency_service.core.roofline import LatencyModel
from latency_service.core.scoring import evaluate, latencies_s


class Form(TypedDict):
    """constant + per_in n_in + per_out n_out + per_pair n_in n_out."""

    constant: float
    per_in: float
    per_out: float
    per_pair: float


class Forms(TypedDict):
    """A layer's costs that no device changes."""

    flops: Form
    bytes: Form
    weights: Form
    parameters: Form


class Use(TypedDict):
    """A group that a layer reads or writes, and how often it holds each of its channels."""

    group: str
    times: float


class LayerCost(TypedDict):
    """One layer on one device: its forms, and their values at the requested structure.

    `bound` is "compute", "memory", or "none" for a layer that costs nothing.
    """

    name: str
    op: str
    reads: list[Use]
    writes: list[Use]
    n_in: float
    n_out: float
    forms: Forms
    compute: Form
    memory: Form
    overhead_s: float
    flops: float
    bytes: float
    weights: float
    parameters: float
    compute_s: float
    memory_s: float
    latency_s: float
    bound: str
    flops_per_s: float
    bytes_per_s: float
    utilisation: float
    fused_into: str | None
    fuses: list[str]


class MemberRow(TypedDict):
    """Channel k sits at [start + k stride, start + k stride + block) of `axis`, or at index[k]."""

    layer: str
    role: str
    axis: int
    start: NotRequired[int]
    stride: NotRequired[int]
    block: NotRequired[int]
    index: NotRequired[list[list[int]]]


class GroupRow(TypedDict):
    """Channels each of which lives or dies in all members together."""

    id: str
    size: int
    prunable: bool
    channel_step: int
    marginal_s: float
    members: list[MemberRow]


class Totals(TypedDict):
    """Sums over layers; low and high bound a calibrated latency at 90 %."""

    latency_s: float
    low_s: float | None
    high_s: float | None
    flops: float
    bytes: float
    weights: float
    parameters: float


class Coverage(TypedDict):
    """How many layers there are, and how they were costed."""

    layers: int
    costed: int
    free: int
    assumed: int


class Costs(TypedDict):
    """What a network costs on a device."""

    totals: Totals
    coverage: Coverage
    layers: list[LayerCost]
    groups: list[GroupRow]
    assumptions: list[str]


def costs_on(model: LatencyModel, counts: FloatArray) -> Costs:
    """Every layer's costs at a structure.

    Args:
        counts: (G,) live channels per group.
    """
    costs = model.costs
    n_in, n_out, alive = live_counts(costs, counts)
    stated = state(model, counts)
    values = {
        "flops": evaluate(costs.flops, n_in, n_out) * alive,
        "bytes": evaluate(costs.bytes, n_in, n_out) * alive,
        "weights": evaluate(costs.weights, n_in, n_out) * alive,
        "parameters": evaluate(costs.parameters, n_in, n_out) * alive,
    }
    latency_s = stated.overhead_s * alive + np.maximum(stated.compute_s, stated.memory_s)
    layers = _layers(model, stated, n_in, n_out, values, latency_s)
    low = high = None
    if model.predictor is not None and stated.kernels is not None:
        low, high = interval_s(model.predictor, stated.kernels) or (None, None)
    free, assumed = int(costs.free.sum()), int(costs.assumed.sum())
    total = {key: float(value.sum()) for key, value in values.items()}
    return {
        "totals": {
            "latency_s": float(latency_s.sum()),
            "low_s": low,
            "high_s": high,
            "flops": total["flops"],
            "bytes": total["bytes"],
            "weights": total["weights"],
            "parameters": total["parameters"],
        },
        "coverage": {
            "layers": len(costs.names),
            "costed": len(costs.names) - free - assumed,
            "free": free,
            "assumed": assumed,
        },
        "layers": layers,
        "groups": _groups(model, counts),
        "assumptions": [*model.assumptions, *costs.assumptions],
    }


def _layers(
    model: LatencyModel,
    stated: Stated,
    n_in: FloatArray,
    n_out: FloatArray,
    values: dict[str, FloatArray],
    latency_s: FloatArray,
) -> list[LayerCost]:
    costs = model.costs
    names = costs.names
    ids = [group.id for group in costs.groups]
    uses: dict[Share, list[Use]] = {}
    for share in (*costs.reads, *costs.writes):
        if share not in uses:
            uses[share] = [{"group": ids[g], "times": _whole(times)} for g, times in share]
    columns = zip(
        names,
        costs.ops,
        costs.reads,
        costs.writes,
        n_in.tolist(),
        n_out.tolist(),
        _forms(costs.flops),
        _forms(costs.bytes),
        _forms(costs.weights),
        _forms(costs.parameters),
        _forms(stated.compute),
        _forms(stated.memory),
        stated.overhead_s.tolist(),
        values["flops"].tolist(),
        values["bytes"].tolist(),
        values["weights"].tolist(),
        values["parameters"].tolist(),
        stated.compute_s.tolist(),
        stated.memory_s.tolist(),
        latency_s.tolist(),
        stated.flops_per_s.tolist(),
        stated.bytes_per_s.tolist(),
        stated.utilisation.tolist(),
        costs.fused_into,
        costs.fuses,
        strict=True,
    )
    return [
        {
            "name": name,
            "op": op,
            "reads": uses[reads],
            "writes": uses[writes],
            "n_in": live_in,
            "n_out": live_out,
            "forms": {
                "flops": flops,
                "bytes": moved,
                "weights": weights,
                "parameters": parameters,
            },
            "compute": compute_form,
            "memory": memory_form,
            "overhead_s": overhead,
            "flops": flops_now,
            "bytes": bytes_now,
            "weights": weights_now,
            "parameters": parameters_now,
            "compute_s": in_compute,
            "memory_s": in_memory,
            "latency_s": latency,
            "bound": "memory" if in_memory > in_compute else "compute" if in_compute else "none",
            "flops_per_s": flops_rate,
            "bytes_per_s": bytes_rate,
            "utilisation": utilisation,
            "fused_into": None if host is None else names[host],
            "fuses": [names[guest] for guest in guests],
        }
        for (
            name, op, reads, writes, live_in, live_out, flops, moved, weights, parameters,
            compute_form, memory_form, overhead, flops_now, bytes_now, weights_now, parameters_now,
            in_compute, in_memory, latency, flops_rate, bytes_rate, utilisation, host, guests,
        ) in columns
    ]  # fmt: skip


_ZERO: Form = {"constant": 0.0, "per_in": 0.0, "per_out": 0.0, "per_pair": 0.0}


def _forms(table: FloatArray) -> list[Form]:
    return [
        {"constant": constant, "per_in": per_in, "per_out": per_out, "per_pair": per_pair}
        if constant or per_in or per_out or per_pair
        else _ZERO
        for constant, per_in, per_out, per_pair in table.tolist()
    ]


def _whole(times: float) -> float:
    return int(times) if times == int(times) else times


def _groups(model: LatencyModel, counts: FloatArray) -> list[GroupRow]:
    groups = model.costs.groups
    if not groups:
        return []
    step = 1 if model.predictor is None else model.predictor.efficiency.channel_step
    # (1 + G, G): the structure, and it with the last step of each group less
    last = np.minimum(np.where(counts > 0, (counts - 1) % step + 1, 0.0), counts)
    rows = np.vstack([counts, counts - np.diag(last)])
    seconds = latencies_s([model], rows)[:, 0]
    marginal = ((seconds[0] - seconds[1:]) / np.maximum(last, 1.0)).tolist()
    return [
        {
            "id": group.id,
            "size": group.size,
            "prunable": group.prunable,
            "channel_step": step,
            "marginal_s": saved,
            "members": _members(group),
        }
        for group, saved in zip(groups, marginal, strict=True)
    ]


def _members(group: Group) -> list[MemberRow]:
    rows: list[MemberRow] = []
    for member in group.members:
        run = member.run
        row: MemberRow = {"layer": member.layer, "role": member.role, "axis": member.axis}
        if run.index is None:
            row["start"], row["stride"], row["block"] = run.start, run.stride, run.block
        else:
            row["index"] = [list(positions) for positions in run.index]
        rows.append(row)
    return rows
