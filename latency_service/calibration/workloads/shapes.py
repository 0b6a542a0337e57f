"""How shapes are drawn, and what a family of workloads is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latency_service.core.sample import Workload

Rng = np.random.Generator
Make = Callable[[Rng], Workload]

# A workload beyond these takes too long, or is bound by something that no layer meets.
MOST_FLOPS, MOST_ELEMENTS = 0.6e9, 4.0e6
# Of the few that say how large images and vocabularies run.
LARGE_FLOPS, LARGE_ELEMENTS = 3e9, 12.0e6
# Elements of the largest images, as detectors and segmentations read them.
LARGE_IMAGE = 8.0e6

# Share of shapes that are small enough to tell what a kernel costs whatever its size.
_TINY = 1 / 12
# And that are larger than the last cache holds of a network besides.
LARGE = 1 / 25
_USUAL_ELEMENTS = 1_500_000
SIZES = (4, 5, 6, 7, 8, 10, 12, 13, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160)
TOKENS = (16, 32, 49, 50, 64, 96, 128, 144, 192, 196, 197, 256, 384, 512, 784, 1024)
# Positions of the windows in which attention looks around.
WINDOWS = (9, 16, 25, 36, 49, 64)


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of workload.

    Attributes:
        share: relative number of samples.
        dtypes: those that the family exists in.
        tensors: dtype of its tensors, where it is not the one that is asked for.
    """

    name: str
    make: Make
    share: float
    dtypes: tuple[str, ...] = ("float32", "float16")
    tensors: str | None = None


def channels(rng: Rng, low: int = 8, high: int = 1024) -> int:
    """A channel count, log-uniform; two in three are multiples of 8, 16 or 32."""
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    if rng.random() < 0.68:
        step = int(rng.choice([8, 16, 16, 32])) if value >= 32 else int(rng.choice([4, 8]))
        value = max(round(value / step), 1) * step
    return int(min(max(round(value), low), high))


def size(rng: Rng, low: int = 4, high: int = 160) -> int:
    """A height or width."""
    return int(rng.choice([s for s in SIZES if low <= s <= high]))


def batch_size(rng: Rng) -> int:
    """Images: mostly one; many where they are small, as the steps of a sound are."""
    return int(rng.choice([1, 2, 4, 8, 16, 64], p=[0.64, 0.14, 0.12, 0.03, 0.03, 0.04]))


def fits(
    work: Workload, flops: float, most: float = MOST_FLOPS, most_elements: float = MOST_ELEMENTS
) -> bool:
    """Whether a workload takes a reasonable time."""
    elements = max(math.prod(shape) for shape in (*work.inputs, *work.outputs))
    return flops <= most and elements <= most_elements


def image_shape(rng: Rng, most: int = _USUAL_ELEMENTS) -> tuple[int, int, int, int]:
    """(images, channels, height, width); one in twelve is tiny, one in twenty-five large."""
    how = rng.random()
    if how < _TINY:
        edge = int(rng.integers(1, 4))
        return 1, channels(rng, 4, 256), edge, edge
    if how > 1 - LARGE and most == _USUAL_ELEMENTS:
        edge = size(rng, 80)
        most = int(0.9 * LARGE_IMAGE)
        return 1, min(channels(rng, 64, 512), most // edge**2), edge, edge
    while True:
        edge = size(rng)
        shape = (batch_size(rng), channels(rng, 8, 1024), edge, edge)
        if math.prod(shape) <= most:
            return shape


def sequence_shape(rng: Rng, most: int = 1_500_000) -> tuple[int, int, int]:
    """(images, tokens, channels); one in twelve is tiny."""
    if rng.random() < _TINY:
        return 1, int(rng.integers(1, 9)), channels(rng, 4, 256)
    while True:
        shape = (batch_size(rng), int(rng.choice(TOKENS)), channels(rng, 32, 3072))
        if math.prod(shape) <= most:
            return shape


def window_scores(rng: Rng) -> tuple[int, int, int, int]:
    """(windows, heads, queries, keys) of attention within windows of 3x3 to 8x8 positions."""
    while True:
        tokens = int(rng.choice(WINDOWS))
        shape = (
            int(rng.choice([1, 4, 16, 49, 64])),
            int(rng.choice([1, 2, 3, 4, 8])),
            tokens,
            tokens,
        )
        if math.prod(shape) <= 1_000_000:
            return shape


def tiny_shape(rng: Rng) -> tuple[int, ...]:
    """One to 4096 elements: gates, class scores, arithmetic on the side."""
    count = round(math.exp(rng.uniform(0.0, math.log(4096))))
    return ((count,), (1, count), (1, count, 1, 1))[rng.integers(3)]


def any_shape(rng: Rng) -> tuple[int, ...]:
    """An image, a sequence, or something tiny."""
    if rng.random() < 0.12:
        return tiny_shape(rng)
    return image_shape(rng) if rng.random() < 0.6 else sequence_shape(rng)
