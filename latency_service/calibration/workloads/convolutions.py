"""Convolutions: shapes and strides of published networks' building blocks."""

from __future__ import annotations

import math
from dataclasses import replace

from latency_service.calibration.workloads.shapes import (
    LARGE,
    LARGE_FLOPS,
    LARGE_IMAGE,
    Rng,
    batch_size,
    channels,
    fits,
    size,
)
from latency_service.core.sample import Workload


def _convolution(
    rng: Rng,
    kernel: tuple[int, int],
    stride: int = 1,
    kind: str = "dense",
    dilation: int = 1,
    first: bool = False,
) -> Workload:
    large = rng.random() < LARGE
    while True:
        n = batch_size(rng)
        height = size(rng, 56 if large else 4)
        width = height if rng.random() < 0.7 else size(rng)
        if first:
            channels_in, height = int(rng.choice([1, 3, 3, 3, 4])), size(rng, 56, 160) * 2
            filters, group = channels(rng, 8, 96), 1
            # spectrograms and lines of text are no squares
            width = height if rng.random() < 0.7 else size(rng, 32, 160) * 2
        elif kind == "depthwise":
            channels_in = filters = group = _aligned(rng, channels(rng, 8, 1536))
        elif kind == "grouped":
            per_group = int(rng.choice([4, 8, 8, 16, 16, 16, 24, 32, 32, 40, 48, 64]))
            group = int(rng.choice([2, 3, 4, 7, 10, 16, 25, 32]))
            channels_in = filters = group * per_group
        else:
            channels_in, filters, group = _inputs(rng), _filters(rng), 1
        tall, wide = (dilation * (k - 1) + 1 for k in kernel)
        pads = [(tall - 1) // 2, (wide - 1) // 2] * 2
        high_out = (height + pads[0] + pads[2] - tall) // stride + 1
        wide_out = (width + pads[1] + pads[3] - wide) // stride + 1
        if high_out < 1 or wide_out < 1:
            continue
        work = Workload(
            "Conv",
            ((n, channels_in, height, width), (filters, channels_in // group, *kernel), (filters,)),
            {
                "kernel_shape": list(kernel),
                "pads": pads,
                "strides": [stride, stride],
                "group": group,
                **({"dilations": [dilation, dilation]} if dilation > 1 else {}),
            },
            learned=(1, 2),
            outputs=((n, filters, high_out, wide_out),),
        )
        flops = 2.0 * n * high_out * wide_out * filters * channels_in / group * math.prod(kernel)
        if fits(work, flops, *((LARGE_FLOPS, LARGE_IMAGE) if large else ())):
            return work


def _inputs(rng: Rng) -> int:
    """Now and then so few that a runtime does not store them in blocks."""
    if rng.random() < 0.06:
        return int(rng.integers(4, 16))
    return _aligned(rng, channels(rng, 16, 1536))


def _aligned(rng: Rng, count: int) -> int:
    """A channel count; every other of those that no blocks hold, which few networks have."""
    odd = count % 4 != 0 and rng.random() < 0.5
    return -(-count // 4) * 4 if odd else count


def _filters(rng: Rng, low: int = 8, high: int = 1536) -> int:
    """Now and then as few as the maps that a detector or a segmentation ends in."""
    return int(rng.integers(1, 8)) if rng.random() < 0.12 else channels(rng, low, high)


def pointwise(rng: Rng) -> Workload:
    """1x1, sometimes with a stride."""
    return _convolution(rng, (1, 1), stride=2 if rng.random() < 0.12 else 1)


def squeezed(rng: Rng) -> Workload:
    """The 1x1 convolutions of squeeze-and-excite: one position."""
    wide, narrow = channels(rng, 16, 1536), channels(rng, 4, 256)
    a, b = (wide, narrow) if rng.random() < 0.5 else (narrow, wide)
    n = batch_size(rng)
    return Workload(
        "Conv",
        ((n, a, 1, 1), (b, a, 1, 1), (b,)),
        {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1], "group": 1},
        learned=(1, 2),
        outputs=((n, b, 1, 1),),
    )


_KERNELS = (
    (3, 3), (3, 3), (3, 3), (3, 3), (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1), (2, 2),
)  # fmt: skip


def spatial(rng: Rng) -> Workload:
    """3x3 mostly, and the other kernels of published networks."""
    kernel = _window(rng) if rng.random() < 1 / 12 else _KERNELS[rng.integers(len(_KERNELS))]
    stride = 2 if rng.random() < 0.2 else 1
    dilation = 2 if rng.random() < 0.05 else 1
    return _convolution(rng, kernel, stride, "dense", dilation)


def _window(rng: Rng) -> tuple[int, int]:
    """Wide ones, square or not, as over spectrograms."""
    tall, wide = (
        int(k) for k in rng.choice([3, 5, 7, 9, 15, 39], 2, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    )
    return tall, wide


def first(rng: Rng) -> Workload:
    """From the colours of an image."""
    kernel = int(rng.choice([3, 3, 3, 5, 7, 7]))
    return _convolution(rng, (kernel, kernel), int(rng.choice([1, 1, 2, 2, 2])), first=True)


def patches(rng: Rng) -> Workload:
    """Convolutions whose windows do not overlap: the patches of a transformer."""
    patch, edge = (
        int(rng.choice([2, 4, 8, 14, 16, 32])),
        int(rng.choice([7, 8, 12, 14, 16, 28, 56])),
    )
    first = patch > 2
    while True:
        side = patch * edge
        inside = 3 if first else channels(rng, 32, 384)
        filters = channels(rng, 48, 768)
        work = Workload(
            "Conv",
            ((1, inside, side, side), (filters, inside, patch, patch), (filters,)),
            {
                "kernel_shape": [patch, patch],
                "pads": [0, 0, 0, 0],
                "strides": [patch, patch],
                "group": 1,
            },
            learned=(1, 2),
            outputs=((1, filters, edge, edge),),
        )
        if fits(work, 2.0 * edge * edge * filters * inside * patch * patch):
            return work
        edge = max(edge // 2, 1)


def depthwise(rng: Rng) -> Workload:
    """One filter a channel."""
    kernel = int(rng.choice([3, 3, 3, 3, 5, 5, 7]))
    stride = 2 if rng.random() < 0.25 else 1
    return _convolution(rng, (kernel, kernel), stride, "depthwise")


def grouped(rng: Rng) -> Workload:
    """Groups of several channels."""
    return _convolution(rng, (3, 3), 2 if rng.random() < 0.25 else 1, "grouped")


def computed(rng: Rng) -> Workload:
    """Of any kind, with weights that another kernel writes: those stored as integers are."""
    make = (pointwise, pointwise, spatial, spatial, spatial, depthwise, grouped)[rng.integers(7)]
    return replace(make(rng), learned=(2,))


def one_dimension(rng: Rng) -> Workload:
    """A convolution along time; now and then the first one, over the samples of a sound."""
    while True:
        length, kernel = (
            int(rng.choice([4, 16, 32, 64, 100, 128, 200, 256, 400, 512, 1000, 3000])),
            int(rng.choice([1, 1, 3, 3, 5, 7, 9, 15])),
        )
        inside, filters = channels(rng, 16, 512), _filters(rng, 16, 512)
        if rng.random() < 0.25:
            work = _first_along_time(rng)
            if fits(work, _flops(work)):
                return _as_image(work) if rng.random() < 0.2 else work
        depthwise = rng.random() < 0.2
        group = inside if depthwise else 1
        filters = inside if depthwise else filters
        pad = (kernel - 1) // 2
        stride = 2 if rng.random() < 0.2 and length > 64 else 1
        n = batch_size(rng) if rng.random() < 0.85 else int(rng.choice([16, 64]))
        length = length if n < 8 else int(rng.integers(1, 33))
        out = (length + 2 * pad - kernel) // stride + 1
        work = Workload(
            "Conv",
            ((n, inside, length), (filters, inside // group, kernel), (filters,)),
            {"kernel_shape": [kernel], "pads": [pad, pad], "strides": [stride], "group": group},
            learned=(1, 2),
            outputs=((n, filters, out),),
        )
        if fits(work, _flops(work)):
            return _as_image(work) if rng.random() < 0.3 else work


def _as_image(work: Workload) -> Workload:
    """The same over images of one row, as TensorFlow writes it: runtimes take another kernel."""
    (n, inside, length), (filters, each, kernel), bias = work.inputs
    found = work.attributes
    return replace(
        work,
        inputs=((n, inside, 1, length), (filters, each, 1, kernel), bias),
        attributes={
            "kernel_shape": [1, kernel],
            "pads": [side for pad in found["pads"] for side in (0, pad)],
            "strides": [1, *found["strides"]],
            "group": found["group"],
        },
        outputs=((n, filters, 1, work.outputs[0][-1]),),
    )


# (window, step): of learned front ends, of halvings, of spectra.
_ALONG_SOUND = (
    (80, 4), (80, 16), (64, 8), (25, 5), (10, 5), (16, 8), (256, 2), (256, 64), (256, 128),
    (400, 160), (512, 256),
)  # fmt: skip


def _first_along_time(rng: Rng) -> Workload:
    """Wide windows in large steps over the samples of a sound, or narrow ones over its bands."""
    if rng.random() < 0.6:
        length, inside = int(rng.choice([4000, 8000, 16000, 24000, 32000])), int(rng.choice([1, 2]))
        kernel, stride = _ALONG_SOUND[rng.integers(len(_ALONG_SOUND))]
    else:
        length, inside = int(rng.choice([100, 200, 400, 1000, 3000])), int(rng.choice([40, 64, 80]))
        kernel, stride = int(rng.choice([3, 5])), int(rng.choice([1, 2]))
    filters = _filters(rng, 16, 512)
    pad = kernel // 2 if rng.random() < 0.5 else 0
    n = batch_size(rng) if rng.random() < 0.88 else int(rng.choice([16, 64]))
    if n >= 8 or rng.random() < 0.2:  # pieces of a sound, one after the other or side by side
        length = kernel + stride * int(rng.integers(1, 9))
    out = (length + 2 * pad - kernel) // stride + 1
    return Workload(
        "Conv",
        ((n, inside, length), (filters, inside, kernel), (filters,)),
        {"kernel_shape": [kernel], "pads": [pad, pad], "strides": [stride], "group": 1},
        learned=(1, 2),
        outputs=((n, filters, out),),
    )


def _flops(work: Workload) -> float:
    return 2.0 * math.prod(work.outputs[0]) * math.prod(work.inputs[1][1:])


def transposed_convolution(rng: Rng) -> Workload:
    """Twice the height and width."""
    while True:
        edge, kernel = size(rng, 4, 80), int(rng.choice([2, 2, 3, 4]))
        inside, filters = channels(rng, 8, 512), channels(rng, 1, 256)
        pad = 0 if kernel == 2 else 1
        extra = 1 if kernel == 3 else 0
        out = (edge - 1) * 2 - 2 * pad + kernel + extra
        work = Workload(
            "ConvTranspose",
            ((1, inside, edge, edge), (inside, filters, kernel, kernel), (filters,)),
            {
                "kernel_shape": [kernel, kernel],
                "pads": [pad] * 4,
                "strides": [2, 2],
                "output_padding": [extra, extra],
                "group": 1,
            },
            learned=(1, 2),
            outputs=((1, filters, out, out),),
        )
        if fits(work, 2.0 * edge * edge * inside * filters * kernel * kernel):
            return work
