"""Normalisations and reductions: positions along an axis see each other, or become one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from latency_service.core.channels import Tracker
from latency_service.core.node import IdArray, Node
from latency_service.core.ops import shapes
from latency_service.core.ops.layouts.learned import count_learned


def batch_norm(node: Node, tracker: Tracker) -> None:
    """BatchNormalization and InstanceNormalization: one scale and one shift per channel."""
    ids = tracker.along(node, 0, 1) if len(node.x.shape) > 1 else node.x.ids
    node.outputs[0].ids = ids
    if ids is not None:
        for parameter in node.parameters:
            if math.prod(parameter.shape) != ids.size:
                detail = f"has shape {list(parameter.shape)} for {ids.size} channels"
                node.fail(f"parameters.{parameter.role}", detail)
        tracker.learned(node, node.parameter("gamma"), {0: ids})
    count_learned(node, ids)


def group_norm(node: Node, tracker: Tracker) -> None:
    """GroupNormalization: a whole group of channels shares its statistics."""
    groups = node.integer("num_groups")
    ids = tracker.along(node, 0, 1)
    if groups < 1 or ids.size % groups:
        node.fail("attributes.num_groups", f"{groups} does not divide {ids.size} channels")
    table = ids.reshape(groups, -1)
    tracker.tie(table[:, :1], table)
    node.outputs[0].ids = ids
    tracker.learned(node, node.parameter("gamma"), {0: ids})
    count_learned(node, ids)


def norm_over(node: Node, tracker: Tracker) -> None:
    """LayerNormalization and its kin: statistics over the last axes see a zeroed channel."""
    axis = node.axis(default=-1)
    ids = _mix(node, tracker, range(axis, len(node.x.shape)))
    node.outputs[0].ids = ids
    for output in node.outputs[3:]:
        output.ids = ids
    for tensor in node.inputs[1:]:
        tracker.freeze(None if tensor is None else tensor.ids)
    # scale and shift lie along the frozen axes
    count_learned(node, None)


def softmax(node: Node, tracker: Tracker) -> None:
    """Softmax, Hardmax, LpNormalization: as LayerNormalization, over one axis."""
    node.outputs[0].ids = _mix(node, tracker, (node.axis(default=-1),))


def neighbours(node: Node, tracker: Tracker) -> None:
    """LRN: a channel sees its neighbours."""
    node.outputs[0].ids = _mix(node, tracker, (1,))


def mean_variance(node: Node, tracker: Tracker) -> None:
    """MeanVarianceNormalization: by default over all axes but the channels."""
    axes = node.integers("axes") or ()
    mixed = shapes.checked_axes(node, axes, len(node.x.shape))
    node.outputs[0].ids = _mix(node, tracker, mixed)


def along_axis(node: Node, tracker: Tracker) -> None:
    """CumSum and the like: channels on other axes pass."""
    rank = len(node.x.shape)
    axis = node.integer_list("axis") or list(range(rank))
    node.outputs[0].ids = _mix(node, tracker, shapes.checked_axes(node, axis, rank))


def reduce(node: Node, tracker: Tracker) -> None:
    """ReduceMean and its kin: over positions channels stay, over channels they freeze."""
    ids = node.x.ids
    if ids is None:
        return
    gone = shapes.reduced_axes(node)
    _drop(node, tracker, ids, gone, bool(node.integer("keepdims", 1)))


def arg_reduce(node: Node, tracker: Tracker) -> None:
    """ArgMax, ArgMin."""
    if node.x.ids is not None:
        _drop(node, tracker, node.x.ids, [node.axis(default=0)], bool(node.integer("keepdims", 1)))


def _drop(node: Node, tracker: Tracker, ids: IdArray, gone: list[int], keep_axes: bool) -> None:
    if any(ids.shape[axis] > 1 for axis in gone):
        mixed = _mix(node, tracker, gone)
        if mixed is ids or mixed is None:
            return
        ids = mixed
    if not keep_axes:
        ids = ids.reshape([n for a, n in enumerate(ids.shape) if a not in gone])
    if ids.size > 1 or not gone:
        node.outputs[0].ids = ids
    else:
        tracker.freeze(ids)


def top_k(node: Node, tracker: Tracker) -> None:
    """TopK: along the channels it freezes them."""
    axis = node.axis(default=-1)
    ids = _mix(node, tracker, (axis,))
    if ids is not None and ids.shape[axis] == 1:
        for output in node.outputs:
            output.ids = ids


def _mix(node: Node, tracker: Tracker, axes: Iterable[int]) -> IdArray | None:
    """Channels of the input where positions along `axes` see each other: these freeze.

    Where channels vary along other axes too (heads), each of those dies with all it mixes.
    """
    ids, mixed = node.x.ids, set(axes)
    if ids is None or all(ids.shape[axis] == 1 for axis in mixed):
        return ids
    others = [axis for axis, extent in enumerate(ids.shape) if extent > 1 and axis not in mixed]
    if others:
        return tracker.collapse(ids, others)
    tracker.freeze(ids)
    return ids
