"""Layers of Keras that pool, pad, cut or reshape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from latency_client.keras.convolutions import (
    pads_of,
    spatial_name,
    spatial_shape,
    spatial_value,
    tuple_of,
)
from latency_client.keras.registry import layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Shape, Value, moved_axis, moved_shape


def _pool(op_name: str) -> Any:
    def handler(call: Call) -> Value:
        op = call.op
        size = spatial_shape(call.x.shape, op.data_format)[2:]
        rank = len(size)
        window = tuple_of(op.pool_size, rank)
        steps = window if op.strides is None else tuple_of(op.strides, rank)
        attributes = {
            "kernel_shape": list(window),
            "strides": list(steps),
            "pads": pads_of(op.padding, size, window, steps, (1,) * rank),
        }
        name = spatial_name(call, call.x, op.data_format)
        shape = spatial_shape(call.shape, op.data_format)
        (made,) = call.trace.add(call, call.name, op_name, [name], [shape], attributes)
        return spatial_value(call.shape, made, op.data_format)

    return handler


layer("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")(_pool("MaxPool"))
layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")(_pool("AveragePool"))


def _global_pool(op_name: str) -> Any:
    def handler(call: Call) -> Value:
        op, x = call.op, call.x
        first = spatial_shape(x.shape, op.data_format)
        pooled = (*first[:2], *(1 for _ in first[2:]))
        name = spatial_name(call, x, op.data_format)
        (made,) = call.trace.add(call, call.name, op_name, [name], [pooled])
        if op.keepdims:
            return spatial_value(call.shape, made, op.data_format)
        flat = call.trace.tensors.reshape(f"{call.name}/flat", made, call.shape)
        return Value(call.shape, plain=flat)

    return handler


layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")(
    _global_pool("GlobalMaxPool")
)
layer("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")(
    _global_pool("GlobalAveragePool")
)


def flatten_value(call: Call, x: Value, channels_first: bool = False) -> Value:
    """All axes but the batch as one; where channels stand second, features are in another order."""
    tensors = call.trace.tensors
    size = math.prod(x.shape[1:])
    shape = (x.shape[0], size)
    order = None
    if x.rank == 2:
        return x
    if x.channels_second:
        source = tensors.moved(x)
        order = np.arange(size).reshape(x.shape[1:])
        order = np.moveaxis(order, -1, 0).reshape(-1)
    else:
        source = tensors.plain(x)
        if channels_first:
            # Keras flattens such tensors with the channels last all the same
            last = (*x.shape[2:], x.shape[1])
            order = np.moveaxis(np.arange(size).reshape(last), -1, 0).reshape(-1)
    (made,) = call.trace.add(call, call.name, "Flatten", [source], [shape], {"axis": 1})
    if order is not None and (np.diff(order) == 1).all():
        order = None
    return Value(shape, plain=made, order=order, dtype=x.dtype)


@layer("Flatten")
def flatten(call: Call) -> Value:
    """Flatten."""
    return flatten_value(call, call.x, call.op.data_format == "channels_first")


def reshape_value(call: Call, x: Value, shape: Shape) -> Value:
    """Another shape of the same elements, in Keras's order."""
    tensors = call.trace.tensors
    if len(shape) == 2 and x.rank > 2 and x.channels_second and shape[0] == x.shape[0]:
        return flatten_value(call, x)
    keeps = len(shape) > 2 and shape[0] == x.shape[0] and shape[-1] == x.shape[-1]
    if x.channels_second and keeps:
        name = tensors.reshape(call.name, tensors.moved(x), moved_shape(shape))
        return Value(shape, moved=name, dtype=x.dtype)
    name = tensors.reshape(call.name, tensors.plain(x), shape)
    return Value(shape, plain=name, dtype=x.dtype)


@layer("Reshape")
def reshape(call: Call) -> Value:
    """Reshape."""
    return reshape_value(call, call.x, call.shape)


def permute_value(call: Call, x: Value, axes: Sequence[int]) -> Value:
    """Axes of Keras in another order, with one Transpose at the most."""
    tensors = call.trace.tensors
    shape = tuple(x.shape[axis] for axis in axes)
    if x.channels_second:
        source, places = tensors.moved(x), [moved_axis(axis, x.rank) for axis in axes]
    else:
        source, places = tensors.plain(x), [axis % x.rank for axis in axes]
    if places == list(range(x.rank)):
        return Value(shape, plain=source, dtype=x.dtype)
    # the result with its last axis second may be what there is already
    second = (places[0], places[-1], *places[1:-1])
    if x.rank > 2 and second == tuple(range(x.rank)):
        return Value(shape, moved=source, dtype=x.dtype)
    (made,) = call.trace.add(
        call, call.name, "Transpose", [source], [shape], {"perm": places}, dtypes=[x.dtype]
    )
    return Value(shape, plain=made, dtype=x.dtype)


