"""Least squares without negative numbers, for what takes so much time each."""

from __future__ import annotations

import itertools

import numpy as np

from latency_service.core.features import FloatArray

# Ratios further from 1 than this, in logarithms, pull no harder.
_ROBUST, _ROUNDS = 0.3, 12


def nonnegative_parts(amounts: FloatArray, seconds: FloatArray) -> FloatArray:
    """(P,) seconds of one of each, none negative, that fit (N,) measurements of (N, P) amounts.

    Errors are relative, and outliers pull little: iteratively reweighted least squares (Huber 1981,
    Robust Statistics, chapter 7).
    """
    scaled = amounts / seconds[:, None]
    sizes = scaled.max(axis=0)
    scaled = scaled / np.where(sizes > 0, sizes, 1.0)
    weights = np.ones(len(seconds))
    for _ in range(_ROUNDS):
        found = _nonnegative(scaled * weights[:, None], weights)
        ratios = np.maximum(scaled @ found, 1e-3)
        far = np.abs(np.log(ratios)) / _ROBUST
        weights = 1.0 / np.sqrt(ratios) / np.maximum(1.0, far)
    each: FloatArray = found / np.where(sizes > 0, sizes, 1.0)
    return each


def _nonnegative(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """(P,) least squares without negative numbers: the best of all sets of columns."""
    columns = [k for k in range(matrix.shape[1]) if matrix[:, k].any()]
    best, least = np.zeros(matrix.shape[1]), float("inf")
    for count in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, count):
            part = matrix[:, chosen]
            values = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(np.sum((part @ values - target) ** 2))
            if (values >= 0).all() and error < least:
                best, least = np.zeros(matrix.shape[1]), error
                best[list(chosen)] = values
    return best
