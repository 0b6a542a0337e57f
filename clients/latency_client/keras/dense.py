"""Matrix products of Keras: dense layers, attention, recurrence, tables."""

from __future__ import annotations

from typing import Any

from latency_client.graph import Parameter
from latency_client.keras.activations import activate
from latency_client.keras.merging import combine
from latency_client.keras.registry import layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Shape, Value, moved_shape
from latency_client.keras.views import Binding, View, straight


def project(
    call: Call, name: str, x: Value, kernel: Any, bias: Any, features: int, inner: int = 1
) -> Value:
    """The last axis (the last `inner` ones) times a learned matrix.

    Rank 2 is a Gemm. Of more axes it is a MatMul; where the graph has the channels second, a
    convolution with a kernel of 1, which is the same products and needs no transpose.

    Args:
        features: columns of the matrix; the kernel's further axes are seen as one.
    """
    trace, tensors = call.trace, call.trace.tensors
    shape = (*x.shape[:-1], features)
    reads = x.shape[-1]
    bindings = {}
    if x.rank == 2:
        order = None if x.order is None else (1, x.order)
        bindings["weight"] = Binding(kernel, View((1, 0), (reads, features), None, order))
        op, source, written, attributes = "Gemm", tensors.features(x), shape, {"transB": 1}
    elif x.channels_second:
        ones = (1,) * (x.rank - 2)
        axes = (1, 0, *range(2, x.rank))
        bindings["weight"] = Binding(kernel, View(axes, (reads, features, *ones)))
        op, source, written = "Conv", tensors.moved(x), moved_shape(shape)
        attributes = {"kernel_shape": list(ones), "group": 1}  # type: ignore[dict-item]
    else:
        bindings["weight"] = Binding(kernel, View((0, 1), (reads, features)))
        op, source, written, attributes = "MatMul", tensors.plain(x), shape, {}
    if bias is not None:
        bindings["bias"] = Binding(bias, View((0,), (features,)))
    (made,) = trace.add(call, name, op, [source], [written], attributes, bindings)
    return Value(shape, moved=made) if op == "Conv" else Value(shape, plain=made)


@layer("Dense")
def dense(call: Call) -> Value:
    """A dense layer and its activation."""
    op = call.op
    kernel = getattr(op, "_kernel", None) if hasattr(op, "_kernel") else op.kernel
    made = project(call, call.name, call.x, kernel, op.bias if op.use_bias else None, int(op.units))
    return activate(call, op.activation, made)


def _heads(call: Call, part: Any, name: str, x: Value, heads: int, depth: int) -> Value:
    """(N, T, D) to (N, heads, T, depth) through one matrix."""
    bias = part.bias
    made = project(call, name, x, part.kernel, bias, heads * depth)
    tensors = call.trace.tensors
    length = x.shape[1]
    split = tensors.reshape(
        f"{name}/heads", tensors.plain(made), (x.shape[0], length, heads, depth)
    )
    shape = (x.shape[0], heads, length, depth)
    (turned,) = call.trace.add(
        call, f"{name}/transpose", "Transpose", [split], [shape], {"perm": [0, 2, 1, 3]}
    )
    return Value(shape, plain=turned)


