"""How fast a machine ran when its samples were measured.

Clocks change, and what neighbours do changes them. A reference kernel beside the samples tells: it
computes, with all its data at hand, so that it slows down by as much as the clock does. What moves
data slows down by less; on the whole, kernels slow down by half of it on a logarithmic scale
(docs/calibration.md#noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from latency_service.core.features import FloatArray
from latency_service.core.sample import Sample

# Share of the reference's pace, on a logarithmic scale, that kernels follow.
_FOLLOWED = 0.5
# Samples on either side whose references tell the pace of one. Together they are a batch, measured
# in rounds that lie seconds apart; the few runs of one reference tell more of what disturbed them.
_BESIDE = 48
# A machine's pace changes by less than this; by more, something else had the processor.
_HELD_UP = 1.3


def usual_reference_s(samples: Sequence[Sample]) -> float | None:
    """What the kernel beside the samples usually took, its median; None: nothing tells."""
    known = _references(samples)
    return float(np.median(known)) if known.size else None


def at_one_pace(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples as if the machine had run at its usual pace, the median, all the time.

    Args:
        samples: in the order in which they were measured.
    """
    paces = iter(_paces(samples))
    return tuple(
        sample if sample.reference_s is None else _scaled(sample, float(np.exp(-next(paces))))
        for sample in samples
    )


def pace_spread(samples: Sequence[Sample]) -> float:
    """Standard deviation of kernels' pace, in logarithms: half of what 68 % of it spans.

    Nothing where the kernel beside the samples was held up (several threads wait for each other),
    which says nothing of the machine.
    """
    paces = _paces(samples)
    if not paces.size:
        return 0.0
    least, low, high, most = np.quantile(paces, (0.1, 0.16, 0.84, 0.9))
    held_up = most - least > _FOLLOWED * np.log(_HELD_UP)
    return 0.0 if held_up else float(high - low) / 2.0


def _references(samples: Sequence[Sample]) -> FloatArray:
    """(M,) seconds of the kernel beside those samples that had one."""
    return np.array([s.reference_s for s in samples if s.reference_s is not None], dtype=np.float64)


def _paces(samples: Sequence[Sample]) -> FloatArray:
    """(M,) logarithm of how much longer than usually kernels took where there was a reference."""
    known = np.log(_references(samples))
    if not known.size:
        return known
    padded = np.pad(known, _BESIDE, constant_values=np.nan)
    beside = np.lib.stride_tricks.sliding_window_view(padded, 2 * _BESIDE + 1)
    paces: FloatArray = _FOLLOWED * (np.nanmedian(beside, axis=1) - np.median(known))
    return paces


def _scaled(sample: Sample, factor: float) -> Sample:
    cached = sample.cached_s
    return replace(
        sample,
        latency_s=sample.latency_s * factor,
        rounds_s=tuple(seconds * factor for seconds in sample.rounds_s),
        cached_s=None if cached is None else cached * factor,
    )
