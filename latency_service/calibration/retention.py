"""How long the last cache keeps what is not used.

Whoever shares it drives it out: on a rented machine of a hundred tenants in milliseconds, whatever
size the system names. A megabyte is read again after a while in which only the nearer caches are
used, as a network's other layers use them, and after so much else that it must come from memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from latency_service.core.efficiency import forgotten

# What is read again; what drives it out of the core's own cache; and out of all.
_BLOCK, _NEARER, _ALL = 1 << 20, 4 << 20, 128 << 20
# A cache that takes what nearer ones drop keeps what has come more than once.
_SETTLE = 3
_WAITS_S = (0.0, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)
# A last cache is worth this much at least: seconds from memory over its own.
_WORTH = 1.25
# And less than this share lost after the longest wait is noise.
_LEAST_LOST = 0.1
# Candidates for the half-life, from what no wait resolves to what hardly shows after the longest.
_HALF_LIVES_S = np.geomspace(0.5e-3, 0.2, 200)


class Retention:
    """Readings all through a campaign; what neighbours do changes."""

    def __init__(self) -> None:
        self._block, self._nearer, self._copied = (
            np.ones(size // 8) for size in (_BLOCK, _NEARER, _NEARER)
        )
        self._all = np.ones(_ALL // 8)
        self._after: dict[float, list[float]] = {wait_s: [] for wait_s in _WAITS_S}
        self._from_memory: list[float] = []

    def round(self) -> None:
        """Read once after every wait, and once from memory; a tenth of a second."""
        for wait_s, readings in self._after.items():
            for _ in range(_SETTLE):
                self._read()
                self._nearer.sum()
            until = time.perf_counter() + wait_s
            while time.perf_counter() < until:
                np.copyto(self._copied, self._nearer)
            readings.append(self._read())
        self._all.sum()
        self._from_memory.append(self._read())

    def half_life_s(self) -> float:
        """After which half of it is gone; 0 where nothing is lost, or nothing to lose."""
        if not self._from_memory:
            return 0.0
        after = {wait_s: float(np.median(taken)) for wait_s, taken in self._after.items()}
        return half_life_s(after, float(np.median(self._from_memory)))

    def _read(self) -> float:
        """Seconds of reading the block."""
        begin = time.perf_counter()
        self._block.sum()
        return time.perf_counter() - begin


def half_life_s(after: Mapping[float, float], from_memory_s: float) -> float:
    """The half-life that describes readings best, by least squares.

    Args:
        after: seconds of a reading by the seconds before it; among them 0.
        from_memory_s: of one that finds nothing in the caches.
    """
    fresh_s = after[0.0]
    if from_memory_s < _WORTH * fresh_s:
        return 0.0
    waits = np.array([wait_s for wait_s in after if wait_s > 0])
    seconds = np.array([after[wait_s] for wait_s in waits.tolist()])
    lost = np.clip((seconds - fresh_s) / (from_memory_s - fresh_s), 0.0, 1.0)
    if lost[np.argmax(waits)] < _LEAST_LOST:
        return 0.0
    candidates = forgotten(np.divide.outer(waits, _HALF_LIVES_S))
    misfits = ((candidates - lost[:, None]) ** 2).sum(axis=0)
    return float(_HALF_LIVES_S[np.argmin(misfits)])
