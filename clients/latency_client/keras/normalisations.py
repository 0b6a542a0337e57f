"""Normalisations, and layers that are there in training only."""

from __future__ import annotations

from typing import Any

import numpy as np

from latency_client.keras.activations import along
from latency_client.keras.merging import combine
from latency_client.keras.registry import layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Value, moved_shape, same_layout
from latency_client.keras.views import Binding, View


def _axis(call: Call) -> int:
    axis = call.op.axis
    if not isinstance(axis, int):
        axis = axis[0] if len(axis) == 1 else None
    if axis is None:
        raise call.refuse("normalises over several axes", "normalise over the channels only")
    return int(axis) % call.x.rank


def _second(call: Call, axis: int) -> tuple[str, Any]:
    """The tensor with the channel axis of Keras second, and how to make a value of the result."""
    x, tensors = call.x, call.trace.tensors
    if x.rank == 2:
        return tensors.features(x), lambda name: Value(call.shape, plain=name, order=x.order)
    if axis == x.rank - 1:
        return tensors.moved(x), lambda name: Value(call.shape, moved=name)
    if axis == 1:
        return tensors.plain(x), lambda name: Value(call.shape, plain=name)
    raise call.refuse(f"has its channels on axis {axis}", "put them last, or second")


def _vector(call: Call, variable: Any, scale: bool = True) -> Binding:
    order = call.x.order if call.x.rank == 2 else None
    return Binding(variable, View((0,), None, None, None if order is None else (0, order)), scale)


@layer("BatchNormalization")
def batch_normalization(call: Call) -> Value:
    """One scale and one shift per channel."""
    op = call.op
    name, value = _second(call, _axis(call))
    vectors: dict[str, Any] = {
        "gamma": op.gamma if op.scale else None,
        "beta": op.beta if op.center else None,
        "mean": op.moving_mean,
        "variance": op.moving_variance,
    }
    bindings = {role: _vector(call, v) for role, v in vectors.items() if v is not None}
    if not op.scale:
        # some vector must say where the channels of its group sit
        stand_in = "beta" if op.center else "mean"
        bindings["gamma"] = _vector(call, vectors[stand_in], scale=False)
        del bindings[stand_in]
    x = call.x
    shape = moved_shape(call.shape) if value("").moved is not None else call.shape
    assert x.rank > 1
    (made,) = call.trace.add(call, call.name, "BatchNormalization", [name], [shape], {}, bindings)
    return value(made)  # type: ignore[no-any-return]


@layer("GroupNormalization")
def group_normalization(call: Call) -> Value:
    """Statistics per group of channels; -1 groups: every channel for itself."""
    op = call.op
    axis = _axis(call)
    name, value = _second(call, axis)
    channels = call.x.shape[axis]
    groups = channels if op.groups == -1 else int(op.groups)
    bindings = {}
    if op.scale:
        bindings["gamma"] = _vector(call, op.gamma)
    if op.center:
        bindings["beta"] = _vector(call, op.beta)
    kind = "InstanceNormalization" if groups == channels else "GroupNormalization"
    attributes = {} if groups == channels else {"num_groups": groups}
    shape = moved_shape(call.shape) if value("").moved is not None else call.shape
    (made,) = call.trace.add(call, call.name, kind, [name], [shape], attributes, bindings)
    return value(made)  # type: ignore[no-any-return]


@layer("LayerNormalization", "RMSNormalization")
def layer_normalization(call: Call) -> Value:
    """Statistics over the last axes.

    Where the graph has the channels second it says so (axis 1) in place of a Transpose on either
    side: it reads, writes and learns the same.
    """
    op, x, tensors = call.op, call.x, call.trace.tensors
    listed = [op.axis] if isinstance(op.axis, int) else list(op.axis)
    axes = sorted(axis % x.rank for axis in listed)
    if axes != list(range(axes[0], x.rank)):
        raise call.refuse(f"normalises over axes {listed}", "normalise over the last ones")
    if x.order is not None:
        tensors.plain(x)
    second = x.channels_second and len(axes) == 1
    bindings = {}
    gamma = getattr(op, "gamma", None) if hasattr(op, "gamma") else getattr(op, "scale", None)
    beta = getattr(op, "beta", None)
    for role, vector in (("gamma", gamma), ("beta", beta)):
        if vector is not None and hasattr(vector, "shape"):
            bindings[role] = Binding(vector, View(tuple(range(len(vector.shape)))))
    rms = type(op).__name__ == "RMSNormalization" or getattr(op, "rms_scaling", False)
    (made,) = call.trace.add(
        call,
        call.name,
        "RMSNormalization" if rms else "LayerNormalization",
        [tensors.moved(x) if second else tensors.plain(x)],
        [moved_shape(x.shape) if second else x.shape],
        {"axis": 1 if second else axes[0]},
        bindings,
    )
    return same_layout(x, made, x.shape) if second else Value(x.shape, plain=made)


@layer("UnitNormalization")
def unit_normalization(call: Call) -> Value:
    """Vectors of length 1."""
    return along(call, call.name, "LpNormalization", call.x, _axis(call))


@layer("Rescaling")
def rescaling(call: Call) -> Value:
    """Times a scale, plus an offset."""
    made = combine(call, call.name, "Mul", [call.x, _constant(call.op.scale)], call.shape)
    if np.any(np.asarray(call.op.offset) != 0):
        made = combine(
            call, f"{call.name}/offset", "Add", [made, _constant(call.op.offset)], call.shape
        )
    return made


def _constant(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float32)


@layer("Normalization")
def normalization(call: Call) -> Value:
    """Minus a mean, divided by a deviation; both fixed."""
    vector = np.zeros(tuple(call.op.mean.shape), dtype=np.float32)
    made = combine(call, call.name, "Sub", [call.x, vector], call.shape)
    return combine(call, f"{call.name}/deviation", "Div", [made, vector], call.shape)


@layer(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout",
    "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Identity", "StochasticDepth",
    "Masking",
)  # fmt: skip
def absent(call: Call) -> Value:
    """Nothing, once the network is deployed."""
    return call.x


@layer("LayerScale")
def layer_scale(call: Call) -> Value:
    """A learned factor per channel, as ConvNeXt has it."""
    return combine(call, call.name, "Mul", [call.x, call.op.gamma], call.shape)
