"""Several tensors become one: position by position, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from latency_client.graph import Parameter
from latency_client.keras.registry import layer, operation
from latency_client.keras.trace import Call
from latency_client.keras.values import Shape, Value, moved_axis, moved_shape
from latency_client.keras.views import Binding, View


def combine(call: Call, name: str, op: str, operands: Sequence[Any], shape: Shape) -> Value:
    """An elementwise operator over tensors, learned vectors and constants.

    Args:
        operands: values, variables of the model, arrays or numbers (which cost nothing).
        shape: of the result, in the order of Keras.
    """
    rank = len(shape)
    values = [v for v in operands if isinstance(v, Value)]
    full = [v for v in values if v.rank == rank]
    # channels second where a full operand stands so: that needs no transpose
    first = rank > 2 and any(v.plain is None for v in full)
    order = _common_order(call, values)
    names = [_aligned(call, v, shape, first) for v in values]
    bindings: dict[str, Binding] = {}
    constants: list[Parameter] = []
    for operand in operands:
        if isinstance(operand, Value) or np.ndim(_host(operand)) == 0:
            continue
        dims = _padded_dims(tuple(operand.shape), rank, first)
        if isinstance(operand, keras.Variable):
            role = "weight" if operand.trainable else "state"
            if role not in bindings:
                bindings[role] = Binding(operand, _padded_view(operand, rank, first, order))
                continue
        constants.append(Parameter("state", dims))
    written = moved_shape(shape) if first else shape
    (made,) = call.trace.add(
        call, name, op, names, [written], None, bindings, [_dtype_of(values)], constants
    )
    if first:
        return Value(shape, moved=made, dtype=_dtype_of(values))
    return Value(shape, plain=made, order=order, dtype=_dtype_of(values))


def _host(operand: Any) -> Any:
    return operand if isinstance(operand, int | float | bool) else np.empty(tuple(operand.shape))


def _dtype_of(values: Sequence[Value]) -> str | None:
    return None if any(v.dtype is None for v in values) or not values else values[0].dtype


def _common_order(call: Call, values: Sequence[Value]) -> Any:
    """The order of features that all operands share; where they differ, that of Keras."""
    orders = [v.order for v in values if v.shape and v.shape[-1] > 1]
    known = [order for order in orders if order is not None]
    if not known:
        return None
    alike = len(known) == len(orders) and all(np.array_equal(known[0], o) for o in known)
    if alike and all(v.rank == 2 for v in values):
        return known[0]
    for value in values:
        call.trace.tensors.plain(value)
    return None


def _aligned(call: Call, value: Value, shape: Shape, first: bool) -> str:
    """The name of an operand, seen with as many axes as the result where the order needs it."""
    tensors = call.trace.tensors
    if not first:
        return tensors.features(value)
    if value.rank == 0:
        return tensors.plain(value)
    if value.rank < len(shape):
        padded = (1,) * (len(shape) - value.rank) + value.shape
        name = tensors.reshape(f"{call.name}/view", tensors.plain(value), padded)
        value = Value(padded, plain=name)
    return tensors.moved(value)


def _padded_dims(dims: Shape, rank: int, first: bool) -> Shape:
    padded = (1,) * (rank - len(dims)) + dims
    return moved_shape(padded) if first and len(dims) > 0 else padded


def _padded_view(variable: Any, rank: int, first: bool, order: Any) -> View:
    dims = tuple(variable.shape)
    padded = (1,) * (rank - len(dims)) + dims
    axes = (0, rank - 1, *range(1, rank - 1)) if first else tuple(range(rank))
    reorder = None if order is None or dims[-1] == 1 else (rank - 1, order)
    return View(axes, padded, None, reorder)


_MERGES = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min",
    "Average": "Mean",
}  # fmt: skip


def _merge_layer(kind: str, op: str) -> None:
    def handler(call: Call) -> Value:
        return combine(call, call.name, op, call.values, call.shape)

    layer(kind)(handler)


for _kind, _op in _MERGES.items():
    _merge_layer(_kind, _op)


_BINARY = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "TrueDivide": "Div",
    "Maximum": "Max", "Minimum": "Min", "Power": "Pow", "Mod": "Mod", "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual", "Equal": "Equal",
    "LogicalAnd": "And", "LogicalOr": "Or", "Where": "Where",
}  # fmt: skip


def _binary_operation(kind: str, op: str) -> None:
    def handler(call: Call) -> Value:
        operands = [*call.args, *call.kwargs.values()]
        made = combine(call, call.name, op, operands, call.shape)
        if call.dtypes[0] == "bool":
            made.dtype = "bool"
        return made

    operation(kind)(handler)


for _kind, _op in _BINARY.items():
    _binary_operation(_kind, _op)


def concatenate(call: Call, name: str, values: Sequence[Value], axis: int, shape: Shape) -> Value:
    """One after the other along an axis."""
    tensors = call.trace.tensors
    rank = len(shape)
    axis = axis + rank if axis < 0 else axis
    first = rank > 2 and any(v.plain is None and v.moved is not None for v in values)
    orders: list[Any] | None = None
    if rank == 2 and axis == 1 and any(v.order is not None for v in values):
        starts = np.cumsum([0, *(v.shape[1] for v in values)])
        orders = [
            start + (np.arange(v.shape[1]) if v.order is None else v.order)
            for start, v in zip(starts.tolist(), values, strict=False)
        ]
        names = [tensors.features(v) for v in values]
    else:
        names = [tensors.moved(v) if first else tensors.plain(v) for v in values]
    place = moved_axis(axis, rank) if first else axis
    written = moved_shape(shape) if first else shape
    (made,) = call.trace.add(
        call, name, "Concat", names, [written], {"axis": place}, dtypes=[_dtype_of(values)]
    )
    if first:
        return Value(shape, moved=made, dtype=_dtype_of(values))
    order = None if orders is None else np.concatenate(orders)
    return Value(shape, plain=made, order=order, dtype=_dtype_of(values))


@layer("Concatenate")
def concatenate_layer(call: Call) -> Value:
    """Concatenate along the layer's axis."""
    return concatenate(call, call.name, call.values, call.op.axis, call.shape)


