"""How channels pass through operators that do not contract: kept, moved, tied, cut or frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from latency_service.core.channels import MOST_IDS, Tracker
from latency_service.core.forms import BilinearForm
from latency_service.core.node import Dims, IdArray, Node, Tensor
from latency_service.core.ops import shapes

Rule = Callable[[Node, Tracker], None]


def opaque(node: Node, tracker: Tracker) -> None:
    """Freeze what it reads; what it writes has no channels."""
    tracker.opaque(node)
    _count(node, None)


def none(node: Node, tracker: Tracker) -> None:
    """It reads no channels; a learned constant (a class token) has parameters all the same."""
    if node.parameters:
        _count(node, None)


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


def _count(node: Node, ids: IdArray | None) -> None:
    """Charge what is learned, per output channel where it is cut along with the channels."""
    per_out = constant = 0.0
    for parameter in node.parameters:
        if parameter.role in node.shared or parameter.role in UNLEARNED:
            continue
        size = math.prod(parameter.shape)
        vector = parameter.role in ("gamma", "beta") and ids is not None and size == ids.size
        if ids is not None and (vector or follows(parameter.shape, ids)):
            per_out += size / ids.size
        else:
            constant += size
    node.learned = BilinearForm(constant=constant, per_out=per_out)


def follows(shape: Dims, ids: IdArray) -> bool:
    """Whether a learned operand has an axis of its own for every channel axis."""
    offset = ids.ndim - len(shape)
    return all(
        axis >= offset and shape[axis - offset] == extent
        for axis, extent in enumerate(ids.shape)
        if extent > 1
    )


# Estimated while training (statistics), chosen when quantising, or fixed: stored, but not learned.
UNLEARNED = frozenset({"mean", "variance", "scale", "zero_point", "state"})


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
    _count(node, ids)


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
    _count(node, ids)


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
    _count(node, None)


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


# --- elementwise ----------------------------------------------------------------------------------


def elementwise(node: Node, tracker: Tracker) -> None:
    """Operands of the same channels are tied; channels on different axes cannot be.

    An operand without channels where another has them, or with a single channel that is broadcast,
    freezes: what is left of the sum would have no place to go.
    """
    out = node.outputs[0]
    rank = len(out.shape)
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    result = tie_all(tracker, tensors, out.shape) if len(tensors) > 1 else None
    if len(tensors) == 1:
        ids = tensors[0].ids
        if ids is not None and ids.ndim < rank:
            ids = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)
        result = ids
    for parameter in node.parameters:
        result = _with_parameter(node, tracker, parameter.shape, result, rank)
    if result is not None and result.size == 1 and _spread(out.shape, tensors):
        tracker.freeze(result)
        result = None
    for output in node.outputs:
        output.ids = result
    for parameter in node.parameters:
        axes = _axes_of(parameter.shape, result, rank)
        tracker.learned(node, parameter, axes)
    _count(node, result)


def _spread(shape: Dims, tensors: list[Tensor]) -> bool:
    """Whether some operand with a single channel is broadcast over a larger tensor."""
    return any(t.ids is not None and t.ids.size == 1 and t.shape != shape for t in tensors)


def tie_all(tracker: Tracker, tensors: list[Tensor], shape: Dims) -> IdArray | None:
    """Tie the channels of operands that are combined position by position."""
    rank = len(shape)
    first = tensors[0].ids
    if first is not None and all(
        t.ids is not None and t.ids.shape == first.shape and t.shape == shape for t in tensors
    ):
        for tensor in tensors[1:]:
            assert tensor.ids is not None
            tracker.tie(first, tensor.ids)
        return first
    result: IdArray | None = None
    padded: list[tuple[IdArray | None, Dims]] = []
    for tensor in tensors:
        pad = rank - len(tensor.shape)
        ids = tensor.ids
        padded.append(
            (
                None if ids is None else ids.reshape((1,) * pad + ids.shape),
                (1,) * pad + tensor.shape,
            )
        )
    for ids, _ in padded:
        if ids is not None and ids.size > 1:
            result = ids if result is None else _meet(tracker, result, ids)
    if result is None:
        held = [ids for ids, _ in padded if ids is not None]
        for ids in held[1:]:
            tracker.tie(held[0], ids)
        return held[0] if held else None
    varying = [axis for axis, extent in enumerate(result.shape) if extent > 1]
    for ids, dims in padded:
        if ids is not None and ids.size == 1:
            tracker.freeze(ids)
        bare = ids is None or all(ids.shape[axis] == 1 for axis in varying)
        if bare and any(dims[axis] > 1 for axis in varying):
            tracker.freeze(result)
    return result


def _meet(tracker: Tracker, left: IdArray, right: IdArray) -> IdArray:
    """Tie two operands' channels where they share an axis; freeze the second where not."""
    shared = any(a > 1 and b > 1 for a, b in zip(left.shape, right.shape, strict=True))
    fits = all(a == b or 1 in (a, b) for a, b in zip(left.shape, right.shape, strict=True))
    if not shared or not fits:
        tracker.freeze(right)
        return left
    tracker.tie(left, right)
    return left if left.size >= right.size else right


def _with_parameter(
    node: Node, tracker: Tracker, shape: Dims, ids: IdArray | None, rank: int
) -> IdArray | None:
    """A learned operand is cut along with the channels it lines up with."""
    if ids is None:
        return None
    dims = (1,) * (rank - len(shape)) + tuple(shape)
    touched = [axis for axis in range(rank) if ids.shape[axis] > 1 and dims[axis] > 1]
    varying = [axis for axis in range(rank) if ids.shape[axis] > 1]
    if touched and len(varying) > 1:
        others = [axis for axis in varying if axis not in touched]
        if touched == [rank - 1] and len(others) == 1:
            # one entry per dimension of a head: the heads share it, it outlives each of them
            touched = others
        # a vector per head, say: what shares an entry lives and dies together
        return tracker.collapse(ids, touched)
    return ids


def _axes_of(shape: Dims, ids: IdArray | None, rank: int) -> dict[int, IdArray]:
    """Axes of a learned operand that hold channels."""
    if ids is None:
        return {}
    offset = rank - len(shape)
    found = {}
    for axis, extent in enumerate(shape):
        if extent > 1 and ids.shape[axis + offset] == extent:
            line = ids
            for other in range(rank):
                if other != axis + offset and line.shape[other] > 1:
                    line = line.take([0], other)
            found[axis] = line
    return found


# --- changing shape -------------------------------------------------------------------------------


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
                tracker.learned(node, parameter, _axes_of(parameter.shape, out.ids, len(out.shape)))
        _count(node, None)
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
            _count(node, None)
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


def expand(node: Node, tracker: Tracker) -> None:
    """Expand: repeats along axes of size 1, which hold no channels to speak of."""
    ids = node.x.ids
    rank = len(node.outputs[0].shape)
    if ids is None:
        return
    if ids.size == 1:
        tracker.freeze(ids)
    else:
        node.outputs[0].ids = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


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
