"""Operators on 8-bit integers, and those between them and floating point.

What is quantised ahead has its scales and zero points as constants. Images and sequences are
unsigned and weights signed, the pairing that runtimes are fastest with and advise.
"""

from __future__ import annotations

import math
from typing import Any

from latency_service.calibration.workloads.convolutions import (
    depthwise,
    first,
    grouped,
    pointwise,
    spatial,
)
from latency_service.calibration.workloads.elementwise import pool, softmax, unary
from latency_service.calibration.workloads.moving import (
    concat,
    half,
    joined_last,
    pad,
    split,
    transpose,
    turned,
)
from latency_service.calibration.workloads.products import (
    activation_product,
    gemm,
    learned_product,
    recurrent,
)
from latency_service.calibration.workloads.shapes import (
    Family,
    Make,
    Rng,
    any_shape,
    channels,
    image_shape,
)
from latency_service.core.sample import Dims, Workload

_SCALAR: tuple[int, ...] = ()


def convolution(make: Make) -> Make:
    """A convolution quantised ahead; half of them with one scale a filter."""

    def quantised(rng: Rng) -> Workload:
        work = make(rng)
        x, weight, bias = work.inputs
        scales = bias if rng.random() < 0.5 else _SCALAR
        inputs = (x, _SCALAR, _SCALAR, weight, scales, scales, _SCALAR, _SCALAR, bias)
        learned = tuple(range(1, len(inputs)))
        return Workload("QLinearConv", inputs, work.attributes, "int8", learned, work.outputs)

    return quantised


def dynamic_convolution(make: Make, most_products: float = 5e7) -> Make:
    """A convolution whose input was quantised a moment ago.

    Args:
        most_products: of a workload; runtimes take up to a hundred times as long for one as in a
            convolution that was quantised ahead.
    """

    def quantised(rng: Rng) -> Workload:
        while True:
            work = make(rng)
            if math.prod(work.outputs[0]) * math.prod(work.inputs[1][1:]) <= most_products:
                break
        inputs = (*work.inputs[:2], _SCALAR, _SCALAR)
        return Workload("ConvInteger", inputs, work.attributes, "int8", (1, 2, 3), work.outputs)

    return quantised


def _matrices(rng: Rng) -> tuple[Dims, Dims, tuple[Dims, ...]]:
    """Tokens, or the few rows of a classifier, a learned matrix, and what results."""
    how = rng.random()
    if how < 0.08:  # a score of every pair of tokens: quantising takes longer than multiplying
        rows, depth = int(rng.choice([784, 2048, 4096, 8192])), channels(rng, 64, 768)
        cols = int(rng.integers(1, 17))
        return (1, rows, depth), (depth, cols), ((1, rows, cols),)
    if how < 0.35:
        work = gemm(rng)
        a, matrix = work.inputs[0], work.inputs[1]
        return a, (matrix[1], matrix[0]), work.outputs
    work = learned_product(rng)
    a, b = work.inputs
    return a, b, work.outputs


def product(rng: Rng) -> Workload:
    """A matrix product quantised ahead."""
    a, b, outputs = _matrices(rng)
    inputs = (a, _SCALAR, _SCALAR, b, _SCALAR, _SCALAR, _SCALAR, _SCALAR)
    return Workload("QLinearMatMul", inputs, {}, "int8", tuple(range(1, 8)), outputs)


def attention_product(rng: Rng) -> Workload:
    """Queries by keys, or weights by values, quantised ahead: both unsigned."""
    work = activation_product(rng)
    a, b = work.inputs
    inputs = (a, _SCALAR, _SCALAR, b, _SCALAR, _SCALAR, _SCALAR, _SCALAR)
    return Workload("QLinearMatMul", inputs, {}, "int8", (1, 2, 4, 5, 6, 7), work.outputs)


def dynamic_product(op: str, constants: int) -> Make:
    """A matrix product whose left side was, or is, quantised a moment ago.

    Args:
        constants: scales and zero points behind the matrices.
    """

    def make(rng: Rng) -> Workload:
        a, b, outputs = _matrices(rng)
        inputs = (a, b, *[_SCALAR] * constants)
        return Workload(op, inputs, {}, "int8", tuple(range(1, len(inputs))), outputs)

    return make


def scaled(op: str, **attributes: Any) -> Make:
    """An operator of one quantised tensor, with scales of its input and output."""

    def make(rng: Rng) -> Workload:
        shape = any_shape(rng)
        inputs = (shape, *[_SCALAR] * 4)
        return Workload(op, inputs, attributes, "int8", (1, 2, 3, 4), (shape,))

    return make


def scaled_pair(op: str) -> Make:
    """An operator of two quantised tensors."""

    def make(rng: Rng) -> Workload:
        shape = any_shape(rng)
        other = shape
        if len(shape) == 4 and rng.random() < 0.4:  # a factor for each channel, last or first
            other = (*shape[:2], 1, 1)
            if rng.random() < 0.6:
                shape, other = ((s[0], *s[2:], s[1]) for s in (shape, other))
        inputs = (shape, _SCALAR, _SCALAR, other, *[_SCALAR] * 4)
        return Workload(op, inputs, {}, "int8", (1, 2, 4, 5, 6, 7), (shape,))

    return make


