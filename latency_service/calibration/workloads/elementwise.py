"""Operators that treat elements alike: activations, arithmetic, normalisations, pooling."""

from __future__ import annotations

import math
from typing import Any

from latency_service.calibration.workloads.shapes import (
    LARGE_IMAGE,
    TOKENS,
    Make,
    Rng,
    any_shape,
    batch_size,
    channels,
    image_shape,
    sequence_shape,
    window_scores,
)
from latency_service.core.sample import Workload


def unary(op: str, **attributes: Any) -> Make:
    """An operator of one tensor."""

    def make(rng: Rng) -> Workload:
        shape = any_shape(rng)
        return Workload(op, (shape,), dict(attributes), outputs=(shape,))

    return make


def binary(op: str) -> Make:
    """An operator of two tensors: alike, per channel, per position, or with a number."""

    def make(rng: Rng) -> Workload:
        how = rng.random()
        if how < 0.4:
            shape = any_shape(rng)
            return Workload(op, (shape, shape), outputs=(shape,))
        if how < 0.6:
            image = image_shape(rng)
            return Workload(op, (image, (image[0], image[1], 1, 1)), outputs=(image,))
        if how < 0.66:
            return _short_runs(op, rng)
        if how < 0.7:
            return _over_windows(op, rng)
        if how < 0.73:
            return _all_pairs(op, rng)
        rows = sequence_shape(rng)
        if how < 0.8:
            return Workload(op, (rows, rows[-1:]), learned=(1,), outputs=(rows,))
        return Workload(op, (rows, ()), learned=(1,), outputs=(rows,))

    return make


def _short_runs(op: str, rng: Rng) -> Workload:
    """A factor for every few elements: complex numbers, boxes, channels that stand last."""
    while True:
        shape = 1, int(rng.choice(TOKENS)), channels(rng, 4, 512), int(rng.integers(2, 17))
        if math.prod(shape) <= 500_000:
            other = (1, 1, shape[2], 1) if rng.random() < 0.5 else (*shape[:3], 1)
            return Workload(op, (shape, other), outputs=(shape,))


def _over_windows(op: str, rng: Rng) -> Workload:
    """What all windows' scores have in common: where keys lie, or what a window's heads mask."""
    while True:
        shape = window_scores(rng)
        other = (1, *shape[1:]) if rng.random() < 0.6 else (shape[0], 1, *shape[2:])
        if math.prod(shape) <= 500_000 and other != shape:
            return Workload(op, (shape, other), outputs=(shape,))


def _all_pairs(op: str, rng: Rng) -> Workload:
    """Every token with every other, channel by channel: both operands are small."""
    while True:
        tokens, width = int(rng.choice(TOKENS)), channels(rng, 16, 768)
        shape = 1, tokens, tokens, width
        if math.prod(shape) <= LARGE_IMAGE:
            return Workload(op, ((1, tokens, 1, width), (1, 1, tokens, width)), outputs=(shape,))


def batch_normalisation(rng: Rng) -> Workload:
    """In inference: a scale and a shift per channel."""
    image = image_shape(rng)
    vector = (image[1],)
    return Workload(
        "BatchNormalization",
        (image, vector, vector, vector, vector),
        learned=(1, 2, 3, 4),
        outputs=(image,),
    )


def layer_normalisation(rng: Rng) -> Workload:
    """Over the channels of every token."""
    rows = sequence_shape(rng)
    return Workload(
        "LayerNormalization",
        (rows, rows[-1:], rows[-1:]),
        {"axis": -1},
        learned=(1, 2),
        outputs=(rows,),
    )


def skip_layer_normalisation(rng: Rng) -> Workload:
    """An addition and the normalisation behind it, as runtimes merge them."""
    rows = sequence_shape(rng)
    return Workload(
        "SkipLayerNormalization",
        (rows, rows, rows[-1:], rows[-1:]),
        learned=(2, 3),
        outputs=(rows,),
    )


def instance_normalisation(rng: Rng) -> Workload:
    """Over the positions of every channel."""
    image = image_shape(rng)
    return Workload(
        "InstanceNormalization",
        (image, (image[1],), (image[1],)),
        learned=(1, 2),
        outputs=(image,),
    )


