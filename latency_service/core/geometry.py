"""The shape of a kernel as the hardware sees it, and the family it belongs to.

FLOPs and bytes alone do not tell how well a layer uses a device: a convolution over 61 channels
runs the code of 64. An efficiency model (latency_service/core/family.py) therefore sees the
dimensions of the loop nest. A contraction is `batch` independent products of (rows x depth) by
(depth x cols); everything else reads `in_elements` and writes `out_elements`, in runs of `inner`
elements that lie together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum

from latency_service.core.node import Dims, Node
from latency_service.core.ops.shapes.products import recurrent_sizes
from latency_service.core.ops.shapes.reductions import reduced_axes
from latency_service.core.units import FLOATING, RATE_DTYPE
from latency_service.core.windows import windows


class Dim(IntEnum):
    """Columns of a geometry; all are counts, at least 1 unless said otherwise."""

    BATCH = 0  # independent products: convolution groups, batch of a MatMul
    ROWS = 1  # output positions of all images
    DEPTH = 2  # multiply-adds per output: input channels of a group x taps
    COLS = 3  # output channels of a group
    TAPS = 4  # positions of the kernel or the pooling window
    STRIDE = 5  # input positions per output position
    DILATION = 6
    WIDTH = 7  # output positions along the innermost axis
    IMAGES = 8
    INNER = 9  # elements that are treated alike and lie together
    IN_ELEMENTS = 10  # may be 0
    OUT_ELEMENTS = 11
    CONSTANT_ELEMENTS = 12  # learned operands; may be 0
    EXTRA_ELEMENTS = 13  # what fused operators read besides; may be 0
    STEPS = 14  # iterations that wait for each other: a recurrent layer's time steps
    WORK = 15  # FLOPs of the kernel, those on padding counted; may be 0
    INSIDE = 16  # share of a convolution's taps that fall on the image and not on its padding
    CLEAR = 17  # of WIDTH, positions whose windows touch no padding; may be 0


class Follows(IntEnum):
    """What a dimension is proportional to when channels are pruned."""

    NOTHING = 0
    READS = 1
    WRITES = 2
    BOTH = 3


_N, _R, _W, _B = Follows
# In the order of Dim: dense contractions, those whose groups live and die, and everything else.
DENSE = (_N, _N, _R, _W, _N, _N, _N, _N, _N, _N, _R, _W, _B, _W, _N, _B, _N, _N)
GROUPED = (_W, _N, _N, _N, _N, _N, _N, _N, _N, _N, _R, _W, _W, _W, _N, _W, _N, _N)
OTHER = (_N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _R, _W, _W, _W, _N, _N, _N, _N)
# What is done to a layer's weights before it runs, where these follow both its channels, or the
# written ones alone.
OF_WEIGHTS = (_N, _N, _N, _N, _N, _N, _N, _N, _N, _B, _B, _B, _N, _N, _N, _N, _N, _N)
OF_VECTORS = (_N, _N, _N, _N, _N, _N, _N, _N, _N, _W, _W, _W, _N, _N, _N, _N, _N, _N)
# Views, which move nothing: their elements are those of the kernel before.
_VIEWED = (_N, _R, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N, _N)

Geometry = tuple[float, ...]
Row = tuple[str, Geometry, tuple[Follows, ...]]

RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
# Their first input says nothing of what they write: indices of a learned table, codes, conditions.
_AS_WRITTEN = frozenset({"DequantizeLinear", "Gather", "OneHot", "Where"})
# They read floating numbers, and multiply them with learned integers, a quarter as large.
INTEGER_WEIGHTS, _INTEGER_SIZE = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}), 0.25
# They touch as much of their input as they write.
_PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger"})
# Channels of what a network is fed, at most: those of an image, or the samples of a sound.
_COLOURS = 4
# Another shape of the same elements, and the family of all of them.
VIEWS, VIEW = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"}), "Reshape"
# Ends the family of a convolution along one axis. onnxruntime stores images of two in blocks of
# channels; what has one axis it runs as a product of matrices.
LINE = "line"
# Ends the family of a convolution whose weights another kernel has just written: they can be
# neither packed nor put into blocks before it runs.
COMPUTED = "computed"


def constant_size(op: str) -> float:
    """Size of an operator's learned elements, in those of its activations."""
    return _INTEGER_SIZE if op in INTEGER_WEIGHTS else 1.0


