"""Operators that multiply and accumulate: their FLOPs, weights and channels.

A multiply-accumulate is 2 FLOPs. Where input and output channels are pruned independently the
costs are products of both counts; where they live and die together (depthwise and grouped
convolutions, attention heads) they are linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from latency_service.core.channels import Tracker
from latency_service.core.forms import BilinearForm
from latency_service.core.node import IdArray, Node, Tensor, volume
from latency_service.core.ops import shapes

FLOPS_PER_MULTIPLY_ADD = 2


def linear_in(total: float, ids: IdArray) -> BilinearForm:
    """A total that is proportional to the live input channels."""
    return BilinearForm(per_in=total / ids.size)


def linear_out(total: float, ids: IdArray) -> BilinearForm:
    """A total that is proportional to the live output channels."""
    return BilinearForm(per_out=total / ids.size)


def _bias(node: Node, tracker: Tracker, out: IdArray | None) -> None:
    bias = node.parameter("bias")
    if bias is None or "bias" in node.shared:
        return
    size = math.prod(bias.shape)
    whole = out is not None and size == out.size
    node.learned = BilinearForm(per_out=1) if whole else BilinearForm(size)


def _only_first(node: Node, tracker: Tracker, written: IdArray | None = None) -> None:
    """What it reads beside the first input (an addend, a state, scales) is charged whole.

    An addend has no place to go where an output channel is cut, so it freezes what is written.
    """
    for position, tensor in enumerate(node.inputs):
        if position and tensor is not None:
            tracker.freeze(tensor.ids)
            node.in_ids[position] = None
            if tensor.size > 1:
                tracker.freeze(written)


def _biases(node: Node) -> int:
    """Numbers in all bias vectors, those that another layer counts left out."""
    if "bias" in node.shared:
        return 0
    return sum(math.prod(p.shape) for p in node.parameters if p.role == "bias")


def _fixed(node: Node, tracker: Tracker, multiply_adds: float) -> None:
    """Nothing prunable: every cost is a constant, all that is read is frozen."""
    tracker.opaque(node)
    for parameter in node.parameters:
        axes = {a: tracker.new(n, 1, 0) for a, n in enumerate(parameter.shape)}
        for ids in axes.values():
            tracker.freeze(ids)
        if parameter.id is not None and parameter.role == "weight":
            tracker.learned(node, parameter, axes)
    node.flops = BilinearForm(FLOPS_PER_MULTIPLY_ADD * multiply_adds)
    kernels = [p for p in node.parameters if p.role in ("weight", "recurrence")]
    node.weights = BilinearForm(sum(math.prod(p.shape) for p in kernels))
    node.learned = BilinearForm(_biases(node))


def conv(node: Node, tracker: Tracker) -> None:
    """Conv, ConvInteger, QLinearConv.

    A grouped convolution lives and dies by whole conv-groups (depthwise: by channels), so its
    costs are linear: MorphNet charges them per channel pair (reference: DESIGN, decision 11).
    """
    out = node.outputs[0]
    kernel = shapes.kernel_of(node)
    taps = math.prod(kernel[2:])
    positions = out.shape[0] * math.prod(out.shape[2:])
    if node.parameter("weight") is None:
        _fixed(node, tracker, positions * kernel[0] * kernel[1] * taps)
        return
    group = node.integer("group", 1)
    read = tracker.along(node, 0, 1)
    written = tracker.new(kernel[0], len(out.shape), 1)
    out.ids = written
    if group == 1:
        node.flops = BilinearForm(per_pair=FLOPS_PER_MULTIPLY_ADD * positions * taps)
        node.weights = BilinearForm(per_pair=taps)
        axes = {0: written, 1: read}
    else:
        _tie_conv_groups(tracker, group, read, written)
        per_out = taps * kernel[1]
        node.flops = BilinearForm(per_out=FLOPS_PER_MULTIPLY_ADD * positions * per_out)
        node.weights = BilinearForm(per_out=per_out)
        axes = {0: written}
    tracker.learned(node, node.parameter("weight"), axes)
    _bias(node, tracker, written)
    _only_first(node, tracker, written)


def _tie_conv_groups(tracker: Tracker, group: int, read: IdArray, written: IdArray) -> None:
    inputs, outputs = read.reshape(group, -1), written.reshape(group, -1)
    tracker.tie(inputs[:, :1], inputs)
    tracker.tie(outputs[:, :1], outputs)
    tracker.tie(inputs[:, :1], outputs[:, :1])


def conv_transpose(node: Node, tracker: Tracker) -> None:
    """ConvTranspose: every input position meets every tap."""
    out = node.outputs[0]
    kernel = shapes.kernel_of(node)
    taps = math.prod(kernel[2:])
    positions = node.x.shape[0] * math.prod(node.x.shape[2:])
    if node.parameter("weight") is None:
        _fixed(node, tracker, positions * kernel[0] * kernel[1] * taps)
        return
    group = node.integer("group", 1)
    read = tracker.along(node, 0, 1)
    written = tracker.new(kernel[1] * group, len(out.shape), 1)
    out.ids = written
    if group == 1:
        node.flops = BilinearForm(per_pair=FLOPS_PER_MULTIPLY_ADD * positions * taps)
        node.weights = BilinearForm(per_pair=taps)
        axes = {0: read, 1: written}
    else:
        _tie_conv_groups(tracker, group, read, written)
        per_in = taps * kernel[1]
        node.flops = BilinearForm(per_in=FLOPS_PER_MULTIPLY_ADD * positions * per_in)
        node.weights = BilinearForm(per_in=per_in)
        axes = {0: read}
    tracker.learned(node, node.parameter("weight"), axes)
    _bias(node, tracker, written)
    _only_first(node, tracker, written)


def dense(
    node: Node, tracker: Tracker, in_axis: int, out_axis: int, read_axis: int, write_axis: int
) -> None:
    """An activation times a learned matrix.

    Args:
        in_axis: axis of the weight that is summed over; out_axis: the other one.
        read_axis: axis of the input that is summed over; write_axis: where the output has it.
    """
    out = node.outputs[0]
    weight = node.parameter("weight")
    assert weight is not None
    features_in, features_out = weight.shape[in_axis], weight.shape[out_axis]
    rows = node.x.size / max(1, features_in)
    ids = node.x.ids
    stacked = ids is not None and any(
        extent > 1 for axis, extent in enumerate(ids.shape) if axis != read_axis
    )
    if ids is not None and stacked:
        # channels on an axis that the product only stacks pass through it
        kept = tracker.collapse(ids, (a for a in range(ids.ndim) if a != read_axis))
        node.in_ids[0] = out.ids = kept
        total = FLOPS_PER_MULTIPLY_ADD * rows * features_in * features_out
        node.flops = linear_in(total, kept)
        node.weights = BilinearForm(features_in * features_out)
        fixed = {a: tracker.new(n, 1, 0) for a, n in enumerate(weight.shape)}
        for frozen in fixed.values():
            tracker.freeze(frozen)
        tracker.learned(node, weight, fixed)
        _bias(node, tracker, None)
        _only_first(node, tracker, kept)
        return
    read = tracker.along(node, 0, read_axis)
    written = tracker.new(features_out, len(out.shape), write_axis)
    out.ids = written
    node.flops = BilinearForm(per_pair=FLOPS_PER_MULTIPLY_ADD * rows)
    node.weights = BilinearForm(per_pair=1)
    tracker.learned(node, weight, {in_axis: read, out_axis: written})
    _bias(node, tracker, written)
    _only_first(node, tracker, written)


def gemm(node: Node, tracker: Tracker) -> None:
    """Gemm with a learned weight (O, I), else as MatMul of two activations."""
    if node.parameter("weight") is None:
        out = node.outputs[0]
        inner = node.x.shape[0 if node.integer("transA", 0) else 1]
        _fixed(node, tracker, out.size * inner)
    else:
        read_axis = 0 if node.integer("transA", 0) else len(node.x.shape) - 1
        dense(node, tracker, 1, 0, read_axis, len(node.outputs[0].shape) - 1)


def matmul(node: Node, tracker: Tracker) -> None:
    """MatMul and its quantised forms: with a learned factor, or of two activations."""
    left, right, learned = shapes.matmul_operands(node)
    out = node.outputs[0]
    inner = left[-2 if node.integer("transA", 0) and len(left) > 1 else -1]
    plain = not node.integer("transA", 0)
    transposed = bool(node.integer("transB", 0))
    if learned == 1 and len(right) == 2 and plain:
        in_axis = 1 if transposed else 0
        rank = len(out.shape)
        dense(node, tracker, in_axis, 1 - in_axis, len(left) - 1, rank - 1)
    elif learned == 0 and len(left) == 2 and plain and not transposed and len(right) > 1:
        dense(node, tracker, 1, 0, len(right) - 2, len(out.shape) - 2)
    elif learned is None and plain and not transposed and min(len(left), len(right)) > 1:
        product(node, tracker, inner)
    else:
        _fixed(node, tracker, out.size * inner)


def product(node: Node, tracker: Tracker, inner: int) -> None:
    """MatMul of two activations, as attention writes it.

    Channels on the stacked axes (heads) live and die in both factors together. Channels that are
    summed over (the dimension of a head) are frozen: no weight reads them, so that there is nothing
    to zero in a masked network. Those that are not summed over pass through.
    """
    out = node.outputs[0]
    total = FLOPS_PER_MULTIPLY_ADD * out.size * inner
    rank = len(out.shape)
    left, right = node.x, node.input(1)
    a, b = _padded(left, rank), _padded(right, rank)
    stacks = range(rank - 2)
    for mine, other_ids, other in ((a, b, right), (b, a, left)):
        if mine is None:
            continue
        for axis in stacks:
            offset = axis - (rank - len(other.shape))
            unpaired = offset >= 0 and other.shape[offset] > 1
            if (
                mine.shape[axis] > 1
                and unpaired
                and (other_ids is None or other_ids.shape[axis] == 1)
            ):
                tracker.freeze(mine)
    heads_a = a is not None and any(a.shape[axis] > 1 for axis in stacks)
    heads_b = b is not None and any(b.shape[axis] > 1 for axis in stacks)
    if heads_a or heads_b:
        a = None if a is None else tracker.collapse(a, stacks)
        b = None if b is None else tracker.collapse(b, stacks)
        if a is not None and b is not None:
            tracker.tie(a, b)
        ids = a if heads_a else b
        assert ids is not None
        if a is not None and b is not None and a.size != b.size:
            ids = np.broadcast_arrays(a, b)[0].copy()
        _see(node, 0, left, a)
        _see(node, 1, right, b)
        out.ids = ids
        node.flops = linear_out(total, ids)
        return
    sums_a = a is not None and a.shape[-1] > 1
    sums_b = b is not None and b.shape[-2] > 1
    if sums_a and sums_b:
        assert a is not None
        assert b is not None
        tracker.freeze(a)
        tracker.freeze(b)
        node.flops = BilinearForm(total)
        return
    if a is not None and sums_a:
        tracker.freeze(a)
    if b is not None and sums_b:
        tracker.freeze(b)
    keep_a = a is not None and not sums_a and a.shape[-2] > 1
    keep_b = b is not None and not sums_b and b.shape[-1] > 1
    if keep_a and keep_b:
        tracker.freeze(a)
        keep_a = False
    out.ids = b if keep_b else a if keep_a else None
    node.flops = BilinearForm(total) if out.ids is None else linear_out(total, out.ids)


def _padded(tensor: Tensor, rank: int) -> IdArray | None:
    ids = tensor.ids
    if ids is None or ids.size == 1:
        return None
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def _see(node: Node, position: int, tensor: Tensor, ids: IdArray | None) -> None:
    if ids is not None:
        node.in_ids[position] = ids


def recurrent(gates: int) -> Callable[[Node, Tracker], None]:
    """LSTM, GRU, RNN: input features are prunable, hidden sizes are not."""

    def rule(node: Node, tracker: Tracker) -> None:
        weight, recurrence = node.parameter("weight"), node.parameter("recurrence")
        steps = node.x.shape[0] * node.x.shape[1]
        directions, features, hidden = shapes.recurrent_sizes(node)
        if weight is None or recurrence is None:
            _fixed(node, tracker, steps * directions * gates * hidden * (features + hidden))
            return
        _only_first(node, tracker)
        read = tracker.along(node, 0, 2)
        units = directions * gates * hidden
        node.weights = BilinearForm(constant=units * hidden, per_in=units)
        node.flops = node.weights.scaled(FLOPS_PER_MULTIPLY_ADD * steps)
        axis = 1 if node.layer.op == "DynamicQuantizeLSTM" else 2
        tracker.learned(node, weight, {axis: read})
        node.learned = BilinearForm(_biases(node))

    return rule


def einsum(node: Node, tracker: Tracker) -> None:
    """Einsum: operands are multiplied two at a time, from left to right; all frozen.

    A label that nobody else reads any more is summed before it is multiplied.
    """
    labels, out = shapes.einsum_labels(node)
    sizes: dict[str, int] = {}
    for subscript, shape in zip(labels, shapes.einsum_shapes(node), strict=True):
        for label, extent in zip(subscript, shape, strict=True):
            sizes[label] = max(extent, sizes.get(label, 1))
    multiply_adds = 0
    product = set(labels[0])
    for place, subscript in enumerate(labels[1:], start=2):
        operand, wanted = set(subscript), set(out).union(*labels[place:])
        product &= operand | wanted
        operand &= product | wanted
        multiply_adds += math.prod(sizes[label] for label in product | operand)
        product = (product | operand) & wanted
    _fixed(node, tracker, multiply_adds)


def attention(node: Node, tracker: Tracker) -> None:
    """Fused attention: scores and weighted values; frozen, since heads are inside."""
    query, key, value = node.x.shape, node.input(1).shape, node.input(2).shape
    if len(query) == 4:
        batch_heads, length, depth = query[0] * query[1], query[2], query[3]
        memory, depth_v = key[2], value[3]
        multiply_adds = batch_heads * length * memory * (depth + depth_v)
    else:
        groups = node.integer("q_num_heads", 1) // max(1, node.integer("kv_num_heads", 1))
        features = query[-1] + value[-1] * max(1, groups)
        multiply_adds = query[0] * query[1] * key[1] * features
    _fixed(node, tracker, multiply_adds)


def dense_blocks(node: Node, tracker: Tracker) -> None:
    """com.microsoft MatMulNBits: weights packed in blocks, N and K as attributes."""
    out, features = node.integer("N"), node.integer("K")
    if features != node.x.shape[-1]:
        node.fail("attributes.K", f"is {features}; input {node.x.name!r} has {node.x.shape[-1]}")
    _fixed(node, tracker, volume(node.x.shape) / features * out * features)
