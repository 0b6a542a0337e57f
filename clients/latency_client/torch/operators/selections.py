"""Elements taken, joined and padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for name in ("cat", "concat", "concatenate"):
        yield f"aten::{name}", concat
    yield "aten::stack", stack
    for name in ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split",
                 "unsafe_chunk"):  # fmt: skip
        yield f"aten::{name}", split
    yield "aten::unbind", unbind
    yield "aten::slice", take
    yield "aten::narrow", take
    yield "aten::select", select
    yield "aten::index_select", index_select
    yield "aten::index", index
    yield "aten::gather", gather
    yield "aten::take_along_dim", gather
    yield "aten::flip", flip
    yield "aten::roll", roll
    for name in ("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
                 "reflection_pad3d", "replication_pad1d", "replication_pad2d",
                 "replication_pad3d", "_pad_circular"):  # fmt: skip
        yield f"aten::{name}", pad
    for name in ("tril", "triu"):
        yield f"aten::{name}", triangle
    for name in ("index_put", "scatter", "scatter_add", "index_add", "index_copy",
                 "masked_scatter"):  # fmt: skip
        yield f"aten::{name}", scatter


def concat(call: Call) -> Sequence[Value]:
    """Concat; learned pieces (a class token) say where they stand."""
    tensors = [tensor for tensor in call["tensors"] if tensor.numel()]
    axis = call["dim"] % len(call.out_shape)
    values = [call.value(tensor) for tensor in tensors]
    inputs = [value.name for value in values if isinstance(value, Activation)]
    places = [i for i, value in enumerate(values) if not isinstance(value, Activation)]
    attributes: dict[str, Any] = {"axis": axis}
    if places:
        attributes["parameter_inputs"] = places
    return call.layer("Concat", inputs, attributes, [("weight", tensors[i]) for i in places])


def stack(call: Call) -> Sequence[Value]:
    """Stack: Concat along a new axis."""
    axis = call["dim"] % len(call.out_shape)
    single = (*call.out_shape[:axis], 1, *call.out_shape[axis + 1 :])
    wide = [
        call.layer("Unsqueeze", [call.tensor(tensor)], {"axes": [axis]}, shapes=[single],
                   name="unsqueeze")[0].name
        for tensor in call["tensors"]
    ]  # fmt: skip
    return call.layer("Concat", wide, {"axis": axis})


def split(call: Call) -> Sequence[Value]:
    """Split and chunk; a single piece is the whole."""
    if len(call.outputs) == 1:
        return [call.value("self")]
    axis = call.get("dim", 0) % len(call.shape("self"))
    sizes = [tensor.shape[axis] for tensor in call.outputs]
    return call.layer("Split", [call.tensor("self")], {"axis": axis, "split": sizes})


def unbind(call: Call) -> Sequence[Value]:
    """One tensor a position."""
    axis = call["dim"] % len(call.shape("self"))
    return [
        call.layer("Gather", [call.tensor("self")], {"axis": axis, "indices": place},
                   shapes=[call.out_shape])[0]
        for place in range(len(call.outputs))
    ]  # fmt: skip


def take(call: Call) -> Sequence[Value]:
    """Slice and narrow; the whole axis is no slice."""
    shape = call.shape("self")
    if shape == call.out_shape:
        return [call.value("self")]
    axis = call["dim"] % len(shape)
    start = call["start"] or 0
    start = max(0, start + shape[axis] if start < 0 else start)
    step = call.get("step", 1)
    # where the axis is taken to its end the end is said as "the end", so that batches may grow
    count = call.out_shape[axis]
    reaches = start + (count - 1) * step + step >= shape[axis]
    end = 2**31 - 1 if reaches and call.key == "aten::slice" else start + (count - 1) * step + 1
    attributes = {"starts": [start], "ends": [end], "axes": [axis], "steps": [step]}
    return call.layer("Slice", [call.tensor("self")], attributes)


def select(call: Call) -> Sequence[Value]:
    """One position of an axis."""
    shape = call.shape("self")
    axis = call["dim"] % len(shape)
    place = call["index"] % shape[axis]
    return call.layer("Gather", [call.tensor("self")], {"axis": axis, "indices": place})


def _numbers(call: Call, tensor: Tensor) -> Any:
    """Constant indices as numbers; None where they depend on data or are too many to spell."""
    if isinstance(call.value(tensor), Activation) or tensor.numel() > 1 << 16:
        return None
    if tensor.dtype == torch.bool:
        return tensor.nonzero().reshape(-1).tolist() if tensor.ndim == 1 else None
    return tensor.tolist()


def index_select(call: Call) -> Sequence[Value]:
    """Some positions of an axis."""
    axis = call["dim"] % len(call.shape("self"))
    return _gather(call, axis, call["index"])


def _gather(call: Call, axis: int, indices: Tensor) -> Sequence[Value]:
    numbers = _numbers(call, indices)
    if numbers is None:
        inputs = [call.tensor("self"), call.tensor(indices)]
        return call.layer("Gather", inputs, {"axis": axis})
    return call.layer("Gather", [call.tensor("self")], {"axis": axis, "indices": numbers})


def index(call: Call) -> Sequence[Value]:
    """x[..., idx, ...]: along one axis a Gather, else opaque to channels."""
    given = [(axis, tensor) for axis, tensor in enumerate(call["indices"]) if tensor is not None]
    whole = isinstance(call.value("self"), Activation)
    if len(given) == 1 and whole and (given[0][1].dtype != torch.bool or given[0][1].ndim == 1):
        return _gather(call, given[0][0], given[0][1])
    inputs = [call.tensor("self")]
    inputs += [call.tensor(t) for _, t in given if isinstance(call.value(t), Activation)]
    return call.layer("torch.index", inputs)


def gather(call: Call) -> Sequence[Value]:
    """gather: as many results as indices."""
    indices = call.get("index", call.get("indices"))
    return call.layer("GatherElements", [call.tensor("self"), call.tensor(indices)],
                      {"axis": call["dim"]})  # fmt: skip


def flip(call: Call) -> Sequence[Value]:
    """Axes read backwards."""
    x, shape = call.tensor("self"), call.shape("self")
    made: Sequence[Value] = [call.value("self")]
    for axis in call["dims"]:
        order = list(range(shape[axis]))[::-1]
        made = call.layer("Gather", [x], {"axis": axis % len(shape), "indices": order})
        assert isinstance(made[0], Activation)
        x = made[0].name
    return made


def roll(call: Call) -> Sequence[Value]:
    """Positions go round: two slices and a concat, as runtimes do it."""
    x, shape = call.tensor("self"), list(call.shape("self"))
    axes = call["dims"] or [0]
    made: Sequence[Value] = [call.value("self")]
    for shift, axis in zip(call["shifts"], axes, strict=True):
        axis %= len(shape)
        cut = -shift % shape[axis]
        if not cut:
            continue
        pieces = []
        for start, end in ((cut, shape[axis]), (0, cut)):
            part = [end - start if a == axis else extent for a, extent in enumerate(shape)]
            attributes = {"starts": [start], "ends": [end], "axes": [axis], "steps": [1]}
            pieces.append(call.layer("Slice", [x], attributes, shapes=[part], name="slice")[0].name)
        made = call.layer("Concat", pieces, {"axis": axis})
        assert isinstance(made[0], Activation)
        x = made[0].name
    return made


def pad(call: Call) -> Sequence[Value]:
    """Pad: PyTorch counts axes from the last one."""
    rank = len(call.out_shape)
    amounts = list(call.get("pad", call.get("padding")) or [])
    begins, ends = [0] * rank, [0] * rank
    for place in range(len(amounts) // 2):
        begins[rank - 1 - place], ends[rank - 1 - place] = amounts[2 * place : 2 * place + 2]
    if not any(begins) and not any(ends):
        return [call.value("self")]
    return call.layer("Pad", [call.tensor("self")], {"pads": begins + ends})


def triangle(call: Call) -> Sequence[Value]:
    """Tril and triu."""
    return call.layer("Trilu", [call.tensor("self")], {"upper": int(call.key.endswith("triu"))})


def scatter(call: Call) -> Sequence[Value]:
    """Writing at computed places: opaque to channels."""
    tensors = [value for value in call.arguments.values() if isinstance(value, Tensor)]
    inputs = [call.tensor("self")]
    inputs += [call.tensor(t) for t in tensors[1:] if isinstance(call.value(t), Activation)]
    return call.layer("ScatterND", inputs)
