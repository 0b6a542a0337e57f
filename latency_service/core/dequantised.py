"""Learned numbers that a file stores as integers and that a floating layer reads.

Runtimes leave them as they are and dequantise them anew in every run: a kernel for each, and the
layer multiplies with a matrix that it has not seen before, cannot have packed or put into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from latency_service.core.geometry import (
    INTEGER_WEIGHTS,
    OF_VECTORS,
    OF_WEIGHTS,
    Dim,
    Follows,
    Row,
    computed_form,
    kernel_dtype,
    moving,
)
from latency_service.core.graph import Parameter
from latency_service.core.node import Node
from latency_service.core.ops.unknown import UNKNOWN
from latency_service.core.units import FLOATING

# The kernel that brings integers back to numbers.
DEQUANTISING = "DequantizeLinear"
# Operators that multiply floating numbers with integers as they are.
_ON_INTEGERS = INTEGER_WEIGHTS | {"MatMulNBits"}
_WHOLE = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16", "int32"})
# How to read integers, not what to multiply with.
_SCALES = frozenset({"scale", "zero_point"})


def dequantised(nodes: Sequence[Node]) -> Iterator[Parameter]:
    """What the layers have learned that is dequantised for every run of theirs."""
    for node in nodes:
        stored = [parameter for parameter in node.parameters if _is_whole(parameter)]
        if stored and _reads_numbers(node):
            yield from stored


def multiplies_computed(node: Node) -> bool:
    """Whether a contraction's weights are not there before it runs.

    Another layer computes them, or they are dequantised.
    """
    weight = node.parameter("weight")
    if not node.op.contraction or not (weight is None or _is_whole(weight)):
        return False
    return _reads_numbers(node)


def by_computed_weights(row: Row) -> Row:
    """The kernel of a contraction whose weights are read like any other tensor."""
    family, dims, follows = row
    values = list(dims)
    values[Dim.IN_ELEMENTS] += values[Dim.CONSTANT_ELEMENTS]
    values[Dim.CONSTANT_ELEMENTS] = 0.0
    return computed_form(family), tuple(values), follows


def dequantising(parameter: Parameter, row: Row) -> Row:
    """The kernel that dequantises it.

    Args:
        row: of the layer that reads it.
    """
    shape = parameter.shape
    elements = math.prod(shape)
    width, images = (shape[-1], shape[0]) if shape else (1, 1)
    of_both = row[2][Dim.CONSTANT_ELEMENTS] == Follows.BOTH and len(shape) > 1
    follows = OF_WEIGHTS if of_both else OF_VECTORS
    return DEQUANTISING, moving(elements, inner=elements, width=width, images=images), follows


def _reads_numbers(node: Node) -> bool:
    native = node.layer.op in _ON_INTEGERS or node.op is UNKNOWN
    return not native and bool(node.outputs) and kernel_dtype(node) in FLOATING


def _is_whole(parameter: Parameter) -> bool:
    return parameter.dtype in _WHOLE and parameter.role not in _SCALES
