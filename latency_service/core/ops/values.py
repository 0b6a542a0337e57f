"""Arithmetic on shapes: what an operator computes where all that it reads is known.

Exporters write the target of a Reshape as a chain of Shape, Gather, Mul, Concat. Such chains are
followed here, cost nothing, and never reach the cost model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_service.core.node import Node
from latency_service.core.ops import shapes

Array = npt.NDArray[Any]
Values = Sequence[Array]


def known(node: Node, position: int) -> Array:
    """Value of an input that is known."""
    value = node.input(position).value
    assert value is not None
    return value


def unary(function: Callable[[Array], Array]) -> Callable[[Node], Values]:
    """A function of the first input."""

    def rule(node: Node) -> Values:
        return [np.asarray(function(known(node, 0)))]

    return rule


def variadic(function: Callable[[Array, Array], Array]) -> Callable[[Node], Values]:
    """A function of two inputs, applied from left to right over all of them."""

    def rule(node: Node) -> Values:
        result = known(node, 0)
        for position in range(1, len(node.inputs)):
            result = np.asarray(function(result, known(node, position)))
        return [result]

    return rule


def divide(left: Array, right: Array) -> Array:
    """Integers divide towards zero, as in ONNX."""
    if np.issubdtype(left.dtype, np.integer) and np.issubdtype(right.dtype, np.integer):
        return np.trunc(left / right).astype(left.dtype)
    return np.asarray(left / right)


def identity(node: Node) -> Values:
    """What it reads."""
    return [known(node, 0)]


def constant(node: Node) -> Values:
    """Constant."""
    return [np.asarray(node.attributes["value"])] if "value" in node.attributes else []


def shape_of(node: Node) -> Values:
    """Shape."""
    start, end = shapes.shape_range(node)
    return [np.array(node.x.shape[start:end], dtype=np.int64)]


def size_of(node: Node) -> Values:
    """Size."""
    return [np.array(math.prod(node.x.shape), dtype=np.int64)]


def cast(node: Node) -> Values:
    """Cast: kept as integer, boolean or floating point."""
    dtype = node.outputs[0].dtype
    if dtype == "bool":
        return [known(node, 0).astype(np.bool_)]
    kind = np.int64 if "int" in dtype else np.float64
    return [known(node, 0).astype(kind)]


def gather(node: Node) -> Values:
    """Gather."""
    indices = node.operand("indices")
    if indices is None or shapes.table_of(node) is not None:
        return []
    return [np.take(known(node, 0), indices.astype(np.int64), axis=node.axis(default=0))]


def concat(node: Node) -> Values:
    """Concat."""
    if node.parameters:
        return []
    return [np.concatenate([known(node, p) for p in range(len(node.inputs))], axis=node.axis())]


def slice_(node: Node) -> Values:
    """Slice."""
    index = [slice(None)] * len(node.x.shape)
    for axis, bounds, _ in shapes.slices(node):
        index[axis] = bounds
    return [known(node, 0)[tuple(index)]]


def reshaped(node: Node) -> Values:
    """Any operator that keeps the elements and changes the shape."""
    return [known(node, 0).reshape(node.outputs[0].shape)]


def transpose(node: Node) -> Values:
    """Transpose."""
    return [known(node, 0).transpose(shapes.permutation(node))]


def split(node: Node) -> Values:
    """Split."""
    bounds = np.cumsum(shapes.split_sizes(node))[:-1].tolist()
    return np.split(known(node, 0), bounds, axis=node.axis(default=0))


def range_(node: Node) -> Values:
    """Range."""
    start, limit, delta = (node.operand(key) for key in ("start", "limit", "delta"))
    assert start is not None
    assert limit is not None
    assert delta is not None
    return [np.arange(start.item(), limit.item(), delta.item())]


def constant_of_shape(node: Node) -> Values:
    """ConstantOfShape."""
    value = np.asarray(node.attributes.get("value", 0.0)).reshape(-1)
    return [np.full(node.outputs[0].shape, value[0] if value.size else 0.0)]


def where(node: Node) -> Values:
    """Where."""
    return [np.where(known(node, 0), known(node, 1), known(node, 2))]


def expand(node: Node) -> Values:
    """Expand."""
    return [np.broadcast_to(known(node, 0), node.outputs[0].shape)]


def tile(node: Node) -> Values:
    """Tile."""
    return [np.tile(known(node, 0), node.integer_list("repeats") or [1])]


def trilu(node: Node) -> Values:
    """One side of the diagonal."""
    offsets = node.integer_list("k") or [0]
    side = np.triu if node.integer("upper", 1) else np.tril
    return [side(known(node, 0), offsets[0])]


def reduction(function: Callable[..., Any]) -> Callable[[Node], Values]:
    """ReduceProd and its kin."""

    def rule(node: Node) -> Values:
        axes = tuple(shapes.reduced_axes(node))
        keep = bool(node.integer("keepdims", 1))
        return [np.asarray(function(known(node, 0), axis=axes, keepdims=keep))]

    return rule


def nonzero(node: Node) -> Values:
    """NonZero."""
    return [np.array(np.nonzero(known(node, 0)), dtype=np.int64)]


def clip(node: Node) -> Values:
    """Clip."""
    low, high = node.operand("min"), node.operand("max")
    return [np.clip(known(node, 0), low, high)]