@layer("Permute")
def permute(call: Call) -> Value:
    """Permute."""
    return permute_value(call, call.x, (0, *call.op.dims))


def pad_value(call: Call, x: Value, amounts: Sequence[tuple[int, int]]) -> Value:
    """Pad: (before, after) per axis of Keras."""
    tensors = call.trace.tensors
    shape = tuple(
        extent + before + after for extent, (before, after) in zip(x.shape, amounts, strict=True)
    )
    first = x.rank > 2 and x.plain is None
    rows = [amounts[0], amounts[-1], *amounts[1:-1]] if first else list(amounts)
    pads = [row[0] for row in rows] + [row[1] for row in rows]
    name = tensors.moved(x) if first else tensors.plain(x)
    written = moved_shape(shape) if first else shape
    (made,) = call.trace.add(call, call.name, "Pad", [name], [written], {"pads": pads})
    return Value(shape, moved=made) if first else Value(shape, plain=made)


def _spatial_amounts(call: Call, given: Any) -> list[tuple[int, int]]:
    """(before, after) for every axis of Keras from what the layer has for the spatial ones."""
    rows = [given] if call.x.rank == 3 and np.ndim(given) == 1 else list(given)
    pairs = [(int(row[0]), int(row[1])) for row in rows]
    if getattr(call.op, "data_format", "channels_last") == "channels_first":
        return [(0, 0), (0, 0), *pairs]
    return [(0, 0), *pairs, (0, 0)]


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(call: Call) -> Value:
    """Zeros around the positions."""
    return pad_value(call, call.x, _spatial_amounts(call, call.op.padding))


def slice_value(call: Call, x: Value, cuts: Sequence[tuple[int, int, int, int]]) -> Value:
    """Slice: (axis of Keras, start, end, step) per cut axis."""
    tensors = call.trace.tensors
    dims = list(x.shape)
    for axis, start, end, step in cuts:
        dims[axis] = len(range(x.shape[axis])[start:end:step])
    shape = tuple(dims)
    first = x.rank > 2 and x.plain is None
    axes = [moved_axis(cut[0], x.rank) if first else cut[0] for cut in cuts]
    attributes = {
        "starts": [cut[1] for cut in cuts],
        "ends": [cut[2] for cut in cuts],
        "axes": axes,
        "steps": [cut[3] for cut in cuts],
    }
    name = tensors.moved(x) if first else tensors.plain(x)
    written = moved_shape(shape) if first else shape
    (made,) = call.trace.add(
        call, call.name, "Slice", [name], [written], attributes, dtypes=[x.dtype]
    )
    if first:
        return Value(shape, moved=made, dtype=x.dtype)
    return Value(shape, plain=made, dtype=x.dtype)


@layer("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(call: Call) -> Value:
    """Positions at the borders left out."""
    cuts = [
        (axis, before, call.x.shape[axis] - after, 1)
        for axis, (before, after) in enumerate(_spatial_amounts(call, call.op.cropping))
        if before or after
    ]
    return slice_value(call, call.x, cuts) if cuts else call.x


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(call: Call) -> Value:
    """Positions repeated, or interpolated."""
    data_format = getattr(call.op, "data_format", None) or "channels_last"
    shape = spatial_shape(call.shape, data_format)
    factors = tuple_of(call.op.size, len(shape) - 2)
    mode = getattr(call.op, "interpolation", "nearest")
    (made,) = call.trace.add(
        call, call.name, "Resize", [spatial_name(call, call.x, data_format)], [shape],
        {"scales": [1.0, 1.0, *map(float, factors)], "mode": mode},
    )  # fmt: skip
    return spatial_value(call.shape, made, data_format)


@layer("RepeatVector")
def repeat_vector(call: Call) -> Value:
    """The same features at every step."""
    tensors, x = call.trace.tensors, call.x
    single = tensors.reshape(f"{call.name}/single", tensors.plain(x), (x.shape[0], 1, x.shape[1]))
    (made,) = call.trace.add(
        call, call.name, "Expand", [single], [call.shape], {"shape": [1, *call.shape[1:]]}
    )
    return Value(call.shape, plain=made)
