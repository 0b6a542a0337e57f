"""Channels taken, joined, repeated or padded: Concat, Split, Slice, Gather, Pad, Tile, Resize."""

from __future__ import annotations

import math

import numpy as np

from latency_service.core.channels import MOST_IDS, Tracker
from latency_service.core.forms import BilinearForm
from latency_service.core.node import IdArray, Node, Tensor
from latency_service.core.ops import shapes
from latency_service.core.ops.layouts.broadcasting import axes_of, tie_all
from latency_service.core.ops.layouts.learned import UNLEARNED, count_learned
from latency_service.core.ops.layouts.reshapes import moved


def concat(node: Node, tracker: Tracker) -> None:
    """Concat: along the channels the pieces follow each other, else they are tied."""
    out = node.outputs[0]
    axis = node.axis(rank=len(out.shape))
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    held = [tensor.ids for tensor in tensors if tensor.ids is not None]
    if node.parameters:
        # a learned piece (a class token) is never pruned, nor is what it is joined to
        if any(ids.shape[axis] > 1 for ids in held):
            tracker.opaque(node)
        else:
            out.ids = tie_all(tracker, tensors, out.shape) if held else None
            for parameter in node.parameters:
                tracker.learned(node, parameter, axes_of(parameter.shape, out.ids, len(out.shape)))
        count_learned(node, None)
        if out.ids is not None:
            _count_pieces(node, out)
        return
    if not held:
        return
    others = {a for ids in held for a, n in enumerate(ids.shape) if n > 1 and a != axis}
    # a single channel sits on some axis of size 1
    single = not others and all(t.shape[axis] == 1 for t in tensors if t.ids is not None)
    varies = any(ids.shape[axis] > 1 for ids in held) or single
    if not varies:
        # joined along another axis: same channels, more positions
        loose = [t for t in tensors if t.ids is None or (others and t.ids.size == 1)]
        if loose:
            tracker.opaque(node)
        else:
            out.ids = held[0]
            for ids in held[1:]:
                if ids.shape == held[0].shape:
                    tracker.tie(held[0], ids)
                else:
                    tracker.opaque(node)
        return
    if others and len(held) < len(tensors):
        tracker.opaque(node)
        return
    pieces = []
    for position, tensor in enumerate(tensors):
        if not others:
            pieces.append(tracker.along(node, position, axis))
            continue
        assert tensor.ids is not None
        dims = list(tensor.ids.shape)
        dims[axis] = tensor.shape[axis]
        for other in others:
            dims[other] = tensor.shape[other]
        if math.prod(dims) > MOST_IDS:
            tracker.opaque(node)
            return
        pieces.append(np.broadcast_to(tensor.ids, dims))
    out.ids = np.concatenate(pieces, axis)
    moved(node, tracker)


def _count_pieces(node: Node, out: Tensor) -> None:
    assert out.ids is not None
    uncounted = UNLEARNED | node.shared
    size = sum(math.prod(p.shape) for p in node.parameters if p.role not in uncounted)
    node.learned = BilinearForm(per_out=size / out.ids.size)


def split(node: Node, tracker: Tracker) -> None:
    """Split: every output takes its part."""
    ids = node.x.ids
    if ids is None:
        return
    axis = node.axis(default=0)
    start = 0
    for output, extent in zip(node.outputs, shapes.split_sizes(node), strict=True):
        if ids.shape[axis] > 1:
            index = [slice(None)] * ids.ndim
            index[axis] = slice(start, start + extent)
            output.ids = ids[tuple(index)]
        else:
            output.ids = ids
        start += extent
    if ids.shape[axis] > 1:
        moved(node, tracker)


def slice_(node: Node, tracker: Tracker) -> None:
    """Slice."""
    ids = node.x.ids
    if ids is None:
        return
    index = [slice(None)] * ids.ndim
    cuts = False
    for axis, bounds, _ in shapes.slices(node):
        if ids.shape[axis] > 1:
            index[axis] = bounds
            cuts = True
    taken = ids[tuple(index)]
    if taken.size == 0:
        tracker.freeze(ids)
        return
    node.outputs[0].ids = taken
    if cuts:
        moved(node, tracker)


def gather(node: Node, tracker: Tracker) -> None:
    """Gather: takes channels by constant indices; a learned table makes new ones."""
    out = node.outputs[0]
    table = node.parameter("weight")
    if table is not None:
        axis = node.axis(default=0, rank=len(table.shape))
        if axis == 0 and len(table.shape) == 2:
            out.ids = tracker.new(table.shape[1], len(out.shape), len(out.shape) - 1)
            node.learned = BilinearForm(per_out=table.shape[0])
            if "weight" in node.shared:
                node.learned = BilinearForm()
            tracker.learned(node, table, {1: out.ids})
        else:
            count_learned(node, None)
        return
    ids = node.x.ids
    if ids is None:
        return
    axis = node.axis(default=0)
    extra = len(shapes.gather_indices_shape(node))
    if ids.shape[axis] == 1:
        dims = (*ids.shape[:axis], *(1,) * extra, *ids.shape[axis + 1 :])
        out.ids = ids.reshape(dims)
        return
    indices = None
    if "indices" in node.attributes or node.input(1).value is not None:
        indices = node.operand("indices")
    if indices is None:
        tracker.freeze(ids)
        return
    out.ids = np.take(ids, indices.astype(np.int64), axis=axis)
    moved(node, tracker)


def pad(node: Node, tracker: Tracker) -> None:
    """Pad: padded channels are constant and stay."""
    ids = node.x.ids
    if ids is None:
        return
    for axis, (before, after) in enumerate(shapes.pads(node)):
        if not (before or after):
            continue
        if ids.size == node.x.shape[axis] == 1:
            # this may be the axis of the single channel
            tracker.freeze(ids)
            return
        if ids.shape[axis] == 1:
            continue
        if before < 0 or after < 0:
            tracker.freeze(ids)
            return
        pieces: list[IdArray] = []
        for amount, place in ((before, 0), (after, 1)):
            dims = list(ids.shape)
            dims[axis] = amount
            fresh = tracker.new(math.prod(dims), 1, 0).reshape(dims)
            tracker.freeze(fresh)
            pieces.insert(2 * place, fresh)
        ids = np.concatenate([pieces[0], ids, pieces[1]], axis)
    node.outputs[0].ids = ids
    if ids is not node.x.ids:
        moved(node, tracker)


def tile(node: Node, tracker: Tracker) -> None:
    """Tile: repeats of a channel are the same channel."""
    ids = node.x.ids
    if ids is None:
        return
    repeats = node.integer_list("repeats") or []
    turns = [r if ids.shape[axis] > 1 else 1 for axis, r in enumerate(repeats)]
    if (ids.size == 1 and any(r > 1 for r in repeats)) or math.prod(turns) * ids.size > MOST_IDS:
        tracker.freeze(ids)
    else:
        node.outputs[0].ids = np.tile(ids, turns)


def resize(node: Node, tracker: Tracker) -> None:
    """Resize: positions change, channels do not."""
    ids, out = node.x.ids, node.outputs[0]
    if ids is None:
        return
    if any(n > 1 and out.shape[a] != node.x.shape[a] for a, n in enumerate(ids.shape)):
        tracker.freeze(ids)
    else:
        out.ids = ids
