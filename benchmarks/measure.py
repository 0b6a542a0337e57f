"""Timing on a noisy machine: interleaved rounds, best of each, median over rounds."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isawaitable

from latency_service.api.app import rare_collections

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one piece of work: the median over rounds of the best in each."""

    median_s: float
    best_s: float
    worst_s: float

    def __str__(self) -> str:
        return (
            f"{self.median_s * 1e3:9.3f} ms  (rounds {self.best_s * 1e3:.3f} to "
            f"{self.worst_s * 1e3:.3f})"
        )


def interleaved(work: Mapping[str, Work], rounds: int = 9, repeats: int = 5) -> dict[str, Timing]:
    """Time several pieces of work side by side, as `interleaved_on_loop`."""
    return asyncio.run(interleaved_on_loop(work, rounds, repeats))


async def interleaved_on_loop(
    work: Mapping[str, Work], rounds: int = 9, repeats: int = 5
) -> dict[str, Timing]:
    """Time several pieces of work side by side, so that a drift of the machine hits them all.

    The garbage collector is set as the service sets it.

    Args:
        work: functions; what they return is awaited where it can be.
    """
    for function in work.values():
        await _done(function)
    found: dict[str, list[float]] = {name: [] for name in work}
    with rare_collections():
        for _ in range(rounds):
            for name, function in work.items():
                best = float("inf")
                for _ in range(repeats):
                    started = time.perf_counter()
                    await _done(function)
                    best = min(best, time.perf_counter() - started)
                found[name].append(best)
    return {
        name: Timing(statistics.median(times), min(times), max(times))
        for name, times in found.items()
    }


async def _done(function: Work) -> None:
    answer = function()
    if isawaitable(answer):
        await answer


def show(title: str, timings: Mapping[str, Timing], targets: Mapping[str, float]) -> None:
    """Print timings with what was asked for beside them."""
    print(f"\n{title}")
    for name, timing in timings.items():
        target = targets.get(name)
        verdict = ""
        if target is not None:
            met = "met" if timing.median_s <= target else "MISSED"
            verdict = f"  target {target * 1e3:g} ms: {met}"
        print(f"  {name:44} {timing}{verdict}")
