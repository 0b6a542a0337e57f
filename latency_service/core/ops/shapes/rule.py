"""What a shape rule returns, and what several families of them check."""

from __future__ import annotations

from collections.abc import Sequence

from latency_service.core.node import Node, Symbolic

Shapes = Sequence[tuple[Sequence[int], str]]


def checked_axes(node: Node, axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    for axis in axes:
        if not -rank <= axis < rank:
            node.fail("attributes.axes", f"axis {axis} of a tensor of rank {rank}")
    return [axis % rank for axis in axes]


def declared(node: Node) -> Shapes:
    """What the graph declares; data decides, so nothing can be derived."""
    raise Symbolic(f"the output shape of {node.layer.op} depends on data")
