"""Sums of products without a window: matrix products, recurrent layers, Einsum and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from latency_service.core.node import Dims, Node, Symbol
from latency_service.core.ops.shapes.broadcasting import broadcast
from latency_service.core.ops.shapes.rule import Shapes


def matmul_operands(node: Node) -> tuple[Dims, Dims, int | None]:
    """Shapes of both factors, and the position of the learned one (None: neither is)."""
    weight = node.parameter("weight")
    if weight is None:
        return node.x.shape, node.input(1).shape, None
    if node.integer("weight_input", 1) == 0:
        return weight.shape, node.x.shape, 0
    return node.x.shape, weight.shape, 1


def matmul(node: Node) -> Shapes:
    """MatMul: NumPy's rules, stacked matrices broadcast."""
    left, right, _ = matmul_operands(node)
    if node.integer("transA", 0) and len(left) > 1:
        left = (*left[:-2], left[-1], left[-2])
    if node.integer("transB", 0) and len(right) > 1:
        right = (*right[:-2], right[-1], right[-2])
    if not left or not right:
        node.fail("inputs", "a scalar cannot be multiplied as a matrix")
    a = left if len(left) > 1 else (1, *left)
    b = right if len(right) > 1 else (*right, 1)
    if a[-1] != b[-2] and not (isinstance(a[-1], Symbol) or isinstance(b[-2], Symbol)):
        detail = f"{list(left)} times {list(right)}: {a[-1]} columns meet {b[-2]} rows"
        node.fail("inputs", detail)
    shape = broadcast(node, (a[:-2], b[:-2]))
    shape += [a[-2]] if len(left) > 1 else []
    shape += [b[-1]] if len(right) > 1 else []
    dtype = {"MatMulInteger": "int32", "MatMulIntegerToFloat": node.dtype}
    return [(shape, dtype.get(node.layer.op, node.x.dtype))]


def gemm(node: Node) -> Shapes:
    """Gemm: rows of the input times the weight (O, I), or two activations."""
    left = node.x.shape
    weight = node.parameter("weight")
    if weight is None:
        if len(node.inputs) < 2 or node.inputs[1] is None:
            node.fail("parameters", "the layer has no weight, and its shapes do not imply one")
        right = node.input(1).shape
        a = left[::-1] if node.integer("transA", 0) else left
        b = right[::-1] if node.integer("transB", 0) else right
        if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            node.fail("inputs", f"{list(left)} times {list(right)}")
        return [((a[0], b[1]), node.x.dtype)]
    if len(weight.shape) != 2:
        node.fail("parameters.weight", f"{list(weight.shape)} is not a matrix")
    if node.integer("transA", 0):
        left = left[::-1]
    if not left or left[-1] != weight.shape[1]:
        node.fail(
            "parameters.weight",
            f"weight {list(weight.shape)} (O, I) reads {weight.shape[1]} features; input "
            f"{node.x.name!r} is {list(left)}",
        )
    return [((*left[:-1], weight.shape[0]), node.x.dtype)]


def recurrent(gates: int) -> Callable[[Node], Shapes]:
    """LSTM (4 gates), GRU (3), RNN (1): Y, Y_h and, for LSTM, Y_c."""

    def rule(node: Node) -> Shapes:
        shape = node.x.shape
        directions, features, hidden = recurrent_sizes(node)
        weight, recurrence = node.parameter("weight"), node.parameter("recurrence")
        if weight is not None and recurrence is not None:
            rows = {math.prod(weight.shape) // max(1, directions * features),
                    math.prod(recurrence.shape) // max(1, directions * hidden)}  # fmt: skip
            if rows != {gates * hidden}:
                node.fail(
                    "parameters",
                    f"weights {list(weight.shape)} and {list(recurrence.shape)} do not have "
                    f"{gates} gates of {hidden} units",
                )
        if len(shape) != 3 or features != shape[-1]:
            node.fail("inputs", f"the input is {list(shape)}; the weight reads {features} features")
        if node.integer("layout", 0):
            y, state = (*shape[:2], directions, hidden), (shape[0], directions, hidden)
        else:
            y, state = (shape[0], directions, shape[1], hidden), (directions, shape[1], hidden)
        outputs = [(y, node.x.dtype), (state, node.x.dtype), (state, node.x.dtype)]
        return outputs[: 3 if gates == 4 else 2]

    return rule


def recurrent_sizes(node: Node) -> tuple[int, int, int]:
    """Directions, input features and hidden size.

    Weights are (D, gates H, I) and (D, gates H, H); those of DynamicQuantizeLSTM the other way
    round, (D, I, gates H) and (D, H, gates H).
    """
    weight, recurrence = node.parameter("weight"), node.parameter("recurrence")
    if weight is not None and recurrence is not None:
        kernel, loop = weight.shape, recurrence.shape
    elif node.has_input(1) and node.has_input(2):
        kernel, loop = node.input(1).shape, node.input(2).shape
    else:
        node.fail("attributes.hidden_size", "is needed where the weights are left out")
    if len(kernel) != 3 or len(loop) != 3:
        detail = f"weights {list(kernel)} and {list(loop)}; both need 3 axes"
        node.fail("parameters", detail)
    axis = 1 if node.layer.op == "DynamicQuantizeLSTM" else 2
    return kernel[0], kernel[axis], loop[axis]


def einsum(node: Node) -> Shapes:
    """Einsum with an explicit or implied output."""
    labels, out = einsum_labels(node)
    sizes: dict[str, int] = {}
    for subscript, shape in zip(labels, einsum_shapes(node), strict=True):
        if len(subscript) != len(shape):
            node.fail("attributes.equation", f"{subscript!r} for a tensor {list(shape)}")
        for label, extent in zip(subscript, shape, strict=True):
            known = sizes.setdefault(label, extent)
            if known == 1:
                sizes[label] = extent
            elif extent not in (1, known) and not isinstance(extent, Symbol):
                node.fail("attributes.equation", f"{label!r} is both {known} and {extent}")
    unknown = [label for label in out if label not in sizes]
    if unknown:
        node.fail("attributes.equation", f"no operand has the label {unknown[0]!r}")
    return [([sizes[label] for label in out], node.x.dtype)]


def einsum_shapes(node: Node) -> list[Sequence[int]]:
    """Shapes of the operands: activations, then parameters."""
    given = [t.shape for t in node.inputs if t is not None]
    return [*given, *(p.shape for p in node.parameters)]


def einsum_labels(node: Node) -> tuple[list[str], str]:
    """Axis labels of each operand and of the output."""
    equation = node.text("equation", "").replace(" ", "")
    if not equation or "..." in equation:
        node.fail("attributes.equation", f"{equation!r} is not supported: write every axis out")
    left, arrow, out = equation.partition("->")
    labels = left.split(",")
    if len(labels) != len(einsum_shapes(node)):
        node.fail("attributes.equation", f"names {len(labels)} operands")
    if not arrow:
        joined = "".join(labels)
        out = "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
    return labels, out


def attention(node: Node) -> Shapes:
    """Attention, MultiHeadAttention: query's positions, value's features."""
    query, value = node.x.shape, node.input(2).shape
    if len(query) == 4:
        return [((*query[:3], value[3]), node.x.dtype)]
    heads, kv = node.integer("q_num_heads", 1), node.integer("kv_num_heads", 1)
    return [((*query[:2], value[-1] * heads // kv), node.x.dtype)]