def softmax(rng: Rng) -> Workload:
    """Over the keys of every query; now and then over an axis that is not the last."""
    how = rng.random()
    if how < 0.15:
        return _softmax_over_classes(rng)
    if how < 0.4:
        windows = window_scores(rng)
        return Workload("Softmax", (windows,), {"axis": -1}, outputs=(windows,))
    while True:
        batch, heads = batch_size(rng), int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 64]))
        tokens = int(rng.choice(TOKENS))
        shape = (batch, heads, tokens, tokens)
        if math.prod(shape) <= 1_500_000:
            return Workload("Softmax", (shape,), {"axis": -1}, outputs=(shape,))


def _softmax_over_classes(rng: Rng) -> Workload:
    """Of every position of an image, or of every bin of a box's edges."""
    while True:
        shape = (
            batch_size(rng), int(rng.choice([2, 4, 16, 19, 21, 64])),
            int(rng.choice([1, 4, 16, 64])), int(rng.choice(TOKENS)),
        )  # fmt: skip
        if math.prod(shape) <= 500_000:
            return Workload("Softmax", (shape,), {"axis": 1}, outputs=(shape,))


def pool(op: str) -> Make:
    """A pooling window of 2 or 3, seldom wider."""

    def make(rng: Rng) -> Workload:
        while True:
            if rng.random() < 0.15:
                return _pool_along_time(op, rng)
            if rng.random() < 0.1:
                return _pool_of_lines(op, rng)
            image = image_shape(rng)
            window = int(rng.choice([2, 3, 3, 3, 5]))
            stride = int(rng.choice([1, 2, 2]))
            pad = window // 2 if window > 2 else 0
            out = (image[2] + 2 * pad - window) // stride + 1
            if out < 1:
                continue
            attributes = {
                "kernel_shape": [window, window],
                "strides": [stride, stride],
                "pads": [pad] * 4,
            }
            return Workload(op, (image,), attributes, outputs=((*image[:2], out, out),))

    return make


def _pool_of_lines(op: str, rng: Rng) -> Workload:
    """Half the rows and all the columns: text is read along a line."""
    pad = int(rng.integers(0, 2))
    attributes = {"kernel_shape": [2, 2], "strides": [2, 1], "pads": [0, pad, 0, pad]}
    while True:
        high, wide = 2 * int(rng.integers(1, 9)), int(rng.integers(16, 161))
        shape = (batch_size(rng), channels(rng, 16, 512), high, wide)
        if math.prod(shape) <= 1_500_000:
            out = (*shape[:2], high // 2, wide + 2 * pad - 1)
            return Workload(op, (shape,), attributes, outputs=(out,))


def _pool_along_time(op: str, rng: Rng) -> Workload:
    length, window = int(rng.choice([100, 250, 500, 1000, 2000])), int(rng.choice([2, 3, 4]))
    wide = channels(rng, 16, 512)
    attributes = {"kernel_shape": [window], "strides": [window], "pads": [0, 0]}
    out = (length - window) // window + 1
    return Workload(op, ((1, wide, length),), attributes, outputs=((1, wide, out),))


def global_pool(rng: Rng) -> Workload:
    """One mean per channel."""
    image = image_shape(rng)
    return Workload("GlobalAveragePool", (image,), outputs=((*image[:2], 1, 1),))


def reduction(op: str) -> Make:
    """Over the last axis of a sequence, its tokens, or the positions of an image."""

    def make(rng: Rng) -> Workload:
        if rng.random() < 0.45:
            rows = sequence_shape(rng)
            return Workload(op, (rows,), {"axes": [-1], "keepdims": 1}, outputs=((*rows[:-1], 1),))
        if rng.random() < 0.6:  # whole rows are added up
            rows = sequence_shape(rng)
            out: tuple[int, ...] = (rows[0], 1, rows[2])
            return Workload(op, (rows,), {"axes": [1], "keepdims": 1}, outputs=(out,))
        image = image_shape(rng)
        out = (*image[:2], 1, 1)
        return Workload(op, (image,), {"axes": [2, 3], "keepdims": 1}, outputs=(out,))

    return make


def where(rng: Rng) -> Workload:
    """One of two tensors per element; the second is often a number that masks."""
    shape = any_shape(rng)
    if rng.random() < 0.5:
        return Workload("Where", (shape, shape, shape), outputs=(shape,))
    return Workload("Where", (shape, (), shape), learned=(1,), outputs=(shape,))


def cast(rng: Rng) -> Workload:
    """Numbers to integers."""
    shape = any_shape(rng)
    return Workload("Cast", (shape,), {"to": int(rng.choice([6, 7]))}, outputs=(shape,))