def kernel_dtype(node: Node) -> str:
    """The dtype whose kernels run the layer: that of its first input, integers as charged."""
    data = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else node.dtype
    if node.layer.op in _AS_WRITTEN and node.outputs:
        data = node.outputs[0].dtype
    return data if data in FLOATING else RATE_DTYPE.get(data, data)


def geometry(node: Node) -> Row:
    """(family, dimensions in the order of `Dim`, what each follows) of a layer.

    A family is the set of layers that one efficiency model describes: the operator, split where
    shapes select different code (pointwise, depthwise and grouped convolutions; a product with a
    learned matrix and one of two activations).
    """
    op = node.layer.op
    if op in _CONVOLUTIONS:
        return _convolution(node)
    if op == "ConvTranspose":
        return _transposed(node)
    if op in RECURRENT:
        return _recurrent(node)
    if node.op.contraction and node.outputs and len(node.outputs[0].shape) >= 1:
        return _product(node)
    if op in VIEWS:
        # it moves nothing; behind a kernel that did, it finds its code gone from the caches
        return VIEW, _row(node, in_elements=0, out_elements=0, rows=node.x.size), _VIEWED
    return _other(node)


def reorder_geometry(shape: Dims) -> Geometry:
    """Dimensions of an image that changes its layout."""
    elements, rows = math.prod(shape), math.prod(shape[:2])
    return moving(elements, rows=rows, inner=elements / rows)


# Permutations that put an image's channels behind its positions, and back.
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def turned_geometry(shape: Dims, to_last: bool) -> tuple[str, Geometry]:
    """(family, dimensions) of turning an image (N, C, H, W) so that channels stand last, or back.

    Args:
        to_last: whether they stand last afterwards; (N, H, W, C) is turned otherwise.
    """
    elements, width = math.prod(shape), shape[1] if to_last else shape[-1]
    return "Transpose/last", moving(elements, rows=elements, width=width, images=shape[0])


def moving(elements: float, **dims: float) -> Geometry:
    """Dimensions of a kernel that reads and writes so many elements and multiplies none.

    Args:
        dims: by name, 1 where not given.
    """
    values = [1.0] * len(Dim)
    values[Dim.IN_ELEMENTS] = values[Dim.OUT_ELEMENTS] = float(elements)
    values[Dim.CONSTANT_ELEMENTS] = values[Dim.EXTRA_ELEMENTS] = values[Dim.WORK] = 0.0
    for name, value in dims.items():
        values[Dim[name.upper()]] = float(value)
    return tuple(values)


def _row(node: Node, **dims: float) -> Geometry:
    """Dimensions by name, 1 where not given; element counts are the tensors'."""
    values = [1.0] * len(Dim)
    values[Dim.IN_ELEMENTS] = float(
        sum(t.size for t in node.inputs if t is not None and t.value is None)
    )
    values[Dim.OUT_ELEMENTS] = float(sum(t.size for t in node.outputs if t.name))
    learned = sum(math.prod(p.shape) for p in node.parameters if p.role in ("weight", "recurrence"))
    values[Dim.CONSTANT_ELEMENTS] = learned * constant_size(node.layer.op)
    values[Dim.EXTRA_ELEMENTS] = values[Dim.WORK] = 0.0
    for name, value in dims.items():
        values[Dim[name.upper()]] = float(value)
    return tuple(values)


