"""Convolutions of Keras: plain, transposed, depthwise, separable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from latency_client.keras.activations import activate
from latency_client.keras.registry import layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Shape, Value, moved_shape
from latency_client.keras.views import Binding, View, kernel_view, straight


def spatial_name(call: Call, value: Value, data_format: str) -> str:
    """The tensor with channels second, whichever way round Keras has it."""
    tensors = call.trace.tensors
    return tensors.moved(value) if data_format == "channels_last" else tensors.plain(value)


def spatial_shape(shape: Shape, data_format: str) -> Shape:
    """(batch, channels, ...) of a shape of Keras."""
    return moved_shape(shape) if data_format == "channels_last" else shape


def spatial_value(shape: Shape, name: str, data_format: str) -> Value:
    """What an operator with channels second has written, as Keras sees it."""
    if data_format == "channels_last":
        return Value(shape, moved=name)
    return Value(shape, plain=name)


def pads_of(
    padding: str,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Explicit pads, all beginnings and then all ends.

    "same" has as many output positions as strides begin in the input, an odd row at the end;
    "causal" looks back only.
    """
    before, after = [], []
    for extent, taps, step, gap in zip(size, window, strides, dilations, strict=True):
        reach = (taps - 1) * gap + 1
        total = 0
        if padding == "same":
            total = max((math.ceil(extent / step) - 1) * step + reach - extent, 0)
        before.append(reach - 1 if padding == "causal" else total // 2)
        after.append(0 if padding == "causal" else total - total // 2)
    return before + after


def tuple_of(value: Any, rank: int) -> tuple[int, ...]:
    """One number per spatial axis."""
    return (int(value),) * rank if isinstance(value, int) else tuple(map(int, value))


def _convolve(
    call: Call,
    name: str,
    x: Value,
    shape: Shape,
    kernel: Binding,
    bias: Any,
    group: int,
    strides: Any,
    dilations: Any,
    padding: str,
) -> Value:
    """One Conv; `kernel` is (O, I / group, k)."""
    op = call.op
    window = kernel.shape[2:]
    rank = len(window)
    steps, gaps = tuple_of(strides, rank), tuple_of(dilations, rank)
    size = spatial_shape(x.shape, op.data_format)[2:]
    bindings = {"weight": kernel}
    if bias is not None:
        bindings["bias"] = Binding(bias, straight(1))
    attributes = {
        "kernel_shape": list(window),
        "strides": list(steps),
        "dilations": list(gaps),
        "pads": pads_of(padding, size, window, steps, gaps),
        "group": group,
    }
    (made,) = call.trace.add(
        call,
        name,
        "Conv",
        [spatial_name(call, x, op.data_format)],
        [spatial_shape(shape, op.data_format)],
        attributes,
        bindings,
    )
    return spatial_value(shape, made, op.data_format)


def _kernel(op: Any) -> Any:
    """The variable, of a layer that may be quantised or have adapters."""
    return getattr(op, "_kernel", None) if hasattr(op, "_kernel") else op.kernel


@layer("Conv1D", "Conv2D", "Conv3D")
def conv(call: Call) -> Value:
    """A convolution, grouped or not, and its activation."""
    op = call.op
    kernel = _kernel(op)
    binding = Binding(kernel, kernel_view(len(kernel.shape)))
    bias = op.bias if op.use_bias else None
    made = _convolve(
        call, call.name, call.x, call.shape, binding, bias, op.groups, op.strides,
        op.dilation_rate, op.padding,
    )  # fmt: skip
    return activate(call, op.activation, made)


def _depthwise_binding(kernel: Any) -> Binding:
    """(k, C, multiplier) as (C multiplier, 1, k): output c multiplier + m reads channel c."""
    *window, channels, multiplier = kernel.shape
    rank = len(window)
    split = (*window, channels * multiplier, 1)
    return Binding(kernel, View((rank, rank + 1, *range(rank)), split))


@layer("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(call: Call) -> Value:
    """A depthwise convolution: as many groups as input channels."""
    op = call.op
    kernel = op.kernel
    bias = op.bias if op.use_bias else None
    made = _convolve(
        call, call.name, call.x, call.shape, _depthwise_binding(kernel), bias,
        int(kernel.shape[-2]), op.strides, op.dilation_rate, op.padding,
    )  # fmt: skip
    return activate(call, op.activation, made)


@layer("SeparableConv1D", "SeparableConv2D")
def separable(call: Call) -> Value:
    """A depthwise convolution and a pointwise one."""
    op = call.op
    depth, point = op.depthwise_kernel, op.pointwise_kernel
    channels = int(depth.shape[-2] * depth.shape[-1])
    between = (
        (*call.shape[:-1], channels)
        if op.data_format == "channels_last"
        else (call.shape[0], channels, *call.shape[2:])
    )
    inner = _convolve(
        call, f"{call.name}/depthwise", call.x, between, _depthwise_binding(depth), None,
        int(depth.shape[-2]), op.strides, op.dilation_rate, op.padding,
    )  # fmt: skip
    bias = op.bias if op.use_bias else None
    binding = Binding(point, kernel_view(len(point.shape)))
    made = _convolve(
        call, f"{call.name}/pointwise", inner, call.shape, binding, bias, 1, 1, 1, "valid"
    )
    return activate(call, op.activation, made)


@layer("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def conv_transpose(call: Call) -> Value:
    """A transposed convolution: every input position meets every tap."""
    op = call.op
    kernel = _kernel(op)
    binding = Binding(kernel, kernel_view(len(kernel.shape)))
    window = binding.shape[2:]
    rank = len(window)
    shape = spatial_shape(call.shape, op.data_format)
    bindings = {"weight": binding}
    if op.use_bias:
        bindings["bias"] = Binding(op.bias, straight(1))
    attributes = {
        "kernel_shape": list(window),
        "strides": list(tuple_of(op.strides, rank)),
        "dilations": list(tuple_of(op.dilation_rate, rank)),
        "output_shape": list(shape[2:]),
    }
    name = spatial_name(call, call.x, op.data_format)
    (made,) = call.trace.add(
        call, call.name, "ConvTranspose", [name], [shape], attributes, bindings
    )
    return activate(call, op.activation, spatial_value(call.shape, made, op.data_format))
