"""A calibration run: what is measured in which order, within a budget of time.

Workloads are measured in batches: all of a batch are made ready, run in interleaved rounds beside a
reference kernel, and released. The first part of the budget goes to all families in proportion to
their share; the rest goes where a quick fit is worst.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latency_service.calibration.backends import Backend, RunsNetworks
from latency_service.calibration.bench import Bench
from latency_service.calibration.journal import Journal
from latency_service.calibration.masks import slow_runs
from latency_service.calibration.measurement import Measurement, Rate
from latency_service.calibration.references import ReferenceRuns
from latency_service.calibration.retention import Retention
from latency_service.calibration.timing import bootstrap_interval
from latency_service.calibration.workloads import draw, merged_workloads, peak_workloads
from latency_service.core.errors import CalibrationError
from latency_service.core.fit import fit
from latency_service.core.fit_settings import Settings
from latency_service.core.pace import at_one_pace
from latency_service.core.sample import Sample, Workload

_BATCH = 96
_EVEN_SHARE = 0.6
_PEAK_SHARE = 0.04
# A batch ends early rather than take longer than this, and no longer than the budget lasts.
_BATCH_S = 14.0
# Whole networks run so rarely: a round of them takes as long as half a batch.
_BATCHES_A_ROUND = 3
# The quick fit is worth its time if at least so much is left for what it asks for.
_REFIT_S = 8.0
# Seconds of a budget for each convolution that is measured with everything it may merge.
_PAIR_S = 8.0

Progress = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        shares: of the budget, by dtype.
        budget_s: seconds for everything, the fit aside.
        seed: of the shapes that are drawn.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: {"float32": 1.0})
    budget_s: float = 150.0
    seed: int = 0


def run(backend: Backend, plan: Plan, journal: Journal, progress: Progress) -> Measurement:
    """Measure a device.

    Args:
        journal: gets every sample as soon as it is measured; those that it holds count.
        progress: called with the phase, the share of the budget that is used, and a message.

    Raises:
        CalibrationError: if not even the simplest kernels can be run or recorded.
    """
    started = time.monotonic()

    def used() -> float:
        return (time.monotonic() - started) / plan.budget_s

    progress("bandwidth", used(), "reading and copying 16 KiB to four times the last cache")
    levels = backend.levels(min(8.0, 0.05 * plan.budget_s))
    progress("rules", used(), "what the runtime merges and how it stores images")
    fusion, layout = backend.discover(next(iter(plan.shares)))
    rates: dict[str, Rate] = {}
    networks, slow, retention = None, {}, None
    if backend.kind == "cpu" and isinstance(backend, RunsNetworks):
        networks = ReferenceRuns(backend)
        slow = slow_runs(backend) if "float32" in plan.shares else {}
        retention = Retention()
    bench = Bench(backend)
    left_out = batches = 0
    until = 0.0
    for dtype, share in plan.shares.items():
        until += share
        progress("peak rate", used(), dtype)
        rate = _peak(bench, dtype, _PEAK_SHARE * plan.budget_s)
        if rate is None:
            continue
        rates[dtype] = rate
        for batch in _batches(plan, journal, dtype, used, until):
            left_s = (until - used()) * plan.budget_s
            samples, refused = bench.measure(batch, float(np.clip(left_s, 0.5, _BATCH_S)))
            left_out += refused
            journal.append(samples)
            batches += 1
            if networks is not None and batches % _BATCHES_A_ROUND == 1:
                networks.round()
            if retention is not None:
                retention.round()
            spread = bench.spread
            progress(
                f"operators, {dtype}", used(),
                f"{len(journal.samples)} samples, spread {100 * spread:.1f} %",
            )  # fmt: skip
    if not journal.samples or not rates:
        raise CalibrationError(
            f"{backend.runtime} ran none of the workloads in {', '.join(plan.shares)}; "
            "try --dtype float32"
        )
    return Measurement(
        runtime=backend.runtime,
        samples=tuple(journal.samples),
        rates=rates,
        levels=levels,
        dispatch_s=0.0,
        resolution_s=backend.resolution_s,
        units=backend.units,
        layout=layout,
        fusion=fusion,
        networks={} if networks is None else networks.seconds(),
        slow_runs=slow,
        kept_s=0.0 if retention is None else retention.half_life_s(),
        environment={
            **backend.facts(),
            "left_out": left_out,
            "disturbed": bench.disturbed_share,
            "shared": bench.shared_share,
            "spread": bench.spread,
            "warning": bench.warning(),
        },
        launches_ahead=backend.launches_ahead,
        noise=bench.verdict(),
    )


def _batches(
    plan: Plan, journal: Journal, dtype: str, used: Callable[[], float], until: float
) -> Iterator[list[Workload]]:
    """Batches of workloads until a share of the budget is used."""
    begin = used()
    even = begin + _EVEN_SHARE * (until - begin)
    # a continued recording goes on with other shapes than those it holds
    seed = plan.seed + len(journal.samples)
    pairs = int(np.clip((until - begin) * plan.budget_s / _PAIR_S, 1, 15))
    stream: Iterator[Workload] = itertools.chain(
        merged_workloads(seed, dtype, pairs) if dtype.startswith("float") else (),
        (work for _, work in draw(seed, dtype)),
    )
    # one batch at least, however short the budget
    yield list(itertools.islice(stream, _BATCH))
    while used() < even:
        yield list(itertools.islice(stream, _BATCH))
    if (until - used()) * plan.budget_s > _REFIT_S:
        doubtful = _doubtful(journal.samples, dtype)
        stream = (work for _, work in draw(seed + 1, dtype, doubtful))
    while used() < until:
        yield list(itertools.islice(stream, _BATCH))


def _doubtful(samples: Sequence[Sample], dtype: str) -> dict[str, float]:
    """By operator, how much worse than the average its families are predicted."""
    of_dtype = [s for s in samples if s.workload.dtype == dtype and not s.workload.merges]
    fits = fit(at_one_pace(of_dtype[:1500]), Settings(support=128))
    worst: dict[str, float] = {}
    for found in fits:
        op = found.name.split()[1].split("/")[0]
        worst[op] = max(worst.get(op, 0.0), found.model.spread)
    typical = float(np.median(list(worst.values()))) if worst else 1.0
    return {op: float(np.clip(value / max(typical, 1e-9), 0.5, 3.0)) for op, value in worst.items()}


def _peak(bench: Bench, dtype: str, limit_s: float) -> Rate | None:
    """Highest rate of large products; None if the runtime has no kernel for the dtype."""
    samples, _ = bench.measure(list(peak_workloads(dtype, bench.backend.kind)), limit_s)
    samples = [s for s in samples if s.workload.op not in ("ReorderInput", "ReorderOutput")]
    if not samples:
        return None
    flops = [_flops(sample.workload) for sample in samples]
    fastest = max(range(len(samples)), key=lambda n: flops[n] / samples[n].latency_s)
    low, high = bootstrap_interval(samples[fastest].rounds_s)
    work = flops[fastest]
    return Rate(work / min(samples[fastest].rounds_s), work / high, work / low)


def _flops(work: Workload) -> float:
    """Of a product of two matrices."""
    rows, depth = work.inputs[0]
    return 2.0 * rows * depth * work.outputs[0][-1]
