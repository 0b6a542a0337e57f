"""Measuring workloads side by side, with an eye on what disturbs them.

All of a batch are made ready, run in rounds beside a reference kernel, and released. Within a round
they take turns, a group at a time: in a network, too, other layers run between two runs of one, and
a kernel finds its code, its branch history and its weights as those left them. Runs that had the
core to themselves count, of all rounds together: the mean of the faster half, of long ones the
best, since something may have shared the core in their middle. Several threads are only ever held
up, by each other too: of their rounds the best counts. Neighbours on the memory bus slow whole
seconds down: a batch is so large that its rounds are seconds apart.

A sample keeps what the reference took, its median over the rounds, for the fit to take out how the
machine's pace changed (`at_one_pace`); a single round's would tell more of the reference.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from latency_service.calibration.backends import Backend, Prepared, Run
from latency_service.calibration.timing import MOST_SHARED, faster_half
from latency_service.core.errors import CalibrationError
from latency_service.core.geometry import RECURRENT
from latency_service.core.sample import Sample, Workload

ROUNDS = 4
# Runs of one workload in one round last about this long.
_ROUND_S = 3e-3
# The first runs of a round find weights in memory, since the last cache keeps what comes again; a
# network that runs over and over finds them there (2.7 ms of MobileNet v2: +48, +28, +7, +3, +2 %).
_SETTLE = 5
# Workloads that take turns: so few that the last cache holds the weights of all, as it does a
# network's.
_GROUP = 8
# Convolutions bring their reorders along; more of these teach nothing.
_REORDERS = 250
_REFERENCE_RUNS = 8
REFERENCE = Workload("MatMul", ((192, 192), (192, 192)), outputs=((192, 192),))
_NOISY, _UNUSABLE, _LEAST_CLEAN = 0.10, 0.25, 0.3
# Elements of images that leave a core's own cache (4 MB in float32), and products for each of them
# that are few: a first layer's window of 7x7 over three colours has 147.
_LARGE_IMAGES, _MOST_PRODUCTS = 1 << 20, 160
# What shares the core comes and goes in milliseconds: longer runs than this need not see it.
_LONG_S = 0.3e-3


class _Ready(NamedTuple):
    """A workload of a batch.

    Attributes:
        once_s: wall seconds of a run.
        repeats, at_once: its runs in a round and in each turn.
        tried: runs before the first round, which do not count.
    """

    work: Workload
    prepared: Prepared
    once_s: float
    repeats: int
    at_once: int
    tried: int


def _make_ready(backend: Backend, work: Workload) -> _Ready:
    prepared = backend.prepare(work)
    at_once = max(prepared.at_once, 2 if _finds_its_own(work) else 1)
    tried = max(at_once, 2)
    try:
        for _ in range(tried):
            once_s = prepared.run()
    except BaseException:
        with contextlib.suppress(Exception):
            prepared.finish()
        raise
    repeats = int(np.clip(_ROUND_S / max(once_s, 1e-7), 1, prepared.most_runs))
    # whole turns
    return _Ready(work, prepared, once_s, repeats + -repeats % at_once, at_once, tried)


def _turns(ready: Sequence[_Ready]) -> Iterator[_Ready]:
    """Who runs when in a round: those that empty the caches first, the others in turns."""
    alone = [member for member in ready if member.prepared.evicts]
    for member in alone:
        yield from [member] * member.repeats
    others = [member for member in ready if not member.prepared.evicts]
    for turn in range(max((member.repeats for member in others), default=0)):
        for member in others:
            if turn * member.at_once < member.repeats:
                yield from [member] * member.at_once


def _finds_its_own(work: Workload) -> bool:
    """Whether a workload finds in the caches what its last run left there: it runs twice in a turn.

    Recurrent layers go back to their own code and weights at every step. Large images lie in the
    last cache, in networks too, which hold few of them at a time; turns of many would drive each
    other's out of it. Convolutions that compute little with each pixel wait for them, and so do the
    reorders around.
    """
    if work.op in RECURRENT:
        return True
    return work.op == "Conv" and _is_large(work) and math.prod(work.inputs[1][1:]) <= _MOST_PRODUCTS


def _is_large(work: Workload) -> bool:
    """Whether its images leave a core's own cache."""
    return sum(math.prod(shape) for shape in (work.inputs[0], *work.outputs)) > _LARGE_IMAGES


