"""Operators that make data instead of reading it: constants, shapes, ranges, random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from latency_service.core.node import Node, Symbolic
from latency_service.core.ops.shapes.rule import Shapes


def constant(node: Node) -> Shapes:
    """Constant: the shape of its value, or of the array that stands for it."""
    output = node.layer.outputs[0]
    value = node.attributes.get("value")
    if value is None:
        array_only = node.parameter("weight") or node.parameter("state")
        if array_only is None:
            raise Symbolic("a constant without value")
        return [(array_only.shape, output.dtype or array_only.dtype or node.dtype)]
    array = np.asarray(value)
    dtype = output.dtype or {"i": "int64", "b": "bool"}.get(array.dtype.kind, node.dtype)
    return [(array.shape, dtype)]


def shape_of(node: Node) -> Shapes:
    """Shape: as many numbers as axes."""
    rank = len(node.x.shape)
    start, end = shape_range(node)
    return [((max(0, len(range(rank)[start:end])),), "int64")]


def shape_range(node: Node) -> tuple[int, int | None]:
    """First and last axis that Shape reports."""
    return node.integer("start", 0), node.attributes.get("end")


def scalar(dtype: str) -> Callable[[Node], Shapes]:
    """A scalar."""

    def rule(node: Node) -> Shapes:
        return [((), dtype)]

    return rule


def constant_of_shape(node: Node) -> Shapes:
    """ConstantOfShape."""
    target = node.integer_list("shape") if "shape" in node.attributes else None
    if target is None:
        target = node.integer_list("input")
    if target is None:
        node.fail("attributes.shape", "ConstantOfShape needs a shape")
    value = np.asarray(node.attributes.get("value", 0.0))
    kind = {"i": "int64", "b": "bool"}.get(value.dtype.kind, node.dtype)
    return [(target, node.layer.outputs[0].dtype or kind)]


def range_(node: Node) -> Shapes:
    """Range: needs its bounds."""
    start, limit, delta = (node.operand(key) for key in ("start", "limit", "delta"))
    if start is None or limit is None or delta is None:
        node.fail("attributes.limit", "Range needs start, limit and delta")
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    integral = np.issubdtype(start.dtype, np.integer)
    return [((count,), node.layer.outputs[0].dtype or ("int64" if integral else node.dtype))]


def one_hot(node: Node) -> Shapes:
    """OneHot: a new axis of `depth`."""
    depth = node.integer_list("depth")
    if not depth:
        node.fail("attributes.depth", "OneHot needs a depth")
    shape = list(node.x.shape)
    shape.insert(node.axis(default=-1, rank=len(shape) + 1), depth[0])
    return [(shape, node.layer.outputs[0].dtype or node.dtype)]


def eye_like(node: Node) -> Shapes:
    """EyeLike."""
    return [(node.x.shape, node.layer.outputs[0].dtype or node.x.dtype)]


def random(node: Node) -> Shapes:
    """RandomNormal and its kin: the stated shape."""
    return [(node.integers("shape") or [], node.dtype)]
