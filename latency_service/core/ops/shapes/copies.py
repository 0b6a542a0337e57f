"""Outputs of the shape and dtype of an input, some with statistics or a mask beside them."""

from __future__ import annotations

from collections.abc import Sequence

from latency_service.core.node import Node
from latency_service.core.ops.shapes.rule import Shapes


def same(node: Node) -> Shapes:
    """The shape and dtype of the first input."""
    return [(node.x.shape, node.x.dtype)]


def outputs_with_statistics(node: Node) -> Shapes:
    """The first output like the input; mean and variance, where asked for, per row."""
    axis, rank = node.axis(default=-1), len(node.x.shape)
    rows = (*node.x.shape[:axis], *(1,) * (rank - axis))
    found: list[tuple[Sequence[int], str]] = [(node.x.shape, node.x.dtype)]
    found += [(rows, "float32")] * (len(node.layer.outputs) - 1)
    return found


def batch_statistics(node: Node) -> Shapes:
    """BatchNormalization: in training form it also writes its statistics."""
    found: list[tuple[Sequence[int], str]] = [(node.x.shape, node.x.dtype)]
    found += [((node.x.shape[1],), node.dtype)] * (len(node.layer.outputs) - 1)
    return found


def skip_normalization(node: Node) -> Shapes:
    """SkipLayerNormalization: result, two statistics, and the sum where asked for."""
    rows = node.x.shape[:-1]
    out = (node.x.shape, node.x.dtype)
    return [out, ((*rows, 1), "float32"), ((*rows, 1), "float32"), out]


def dropout(node: Node) -> Shapes:
    """Dropout: the input, and the mask where asked for."""
    return [(node.x.shape, node.x.dtype), (node.x.shape, "bool")]
