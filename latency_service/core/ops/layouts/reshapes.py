"""The same elements under other axes: channel ids follow the elements they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from latency_service.core.channels import MOST_IDS, Tracker
from latency_service.core.node import Dims, IdArray, Node
from latency_service.core.ops import shapes


def reshape(node: Node, tracker: Tracker) -> None:
    """Reshape, Flatten: axes are merged and cut; ids follow their elements."""
    node.outputs[0].ids = regroup(tracker, node.x.shape, node.outputs[0].shape, node.x.ids)
    moved(node, tracker)


def regroup(tracker: Tracker, source: Dims, target: Dims, ids: IdArray | None) -> IdArray | None:
    """Ids of a tensor seen in another shape.

    Axes are matched in the smallest blocks of equal volume; within a block that holds channels the
    ids are spelled out over all its axes and reshaped, and axes along which they do not change are
    let go again.
    """
    if ids is None or 0 in source or not source or not target:
        tracker.freeze(ids)
        return None
    expand: list[int] = []
    cut: list[int] = []
    for first, i, start, j in _blocks(source, target):
        holds = any(ids.shape[axis] > 1 for axis in range(first, i))
        if not holds:
            expand += [1] * (i - first)
            cut += [1] * (j - start)
        elif source[first:i] == target[start:j]:
            expand += ids.shape[first:i]
            cut += ids.shape[first:i]
        else:
            expand += source[first:i]
            cut += target[start:j]
    if math.prod(expand) > MOST_IDS:
        tracker.freeze(ids)
        return None
    spelled = np.broadcast_to(ids, expand).reshape(cut)
    for axis, extent in enumerate(cut):
        if extent > 1:
            line = spelled.take([0], axis)
            if (spelled == line).all():
                spelled = line
    return spelled


def _blocks(source: Dims, target: Dims) -> Iterator[tuple[int, int, int, int]]:
    """The smallest runs of axes with equal volume: source[first:i] becomes target[start:j]."""
    i = j = 0
    while i < len(source) and j < len(target):
        first, start = i, j
        volume_in, volume_out = source[i], target[j]
        i, j = i + 1, j + 1
        while volume_in != volume_out:
            if volume_in < volume_out:
                volume_in *= source[i]
                i += 1
            else:
                volume_out *= target[j]
                j += 1
        # what is left over when one side ends are axes of size 1
        if i == len(source):
            j = len(target)
        elif j == len(target):
            i = len(source)
        yield first, i, start, j


def moved(node: Node, tracker: Tracker) -> None:
    """Record where channels sit before and after an operator whose settings name positions.

    The side with several tensors (the pieces of Concat, of Split) follows from the other one.
    """
    data = [tensor for tensor in node.inputs if tensor is not None and tensor.ids is not None]
    for role, tensors in (("input", data), ("output", node.outputs)):
        if len(tensors) == 1 and tensors[0].ids is not None:
            ids = tensors[0].ids
            for axis, extent in enumerate(ids.shape):
                if extent > 1:
                    tracker.place(node, role, axis, ids, None if extent == ids.size else axis)


def squeeze(node: Node, tracker: Tracker) -> None:
    """Squeeze, Unsqueeze: axes of size 1 come and go."""
    ids, out = node.x.ids, node.outputs[0]
    if ids is None:
        return
    if node.layer.op == "Squeeze":
        gone = set(shapes.squeeze_axes(node))
        dims = [extent for axis, extent in enumerate(ids.shape) if axis not in gone]
    else:
        dims = list(ids.shape)
        for axis in sorted(shapes.unsqueeze_axes(node)):
            dims.insert(axis, 1)
    out.ids = ids.reshape(dims)


def transpose(node: Node, tracker: Tracker) -> None:
    """Transpose."""
    if node.x.ids is not None:
        node.outputs[0].ids = node.x.ids.transpose(shapes.permutation(node))


def depth_to_space(node: Node, tracker: Tracker) -> None:
    """DepthToSpace: the blocksize squared channels of a pixel live and die together."""
    ids = tracker.along(node, 0, 1)
    square = node.integer("blocksize") ** 2
    table = (
        ids.reshape(-1, square).T if node.text("mode", "DCR") == "CRD" else ids.reshape(square, -1)
    )
    tracker.tie(table[:1], table)
    node.outputs[0].ids = table[0].reshape(1, -1, 1, 1)
    moved(node, tracker)


def space_to_depth(node: Node, tracker: Tracker) -> None:
    """SpaceToDepth: a channel becomes blocksize squared channels."""
    ids = tracker.along(node, 0, 1)
    square = node.integer("blocksize") ** 2
    node.outputs[0].ids = np.tile(ids.reshape(-1), square).reshape(1, -1, 1, 1)
    moved(node, tracker)
