"""Convolutions, pools and interpolation: what slides over positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Piece, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for n in (1, 2, 3):
        yield f"aten::conv{n}d", conv
        yield f"aten::conv_transpose{n}d", conv_transpose
        yield f"aten::max_pool{n}d", pool("MaxPool")
        yield f"aten::max_pool{n}d_with_indices", pool("MaxPool")
        yield f"aten::avg_pool{n}d", pool("AveragePool")
        yield f"aten::adaptive_avg_pool{n}d", adaptive_pool("GlobalAveragePool", "AveragePool")
        yield f"aten::adaptive_max_pool{n}d", adaptive_pool("GlobalMaxPool", "MaxPool")
    for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d",
                 "bicubic2d"):  # fmt: skip
        yield f"aten::upsample_{kind}", resize
    for kind in ("nearest", "nearest-exact"):
        for n in (1, 2, 3):
            yield f"aten::_upsample_{kind.replace('-', '_')}{n}d", resize
    yield "aten::_upsample_bilinear2d_aa", resize
    yield "aten::_upsample_bicubic2d_aa", resize
    yield "aten::grid_sampler", grid_sample


def spread(value: Any, rank: int) -> list[int]:
    """One number for every spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * rank if len(numbers) == 1 else numbers


def _batched(call: Call, argument: str, rank: int) -> tuple[str, bool]:
    """The input with a batch axis, and whether it had to be given one."""
    x = call.tensor(argument)
    shape = call.shape(argument)
    if len(shape) == rank:
        return x, False
    (made,) = call.layer("Unsqueeze", [x], {"axes": [0]}, shapes=[(1, *shape)], name="unsqueeze")
    return made.name, True


def _unbatched(call: Call, made: Activation, added: bool) -> list[Value]:
    if not added:
        return [made]
    return list(call.layer("Squeeze", [made.name], {"axes": [0]}, name="squeeze"))


def conv(call: Call) -> Sequence[Value]:
    """conv1d, conv2d, conv3d; padding may be a word."""
    kernel = call.shape("weight")[2:]
    rank = len(kernel)
    dilations = spread(call["dilation"], rank)
    padding = call["padding"]
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    else:
        pads = spread(padding, rank) * 2
    attributes = {
        "kernel_shape": list(kernel),
        "strides": spread(call["stride"], rank),
        "pads": pads,
        "dilations": dilations,
        "group": call["groups"],
    }
    return _window(call, "Conv", attributes, rank)


def conv_transpose(call: Call) -> Sequence[Value]:
    """conv_transpose1d, 2d and 3d; the weight is (I, O / group, k)."""
    kernel = call.shape("weight")[2:]
    rank = len(kernel)
    attributes = {
        "kernel_shape": list(kernel),
        "strides": spread(call["stride"], rank),
        "pads": spread(call["padding"], rank) * 2,
        "output_padding": spread(call["output_padding"], rank),
        "dilations": spread(call["dilation"], rank),
        "group": call["groups"],
    }
    return _window(call, "ConvTranspose", attributes, rank)


def _window(call: Call, op: str, attributes: dict[str, Any], rank: int) -> Sequence[Value]:
    x, added = _batched(call, "input", rank + 2)
    learned = [("bias", call["bias"])]
    inputs = [x]
    if isinstance(call.value("weight"), Activation):
        inputs.append(call.tensor("weight"))
    else:
        learned.insert(0, ("weight", call["weight"]))
    shapes = [(1, *call.out_shape)] if added else None
    (made,) = call.layer(op, inputs, attributes, learned, shapes)
    return _unbatched(call, made, added)


def pool(op: str) -> Translation:
    """MaxPool and AveragePool; indices, where they are wanted, are a second output."""

    def translation(call: Call) -> Sequence[Value]:
        key = "self" if "self" in call.arguments else "input"
        rank = int(call.key.partition("pool")[2][0])
        kernel = spread(call["kernel_size"], rank)
        attributes = {
            "kernel_shape": kernel,
            "strides": spread(call["stride"] or kernel, rank),
            "pads": spread(call["padding"], rank) * 2,
            "ceil_mode": int(bool(call["ceil_mode"])),
        }
        if call.get("dilation") is not None:
            attributes["dilations"] = spread(call["dilation"], rank)
        x, added = _batched(call, key, rank + 2)
        if not added:
            return call.layer(op, [x], attributes)
        made = call.layer(op, [x], attributes, shapes=[(1, *call.out_shape)])
        return _unbatched(call, made[0], added)

    return translation


def adaptive_pool(whole: str, windowed: str) -> Translation:
    """Pools that name the size of what they write."""

    def translation(call: Call) -> Sequence[Value]:
        size = spread(call["output_size"], int(call.key.partition("pool")[2][0]))
        rank = len(size)
        x, added = _batched(call, "self", rank + 2)
        shapes = [(1, *call.out_shape)] if added else [call.out_shape]
        before, after = call.shape("self")[-rank:], call.out_shape[-rank:]
        if set(after) == {1}:
            (made,) = call.layer(whole, [x], {}, shapes=shapes)
        elif all(b % a == 0 for b, a in zip(before, after, strict=True)):
            kernel = [b // a for b, a in zip(before, after, strict=True)]
            attributes = {"kernel_shape": kernel, "strides": kernel}
            (made,) = call.layer(windowed, [x], attributes, shapes=shapes)
        else:
            # windows of different sizes: read once, written once, as Resize is
            axes = list(range(2, rank + 2))
            (made,) = call.layer("Resize", [x], {"sizes": list(after), "axes": axes}, shapes=shapes)
        return _unbatched(call, made, added)

    return translation


def resize(call: Call) -> Sequence[Value]:
    """Every kind of interpolation."""
    key = "self" if "self" in call.arguments else "input"
    size = list(call.out_shape[2:])
    mode = "nearest" if "nearest" in call.key else "cubic" if "cubic" in call.key else "linear"
    axes = list(range(2, 2 + len(size)))
    return call.layer("Resize", [call.tensor(key)], {"sizes": size, "axes": axes, "mode": mode})


def grid_sample(call: Call) -> Sequence[Value]:
    """grid_sample over images and volumes."""
    return call.layer("GridSample", [call.tensor("input"), call.tensor("grid")])


def is_learned(value: Value) -> bool:
    """Whether a value belongs to the model."""
    return isinstance(value, Piece)
