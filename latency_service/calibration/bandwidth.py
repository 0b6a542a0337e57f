"""What each cache and the main memory deliver.

Reading, copying and adding two arrays (STREAM's triad, McCalpin 1995) over working sets from 16 KiB
to four times the last cache, 512 MiB at most; per size the fastest of the three counts, over rounds
the median of the best. Neighbouring sizes at the same speed are one level.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_service.calibration.measurement import Rate
from latency_service.calibration.timing import bootstrap_interval

Array = npt.NDArray[np.float32]

_SMALLEST, _LARGEST = 16 << 10, 128 << 20
# Servers share hundreds of megabytes of cache among tenants: nobody has them alone.
_MOST = 512 << 20
_ROUNDS = 5
# Sizes whose rate differs by less are one level.
_ALIKE = 0.2


def levels(seconds: float, threads: int = 1) -> tuple[tuple[float, Rate], ...]:
    """(working set in bytes, rate) ascending; the last is main memory.

    NumPy computes with one thread: with several, the caches are taken as theirs together.

    Args:
        seconds: to spend on it.
        threads: that the runtime computes with.
    """
    found: list[tuple[float, Rate]] = []
    sizes = working_sets(last_cache_bytes())
    slot = seconds / (len(sizes) * _ROUNDS)
    rates: list[list[float]] = [[] for _ in sizes]
    arrays = [_arrays(size) for size in sizes]
    for _ in range(_ROUNDS):
        for place, (a, b, c) in enumerate(arrays):
            rates[place].append(_fastest(a, b, c, slot))
    for working_set, values in zip(sizes, rates, strict=True):
        low, high = bootstrap_interval(values)
        found.append((float(working_set), Rate(float(np.median(values)), low, high)))
    merged: list[tuple[float, Rate]] = []
    for size, rate in found:
        if merged and abs(rate.value / merged[-1][1].value - 1.0) < _ALIKE:
            merged[-1] = (size, max(rate, merged[-1][1], key=lambda r: r.value))
        else:
            merged.append((size, rate))
    last = merged[-1]
    scale = float(max(threads, 1))
    return tuple(
        (size, rate if (size, rate) == last else Rate(*(scale * v for v in _values(rate))))
        for size, rate in merged
    )


def _values(rate: Rate) -> tuple[float, float, float]:
    return rate.value, rate.low, rate.high


def last_cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the last cache before memory; 0 where the system does not say."""
    largest = 0
    for path in folder.glob("index*/size"):
        text = path.read_text().strip()
        digits = text.rstrip("KMG")
        if digits.isdigit():
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[len(digits) :], 1)
            largest = max(largest, int(digits) * unit)
    return largest


def working_sets(cache_bytes: int) -> list[int]:
    """Doubling from 16 KiB until four times the last cache is reached, or 512 MiB."""
    sizes = [_SMALLEST]
    while sizes[-1] < min(max(_LARGEST, 4 * cache_bytes), _MOST):
        sizes.append(2 * sizes[-1])
    return sizes


def _arrays(size: int) -> tuple[Array, Array, Array]:
    """Three arrays of a third of the working set each."""
    count = size // 12
    a, b, c = (np.full(count, value, dtype=np.float32) for value in (1.0, 2.0, 3.0))
    return a, b, c


def _fastest(a: Array, b: Array, c: Array, seconds: float) -> float:
    """Bytes per second of the fastest of read, copy and sum, each run for a third of the time."""
    best = 0.0
    # a sum and not a.dot(b), which BLAS shares between threads
    kernels: tuple[tuple[Callable[[], Any], int], ...] = (
        (lambda: a.sum(), 1),
        (lambda: np.copyto(b, a), 2),
        (lambda: np.add(a, b, out=c), 3),
    )
    for kernel, moved in kernels:
        kernel()
        shortest, until = float("inf"), time.perf_counter() + seconds / len(kernels)
        repeats = max(1, 20000 // len(a))
        while True:
            begin = time.perf_counter()
            for _ in range(repeats):
                kernel()
            now = time.perf_counter()
            shortest = min(shortest, (now - begin) / repeats)
            if now > until:
                break
        best = max(best, moved * a.nbytes / shortest)
    return best
