"""Reductions along axes: ReduceMean and its kin, ArgMax, TopK."""

from __future__ import annotations

from latency_service.core.node import Node, Symbol
from latency_service.core.ops.shapes.rule import Shapes, checked_axes


def reduced_axes(node: Node) -> list[int]:
    """Axes that a reduction removes."""
    rank = len(node.x.shape)
    axes = node.integer_list("axes")
    if axes:
        return checked_axes(node, axes, rank)
    return [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))


def reduce(node: Node) -> Shapes:
    """ReduceMean and its kin."""
    gone = set(reduced_axes(node))
    keep = node.integer("keepdims", 1)
    shape = [1 if a in gone else d for a, d in enumerate(node.x.shape) if keep or a not in gone]
    return [(shape, node.x.dtype)]


def arg_reduce(node: Node) -> Shapes:
    """ArgMax, ArgMin."""
    axis = node.axis(default=0)
    keep = node.integer("keepdims", 1)
    shape = [1 if a == axis else d for a, d in enumerate(node.x.shape) if keep or a != axis]
    return [(shape, "int64")]


def top_k(node: Node) -> Shapes:
    """TopK: values and indices."""
    k = node.integer_list("k") or node.integer_list("K")
    if not k:
        node.fail("attributes.k", "TopK needs k")
    shape = list(node.x.shape)
    axis = node.axis(default=-1)
    if k[0] < 0 or (not isinstance(shape[axis], Symbol) and k[0] > shape[axis]):
        node.fail("attributes.k", f"the {k[0]} largest of {shape[axis]}")
    shape[axis] = k[0]
    return [(shape, node.x.dtype), (shape, "int64")]