@layer("MultiHeadAttention")
def multi_head_attention(call: Call) -> Any:
    """Projections to heads, scores, softmax, weighted values, projection back."""
    op = call.op
    several = op._attention_axes and tuple(op._attention_axes) != (1,)
    if several or getattr(op, "_use_gate", False):
        raise call.refuse("attends over several axes or has a gate", "reshape to (N, T, features)")
    query = call.argument(0, "query")
    value = call.argument(1, "value")
    key = call.argument(2, "key")
    key = value if key is None else key
    if query.rank != 3:
        raise call.refuse(f"reads a tensor of rank {query.rank}", "reshape to (N, T, features)")
    heads, depth, depth_v = int(op._num_heads), int(op._key_dim), int(op._value_dim)
    name, trace, tensors = call.name, call.trace, call.trace.tensors
    for tensor in (query, key, value):
        tensors.plain(tensor)
    q = _heads(call, op._query_dense, f"{name}/query", query, heads, depth)
    k = _heads(call, op._key_dense, f"{name}/key", key, heads, depth)
    v = _heads(call, op._value_dense, f"{name}/value", value, heads, depth_v)
    batch, length, memory = query.shape[0], query.shape[1], key.shape[1]
    turned = (batch, heads, depth, memory)
    (k_turned,) = trace.add(
        call,
        f"{name}/key/turned",
        "Transpose",
        [tensors.plain(k)],
        [turned],
        {"perm": [0, 1, 3, 2]},
    )
    scaled = combine(call, f"{name}/scale", "Mul", [q, float(depth) ** -0.5], q.shape)
    shape = (batch, heads, length, memory)
    (scores,) = trace.add(
        call, f"{name}/scores", "MatMul", [tensors.plain(scaled), k_turned], [shape]
    )
    mask = call.argument(4, "attention_mask")
    if isinstance(mask, Value):
        seen = tensors.reshape(
            f"{name}/mask", tensors.plain(mask),
            (*mask.shape[:1], *(1,) * (4 - mask.rank), *mask.shape[1:]),
        )  # fmt: skip
        (scores,) = trace.add(call, f"{name}/masked", "Where", [seen, scores], [shape])
    elif call.kwargs.get("use_causal_mask"):
        constant = [Parameter("state", (1, 1, length, memory))]
        (scores,) = trace.add(
            call, f"{name}/masked", "Add", [scores], [shape], None, None, None, constant
        )
    (weights,) = trace.add(call, f"{name}/softmax", "Softmax", [scores], [shape], {"axis": -1})
    mixed = (batch, heads, length, depth_v)
    (summed,) = trace.add(call, f"{name}/weighted", "MatMul", [weights, tensors.plain(v)], [mixed])
    back = (batch, length, heads, depth_v)
    (joined,) = trace.add(
        call, f"{name}/joined", "Transpose", [summed], [back], {"perm": [0, 2, 1, 3]}
    )
    flat = tensors.reshape(f"{name}/merged", joined, (batch, length, heads * depth_v))
    out = op._output_dense
    made = project(
        call, f"{name}/output", Value((batch, length, heads * depth_v), plain=flat), out.kernel,
        out.bias, int(call.shape[-1]),
    )  # fmt: skip
    if len(call.shapes) > 1:
        return [made, Value(shape, plain=weights)]
    return made


@layer("EinsumDense")
def einsum_dense(call: Call) -> Value:
    """An einsum of one tensor with one kernel, where it sums the last axes only."""
    op = call.op
    equation = op.equation.replace(" ", "").replace("...", "")
    left, out = equation.split("->")
    tensor, kernel = left.split(",")
    summed = [label for label in kernel if label not in out]
    fresh = [label for label in kernel if label in out]
    plain = (
        list(kernel) == summed + fresh
        and tensor.endswith("".join(summed))
        and out.endswith("".join(fresh))
        and tensor[: len(tensor) - len(summed)] == out[: len(out) - len(fresh)]
    )
    if not plain:
        raise call.refuse(
            f"computes {op.equation!r}, which is no product over the last axes", "use Dense"
        )
    tensors, x = call.trace.tensors, call.x
    reads, lead = 1, x.shape[: x.rank - len(summed)]
    for extent in x.shape[x.rank - len(summed) :]:
        reads *= extent
    features = 1
    for extent in call.shape[len(lead) :]:
        features *= extent
    if len(summed) > 1:
        x = Value(
            (*lead, reads),
            plain=tensors.reshape(f"{call.name}/merged", tensors.plain(x), (*lead, reads)),
        )
    bias = op.bias
    if bias is not None and tuple(s for s in bias.shape if s > 1) != tuple(
        s for s in call.shape[len(lead) :] if s > 1
    ):
        raise call.refuse("has a bias over other axes than it makes", "use Dense")
    made = project(call, call.name, x, op.kernel, bias, features)
    if len(fresh) > 1:
        made = Value(
            call.shape,
            plain=tensors.reshape(f"{call.name}/split", tensors.plain(made), call.shape),
        )
    return activate(call, op.activation, made)


