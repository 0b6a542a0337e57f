"""Operands that are combined position by position: NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from latency_service.core.node import Node, Symbol
from latency_service.core.ops.shapes.copies import same
from latency_service.core.ops.shapes.rule import Shapes


def broadcast(node: Node, shapes: Sequence[Sequence[int]]) -> list[int]:
    """The shape that NumPy's rules give several operands together."""
    out: list[int] = []
    for dims in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        dim = 1
        for other in dims:
            if other == 1 or other == dim:
                continue
            if dim == 1:
                dim = other
            elif isinstance(other, Symbol) or isinstance(dim, Symbol):
                # one of them is a name: the other must be what it is bound to
                dim = dim if isinstance(other, Symbol) else other
            else:
                listed = " and ".join(str(list(shape)) for shape in shapes)
                node.fail("inputs", f"shapes {listed} do not broadcast")
        out.append(dim)
    return out[::-1]


def elementwise(node: Node) -> Shapes:
    """Broadcast of all inputs and parameters."""
    given = [tensor.shape for tensor in node.inputs if tensor is not None]
    if len(given) == 1 and not node.parameters:
        return same(node)
    shapes: list[Sequence[int]] = [*given, *(p.shape for p in node.parameters)]
    dtype = next(t.dtype for t in node.inputs if t is not None) if given else node.dtype
    return [(broadcast(node, shapes), dtype)]


def comparison(node: Node) -> Shapes:
    """Broadcast of all inputs, as booleans."""
    return [(elementwise(node)[0][0], "bool")]


def where(node: Node) -> Shapes:
    """Where: broadcast, in the dtype of its branches."""
    shape = elementwise(node)[0][0]
    branches = [t for t in node.inputs[1:] if t is not None]
    return [(shape, branches[0].dtype if branches else node.dtype)]


def expand(node: Node) -> Shapes:
    """Expand."""
    target = node.integer_list("shape")
    if target is None:
        node.fail("attributes.shape", "Expand needs a target shape")
    return [(broadcast(node, (node.x.shape, target)), node.x.dtype)]