def scaled_softmax(rng: Rng) -> Workload:
    """Attention's weights between two quantised products."""
    work = softmax(rng)
    inputs = (*work.inputs, *[_SCALAR] * 4)
    attributes = {**work.attributes, "opset": 13}
    return Workload("QLinearSoftmax", inputs, attributes, "int8", (1, 2, 3, 4), work.outputs)


def dynamic_recurrent(rng: Rng) -> Workload:
    """An LSTM with quantised weights, whose states are quantised at every step."""
    work = recurrent("LSTM", 4)(rng)
    x, weight, again, bias = work.inputs
    both, hidden, images = weight[0], again[2], x[1]
    state, scale = (both, images, hidden), (both,)
    inputs = (
        x, (both, x[2], 4 * hidden), (both, hidden, 4 * hidden), bias,
        (images,), state, state, (both, 3 * hidden), scale, scale, scale, scale,
    )  # fmt: skip
    learned = tuple(range(1, len(inputs)))
    return Workload(
        "DynamicQuantizeLSTM", inputs, work.attributes, learned=learned, outputs=work.outputs
    )


def global_pool(rng: Rng) -> Workload:
    """One mean per channel."""
    image = image_shape(rng)
    inputs = (image, *[_SCALAR] * 4)
    outputs = ((*image[:2], 1, 1),)
    attributes = {"channels_last": 0}
    return Workload("QLinearGlobalAveragePool", inputs, attributes, "int8", (1, 2, 3, 4), outputs)


def average_pool(rng: Rng) -> Workload:
    """A mean over a window."""
    work = pool("AveragePool")(rng)
    inputs = (*work.inputs, *[_SCALAR] * 4)
    learned = (1, 2, 3, 4)
    return Workload("QLinearAveragePool", inputs, work.attributes, "int8", learned, work.outputs)


def between(op: str) -> Make:
    """From floating point to integers or back, with one scale."""

    def make(rng: Rng) -> Workload:
        shape = any_shape(rng)
        return Workload(op, (shape, _SCALAR, _SCALAR), learned=(1, 2), outputs=(shape,))

    return make


def dynamic_quantisation(rng: Rng) -> Workload:
    """Find the range of a tensor and quantise it."""
    shape = any_shape(rng)
    return Workload("DynamicQuantizeLinear", (shape,), outputs=(shape, (), ()))


def _family(name: str, make: Make, share: float, tensors: str | None = None) -> Family:
    return Family(f"{name}, int8", make, share, ("int8",), tensors)


QUANTISED: tuple[Family, ...] = (
    _family("pointwise convolution", convolution(pointwise), 14),
    _family("convolution", convolution(spatial), 14),
    _family("first convolution", convolution(first), 4.5),
    _family("depthwise convolution", convolution(depthwise), 9),
    _family("grouped convolution", convolution(grouped), 4.5),
    _family("convolution after dynamic quantisation", dynamic_convolution(spatial), 4),
    _family("pointwise one after dynamic quantisation", dynamic_convolution(pointwise), 2.5),
    _family("depthwise one after dynamic quantisation", dynamic_convolution(depthwise, 4e6), 1.5),
    _family("grouped one after dynamic quantisation", dynamic_convolution(grouped), 0.7),
    _family("first one after dynamic quantisation", dynamic_convolution(first), 1),
    _family("product", product, 6),
    _family("product of activations", attention_product, 2),
    _family("product after dynamic quantisation", dynamic_product("MatMulInteger", 2), 6),
    _family("product to numbers", dynamic_product("MatMulIntegerToFloat", 4), 4),
    _family("product that quantises", dynamic_product("DynamicQuantizeMatMul", 2), 4, "float32"),
    _family("QLinearAdd", scaled_pair("QLinearAdd"), 3),
    _family("QLinearMul", scaled_pair("QLinearMul"), 3),
    _family("QLinearConcat", joined_last, 2),
    _family("turned image", turned, 2),
    _family("QLinearSigmoid", scaled("QLinearSigmoid"), 2),
    _family("QLinearLeakyRelu", scaled("QLinearLeakyRelu", alpha=0.01), 1),
    _family("QLinearSoftmax", scaled_softmax, 2.5),
    _family("LSTM that quantises", dynamic_recurrent, 5, "float32"),
    _family("QLinearGlobalAveragePool", global_pool, 1.5),
    _family("QLinearAveragePool", average_pool, 1.7),
    _family("QuantizeLinear", between("QuantizeLinear"), 3, "float32"),
    _family("DequantizeLinear", between("DequantizeLinear"), 3, "float32"),
    _family("DynamicQuantizeLinear", dynamic_quantisation, 3, "float32"),
    _family("max pooling", pool("MaxPool"), 2.5),
    _family("Relu", unary("Relu"), 1),
    _family("transpose", transpose, 2),
    _family("concat", concat, 1.5),
    _family("split", split, 1),
    _family("slice", half, 1),
    _family("pad", pad, 1),
)
