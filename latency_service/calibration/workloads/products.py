"""Matrix products and recurrent layers."""

from __future__ import annotations

import math
from typing import Any

from latency_service.calibration.workloads.shapes import (
    TOKENS,
    Make,
    Rng,
    batch_size,
    channels,
    fits,
)
from latency_service.core.sample import Workload


def gemm(rng: Rng) -> Workload:
    """A dense layer, often of one row."""
    while True:
        rows = int(rng.choice([1, 1, 1, 2, 4, 8, *TOKENS]))
        depth, cols = channels(rng, 16, 4096), channels(rng, 8, 4096)
        work = Workload(
            "Gemm",
            ((rows, depth), (cols, depth), (cols,)),
            {"transB": 1},
            learned=(1, 2),
            outputs=((rows, cols),),
        )
        if fits(work, 2.0 * rows * depth * cols):
            return work


def learned_product(rng: Rng) -> Workload:
    """Tokens by a learned matrix."""
    while True:
        batch, rows = batch_size(rng), int(rng.choice(TOKENS))
        if rng.random() < 0.25:  # windows of attention, channels last
            batch, rows = int(rng.choice([4, 16, 64])), int(rng.choice([49, 64]))
        depth, cols = channels(rng, 16, 3072), channels(rng, 16, 3072)
        if rng.random() < 0.06:  # scores, one or a few a token
            cols = int(rng.integers(1, 9))
        leading: tuple[int, ...] = (batch, rows)
        if rng.random() < 0.2:  # an image with its channels last
            leading = (1, *(int(edge) for edge in rng.choice([7, 14, 28, 32, 56], 2)))
        work = Workload(
            "MatMul",
            ((*leading, depth), (depth, cols)),
            learned=(1,),
            outputs=((*leading, cols),),
        )
        if fits(work, 2.0 * math.prod(leading) * depth * cols):
            return work


def activation_product(rng: Rng) -> Workload:
    """Weights by values, or queries by keys that were stored turned."""
    while True:
        batch, heads = batch_size(rng), int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16]))
        if rng.random() < 0.3:
            batch = int(rng.choice([4, 16, 64]))
        tokens, width = (
            int(rng.choice(TOKENS)),
            int(rng.choice([16, 24, 32, 32, 48, 64, 64, 96, 128])),
        )
        if rng.random() < 0.5:
            left, right = (tokens, width), (width, tokens)
        else:
            left, right = (tokens, tokens), (tokens, width)
        work = Workload(
            "MatMul",
            ((batch, heads, *left), (batch, heads, *right)),
            outputs=((batch, heads, left[0], right[1]),),
        )
        if fits(work, 2.0 * batch * heads * left[0] * left[1] * right[1]):
            return work


def transposed_product(rng: Rng) -> Workload:
    """Queries by keys as they are stored: the runtime reads the second matrix turned."""
    work = activation_product(rng)
    left, right = work.inputs
    turned = (*right[:-2], right[-1], right[-2])
    return Workload("FusedMatMul", (left, turned), {"transB": 1}, outputs=work.outputs)


def recurrent(op: str, gates: int) -> Make:
    """A recurrent layer, often in both directions."""

    def make(rng: Rng) -> Workload:
        steps, images = int(rng.choice([8, 16, 32, 64, 100])), int(rng.choice([1, 1, 1, 4]))
        width, hidden = channels(rng, 32, 512), channels(rng, 32, 256)
        both = int(rng.choice([1, 2]))
        attributes: dict[str, Any] = {
            "hidden_size": hidden,
            "direction": "bidirectional" if both == 2 else "forward",
            **({"linear_before_reset": 1} if op == "GRU" else {}),
        }
        return Workload(
            op,
            (
                (steps, images, width),
                (both, gates * hidden, width),
                (both, gates * hidden, hidden),
                (both, 2 * gates * hidden),
            ),
            attributes,
            learned=(1, 2, 3),
            outputs=((steps, both, images, hidden),),
        )

    return make
