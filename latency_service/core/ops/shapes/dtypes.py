"""Outputs of the same shape as the first input, in another dtype: casts, tests, quantisation."""

from __future__ import annotations

from collections.abc import Callable

from latency_service.core.node import Node
from latency_service.core.ops.shapes.rule import Shapes

# ONNX TensorProto.DataType codes, as `Cast` and a few others carry them.
DTYPE_CODES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8", 18: "float8", 19: "float8",
    20: "float8", 21: "uint4", 22: "int4", 23: "int4",
}  # fmt: skip


def typed(dtype: str) -> Callable[[Node], Shapes]:
    """The shape of the first input in another dtype."""

    def rule(node: Node) -> Shapes:
        return [(node.x.shape, dtype)]

    return rule


def cast(node: Node) -> Shapes:
    """Cast: the dtype stands in `to`, by name or by ONNX's code."""
    to = node.attributes.get("to")
    if isinstance(to, int):
        to = DTYPE_CODES.get(to)
    if not isinstance(to, str):
        node.fail("attributes.to", f"must be a dtype; it is {node.attributes.get('to')!r}")
    return [(node.x.shape, to)]


def cast_like(node: Node) -> Shapes:
    """CastLike: the dtype of the second input."""
    return [(node.x.shape, node.input(1).dtype)]


def floating(node: Node) -> Shapes:
    """The shape of the first input in the request's floating dtype."""
    return [(node.x.shape, node.layer.outputs[0].dtype or node.dtype)]


def quantize(node: Node) -> Shapes:
    """QuantizeLinear: the dtype of the zero point, else uint8."""
    point = node.parameter("zero_point")
    dtype = point.dtype if point is not None and point.dtype else None
    if dtype is None and node.has_input(2):
        dtype = node.input(2).dtype
    return [(node.x.shape, dtype or node.layer.outputs[0].dtype or "uint8")]


def dynamic_quantize(node: Node) -> Shapes:
    """DynamicQuantizeLinear: values, scale, zero point."""
    return [(node.x.shape, "uint8"), ((), "float32"), ((), "uint8")]