def _convolution(node: Node) -> Row:
    x, out = node.x.shape, node.outputs[0].shape
    weight = node.parameter("weight")
    kernel = weight.shape[2:] if weight else node.input(1).shape[2:]
    group = node.integer("group", 1)
    channels, filters, taps = x[1] // group, out[1] // group, math.prod(kernel)
    positions = math.prod(out[2:])
    strides = node.integers("strides") or [1] * len(kernel)
    dilations = node.integers("dilations") or [1] * len(kernel)
    along = windows(node, kernel, strides, dilations)
    op = "Conv" if node.layer.op == "FusedConv" else node.layer.op
    if group == 1:
        kind = "pointwise" if taps == 1 else "first" if channels <= _COLOURS else "dense"
    else:
        kind = "depthwise" if channels == 1 else "grouped"
    if op == "Conv" and len(kernel) == 1:
        kind = LINE if group == 1 else f"{kind}/{LINE}"
    dims = _row(
        node,
        batch=group,
        rows=x[0] * positions,
        depth=channels * taps,
        cols=filters,
        taps=taps,
        stride=math.prod(strides),
        dilation=max(dilations),
        width=out[-1],
        images=x[0],
        inner=positions,
        work=2.0 * x[0] * positions * out[1] * channels * taps,
        inside=math.prod(window.inside for window in along),
        clear=along[-1].clear,
    )
    family = f"{op}/{kind}"
    if weight is None:
        family = computed_form(family)
    return family, dims, DENSE if group == 1 else GROUPED


def computed_form(family: str) -> str:
    """The family of the same contraction with weights that another kernel has just written."""
    op, _, kind = family.partition("/")
    if op == "Conv" and not kind.endswith(LINE):
        return f"{op}/{'dense' if kind == 'first' else kind}/{COMPUTED}"
    return "MatMul/activations" if op in ("Gemm", "MatMul") else family


