"""Timing on machines that are never quite idle.

A reading is one run between two looks at the clocks. It is disturbed when the thread did not have
the processor all along: then its CPU time falls behind the wall clock, or the kernel counts an
involuntary switch. Which of the clean readings count, bench.py says; the interval is bootstrapped
over rounds, not over readings, since what disturbs one disturbs its neighbours
(docs/calibration.md#noise).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import resource
except ImportError:  # not a POSIX system: CPU time alone has to tell
    resource = None  # type: ignore[assignment]

# Below this share of the wall clock a thread was kept waiting.
_CLEAN_SHARE = 0.97
# Clock granularity and the calls themselves: differences below this say nothing.
_SLACK_S = 20e-6


@dataclass(slots=True)
class Reading:
    """One timed run.

    Attributes:
        wall_s: seconds by the wall clock.
        clean: whether nothing else used the processor meanwhile.
    """

    wall_s: float = 0.0
    clean: bool = True


class Clock:
    """Takes readings.

    Args:
        threads: how many threads the timed code computes with. Of one thread the CPU time is
            compared with the wall clock. Several wait for each other, often spinning, so that CPU
            time says nothing: there the whole process's involuntary switches and the time that
            the hypervisor gave to others count.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.taken = self.disturbed = 0
        self._who = 0
        if resource is not None:
            alone = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
            self._who = alone if threads == 1 else resource.RUSAGE_SELF

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Time the block."""
        reading = Reading()
        stolen = stolen_ticks() if self.threads > 1 else 0
        switches = self._switches()
        cpu, wall = time.thread_time(), time.perf_counter()
        yield reading
        reading.wall_s = time.perf_counter() - wall
        used = time.thread_time() - cpu
        switched = self._switches() > switches
        if self.threads > 1:
            reading.clean = not switched and stolen_ticks() <= stolen
        else:
            waited = used + _SLACK_S < _CLEAN_SHARE * reading.wall_s
            reading.clean = not (switched or waited)
        self.taken += 1
        self.disturbed += not reading.clean

    def _switches(self) -> int:
        return 0 if resource is None else resource.getrusage(self._who).ru_nivcsw

    @property
    def disturbed_share(self) -> float:
        """Share of the readings that were disturbed."""
        return self.disturbed / max(self.taken, 1)


def stolen_ticks(path: Path = Path("/proc/stat")) -> int:
    """Time that the hypervisor gave to other machines, in ticks; 0 where nobody counts it."""
    try:
        with path.open() as file:
            fields = file.readline().split()
        return int(fields[8])
    except (OSError, IndexError, ValueError):
        return 0


def bootstrap_interval(
    rounds_s: Sequence[float], level: float = 0.9, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Interval of the median over rounds.

    Args:
        rounds_s: one estimate a round.

    Returns:
        (low, high) in seconds; both the value itself where there is one round.
    """
    values = np.asarray(rounds_s, dtype=np.float64)
    if values.size < 2:
        return float(values[0]), float(values[0])
    picks = np.random.default_rng(seed).integers(0, values.size, (draws, values.size))
    medians = np.median(values[picks], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
