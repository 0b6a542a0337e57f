"""Channels that pass as they are, and channels that freeze because nothing is known of them."""

from __future__ import annotations

from latency_service.core.channels import Tracker
from latency_service.core.node import Node
from latency_service.core.ops.layouts.learned import count_learned


def opaque(node: Node, tracker: Tracker) -> None:
    """Freeze what it reads; what it writes has no channels."""
    tracker.opaque(node)
    count_learned(node, None)


def none(node: Node, tracker: Tracker) -> None:
    """It reads no channels; a learned constant (a class token) has parameters all the same."""
    if node.parameters:
        count_learned(node, None)


def keep(node: Node, tracker: Tracker) -> None:
    """Channel k of the output is channel k of the input."""
    ids = node.x.ids
    for output in node.outputs:
        if output.shape == node.x.shape:
            output.ids = ids
    for tensor in node.inputs[1:]:
        tracker.freeze(None if tensor is None else tensor.ids)


def keep_leading(node: Node, tracker: Tracker) -> None:
    """Batch and channel axes are kept; whatever happens, happens inside the other axes."""
    ids = node.x.ids
    for tensor in node.inputs[1:]:
        tracker.freeze(None if tensor is None else tensor.ids)
    if ids is None:
        return
    ids = tracker.collapse(ids, (0, 1))
    node.in_ids[0] = ids
    for output in node.outputs:
        rank = len(output.shape)
        output.ids = ids.reshape(ids.shape[:2] + (1,) * (rank - 2))
