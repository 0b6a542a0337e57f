"""One family's model from its samples.

Achieved rates come from the fastest samples; a Gaussian process (gaussian_process.py) describes the
logarithm of what is left. Errors are those of samples left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from latency_service.core.blocks import Way
from latency_service.core.family import WAY, FamilyModel, moved_bytes, windows
from latency_service.core.features import FloatArray
from latency_service.core.fit_settings import Settings
from latency_service.core.gaussian_process import cross_validate, learn, learn_delayed, rounded
from latency_service.core.geometry import Dim
from latency_service.core.least_squares import nonnegative_parts
from latency_service.core.recurrent import fit_parts

# Most support points of a family that only moves memory.
_SMOOTH = 96
# Length scale of the feature `WAY`: kernels of two ways say nothing about each other.
_APART = 0.15
# From fewer kernels of the usual way no length scales are learned without the others.
_LEAST_OWN = 100
# Fewer kernels of a way do not tell how it differs from the usual one.
_LEAST_WAY = 4
# Significant digits of a support point's weight that a profile stores.
_WEIGHT_DIGITS = 6


def fit_family(
    dims: FloatArray,
    seconds: FloatArray,
    itemsize: float,
    contraction: bool,
    settings: Settings,
    seed: int = 0,
    unseen: frozenset[str] = frozenset(),
) -> tuple[FamilyModel, FloatArray]:
    """Fit one family.

    Args:
        dims: (N, D) geometries.
        seconds: (N,) measured.
        unseen: features that say nothing about the family's kernels.

    Returns:
        The model, and (N,) log(measured / predicted) of each sample when it was left out.
    """
    blank = FamilyModel(0.0, 1.0, 1.0, settings.units, (), (), (), (), 0.0, 0.0, 0.0, len(seconds))
    if settings.layout is not None:
        layout = settings.layout
        blank = replace(blank, block=layout.block, alignment=layout.alignment)
    if settings.panel:
        blank = replace(blank, panel=settings.panel)
        blank = replace(blank, packing=_packing(blank, dims, seconds))
    usual = _usual(blank, dims)
    plain = _with_base(blank, dims[usual], seconds[usual], itemsize, contraction, settings)
    plain = replace(plain, way_flops=_way_flops(plain, dims, seconds))
    if settings.in_parts:
        fixed_s, parts = fit_parts(dims, seconds)
        plain = replace(plain, fixed_s=fixed_s, parts=parts)
    target = np.log(seconds / plain.base_s(dims, itemsize))
    jitter = (settings.resolution_s / seconds) ** 2
    known = plain.known_features()
    way = known.pop(WAY, None)
    # others run other code, which says nothing of what this one depends on
    own = usual if np.count_nonzero(usual) >= _LEAST_OWN else np.ones(len(dims), dtype=bool)
    columns = {name: feature(dims) for name, feature in known.items() if name not in unseen}
    names = tuple(name for name, column in columns.items() if np.ptp(column[own]) > 1e-9)
    raw = np.stack([columns[name] for name in names], axis=1) if names else np.zeros((len(dims), 0))
    if settings.units > 1:
        base_s = plain.base_s(dims, itemsize)
        process, jitter = learn_delayed(
            raw, target, jitter, base_s, settings.support, settings.learn_from, seed
        )
    else:
        exposure = np.zeros(np.count_nonzero(own))
        process = learn(raw[own], target[own], jitter[own], exposure, settings.learn_from, seed)
    if way is not None and names:
        names = (*names, WAY)
        raw = np.column_stack([raw, way(dims)])
        process.lengths = np.append(process.lengths, _APART)
    left_out = cross_validate(process, raw, target, jitter, settings.support, seed)
    # what only moves memory is smooth: a few points describe it
    support = settings.support if contraction else min(settings.support, _SMOOTH)
    points, weights = process.project(raw, target, jitter, support)
    if not names:
        # all samples of one shape: their mean is all that they tell
        process.mean = float(np.mean(target))
        points, weights = np.zeros((0, 0)), np.zeros(0)
    # what the clock cannot resolve says nothing about the fit
    told = left_out[seconds > 5 * settings.resolution_s]
    told = told if told.size >= 5 else left_out
    spread = float(np.sqrt(np.mean(np.clip(told, -1.0, 1.0) ** 2)))
    model = replace(
        plain,
        features=names,
        lengths=tuple(process.lengths.tolist()),
        points=tuple(map(tuple, points.tolist())),
        weights=tuple(rounded(weights, _WEIGHT_DIGITS).tolist()),
        mean=float(process.mean),
        spread=spread,
        median_error=float(np.median(np.abs(np.exp(-told) - 1.0))),
    )
    return model, left_out


def _with_base(
    blank: FamilyModel,
    dims: FloatArray,
    seconds: FloatArray,
    itemsize: float,
    contraction: bool,
    settings: Settings,
) -> FamilyModel:
    """Fixed seconds and achieved rates: those of the fastest samples that the clock resolves.

    On a GPU the bandwidth of what only moves memory is that of the largest samples: networks move
    more still, and nothing of it stays in a cache.
    """
    fixed = max(0.9 * float(seconds.min()), 0.2 * settings.resolution_s)
    resolved = seconds > 8 * settings.resolution_s
    if resolved.sum() >= 5:
        dims, seconds = dims[resolved], seconds[resolved]
    rest = np.maximum(seconds - fixed, 0.05 * seconds)
    moved = moved_bytes(dims, itemsize)
    # a view moves nothing
    bytes_per_s = float(np.quantile(moved / rest, 0.97)) or 1.0
    if not contraction:
        if settings.units > 1:
            largest = moved >= np.quantile(moved, 0.95)
            bytes_per_s = float(np.median(moved[largest] / rest[largest]))
        return replace(blank, fixed_s=fixed, flops_per_s=None, bytes_per_s=bytes_per_s)
    flops_per_s = float(np.quantile(blank.done(dims) / rest, 0.97))
    return replace(blank, fixed_s=fixed, flops_per_s=flops_per_s, bytes_per_s=bytes_per_s)


def _usual(blank: FamilyModel, dims: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) which kernels run in the way that most of them do."""
    if not blank.block:
        return np.ones(len(dims), dtype=bool)
    way = blank.way(dims)
    usual: npt.NDArray[np.bool_] = way == np.bincount(way).argmax()
    return usual


