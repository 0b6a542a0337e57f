"""Matrix products and recurrent layers."""

from __future__ import annotations

import math
from typing import Any

from latency_service.calibration.workloads.shapes import (
    LARGE,
    LARGE_ELEMENTS,
    LARGE_FLOPS,
    MOST_ELEMENTS,
    TOKENS,
    Make,
    Rng,
    batch_size,
    channels,
    fits,
)
from latency_service.core.sample import Workload


def _leading(rng: Rng) -> tuple[int, ...]:
    """Whose channels a product takes: tokens, windows of attention, or a whole image."""
    if rng.random() < 0.2:  # an image with its channels last
        return (1, *(int(edge) for edge in rng.choice([7, 14, 28, 32, 56], 2)))
    if rng.random() < 0.25:
        return int(rng.choice([4, 16, 64])), int(rng.choice([49, 64]))
    return batch_size(rng), int(rng.choice(TOKENS))


def gemm(rng: Rng) -> Workload:
    """A dense layer: of a few rows, or of all tokens; now and then one of many millions."""
    few, large = rng.random() < 0.3, rng.random() < LARGE
    while True:
        rows = int(rng.choice([1, 1, 1, 2, 4, 8])) if few else math.prod(_leading(rng))
        depth, cols = channels(rng, 16 if few else 32, 4096), channels(rng, 8 if few else 32, 4096)
        if large:
            rows = int(rng.choice([1, 1, 4]))
            depth, cols = channels(rng, 1024, 16384), channels(rng, 512, 4096)
        work = Workload(
            "Gemm",
            ((rows, depth), (cols, depth), (cols,)),
            {"transB": 1},
            learned=(1, 2),
            outputs=((rows, cols),),
        )
        if _fits(work, 2.0 * rows * depth * cols, large):
            return work


def learned_product(rng: Rng) -> Workload:
    """Tokens by a learned matrix; now and then the scores of all words of a language."""
    large = rng.random() < LARGE
    while True:
        leading = _leading(rng)
        depth, cols = channels(rng, 24, 3072), channels(rng, 24, 3072)
        if rng.random() < 0.06:  # scores, one or a few a token
            cols = int(rng.integers(1, 9))
        if large:
            leading = 1, int(rng.choice([1, 16, 64, 128]))
            depth, cols = channels(rng, 128, 1024), channels(rng, 8192, 65536)
        work = Workload(
            "MatMul",
            ((*leading, depth), (depth, cols)),
            learned=(1,),
            outputs=((*leading, cols),),
        )
        if _fits(work, 2.0 * math.prod(leading) * depth * cols, large):
            return work


def _fits(work: Workload, flops: float, large: bool) -> bool:
    """Whether it takes a reasonable time; of a large one only the matrix is large."""
    if not large:
        return fits(work, flops)
    few = math.prod(work.outputs[0]) <= MOST_ELEMENTS
    return few and fits(work, flops, LARGE_FLOPS, LARGE_ELEMENTS)


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
    """A recurrent layer, often in both directions, over one sequence or many short ones."""

    def make(rng: Rng) -> Workload:
        steps, images = (
            int(rng.choice([1, 8, 16, 32, 64, 100, 200])),
            int(rng.choice([1, 1, 4, 16])),
        )
        steps = min(steps, 256 // images)
        width, hidden = channels(rng, 32, 512), channels(rng, 32, 320)
        both = int(rng.choice([1, 2]))
        if rng.random() < 0.3:  # upon another one
            width = both * hidden
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
