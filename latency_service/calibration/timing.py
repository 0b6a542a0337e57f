"""Timing on machines that are never quite idle.

A reading is one run between two looks at the clocks. It is disturbed when the thread did not have
the processor all along: then its CPU time falls behind the wall clock, or the kernel counts an
involuntary switch. It was shared when another thread ran on the same core (simultaneous
multithreading), which no counter of this machine tells where that thread is a neighbour's: a short
computation before and after the run takes half as long again then. Which readings count, bench.py
says; the interval is bootstrapped over rounds, not over readings, since what disturbs one disturbs
its neighbours (docs/calibration.md#noise).
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
# A probe counts so far; of so many the best, since the first finds its code gone from the caches.
_PROBE, _PROBES = range(100), 4
# Beside another thread a probe takes 1.3 to 1.8 times as long as alone, alone at most 1.15 times.
_SHARED = 1.2
# A larger share of runs that were not alone is worth a remark.
MOST_SHARED = 0.2
# So many of the probes are at full pace, on all but hopeless machines.
_QUICK_SHARE = 0.05
# A thread beside this one mostly runs for less.
_MOST_PATIENCE_S = 3e-3


@dataclass(slots=True)
class Reading:
    """One timed run.

    Attributes:
        wall_s: seconds by the wall clock.
        clean: whether nothing else used the processor meanwhile.
        probe_s: the longer of the probes before and after; 0 where none was taken.
    """

    wall_s: float = 0.0
    clean: bool = True
    probe_s: float = 0.0


class Clock:
    """Takes readings.

    Args:
        threads: how many threads the timed code computes with. Of one thread the CPU time is
            compared with the wall clock, and its core is probed. Several wait for each other, often
            spinning, so that CPU time says nothing: there the whole process's involuntary switches
            and the time that the hypervisor gave to others count.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._probes: list[float] = []
        self._full_pace_s, self._known = float("inf"), 0
        self._who = 0
        if resource is not None:
            alone = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
            self._who = alone if threads == 1 else resource.RUSAGE_SELF

    @contextmanager
    def reading(self, patience_s: float = 0.0) -> Iterator[Reading]:
        """Time the block.

        Args:
            patience_s: how long to wait, at most, for the core to be shared no more.
        """
        reading = Reading()
        stolen = stolen_ticks() if self.threads > 1 else 0
        before = self._unshared(patience_s) if self.threads == 1 else 0.0
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
            reading.probe_s = max(before, self._probe())

    def shared(self, reading: Reading) -> bool:
        """Whether something else ran on the core before or after a run.

        Compared with the quickest of all probes so far, so that it is best asked late.
        """
        return reading.probe_s > self._most_s()

    def undisturbed(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """The readings that were neither disturbed nor shared.

        Where there are none the clean ones, and without those all.
        """
        clean = [reading for reading in readings if reading.clean]
        return self._alone(clean) or clean or readings

    def undisturbed_rounds(self, rounds: Sequence[Sequence[Reading]]) -> list[Sequence[Reading]]:
        """The undisturbed readings of each round.

        Rounds that were disturbed or shared from beginning to end are left out, unless all were.
        """
        alone = [self._alone([reading for reading in part if reading.clean]) for part in rounds]
        return [part for part in alone if part] or [self.undisturbed(part) for part in rounds]

    def _alone(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        return [reading for reading in readings if not self.shared(reading)]

    def _unshared(self, patience_s: float) -> float:
        """Wait until nothing shares the core, but not forever; what the last probe took."""
        until = time.perf_counter() + min(patience_s, _MOST_PATIENCE_S)
        found = self._probe()
        while found > self._most_s() and time.perf_counter() < until:
            found = probe_s()
        return found

    def _probe(self) -> float:
        """A probe that counts for the full pace; those of a wait would count the wait."""
        found = probe_s()
        self._probes.append(found)
        return found

    def _most_s(self) -> float:
        """What a probe takes at most on a core of one's own."""
        if len(self._probes) > 1.05 * self._known:
            self._known = len(self._probes)
            self._full_pace_s = float(np.quantile(self._probes, _QUICK_SHARE))
        return _SHARED * self._full_pace_s

    def _switches(self) -> int:
        return 0 if resource is None else resource.getrusage(self._who).ru_nivcsw


def probe_s() -> float:
    """Seconds of a short computation that needs no data."""
    least = float("inf")
    for _ in range(_PROBES):
        begun, total = time.perf_counter(), 0
        for number in _PROBE:
            total += number
        least = min(least, time.perf_counter() - begun)
    return least


def stolen_ticks(path: Path = Path("/proc/stat")) -> int:
    """Time that the hypervisor gave to other machines, in ticks; 0 where nobody counts it."""
    try:
        with path.open() as file:
            fields = file.readline().split()
        return int(fields[8])
    except (OSError, IndexError, ValueError):
        return 0


def faster_half(seconds: Sequence[float]) -> float:
    """Mean of the faster half: the best, where the clock counts in steps."""
    ordered = sorted(seconds)
    return float(np.mean(ordered[: max(1, len(ordered) // 2)]))


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
