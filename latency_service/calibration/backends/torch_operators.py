"""ONNX's operators as eager PyTorch runs them.

Each row is what a network written in PyTorch calls; where eager PyTorch returns a view (Split,
Slice) nothing is copied, as nothing is in the network. What has no row cannot be measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latency_service.core.sample import Workload

Operands = Sequence[Tensor]
Compute = Callable[[Operands], Any]
Attributes = Mapping[str, Any]


def compute_of(work: Workload) -> Compute | None:
    """The function that computes a workload from its operands; None if there is none."""
    make = _ROWS.get(work.op)
    return None if make is None else make(work.attributes, work)


def _pads(attributes: Attributes, rank: int) -> tuple[list[int], list[int]]:
    """(symmetric padding for the operator, the rest for F.pad or nothing)."""
    pads = list(attributes.get("pads") or [0] * (2 * rank))
    begin, end = pads[:rank], pads[rank:]
    if begin == end:
        return begin, []
    both = [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]
    return [0] * rank, both


def _convolution(attributes: Attributes, work: Workload) -> Compute:
    rank = len(work.inputs[0]) - 2
    function: Any = (None, F.conv1d, F.conv2d, F.conv3d)[rank]
    padding, uneven = _pads(attributes, rank)
    stride = list(attributes.get("strides") or [1] * rank)
    dilation = list(attributes.get("dilations") or [1] * rank)
    group = int(attributes.get("group", 1))

    def compute(x: Operands) -> Any:
        data = F.pad(x[0], uneven) if uneven else x[0]
        bias = x[2] if len(x) > 2 else None
        return function(data, x[1], bias, stride, padding, dilation, group)

    return compute


def _transposed(attributes: Attributes, work: Workload) -> Compute:
    rank = len(work.inputs[0]) - 2
    function: Any = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank]
    padding, _ = _pads(attributes, rank)
    stride = list(attributes.get("strides") or [1] * rank)
    extra = list(attributes.get("output_padding") or [0] * rank)
    group = int(attributes.get("group", 1))
    return lambda x: function(
        x[0], x[1], x[2] if len(x) > 2 else None, stride, padding, extra, group
    )


def _gemm(attributes: Attributes, work: Workload) -> Compute:
    if attributes.get("transB") and not attributes.get("transA"):
        return lambda x: F.linear(x[0], x[1], x[2] if len(x) > 2 else None)
    turn_a, turn_b = bool(attributes.get("transA")), bool(attributes.get("transB"))

    def compute(x: Operands) -> Any:
        a, b = x[0].T if turn_a else x[0], x[1].T if turn_b else x[1]
        return torch.addmm(x[2], a, b) if len(x) > 2 else torch.mm(a, b)

    return compute


def _layer_normalisation(attributes: Attributes, work: Workload) -> Compute:
    axis = int(attributes.get("axis", -1)) % len(work.inputs[0])
    shape = list(work.inputs[0][axis:])
    return lambda x: F.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None)


def _pool(functions: Sequence[Any], average: bool) -> Callable[[Attributes, Workload], Compute]:
    """Pooling by one of the functions: for one, two and three axes."""

    def make(attributes: Attributes, work: Workload) -> Compute:
        window = list(attributes["kernel_shape"])
        function = functions[len(window) - 1]
        padding, uneven = _pads(attributes, len(window))
        stride = list(attributes.get("strides") or [1] * len(window))
        options = (
            {"count_include_pad": bool(attributes.get("count_include_pad"))} if average else {}
        )
        fill = 0.0 if average else float("-inf")

        def compute(x: Operands) -> Any:
            data = F.pad(x[0], uneven, value=fill) if uneven else x[0]
            return function(data, window, stride, padding, **options)

        return compute

    return make


def _global_pool(attributes: Attributes, work: Workload) -> Compute:
    axes = list(range(2, len(work.inputs[0])))
    return lambda x: x[0].mean(axes, keepdim=True)


def _reduction(function: Any) -> Callable[[Attributes, Workload], Compute]:
    def make(attributes: Attributes, work: Workload) -> Compute:
        axes = list(attributes.get("axes") or range(len(work.inputs[0])))
        keep = bool(attributes.get("keepdims", 1))
        return lambda x: function(x[0], axes, keep)

    return make


def _resize(attributes: Attributes, work: Workload) -> Compute:
    mode = str(attributes.get("mode", "nearest"))
    size = list(work.outputs[0][2:])
    if mode == "nearest":
        return lambda x: F.interpolate(x[0], size, mode="nearest")
    names = {"linear": ("", "linear", "bilinear", "trilinear")[len(size)], "cubic": "bicubic"}
    return lambda x: F.interpolate(x[0], size, mode=names[mode], align_corners=False)


def _padded(attributes: Attributes, work: Workload) -> Compute:
    rank = len(work.inputs[0])
    _, both = _pads({"pads": attributes["pads"]}, rank)
    begin = list(attributes["pads"][:rank])
    if not both:
        both = [side for pad in reversed(begin) for side in (pad, pad)]
    return lambda x: F.pad(x[0], both)


def _slice(attributes: Attributes, work: Workload) -> Compute:
    index: list[slice] = [slice(None)] * len(work.inputs[0])
    axes = attributes.get("axes") or range(len(attributes["starts"]))
    steps = attributes.get("steps") or [1] * len(attributes["starts"])
    for axis, start, end, step in zip(
        axes, attributes["starts"], attributes["ends"], steps, strict=True
    ):
        index[axis] = slice(start, end, step)
    return lambda x: x[0][tuple(index)]


def _gather(attributes: Attributes, work: Workload) -> Compute:
    axis = int(attributes.get("axis", 0))
    listed = attributes.get("indices")
    if listed is None:
        return lambda x: torch.index_select(x[0], axis, x[1])
    kept: dict[torch.device, Tensor] = {}

    def compute(x: Operands) -> Any:
        device = x[0].device
        if device not in kept:
            kept[device] = torch.tensor(listed, device=device)
        return torch.index_select(x[0], axis, kept[device])

    return compute


def _recurrent(function: Any) -> Callable[[Attributes, Workload], Compute]:
    def make(attributes: Attributes, work: Workload) -> Compute:
        hidden = int(attributes["hidden_size"])
        both = attributes.get("direction") == "bidirectional"
        images = work.inputs[0][1]
        many = function is torch.lstm

        def compute(x: Operands) -> Any:
            weights: list[Tensor] = []
            for way in range(2 if both else 1):
                bias = x[3][way]
                half = bias.shape[0] // 2
                weights += [x[1][way], x[2][way], bias[:half], bias[half:]]
            state = x[0].new_zeros((2 if both else 1, images, hidden))
            start = (state, state) if many else state
            return function(x[0], start, weights, True, 1, 0.0, False, both, False)

        return compute

    return make


def _split(attributes: Attributes, work: Workload) -> Compute:
    axis, sizes = int(attributes.get("axis", 0)), attributes.get("split")
    parts = [shape[axis] for shape in work.outputs] if sizes is None else list(sizes)
    return lambda x: torch.split(x[0], parts, axis)


def _cast(attributes: Attributes, work: Workload) -> Compute:
    kinds = {1: "float32", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
    wanted = attributes["to"]
    target: torch.dtype = getattr(torch, str(kinds.get(wanted, wanted)))
    return lambda x: x[0].to(target)


def _one_hot(attributes: Attributes, work: Workload) -> Compute:
    depth = int(attributes["depth"])
    return lambda x: F.one_hot(x[0].long(), depth).float()


def _plain(function: Callable[..., Any]) -> Callable[[Attributes, Workload], Compute]:
    """Of operands alone."""
    return lambda attributes, work: lambda x: function(*x)


_ROWS: dict[str, Callable[[Attributes, Workload], Compute]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _plain(torch.matmul),
    "FusedMatMul": _plain(lambda a, b: torch.matmul(a, b.transpose(-1, -2))),
    "BatchNormalization": _plain(lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b)),
    "InstanceNormalization": _plain(lambda x, s, b: F.instance_norm(x, None, None, s, b)),
    "LayerNormalization": _layer_normalisation,
    "Softmax": lambda attributes, work: lambda x: F.softmax(x[0], int(attributes.get("axis", -1))),
    "Relu": _plain(F.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "Tanh": _plain(torch.tanh),
    "Gelu": _plain(F.gelu),
    "QuickGelu": _plain(F.silu),
    "HardSwish": _plain(F.hardswish),
    "HardSigmoid": _plain(F.hardsigmoid),
    "LeakyRelu": _plain(F.leaky_relu),
    "Elu": _plain(F.elu),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Sqrt": _plain(torch.sqrt),
    "Neg": _plain(torch.neg),
    "Abs": _plain(torch.abs),
    "Reciprocal": _plain(torch.reciprocal),
    "Clip": lambda attributes, work: (
        lambda x: torch.clamp(x[0], attributes.get("min"), attributes.get("max"))
    ),
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(torch.div),
    "Pow": _plain(torch.pow),
    "Max": _plain(torch.maximum),
    "Min": _plain(torch.minimum),
    "Where": _plain(torch.where),
    "Cast": _cast,
    "MaxPool": _pool((F.max_pool1d, F.max_pool2d, F.max_pool3d), average=False),
    "AveragePool": _pool((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), average=True),
    "GlobalAveragePool": _global_pool,
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "Transpose": lambda attributes, work: lambda x: x[0].permute(attributes["perm"]).contiguous(),
    "Concat": lambda attributes, work: lambda x: torch.cat(list(x), int(attributes["axis"])),
    "Split": _split,
    "Slice": _slice,
    "Pad": _padded,
    "Resize": _resize,
    "Expand": lambda attributes, work: lambda x: x[0].expand(attributes["shape"]).contiguous(),
    "Gather": _gather,
    "OneHot": _one_hot,
    "LSTM": _recurrent(torch.lstm),
    "GRU": _recurrent(torch.gru),
}