def _transposed(node: Node) -> Row:
    x, out = node.x.shape, node.outputs[0].shape
    weight = node.parameter("weight")
    kernel = weight.shape[2:] if weight else node.input(1).shape[2:]
    group = node.integer("group", 1)
    taps, positions = math.prod(kernel), math.prod(x[2:])
    dims = _row(
        node,
        batch=group,
        rows=x[0] * positions,
        depth=x[1] // group,
        cols=out[1] // group * taps,
        taps=taps,
        stride=math.prod(node.integers("strides") or [1]),
        width=out[-1],
        images=x[0],
        inner=positions,
        work=2.0 * x[0] * positions * x[1] * (out[1] // group) * taps,
    )
    return "ConvTranspose", dims, DENSE if group == 1 else GROUPED


def _recurrent(node: Node) -> Row:
    x = node.x.shape
    weight, again = node.parameter("weight"), node.parameter("recurrence")
    gates = directions = hidden = 1
    if weight is not None and again is not None:
        directions, features, hidden = recurrent_sizes(node)
        gates = math.prod(weight.shape) // (directions * features)  # gates x hidden
    depth = x[-1] + hidden
    layout = node.integer("layout", 0) if "layout" in node.attributes else 0
    steps, images = (x[1], x[0]) if layout else (x[0], x[1])
    dims = _row(
        node,
        batch=directions,
        rows=images,
        depth=depth,
        cols=gates,
        images=images,
        inner=hidden,
        steps=steps,
        work=2.0 * directions * steps * images * depth * gates,
    )
    return node.layer.op, dims, OTHER


_PLAIN_NAMES = {"FusedMatMul": "MatMul", "FusedGemm": "Gemm", "QGemm": "QLinearMatMul"}


def _product(node: Node) -> Row:
    out = node.outputs[0].shape
    cols = out[-1] if out else 1
    if node.layer.op in ("Attention", "MultiHeadAttention", "Einsum"):
        return node.layer.op, _row(node, rows=math.prod(out[:-1]), cols=cols), OTHER
    weight = node.parameter("weight")
    if weight is None:
        batch, rows = math.prod(out[:-2]), out[-2] if len(out) > 1 else 1
    else:
        batch, rows = 1, math.prod(out[:-1])
    depth = _depth(node, rows * batch)
    work = 2.0 * batch * rows * depth * cols
    dims = _row(node, batch=batch, rows=rows, depth=depth, cols=cols, work=work)
    op = _PLAIN_NAMES.get(node.layer.op, node.layer.op)
    if op == "MatMul":
        op = "MatMul/learned"
        if weight is None:
            op = "MatMul/transposed" if node.attributes.get("transB") else "MatMul/activations"
    elif op == "QLinearMatMul" and weight is None:
        op = "QLinearMatMul/activations"
    return op, dims, _HEADS if weight is None else DENSE


def _depth(node: Node, rows: int) -> int:
    """Multiply-adds per output of a matrix product."""
    x, weight = node.x.shape, node.parameter("weight")
    if node.layer.op in ("Gemm", "FusedGemm", "QGemm"):
        return max(node.x.size // max(rows, 1), 1)
    if weight is not None and len(weight.shape) > 1 and x and x[-1] != weight.shape[-2]:
        return weight.shape[-1]  # the learned matrix stands on the left
    transposed = bool(node.attributes.get("transA", 0)) and len(x) > 1
    return max(x[-2] if transposed else x[-1] if x else 1, 1)


# A product of two activations: what dies with a channel is a head, one of the batch.
_HEADS = (_W, _N, _N, _N, _N, _N, _N, _N, _N, _N, _R, _W, _N, _W, _N, _W, _N, _N)


def _other(node: Node) -> Row:
    rule = _INNER.get(node.layer.op, _elementwise)
    suffix, inner, taps = rule(node)
    out = node.outputs[0].shape if node.outputs else ()
    elements = math.prod(out)
    dims = _row(
        node,
        rows=max(elements // max(inner, 1), 1),
        taps=max(taps, 1),
        stride=math.prod(node.integers("strides") or [1]) if "strides" in node.attributes else 1,
        width=out[-1] if out else 1,
        images=out[0] if out else 1,
        inner=max(inner, 1),
    )
    if node.layer.op in _PICKS:
        dims = _touched(dims)
    return node.layer.op + suffix, dims, OTHER


def _touched(dims: Geometry) -> Geometry:
    values = list(dims)
    values[Dim.IN_ELEMENTS] = values[Dim.OUT_ELEMENTS]
    values[Dim.CONSTANT_ELEMENTS] = 0.0
    return tuple(values)


Inner = tuple[str, int, int]  # suffix of the family, inner extent, taps


def _elementwise(node: Node) -> Inner:
    """The run over which every operand is either walked along or held still."""
    out = node.outputs[0].shape if node.outputs else ()
    operands: list[Dims] = [t.shape for t in node.inputs if t is not None and t.value is None]
    if node.layer.op not in _PER_CHANNEL:
        operands += [tuple(p.shape) for p in node.parameters if p.role not in _SETTINGS]
    padded = [(1,) * (len(out) - len(shape)) + tuple(shape) for shape in operands]
    if all(shape == tuple(out) for shape in padded):
        return "", math.prod(out), 1
    if any(math.prod(shape) == 1 for shape in padded) and len(padded) == 2:
        return "/scalar", math.prod(out), 1
    inner = 1
    held = [False] * len(padded)
    for axis in range(len(out) - 1, -1, -1):
        now = [shape[axis] == 1 and out[axis] != 1 for shape in padded]
        if inner > 1 and now != held and out[axis] != 1:
            break
        if out[axis] != 1:
            held = now
        inner *= out[axis]
    return "/broadcast", inner, 1


def _per_channel(node: Node) -> Inner:
    shape = node.x.shape
    return "", math.prod(shape[2:]) if len(shape) > 2 else shape[-1], 1


def _axis(node: Node) -> Inner:
    """Statistics over one axis: its extent; strided where it is not the last."""
    shape = node.x.shape
    axis = node.axis("axis", -1) if shape else 0
    strided = math.prod(shape[axis + 1 :]) > 1
    return ("/strided" if strided else ""), shape[axis] if shape else 1, 1


def _from_axis(node: Node) -> Inner:
    shape = node.x.shape
    return "", math.prod(shape[node.axis("axis", -1) :]), 1


def _reduction(node: Node) -> Inner:
    """Over the last axes; strided where those stay, and leading where no axis before them does.

    onnxruntime adds whole rows up then: on one core of an EPYC an element takes 0.6 to 2.2 ns, with
    two images in a batch 0.06 to 0.2.
    """
    out, data = node.outputs[0].shape, node.x.shape
    ratio = node.x.size // max(math.prod(out), 1)
    if bool(data) and (not out or out[-1] != data[-1] or len(out) == 1 != len(data)):
        return "", ratio, 1
    axes = [node.axis(default=0)] if node.layer.op in _OF_PLACES else reduced_axes(node)
    first = min((axis for axis in axes if data[axis] > 1), default=0)
    return ("/leading" if math.prod(data[:first]) == 1 else "/strided"), ratio, 1


def _pool(node: Node) -> Inner:
    window = node.integers("kernel_shape") or [1]
    return "", math.prod(node.outputs[0].shape[2:]), math.prod(window)


def _global_pool(node: Node) -> Inner:
    return "", math.prod(node.x.shape[2:]), 1


def _transpose(node: Node) -> Inner:
    """What stays together: the trailing axes that keep their place."""
    shape = node.x.shape
    order = node.integers("perm") or list(range(len(shape)))[::-1]
    kept = [axis for axis in order if shape[axis] != 1]
    inner, expected = 1, [axis for axis in range(len(shape)) if shape[axis] != 1]
    while kept and expected and kept[-1] == expected[-1]:
        inner *= shape[kept.pop()]
        expected.pop()
    if not kept:
        return "/view", inner, 1
    if inner > 1:
        return "", inner, 1
    return ("/last" if _moves_one_axis(order) else "/scattered"), inner, 1


def _moves_one_axis(order: Sequence[int]) -> bool:
    """Whether one axis goes elsewhere and the others keep their order; sizes are not looked at.

    Runtimes turn such tensors in tiles, all others element by element.
    """
    axes = range(len(order))
    for moved in axes:
        others = [axis for axis in order if axis != moved]
        if others == [axis for axis in axes if axis != moved]:
            return True
    return False


def _joined(node: Node) -> Inner:
    out = node.outputs[0].shape
    axis = node.integer("axis", 0) % max(len(out), 1)
    shapes = [t.shape for t in (*node.inputs, *node.outputs) if t is not None and t.shape]
    pieces = [math.prod(shape[axis:]) for shape in shapes if len(shape) > axis]
    return "", min(pieces, default=1), 1


def _sliced(node: Node) -> Inner:
    out = node.outputs[0].shape if node.outputs else ()
    data = node.x.shape if node.inputs and node.inputs[0] is not None else out
    inner = 1
    for ours, theirs in zip(reversed(out), reversed(data), strict=False):
        inner *= ours
        if ours != theirs:
            break
    return "", inner, 1


def _resized(node: Node) -> Inner:
    out, data = node.outputs[0].shape, node.x.shape
    return (
        "/" + node.text("mode", "nearest"),
        math.prod(out[2:]),
        max(1, math.prod(out) // max(math.prod(data), 1)),
    )


def _gathered(node: Node) -> Inner:
    out = node.outputs[0].shape if node.outputs else ()
    return "", out[-1] if out else 1, 1


_PER_CHANNEL = frozenset({"PRelu"})
# Of quantised tensors: no operands to walk along.
_SETTINGS = frozenset({"scale", "zero_point"})
REDUCTIONS: Sequence[str] = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin",
)  # fmt: skip
# They tell where, not what.
_OF_PLACES = frozenset({"ArgMax", "ArgMin"})
_INNER: dict[str, Callable[[Node], Inner]] = {
    "BatchNormalization": _per_channel,
    "InstanceNormalization": _per_channel,
    "GroupNormalization": _per_channel,
    "LayerNormalization": _from_axis,
    "RMSNormalization": _from_axis,
    "SimplifiedLayerNormalization": _from_axis,
    "SkipLayerNormalization": _from_axis,
    "SkipSimplifiedLayerNormalization": _from_axis,
    "Softmax": _axis,
    "LogSoftmax": _axis,
    "QLinearSoftmax": _axis,
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"), _pool),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool"), _global_pool
    ),
    "Transpose": _transpose,
    "Concat": _joined,
    "QLinearConcat": _joined,
    "Split": _joined,
    "Slice": _sliced,
    "Pad": _sliced,
    "Resize": _resized,
    "Upsample": _resized,
    "Gather": _gathered,
    "Expand": _gathered,
    "OneHot": _gathered,
}