@operation("Concatenate")
def concatenate_operation(call: Call) -> Value:
    """keras.ops.concatenate; a learned piece (a class token) is a parameter."""
    pieces = list(call.args[0])
    if all(isinstance(piece, Value) for piece in pieces):
        return concatenate(call, call.name, pieces, call.op.axis, call.shape)
    values = [piece for piece in pieces if isinstance(piece, Value)]
    places = [place for place, piece in enumerate(pieces) if not isinstance(piece, Value)]
    rank = len(call.shape)
    bindings: dict[str, Binding] = {}
    constants = []
    for place in places:
        piece = pieces[place]
        if isinstance(piece, keras.Variable) and "weight" not in bindings:
            bindings["weight"] = Binding(piece, View(tuple(range(rank))))
        else:
            constants.append(Parameter("state", tuple(piece.shape)))
    axis = call.op.axis + rank if call.op.axis < 0 else call.op.axis
    (made,) = call.trace.add(
        call, call.name, "Concat", [call.trace.tensors.plain(v) for v in values], [call.shape],
        {"axis": axis, "parameter_inputs": places}, bindings, None, constants,
    )  # fmt: skip
    return Value(call.shape, plain=made)


@layer("Dot")
def dot(call: Call) -> Value:
    """A batched product over one axis of each tensor."""
    axes = call.op.axes
    pair = (axes, axes) if isinstance(axes, int) else tuple(axes)
    left, right = call.values
    if left.rank != 3 or right.rank != 3 or call.op.normalize:
        raise call.refuse("is a product that no single MatMul gives", "write it with keras.ops")
    tensors = call.trace.tensors
    names = []
    for value, axis, inner in ((left, pair[0], 2), (right, pair[1], 1)):
        name, axis = tensors.plain(value), axis % 3
        if axis != inner:
            swapped = (value.shape[0], value.shape[2], value.shape[1])
            (name,) = call.trace.add(
                call, f"{call.name}/transpose", "Transpose", [name], [swapped], {"perm": [0, 2, 1]}
            )
        names.append(name)
    (made,) = call.trace.add(call, call.name, "MatMul", names, [call.shape])
    return Value(call.shape, plain=made)
