"""What a mask of attention costs: exponentials and products of numbers below 1e-38.

Three pairs of small networks that differ in their data alone, run in turns
(latency_service/core/masks.py says what is slow, and why).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from latency_service.calibration.backends import RunsNetworks
from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.core.masks import CAUSES, RUN

# Images, positions, and channels that are multiplied with: what windows and short texts have.
_SHAPE, _CHANNELS = (24, 64, 64), 64
_ROUNDS = 30
# What takes less than this share of its time longer does not: processors differ here by far more.
# Nor does a run that takes fewer seconds longer than this: microcode takes tens of cycles at least.
_NOTICED, _LEAST_S = 0.1, 1e-9

Array = npt.NDArray[np.float32]


def slow_runs(backend: RunsNetworks) -> dict[str, float]:
    """Seconds that a slow run of sixteen numbers takes longer, by the causes that cost any.

    Raises:
        CalibrationError: if the runtime cannot run a softmax.
    """
    scores, shares = noise(_SHAPE), np.full(_SHAPE, 1.0 / _SHAPE[-1], dtype=np.float32)
    half = _SHAPE[-1] // 2
    masked, left = scores.copy(), scores.copy()
    masked[..., half:] = -1e4
    left[..., half:] = -95.0
    # products take long enough where a twelfth of the images have such numbers
    few = _SHAPE[0] // 12
    subnormal = shares.copy()
    subnormal[:few, :, half:] = 1e-40
    exponentials = masked[..., half:].size // RUN
    products = subnormal[:few, :, half:].size * _CHANNELS // RUN
    pairs = (
        (_softmax, scores, masked, exponentials),
        (_softmax, scores, left, exponentials),
        (_product, shares, subnormal, products),
    )
    sessions = [
        [backend.network(*build(data)) for data in (usual, slow)] for build, usual, slow, _ in pairs
    ]
    for _ in range(_ROUNDS):
        for pair in sessions:
            for session in pair:
                session.run()
    found: dict[str, float] = {}
    for cause, (usual, slow), (*_, runs) in zip(CAUSES, sessions, pairs, strict=True):
        usual_s, slow_s = _seconds(backend, usual), _seconds(backend, slow)
        longer_s = (slow_s - usual_s) / runs
        if slow_s > (1.0 + _NOTICED) * usual_s and longer_s > _LEAST_S:
            found[cause] = float(f"{longer_s:.3g}")
    return found


def _softmax(scores: Array) -> tuple[bytes, Mapping[str, Any]]:
    feeds = {"scores": scores}
    node = helper.make_node("Softmax", ["scores"], ["y"], axis=-1)
    return assemble([node], feeds, ["y"], []), feeds


def _product(shares: Array) -> tuple[bytes, Mapping[str, Any]]:
    feeds = {"shares": shares, "values": noise((*_SHAPE[:-1], _CHANNELS))}
    node = helper.make_node("MatMul", ["shares", "values"], ["y"])
    return assemble([node], feeds, ["y"], []), feeds


def _seconds(backend: RunsNetworks, session: Any) -> float:
    readings = backend.clock.undisturbed(session.readings)
    return float(np.quantile([reading.wall_s for reading in readings], 0.25))