def _way_flops(base: FamilyModel, dims: FloatArray, seconds: FloatArray) -> tuple[float, ...]:
    """`FamilyModel.way_flops`: the medians over the kernels of each way."""
    if not base.block or base.flops_per_s is None:
        return ()
    way, usual = base.way(dims), _usual(base, dims)
    rest = np.maximum(seconds - base.fixed_s, 0.05 * seconds)
    flops = rest * base.flops_per_s / base.done(dims)
    found = [0.0] * len(Way)
    found[int(way[usual][0])] = 1.0
    for other in sorted({*way[~usual].tolist()}):
        its = way == other
        # those of squeeze-and-excite alone, with their single position, say nothing of images
        if np.count_nonzero(its) >= _LEAST_WAY and np.ptp(dims[its, Dim.INNER]) > 0:
            found[other] = float(f"{np.median(flops[its]):.4g}")
    return tuple(found)


def _packing(blank: FamilyModel, dims: FloatArray, seconds: FloatArray) -> float:
    """`FamilyModel.packing` of a family in panels."""
    positions = blank.paneled(dims[:, Dim.INNER])
    amounts = [np.ones(len(dims)), dims[:, Dim.WORK] * positions, windows(dims) * positions]
    _, flop_s, number_s = nonnegative_parts(np.stack(amounts, axis=1), seconds).tolist()
    return float(f"{number_s / flop_s:.4g}") if flop_s else 0.0