@layer("Embedding")
def embedding(call: Call) -> Value:
    """Rows of a learned table."""
    table = call.op._embeddings if hasattr(call.op, "_embeddings") else call.op.embeddings
    (made,) = call.trace.add(
        call, call.name, "Gather", [call.trace.tensors.plain(call.x)], [call.shape], {"axis": 0},
        {"weight": Binding(table, straight(2))},
    )  # fmt: skip
    return Value(call.shape, plain=made)


_RECURRENT = {"LSTM": ("LSTM", 4), "GRU": ("GRU", 3), "SimpleRNN": ("RNN", 1)}


def _recur(call: Call, op: Any, name: str, x: Value) -> tuple[Value, list[Value]]:
    """All steps, or the last one, and the final states."""
    trace, tensors, cell = call.trace, call.trace.tensors, op.cell
    kind, gates = _RECURRENT[type(op).__name__]
    units, (batch, steps, reads) = int(op.units), x.shape
    bindings = {
        "weight": Binding(cell.kernel, View((1, 0), None, (1, gates * units, reads))),
        "recurrence": Binding(cell.recurrent_kernel, View((1, 0), None, (1, gates * units, units))),
    }
    if cell.use_bias:
        size = 1
        for extent in cell.bias.shape:
            size *= extent
        bindings["bias"] = Binding(cell.bias, View((0, 1), (1, size)))
    state = (batch, 1, units)
    shapes: list[Shape] = [(batch, steps, 1, units), state, *([state] if kind == "LSTM" else [])]
    made = trace.add(
        call, name, kind, [tensors.plain(x)], shapes, {"hidden_size": units, "layout": 1}, bindings
    )
    if op.return_sequences:
        result = tensors.reshape(f"{name}/steps", made[0], (batch, steps, units))
        value = Value((batch, steps, units), plain=result)
    else:
        result = tensors.reshape(f"{name}/last", made[1], (batch, units))
        value = Value((batch, units), plain=result)
    states = [
        Value((batch, units), plain=tensors.reshape(f"{name}/state", tensor, (batch, units)))
        for tensor in (made[1:] if op.return_state else ())
    ]
    return value, states


@layer("LSTM", "GRU", "SimpleRNN")
def recurrent(call: Call) -> Any:
    """A recurrent layer over all steps."""
    value, states = _recur(call, call.op, call.name, call.x)
    return [value, *states] if states else value


@layer("Bidirectional")
def bidirectional(call: Call) -> Any:
    """The same forwards and backwards."""
    op = call.op
    for inner in (op.forward_layer, op.backward_layer):
        if type(inner).__name__ not in _RECURRENT:
            raise call.refuse(f"wraps a {type(inner).__name__}", "wrap an LSTM, GRU or SimpleRNN")
    modes = {"sum": "Add", "mul": "Mul", "ave": "Mean"}
    if op.merge_mode not in ("concat", *modes) or op.return_state:
        raise call.refuse("returns both directions apart, or states", 'use merge_mode="concat"')
    ways = [
        _recur(call, inner, f"{call.name}/{way}", call.x)[0]
        for way, inner in (("forward", op.forward_layer), ("backward", op.backward_layer))
    ]
    if op.merge_mode in modes:
        return combine(call, call.name, modes[op.merge_mode], ways, call.shape)
    from latency_client.keras.merging import concatenate

    return concatenate(call, call.name, ways, -1, call.shape)
