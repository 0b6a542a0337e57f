"""Functions of `keras.ops`, and operators between tensors."""

from __future__ import annotations

import numpy as np

from latency_client.keras.merging import concatenate
from latency_client.keras.registry import operation
from latency_client.keras.shaping import pad_value, permute_value, reshape_value, slice_value
from latency_client.keras.trace import Call
from latency_client.keras.values import Shape, Value, moved_axis, moved_shape
from latency_client.keras.views import Binding, straight

_REDUCTIONS = {
    "Mean": "ReduceMean", "Sum": "ReduceSum", "Max": "ReduceMax", "Min": "ReduceMin",
    "Amax": "ReduceMax", "Amin": "ReduceMin", "Prod": "ReduceProd", "Logsumexp": "ReduceLogSumExp",
}  # fmt: skip


def _reduction(kind: str, op_name: str) -> None:
    def handler(call: Call) -> Value:
        op, x, tensors = call.op, call.x, call.trace.tensors
        given = range(x.rank) if op.axis is None else np.atleast_1d(op.axis).tolist()
        axes = sorted(axis % x.rank for axis in given)
        kept: Shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
        first = x.channels_second
        places = sorted(moved_axis(a, x.rank) for a in axes) if first else axes
        # without the reduced axes nothing is left to put second, or the rest keeps its order
        if first and not op.keepdims and x.rank - 1 not in axes and len(call.shape) > 2:
            written: Shape = moved_shape(call.shape)
        elif first and op.keepdims:
            written = moved_shape(kept)
        else:
            written = call.shape
            if first and len(call.shape) > 2:
                first, places = False, axes
        name = tensors.moved(x) if x.channels_second and first else tensors.plain(x)
        attributes = {"axes": places, "keepdims": int(bool(op.keepdims))}
        (made,) = call.trace.add(call, call.name, op_name, [name], [written], attributes)
        if first and len(written) > 2:
            return Value(call.shape, moved=made)
        return Value(call.shape, plain=made)

    operation(kind)(handler)


for _kind, _op in _REDUCTIONS.items():
    _reduction(_kind, _op)


@operation("Reshape")
def reshape(call: Call) -> Value:
    """keras.ops.reshape."""
    return reshape_value(call, call.x, call.shape)


@operation("Squeeze", "ExpandDims")
def squeeze(call: Call) -> Value:
    """Axes of size 1 come and go."""
    return reshape_value(call, call.x, call.shape)


@operation("Ravel")
def ravel(call: Call) -> Value:
    """Everything in one axis."""
    return reshape_value(call, call.x, call.shape)


@operation("Transpose")
def transpose(call: Call) -> Value:
    """keras.ops.transpose."""
    rank = call.x.rank
    axes = call.op.axes if call.op.axes is not None else tuple(range(rank))[::-1]
    return permute_value(call, call.x, [axis % rank for axis in axes])


@operation("Swapaxes")
def swapaxes(call: Call) -> Value:
    """keras.ops.swapaxes."""
    axes = list(range(call.x.rank))
    a, b = call.op.axis1 % call.x.rank, call.op.axis2 % call.x.rank
    axes[a], axes[b] = b, a
    return permute_value(call, call.x, axes)


@operation("Moveaxis")
def move_axis(call: Call) -> Value:
    """keras.ops.moveaxis."""
    taken = [source % call.x.rank for source in call.op.source]
    rest = [axis for axis in range(call.x.rank) if axis not in taken]
    placed = sorted(
        (d % call.x.rank, s % call.x.rank)
        for s, d in zip(call.op.source, call.op.destination, strict=True)
    )
    for destination, source in placed:
        rest.insert(destination, source)
    return permute_value(call, call.x, rest)


@operation("GetItem")
def get_item(call: Call) -> Value:
    """x[...]: slices and whole numbers."""
    x = call.x
    key = call.argument(1, "key")
    key = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, Value) or hasattr(part, "shape") for part in key):
        raise call.refuse("takes positions that the data decide", "use keras.ops.take")
    taken = sum(part is not None and part is not Ellipsis for part in key)
    cuts, axis = [], 0
    for part in key:
        if part is Ellipsis:
            axis += x.rank - taken
        elif part is None:
            continue
        elif isinstance(part, slice):
            start, end, step = part.indices(x.shape[axis])
            if (start, end, step) != (0, x.shape[axis], 1):
                cuts.append((axis, start, end, step))
            axis += 1
        else:
            start = int(part) % x.shape[axis]
            cuts.append((axis, start, start + 1, 1))
            axis += 1
    if any(cut[3] < 0 for cut in cuts):
        raise call.refuse("runs backwards", "use keras.ops.flip")
    made = slice_value(call, x, cuts) if cuts else x
    return made if made.shape == call.shape else reshape_value(call, made, call.shape)


@operation("Split")
def split(call: Call) -> list[Value]:
    """keras.ops.split."""
    op, x, tensors = call.op, call.x, call.trace.tensors
    axis = op.axis % x.rank
    first = x.channels_second
    name = tensors.moved(x) if first else tensors.plain(x)
    shapes = [moved_shape(shape) if first else shape for shape in call.shapes]
    attributes = {
        "axis": moved_axis(axis, x.rank) if first else axis,
        "split": [shape[axis] for shape in call.shapes],
    }
    made = call.trace.add(call, call.name, "Split", [name], shapes, attributes)
    if first:
        return [Value(s, moved=m) for s, m in zip(call.shapes, made, strict=True)]
    return [Value(s, plain=m) for s, m in zip(call.shapes, made, strict=True)]


