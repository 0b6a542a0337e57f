"""What a byte saves that is found in a nearer cache, from kernels that were measured both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from latency_service.core.efficiency import filling
from latency_service.core.family import moved_bytes
from latency_service.core.features import FloatArray
from latency_service.core.geometry import Dim
from latency_service.core.least_squares import nonnegative_parts
from latency_service.core.sample import Sample

# Samples that say what a cache saves; fewer say nothing.
_LEAST_PAIRS = 5
# And fewer do not tell how that depends on the shape.
_LEAST_SHAPES = 16
# Candidates for what the last cache holds of one kernel's constants; any number comes first.
_MOST_BYTES = (np.inf, *(2.0**power for power in range(20, 28)))
# Rows with which a kernel waits half as long for its weights: in networks on one core of an EPYC
# a byte from memory takes products 35 ps with one row, 20 with 16, 7 with 49 and none with 200.
_HALF_ROWS = 64.0
PRODUCTS, WINDOWS = "products", "windows"
# Those that find less than this share of the core's own cache tell other things.
_LEAST_NEAR = 0.01


class Fetching(NamedTuple):
    """What kernels take longer whose constants come from memory (`FamilyModel.fetched_s`).

    Attributes:
        s_per_byte: by kind of kernel (`kind_of`), for those with a single row.
        most_bytes: of one kernel's constants that the last cache holds; 0: any number.
        rows: with which half of it is waited for; 0: with any number of them all of it.
    """

    s_per_byte: Mapping[str, float]
    most_bytes: float = 0.0
    rows: float = 0.0


def kind_of(family: str) -> str:
    """Windows of more than one position read their weights in another order than products do."""
    op, _, form = family.partition("/")
    return WINDOWS if op == "Conv" and form != "pointwise" else PRODUCTS


def fetching(
    samples: Sequence[Sample], kinds: Sequence[str], dims: FloatArray, constant_bytes: FloatArray
) -> Fetching:
    """What a byte of constants saves that is in the last cache.

    Of constants that the cache does not hold a part comes from memory every time, and kernels with
    many rows multiply while they wait. What is read before a run to empty the caches drives out
    other things, too, which takes the same time whatever the constants.

    Args:
        samples: of kernels that multiply.
        kinds: (N,) of each, as `kind_of` tells them.
        dims: (N, D) geometries.
        constant_bytes: (N,) of each.
    """
    twice = [n for n, sample in enumerate(samples) if sample.cached_s is not None]
    if len(twice) < _LEAST_PAIRS:
        return Fetching({})
    if len(twice) < _LEAST_SHAPES:
        pairs = _pairs([samples[n] for n in twice], constant_bytes[twice])
        return Fetching(dict.fromkeys((PRODUCTS, WINDOWS), _median(pairs)))
    seconds = np.array([samples[n].latency_s for n in twice])
    cached_s = np.array([samples[n].cached_s for n in twice], dtype=np.float64)
    held = {kind: np.array([kinds[n] == kind for n in twice]) for kind in (PRODUCTS, WINDOWS)}
    known = [kind for kind, own in held.items() if own.sum() >= _LEAST_SHAPES]
    if len(known) < len(held):
        held = {PRODUCTS: np.ones(len(twice), dtype=bool)}
    waiting = 1.0 + dims[twice, Dim.ROWS] / _HALF_ROWS
    best, least = Fetching({}), np.inf
    for most in _MOST_BYTES:
        waited = np.minimum(constant_bytes[twice], most) / waiting
        parts = np.stack([waited, np.ones_like(waited), cached_s], axis=1)
        misfit, each = 0.0, {}
        for kind, own in held.items():
            found = nonnegative_parts(parts[own], seconds[own])
            misfit += float(np.abs(parts[own] @ found / seconds[own] - 1.0).sum())
            each[kind] = float(f"{found[0]:.4g}")
        if misfit < least:
            best, least = Fetching(each, 0.0 if most == np.inf else most, _HALF_ROWS), misfit
    usual = best.s_per_byte[PRODUCTS]
    return best._replace(s_per_byte={WINDOWS: usual, **best.s_per_byte})


def nearby_s_per_byte(
    samples: Sequence[Sample], dims: FloatArray, itemsize: float, core_bytes: float
) -> float:
    """What a byte saves a family of kernels whose output lies in the core's own cache.

    The median over the bytes of the samples that tell: of small ones the code came from afar too.

    Args:
        dims: (N, D) geometries.
    """
    near = filling(moved_bytes(dims, itemsize), core_bytes)
    pairs = _pairs(samples, near)
    return _median([(each, size) for each, size in pairs if size > _LEAST_NEAR * core_bytes])


def _pairs(samples: Sequence[Sample], sizes: FloatArray) -> list[tuple[float, float]]:
    """(seconds that each byte saves, bytes) of those that were measured both ways."""
    return [
        ((sample.latency_s - sample.cached_s) / max(size, 1e-30), size)
        for sample, size in zip(samples, sizes.tolist(), strict=True)
        if sample.cached_s is not None
    ]


def _median(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the first, weighted by the second; nothing where few were measured, never negative."""
    if len(pairs) < _LEAST_PAIRS:
        return 0.0
    values, weights = np.array(sorted(pairs)).T
    total = np.cumsum(weights)
    middle = float(values[np.searchsorted(total, 0.5 * total[-1])])
    return float(f"{max(middle, 0.0):.4g}")
