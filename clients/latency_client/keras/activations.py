"""Activations: as layers, as arguments of other layers, and as functions of `keras.ops`."""

from __future__ import annotations

from typing import Any

from latency_client.keras.registry import layer, operation
from latency_client.keras.trace import Call
from latency_client.keras.values import Value, moved_axis, moved_shape, same_layout

# keras.activations and keras.ops by their names; several operators follow each other.
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "relu": ("Relu",),
    "relu6": ("Clip",),
    "sigmoid": ("Sigmoid",),
    "hard_sigmoid": ("HardSigmoid",),
    "tanh": ("Tanh",),
    "silu": ("Swish",),
    "swish": ("Swish",),
    "hard_silu": ("HardSwish",),
    "hard_swish": ("HardSwish",),
    "gelu": ("Gelu",),
    "elu": ("Elu",),
    "selu": ("Selu",),
    "celu": ("Celu",),
    "leaky_relu": ("LeakyRelu",),
    "softplus": ("Softplus",),
    "softsign": ("Softsign",),
    "exponential": ("Exp",),
    "exp": ("Exp",),
    "mish": ("Mish",),
    "log_sigmoid": ("Sigmoid", "Log"),
    "hard_tanh": ("Clip",),
    "hard_shrink": ("Shrink",),
    "soft_shrink": ("Shrink",),
    "threshold": ("ThresholdedRelu",),
    "softmax": ("Softmax",),
    "log_softmax": ("LogSoftmax",),
}


def unary(call: Call, name: str, op: str, x: Value, attributes: Any = None) -> Value:
    """An operator that keeps the shape and every position's own place."""
    tensors = call.trace.tensors
    first = x.channels_second or (x.plain is None and x.moved is not None)
    source = tensors.moved(x) if first else tensors.features(x)
    shape = moved_shape(x.shape) if first else x.shape
    (made,) = call.trace.add(call, name, op, [source], [shape], attributes, dtypes=[x.dtype])
    return same_layout(x, made, x.shape, order=x.order, dtype=x.dtype)


def along(call: Call, name: str, op: str, x: Value, axis: int) -> Value:
    """An operator along one axis of Keras, a softmax say."""
    tensors = call.trace.tensors
    if x.order is not None:
        tensors.plain(x)
    first = x.channels_second
    axis = axis + x.rank if axis < 0 else axis
    place = moved_axis(axis, x.rank) if first else axis
    source = tensors.moved(x) if first else tensors.plain(x)
    shape = moved_shape(x.shape) if first else x.shape
    (made,) = call.trace.add(call, name, op, [source], [shape], {"axis": place})
    return same_layout(x, made, x.shape)


def activate(call: Call, function: Any, x: Value, name: str | None = None) -> Value:
    """Apply a function of `keras.activations`, as a part of a layer unless a name is given.

    Raises:
        UnsupportedOperatorError: for a function of the user's own.
    """
    kind = getattr(function, "__name__", type(function).__name__)
    known = getattr(function, "__module__", "").startswith("keras.")
    if function is None:
        return x
    if not known or kind not in FUNCTIONS:
        raise call.refuse(
            f"has the activation {kind!r}, which is none of Keras's that are known",
            f"use one of {', '.join(sorted(FUNCTIONS))}, or write it with keras.ops in a layer",
        )
    for op in FUNCTIONS[kind]:
        label = name or f"{call.name}/{kind}"
        if op in ("Softmax", "LogSoftmax"):
            x = along(call, label, op, x, -1)
        else:
            x = unary(call, label, op, x)
    return x


@layer("Activation")
def activation(call: Call) -> Value:
    """A named function."""
    return activate(call, call.op.activation, call.x, call.name)


@layer("ReLU")
def relu(call: Call) -> Value:
    """Rectified: with a maximum (ReLU6), a slope, a threshold."""
    op = call.op
    if op.max_value is not None:
        return unary(call, call.name, "Clip", call.x, {"min": 0.0, "max": float(op.max_value)})
    slope = float(op.negative_slope or 0.0)
    return unary(call, call.name, "LeakyRelu" if slope else "Relu", call.x)


def _plain_layer(kind: str, op: str) -> None:
    layer(kind)(lambda call: unary(call, call.name, op, call.x))


_plain_layer("LeakyReLU", "LeakyRelu")
_plain_layer("ELU", "Elu")


@layer("PReLU")
def prelu(call: Call) -> Value:
    """A learned slope per channel, or per position."""
    from latency_client.keras.merging import combine

    return combine(call, call.name, "PRelu", [call.x, call.op.alpha], call.shape)


@layer("Softmax")
def softmax(call: Call) -> Value:
    """Softmax over one axis."""
    axis = call.op.axis
    if not isinstance(axis, int):
        if len(axis) != 1:
            raise call.refuse("is a softmax over several axes", "flatten them into one first")
        axis = axis[0]
    return along(call, call.name, "Softmax", call.x, axis)


@operation("Softmax", "LogSoftmax")
def softmax_operation(call: Call) -> Value:
    """keras.ops.softmax."""
    return along(call, call.name, type(call.op).__name__, call.x, int(call.op.axis))


_UNARY = {
    "Relu": "Relu", "Relu6": "Clip", "Sigmoid": "Sigmoid", "HardSigmoid": "HardSigmoid",
    "Tanh": "Tanh", "Silu": "Swish", "HardSilu": "HardSwish", "Gelu": "Gelu", "Elu": "Elu",
    "Selu": "Selu", "Celu": "Celu", "LeakyRelu": "LeakyRelu", "Softplus": "Softplus",
    "Softsign": "Softsign", "Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Reciprocal": "Reciprocal",
    "Absolute": "Abs", "Abs": "Abs", "Negative": "Neg", "Sign": "Sign", "Floor": "Floor",
    "Ceil": "Ceil", "Round": "Round", "Sin": "Sin", "Cos": "Cos", "Tan": "Tan", "Erf": "Erf",
    "Clip": "Clip", "HardTanh": "Clip", "HardShrink": "Shrink", "SoftShrink": "Shrink",
    "Threshold": "ThresholdedRelu", "Square": "Pow", "Rsqrt": "Sqrt", "Arctan": "Atan",
    "Sinh": "Sinh", "Cosh": "Cosh", "StopGradient": "Identity",
}  # fmt: skip


def _plain_operation(kind: str, op: str) -> None:
    operation(kind)(lambda call: unary(call, call.name, op, call.x))


for _kind, _op in _UNARY.items():
    _plain_operation(_kind, _op)