@operation("Stack")
def stack(call: Call) -> Value:
    """keras.ops.stack."""
    axis = call.op.axis % len(call.shape)
    values = []
    for value in call.values:
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        values.append(reshape_value(call, value, shape))
    return concatenate(call, call.name, values, axis, call.shape)


@operation("Matmul")
def matmul(call: Call) -> Value:
    """keras.ops.matmul: of two tensors, or of one and a learned matrix."""
    tensors = call.trace.tensors
    left, right = call.argument(0, "x1"), call.argument(1, "x2")
    bindings, attributes = {}, {}
    if isinstance(left, Value) and isinstance(right, Value):
        names = [tensors.plain(left), tensors.plain(right)]
    else:
        learned = right if isinstance(left, Value) else left
        names = [tensors.plain(left if isinstance(left, Value) else right)]
        if not hasattr(learned, "path"):
            raise call.refuse("multiplies with a constant matrix", "make it a weight of the layer")
        bindings["weight"] = Binding(learned, straight(len(learned.shape)))
        attributes = {} if isinstance(left, Value) else {"weight_input": 0}
    (made,) = call.trace.add(call, call.name, "MatMul", names, [call.shape], attributes, bindings)
    return Value(call.shape, plain=made)


@operation("Einsum")
def einsum(call: Call) -> Value:
    """keras.ops.einsum; its channels are not pruned."""
    tensors = call.trace.tensors
    operands = [arg for arg in call.args if not isinstance(arg, str)]
    activations = [arg for arg in operands if isinstance(arg, Value)]
    weights = [arg for arg in operands if not isinstance(arg, Value)]
    if operands != activations + weights or len(weights) > 1:
        raise call.refuse("mixes tensors and weights", "put one weight last, or use matmul")
    equation = call.op.subscripts.replace(" ", "")
    bindings = {}
    if weights:
        bindings["weight"] = Binding(weights[0], straight(len(weights[0].shape)))
    (made,) = call.trace.add(
        call, call.name, "Einsum", [tensors.plain(v) for v in activations], [call.shape],
        {"equation": equation}, bindings,
    )  # fmt: skip
    return Value(call.shape, plain=made)


@operation("Pad")
def pad(call: Call) -> Value:
    """keras.ops.pad."""
    rows = list(call.op.pad_width)
    rows = rows * call.x.rank if len(rows) == 1 else rows
    return pad_value(call, call.x, [(int(a), int(b)) for a, b in rows])


@operation("Tile")
def tile(call: Call) -> Value:
    """keras.ops.tile."""
    repeats = np.atleast_1d(call.op.repeats).tolist()
    repeats = [1] * (call.x.rank - len(repeats)) + repeats
    (made,) = call.trace.add(
        call, call.name, "Tile", [call.trace.tensors.plain(call.x)], [call.shape],
        {"repeats": repeats},
    )  # fmt: skip
    return Value(call.shape, plain=made)


@operation("BroadcastTo")
def broadcast_to(call: Call) -> Value:
    """keras.ops.broadcast_to."""
    (made,) = call.trace.add(
        call, call.name, "Expand", [call.trace.tensors.plain(call.x)], [call.shape],
        {"shape": list(call.shape)},
    )  # fmt: skip
    return Value(call.shape, plain=made)


@operation("Take")
def take(call: Call) -> Value:
    """keras.ops.take: rows of a learned table, or constant positions of a tensor."""
    source, indices = call.argument(0, "x"), call.argument(1, "indices")
    tensors = call.trace.tensors
    axis = call.op.axis
    if not isinstance(source, Value):
        if axis not in (0, None) or not hasattr(source, "path"):
            raise call.refuse("takes from a constant", "take rows (axis=0) of a weight")
        (made,) = call.trace.add(
            call, call.name, "Gather", [tensors.plain(indices)], [call.shape], {"axis": 0},
            {"weight": Binding(source, straight(len(source.shape)))},
        )  # fmt: skip
        return Value(call.shape, plain=made)
    if axis is None:
        raise call.refuse("takes from a flat tensor", "name the axis")
    inputs, attributes = [tensors.plain(source)], {"axis": int(axis) % source.rank}
    if isinstance(indices, Value):
        inputs.append(tensors.plain(indices))
    else:
        attributes["indices"] = np.asarray(indices).tolist()
    (made,) = call.trace.add(call, call.name, "Gather", inputs, [call.shape], attributes)
    return Value(call.shape, plain=made)


@operation("Cast")
def cast(call: Call) -> Value:
    """Another dtype; between floating types nothing that is deployed."""
    x = call.x
    if x.dtype is None and "float" in call.dtypes[0]:
        return x
    dtype = None if "float" in call.dtypes[0] else call.dtypes[0]
    target = "float32" if dtype is None else dtype
    (made,) = call.trace.add(
        call, call.name, "Cast", [call.trace.tensors.plain(x)], [x.shape], {"to": target},
        dtypes=[dtype],
    )  # fmt: skip
    return Value(x.shape, plain=made, dtype=dtype)


@operation("Identity", "Copy", "ConvertToTensor")
def copy(call: Call) -> Value:
    """Nothing."""
    return call.x