class Bench:
    """Measures batches and keeps count of what disturbed them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.spreads: list[float] = []
        self.clean = self.shared = self.taken = 0
        self.reorders = 0

    @property
    def spread(self) -> float:
        """Median over workloads of their quartile range over rounds."""
        return float(np.median(self.spreads)) if self.spreads else 0.0

    @property
    def disturbed_share(self) -> float:
        """Share of all runs that something disturbed."""
        return 1.0 - self.clean / max(self.taken, 1)

    @property
    def shared_share(self) -> float:
        """Share of all runs beside which something else ran on the core."""
        return self.shared / max(self.taken, 1)

    def verdict(self) -> str | None:
        """Why the run is not to be trusted; None: it is."""
        if self.taken and self.clean < _LEAST_CLEAN * self.taken:
            return (
                f"{100 * self.disturbed_share:.0f} % of the runs were interrupted; stop what else "
                "runs on this machine"
            )
        if self.spread > _UNUSABLE:
            return f"repeated rounds differ by {100 * self.spread:.0f} % (quartile range)"
        return None

    def warning(self) -> str | None:
        """What to be told of a run that can still be used; None: nothing."""
        told = []
        if self.shared_share > MOST_SHARED:
            told.append(
                f"during {100 * self.shared_share:.0f} % of the runs another thread ran on the "
                "same core; they do not count, and networks will be slower than predicted "
                "whenever one does"
            )
        if self.spread > _NOISY:
            told.append(
                f"repeated rounds differ by {100 * self.spread:.0f} % (quartile range); a quieter "
                "machine would give narrower intervals"
            )
        return "; ".join(told) or None

    def measure(
        self, workloads: Sequence[Workload], limit_s: float = np.inf
    ) -> tuple[list[Sample], int]:
        """Samples of a batch, and how many workloads the runtime refused.

        Args:
            limit_s: workloads are left for another time once the others will take so long.
        """
        ready: list[_Ready] = []
        refused = 0
        planned_s, begun = 0.0, time.monotonic()
        reference = self.backend.prepare(REFERENCE)
        try:
            for work in workloads:
                if time.monotonic() - begun + planned_s > limit_s:
                    break
                try:
                    found = _make_ready(self.backend, work)
                except CalibrationError:
                    refused += 1
                    continue
                ready.append(found)
                planned_s += found.once_s * (2 + ROUNDS * found.repeats)
            for _ in range(2):
                reference.run()
            groups = [ready[first : first + _GROUP] for first in range(0, len(ready), _GROUP)]
            for _ in range(ROUNDS):
                for group in groups:
                    for _ in range(_REFERENCE_RUNS):
                        reference.run()
                    for member in _turns(group):
                        member.prepared.run()
        except BaseException:
            # when interrupted, too, no session and no file is left open
            for prepared in (reference, *(member.prepared for member in ready)):
                with contextlib.suppress(Exception):
                    prepared.finish()
            raise
        beside = _references(reference.finish()[2:], len(groups))
        finished = [member.prepared.finish() for member in ready]
        samples: list[Sample] = []
        for number, (member, runs) in enumerate(zip(ready, finished, strict=True)):
            taken = self._samples(member, runs[member.tried :])
            samples += [replace(row, reference_s=beside[number // _GROUP]) for row in taken]
        return samples, refused

    def _samples(self, member: _Ready, runs: Sequence[Run]) -> list[Sample]:
        work, repeats = member.work, member.repeats
        self.taken += len(runs)
        self.clean += sum(run.clean for run in runs)
        self.shared += sum(run.shared for run in runs)
        settle = min(_SETTLE, repeats // 2) if member.at_once == 1 else 0
        parts = [runs[first + settle : first + repeats] for first in range(0, len(runs), repeats)]
        own, again = (
            _alone([[run for run in part if run.clean and run.cached is found] for part in parts])
            for found in (False, True)
        )
        if not own:
            return []
        runs = [run for part in own for run in part]
        rounds_s = [faster_half([run.kernel_s for run in part]) for part in own]
        several = self.backend.threads > 1
        # memory is what neighbours disturb most, and only ever slow down
        middle = _over_rounds(own, best=several or member.prepared.evicts)
        again_s = _over_rounds(again, best=several) if again else None
        if middle > 20 * self.backend.resolution_s:
            self.spreads.append(float(np.subtract(*np.quantile(rounds_s, [0.75, 0.25]))) / middle)
        to_blocks = [run.to_blocks_s for run in runs]
        from_blocks = [run.from_blocks_s for run in runs]
        blocked = max(to_blocks) > 0 or max(from_blocks) > 0
        plain_form_too = work.op not in ("Conv", "ConvTranspose")
        again_s = None if again_s is None else min(again_s, middle)
        found = [Sample(work, middle, tuple(rounds_s), blocked and plain_form_too, again_s)]
        one_image = len(work.inputs) - len(work.learned) == 1 and len(work.inputs[0]) == 4
        told = _finds_its_own(work) or not _is_large(work)
        if blocked and one_image and told and not work.merges and self.reorders < _REORDERS:
            self.reorders += 1
            found += [
                Sample(_reorder(work, kind, shape), self._least(_typical(values)))
                for kind, shape, values in (
                    ("ReorderInput", work.inputs[0], to_blocks),
                    ("ReorderOutput", work.outputs[0], from_blocks),
                )
                if max(values) > 0
            ]
        return found

    def _least(self, seconds: float) -> float:
        """No less than a tenth of what the clock resolves."""
        return max(seconds, 0.1 * self.backend.resolution_s)


def _reorder(work: Workload, kind: str, shape: tuple[int, ...]) -> Workload:
    """The reorder of a workload's input or output."""
    return replace(work, op=kind, inputs=(shape,), attributes={}, learned=(), outputs=(shape,))


def _alone(rounds: Sequence[list[Run]]) -> list[list[Run]]:
    """Per round the runs that had the core to themselves; where none ever had, all of them."""
    alone = [[run for run in part if not run.shared] for part in rounds]
    return [part for part in alone if part] or [part for part in rounds if part]


def _references(runs: Sequence[Run], groups: int) -> list[float]:
    """Per group, what the reference took beside it: its best of a round, the median over rounds."""
    found = []
    for group in range(groups):
        firsts = range(group * _REFERENCE_RUNS, len(runs), groups * _REFERENCE_RUNS)
        rounds = [list(runs[first : first + _REFERENCE_RUNS]) for first in firsts]
        found.append(median_of_bests(rounds))
    return found


def median_of_bests(rounds: Sequence[list[Run]]) -> float:
    """Seconds of each round's best run that had the core to itself; their median."""
    return float(np.median([min(run.kernel_s for run in part) for part in _alone(rounds)]))


def _over_rounds(rounds: Sequence[list[Run]], best: bool) -> float:
    """Seconds of the best round, or of all rounds together."""
    if best:
        return min(faster_half([run.kernel_s for run in part]) for part in rounds)
    return _typical([run.kernel_s for part in rounds for run in part])


def _typical(values: Sequence[float]) -> float:
    """Of short runs the mean of the faster half, of long ones the best."""
    return min(values) if np.median(values) > _LONG_S else faster_half(values)
