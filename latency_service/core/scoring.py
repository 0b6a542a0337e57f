"""Evaluating costs at other structures: one sub-network, or a hundred thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from latency_service.core.costs import CostModel, FloatArray
from latency_service.core.errors import OptionError
from latency_service.core.live import live_counts
from latency_service.core.roofline import LatencyModel
from latency_service.core.sweep import totals_s

# Rows evaluated at a time: their intermediate arrays stay in the processor's cache.
_ROWS = 256


def structure(costs: CostModel, alive: Mapping[str, int] | None) -> FloatArray:
    """(G,) live channels per group: full width, or what `alive` says.

    Raises:
        OptionError: naming a group that does not exist, is not prunable or has fewer channels.
    """
    counts = costs.sizes
    for group_id, count in (alive or {}).items():
        index = costs.group_index(group_id)
        _check(costs, index, count, count)
        counts[index] = count
    return counts


def structures(
    costs: CostModel, groups: Sequence[str], alive: npt.NDArray[np.float64]
) -> FloatArray:
    """(N, G) live channels of all groups from (N, K) live channels of those named.

    Raises:
        OptionError: as `structure`, or if the matrix does not have one column per named group.
    """
    if alive.ndim != 2 or alive.shape[1] != len(groups):
        raise OptionError(
            f"alive has shape {list(alive.shape)}; it needs one column for each of the "
            f"{len(groups)} groups named"
        )
    if len(set(groups)) != len(groups):
        raise OptionError("groups names a channel group twice")
    counts = np.tile(costs.sizes, (alive.shape[0], 1))
    if not alive.size:
        return counts
    if not np.isfinite(alive).all() or (alive != np.floor(alive)).any():
        raise OptionError("alive must hold whole numbers of channels")
    lowest, highest = alive.min(axis=0), alive.max(axis=0)
    for column, group_id in enumerate(groups):
        index = costs.group_index(group_id)
        _check(costs, index, lowest[column], highest[column])
        counts[:, index] = alive[:, column]
    return counts


def _check(costs: CostModel, index: int, lowest: float, highest: float) -> None:
    group = costs.groups[index]
    if lowest < 0 or highest > group.size:
        wrong = lowest if lowest < 0 else highest
        raise OptionError(
            f"alive gives group {group.id!r} {wrong:g} channels; it has 0 to {group.size}"
        )
    if not group.prunable and lowest < group.size:
        raise OptionError(f"group {group.id!r} is not prunable: it keeps its {group.size} channels")


def evaluate(forms: FloatArray, n_in: FloatArray, n_out: FloatArray) -> FloatArray:
    """(..., L) values of (L, 4) forms at (..., L) live channels."""
    value: FloatArray = (forms[:, 3] * n_out + forms[:, 1]) * n_in
    value += forms[:, 2] * n_out
    value += forms[:, 0]
    return value


def totals(costs: CostModel, forms: FloatArray, counts: FloatArray) -> FloatArray:
    """(N,) sums over layers of a quantity at (N, G) live channels."""
    out = np.empty(counts.shape[0])
    for start in range(0, counts.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        n_in, n_out, alive = live_counts(costs, counts[rows])
        out[rows] = (evaluate(forms, n_in, n_out) * alive).sum(axis=1)
    return out


def latencies_s(models: Sequence[LatencyModel], counts: FloatArray) -> FloatArray:
    """Latency of many sub-networks on several devices.

    Args:
        models: D models of the same graph and binding, so of the same groups.
        counts: (N, G) live channels per group.

    Returns:
        (N, D) seconds: per sub-network and device, the sum over layers of
        overhead + max(compute, memory).
    """
    out = np.empty((counts.shape[0], len(models)))
    for column, model in enumerate(models):
        if model.predictor is not None:
            out[:, column] = totals_s(model.predictor, counts)
    plain = [(d, model) for d, model in enumerate(models) if model.predictor is None]
    for costs in {id(model.costs): model.costs for _, model in plain}.values():
        columns = [d for d, model in plain if model.costs is costs]
        _latencies(costs, [models[d] for d in columns], counts, out, columns)
    return out


def _latencies(
    costs: CostModel,
    models: Sequence[LatencyModel],
    counts: FloatArray,
    out: FloatArray,
    columns: Sequence[int],
) -> None:
    works = costs.flops.any(axis=1)  # (L,) the others are bound by memory on every device
    flops, moved = costs.flops[works], costs.bytes[works]
    per_flop = [(1.0 / model.flops_per_s)[works] for model in models]
    per_byte = [1.0 / model.bytes_per_s for model in models]
    rest_per_byte = np.stack([rate[~works] for rate in per_byte], axis=1)  # (L', D)
    overhead = np.stack([model.overhead_s for model in models], axis=1)  # (L, D)
    charged = overhead.any()
    for start in range(0, counts.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        n_in, n_out, alive = live_counts(costs, counts[rows])
        worked_in, worked_out = n_in[:, works], n_out[:, works]
        work = evaluate(flops, worked_in, worked_out) * alive[:, works]
        move = evaluate(moved, worked_in, worked_out) * alive[:, works]
        rest = evaluate(costs.bytes[~works], n_in[:, ~works], n_out[:, ~works])
        seconds = (rest * alive[:, ~works]) @ rest_per_byte
        if charged:
            seconds += alive @ overhead
        for place, column in enumerate(columns):
            compute = work * per_flop[place]
            memory = move * per_byte[place][works]
            np.maximum(compute, memory, out=compute)
            out[rows, column] = compute.sum(axis=1) + seconds[:, place]
