"""Operands that are combined position by position: their channels are tied, or freeze."""

from __future__ import annotations

from latency_service.core.channels import Tracker
from latency_service.core.node import Dims, IdArray, Node, Tensor
from latency_service.core.ops.layouts.learned import count_learned


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
        axes = axes_of(parameter.shape, result, rank)
        tracker.learned(node, parameter, axes)
    count_learned(node, result)


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


def axes_of(shape: Dims, ids: IdArray | None, rank: int) -> dict[int, IdArray]:
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
