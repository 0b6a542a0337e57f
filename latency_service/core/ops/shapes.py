"""Shapes and dtypes of what an operator writes, as the ONNX specification defines them.

Rules work on integers; a named dimension passes through where no arithmetic touches it
(`latency_service/core/node.py`, `Symbol`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np

from latency_service.core.node import Dims, Node, Symbol, Symbolic, volume

Shapes = Sequence[tuple[Sequence[int], str]]

# ONNX TensorProto.DataType codes, as `Cast` and a few others carry them.
DTYPE_CODES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8", 18: "float8", 19: "float8",
    20: "float8", 21: "uint4", 22: "int4", 23: "int4",
}  # fmt: skip


def same(node: Node) -> Shapes:
    """The shape and dtype of the first input."""
    return [(node.x.shape, node.x.dtype)]


def same_all(node: Node) -> Shapes:
    """Every output like the first input."""
    return [(node.x.shape, node.x.dtype)] * max(1, len(node.layer.outputs))


def typed(dtype: str) -> Callable[[Node], Shapes]:
    """The shape of the first input in another dtype."""

    def rule(node: Node) -> Shapes:
        return [(node.x.shape, dtype)]

    return rule


def cast(node: Node) -> Shapes:
    """Cast: the dtype stands in `to`, by name or by ONNX's code."""
    to = node.attributes.get("to")
    if isinstance(to, int):
        to = DTYPE_CODES.get(to)
    if not isinstance(to, str):
        node.fail("attributes.to", f"must be a dtype; it is {node.attributes.get('to')!r}")
    return [(node.x.shape, to)]


def cast_like(node: Node) -> Shapes:
    """CastLike: the dtype of the second input."""
    return [(node.x.shape, node.input(1).dtype)]


def broadcast(node: Node, shapes: Sequence[Sequence[int]]) -> list[int]:
    """The shape that NumPy's rules give several operands together."""
    out: list[int] = []
    for dims in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        dim = 1
        for other in dims:
            if other == 1 or other == dim:
                continue
            if dim == 1:
                dim = other
            elif isinstance(other, Symbol) or isinstance(dim, Symbol):
                # one of them is a name: the other must be what it is bound to
                dim = dim if isinstance(other, Symbol) else other
            else:
                listed = " and ".join(str(list(shape)) for shape in shapes)
                node.fail("inputs", f"shapes {listed} do not broadcast")
        out.append(dim)
    return out[::-1]


def elementwise(node: Node) -> Shapes:
    """Broadcast of all inputs and parameters."""
    given = [tensor.shape for tensor in node.inputs if tensor is not None]
    if len(given) == 1 and not node.parameters:
        return same(node)
    shapes: list[Sequence[int]] = [*given, *(p.shape for p in node.parameters)]
    dtype = next(t.dtype for t in node.inputs if t is not None) if given else node.dtype
    return [(broadcast(node, shapes), dtype)]


def comparison(node: Node) -> Shapes:
    """Broadcast of all inputs, as booleans."""
    return [(elementwise(node)[0][0], "bool")]


def where(node: Node) -> Shapes:
    """Where: broadcast, in the dtype of its branches."""
    shape = elementwise(node)[0][0]
    branches = [t for t in node.inputs[1:] if t is not None]
    return [(shape, branches[0].dtype if branches else node.dtype)]


# --- convolution and pooling ----------------------------------------------------------------------


AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def spatial(
    node: Node, size: Sequence[int], kernel: Sequence[int], ceil: bool = False
) -> list[int]:
    """Output size of a sliding window along every spatial axis."""
    rank = len(size)
    strides, dilations, pads = window_settings(node, kernel, rank)
    auto = node.text("auto_pad", "NOTSET")
    out = []
    for axis, extent in enumerate(size):
        window = dilations[axis] * (kernel[axis] - 1) + 1
        stride = strides[axis]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(-(-extent // stride))
            continue
        added = 0 if auto == "VALID" else pads[axis] + pads[rank + axis]
        if stride == 1 and added == window - 1:
            out.append(extent)  # which may be a name
            continue
        padded = extent + added
        steps = (padded - window) / stride
        if steps < 0:
            node.fail(
                "attributes.kernel_shape",
                f"a window of {window} does not fit into {padded} along spatial axis {axis}",
            )
        count = math.ceil(steps) + 1 if ceil else (padded - window) // stride + 1
        # a last window that starts in the end padding is dropped
        if ceil and (count - 1) * stride >= extent + pads[axis]:
            count -= 1
        out.append(count)
    return out


def window_settings(
    node: Node, kernel: Sequence[int], rank: int
) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads of a sliding window, checked."""
    strides = node.integers("strides") or [1] * rank
    dilations = node.integers("dilations") or [1] * rank
    auto = node.text("auto_pad", "NOTSET")
    if auto not in AUTO_PADS:
        node.fail("attributes.auto_pad", f"{auto!r} is none of {', '.join(AUTO_PADS)}")
    pads = node.integers("pads") or [0] * (2 * rank)
    for key, values, wanted in (
        ("kernel_shape", kernel, rank),
        ("strides", strides, rank),
        ("dilations", dilations, rank),
        ("pads", pads, 2 * rank),
    ):
        if len(values) != wanted:
            detail = f"has {len(values)} numbers; {rank} spatial axes need {wanted}"
            node.fail(f"attributes.{key}", detail)
        if min(values, default=1) < (0 if key == "pads" else 1):
            least = "not be negative" if key == "pads" else "be positive"
            node.fail(f"attributes.{key}", f"must {least}; it is {list(values)}")
    return strides, dilations, pads


def kernel_of(node: Node) -> Dims:
    """The kernel's shape (O, I, k...): of the weight, or of the input that stands for it."""
    weight = node.parameter("weight")
    if weight is not None:
        return weight.shape
    # a kernel that other layers compute
    if len(node.inputs) > 1 and node.op.operands[1:2] in (("W",), ("w",)):
        return node.input(1).shape
    node.fail("parameters", "the layer has no weight, and its shapes do not imply one")


def conv(node: Node) -> Shapes:
    """Conv: (N, I, s...) with kernel (O, I/group, k...)."""
    shape, kernel = node.x.shape, kernel_of(node)
    if len(shape) < 3:
        node.fail("inputs", f"a convolution needs at least 3 axes; the input is {list(shape)}")
    if len(kernel) != len(shape):
        detail = f"weight {list(kernel)} for an input of rank {len(shape)}"
        node.fail("parameters.weight", detail)
    group = node.integer("group", 1)
    stated = node.integers("kernel_shape")
    if stated is not None and tuple(stated) != kernel[2:]:
        node.fail("attributes.kernel_shape", f"{stated} differs from the weight's {kernel[2:]}")
    if group < 1 or kernel[0] % group:
        node.fail("attributes.group", f"{group} groups do not divide {kernel[0]} output channels")
    if shape[1] != kernel[1] * group:
        node.fail(
            "parameters.weight",
            f"weight {list(kernel)} with group {group} reads {kernel[1] * group} channels; "
            f"input {node.x.name!r} has {shape[1]}",
        )
    dtype = "int32" if node.layer.op == "ConvInteger" else node.x.dtype
    return [((shape[0], kernel[0], *spatial(node, shape[2:], kernel[2:])), dtype)]


def conv_transpose(node: Node) -> Shapes:
    """ConvTranspose: (N, I, s...) with kernel (I, O/group, k...)."""
    shape, kernel = node.x.shape, kernel_of(node)
    rank = len(shape) - 2
    if rank < 1 or len(kernel) != len(shape):
        node.fail("parameters.weight", f"weight {list(kernel)} for an input {list(shape)}")
    if shape[1] != kernel[0]:
        detail = f"weight {list(kernel)} reads {kernel[0]} channels; the input has {shape[1]}"
        node.fail("parameters.weight", detail)
    group = node.integer("group", 1)
    if group < 1 or shape[1] % group:
        node.fail("attributes.group", f"{group} groups do not divide {shape[1]} input channels")
    strides, dilations, pads = window_settings(node, kernel[2:], rank)
    extra = node.integers("output_padding") or [0] * rank
    stated = node.integers("output_shape")
    for key, values in (("output_padding", extra), ("output_shape", stated)):
        if values and len(values) not in (rank, rank + 2 if values is stated else rank):
            node.fail(f"attributes.{key}", f"{values} for {rank} spatial axes")
    kernel_shape = node.integers("kernel_shape")
    if kernel_shape is not None and tuple(kernel_shape) != kernel[2:]:
        detail = f"{kernel_shape} differs from the weight's {list(kernel[2:])}"
        node.fail("attributes.kernel_shape", detail)
    same_size = node.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    size = []
    for axis in range(rank):
        if stated:
            size.append(stated[-rank:][axis])
        elif same_size:
            size.append(shape[2 + axis] * strides[axis])
        else:
            window = dilations[axis] * (kernel[2 + axis] - 1) + 1
            full = strides[axis] * (shape[2 + axis] - 1) + extra[axis] + window
            size.append(full - pads[axis] - pads[rank + axis])
    if any(extent < 1 for extent in size):
        node.fail("attributes.pads", f"the output would be {size}")
    return [((shape[0], kernel[1] * group, *size), node.x.dtype)]


def pool(node: Node) -> Shapes:
    """MaxPool, AveragePool, LpPool; MaxPool may write indices too."""
    shape = node.x.shape
    kernel = node.integers("kernel_shape")
    if kernel is None:
        node.fail("attributes.kernel_shape", "a pool needs it")
    size = spatial(node, shape[2:], kernel, bool(node.integer("ceil_mode", 0)))
    out = (*shape[:2], *size)
    return [(out, node.x.dtype), (out, "int64")][: max(1, len(node.layer.outputs))]


def max_unpool(node: Node) -> Shapes:
    """MaxUnpool: the size that the pool shrank, or the stated one."""
    stated = node.integer_list("output_shape")
    if stated is not None:
        return [(stated, node.x.dtype)]
    kernel = node.integers("kernel_shape")
    if kernel is None:
        node.fail("attributes.kernel_shape", "MaxUnpool needs it")
    strides, _, pads = window_settings(node, kernel, len(node.x.shape) - 2)
    size = [
        (extent - 1) * s - pads[a] - pads[len(kernel) + a] + k
        for a, (extent, s, k) in enumerate(zip(node.x.shape[2:], strides, kernel, strict=True))
    ]
    return [((*node.x.shape[:2], *size), node.x.dtype)]


def global_pool(node: Node) -> Shapes:
    """One value per channel, spatial axes kept at 1."""
    shape = node.x.shape
    return [((*shape[:2], *(1 for _ in shape[2:])), node.x.dtype)]


# --- contraction ----------------------------------------------------------------------------------


def matmul_operands(node: Node) -> tuple[Dims, Dims, int | None]:
    """Shapes of both factors, and the position of the learned one (None: neither is)."""
    weight = node.parameter("weight")
    if weight is None:
        return node.x.shape, node.input(1).shape, None
    if node.integer("weight_input", 1) == 0:
        return weight.shape, node.x.shape, 0
    return node.x.shape, weight.shape, 1


def matmul(node: Node) -> Shapes:
    """MatMul: NumPy's rules, stacked matrices broadcast."""
    left, right, _ = matmul_operands(node)
    if node.integer("transA", 0) and len(left) > 1:
        left = (*left[:-2], left[-1], left[-2])
    if node.integer("transB", 0) and len(right) > 1:
        right = (*right[:-2], right[-1], right[-2])
    if not left or not right:
        node.fail("inputs", "a scalar cannot be multiplied as a matrix")
    a = left if len(left) > 1 else (1, *left)
    b = right if len(right) > 1 else (*right, 1)
    if a[-1] != b[-2] and not (isinstance(a[-1], Symbol) or isinstance(b[-2], Symbol)):
        detail = f"{list(left)} times {list(right)}: {a[-1]} columns meet {b[-2]} rows"
        node.fail("inputs", detail)
    shape = broadcast(node, (a[:-2], b[:-2]))
    shape += [a[-2]] if len(left) > 1 else []
    shape += [b[-1]] if len(right) > 1 else []
    dtype = {"MatMulInteger": "int32", "MatMulIntegerToFloat": node.dtype}
    return [(shape, dtype.get(node.layer.op, node.x.dtype))]


def gemm(node: Node) -> Shapes:
    """Gemm: rows of the input times the weight (O, I), or two activations."""
    left = node.x.shape
    weight = node.parameter("weight")
    if weight is None:
        if len(node.inputs) < 2 or node.inputs[1] is None:
            node.fail("parameters", "the layer has no weight, and its shapes do not imply one")
        right = node.input(1).shape
        a = left[::-1] if node.integer("transA", 0) else left
        b = right[::-1] if node.integer("transB", 0) else right
        if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            node.fail("inputs", f"{list(left)} times {list(right)}")
        return [((a[0], b[1]), node.x.dtype)]
    if len(weight.shape) != 2:
        node.fail("parameters.weight", f"{list(weight.shape)} is not a matrix")
    if node.integer("transA", 0):
        left = left[::-1]
    if not left or left[-1] != weight.shape[1]:
        node.fail(
            "parameters.weight",
            f"weight {list(weight.shape)} (O, I) reads {weight.shape[1]} features; input "
            f"{node.x.name!r} is {list(left)}",
        )
    return [((*left[:-1], weight.shape[0]), node.x.dtype)]


def recurrent(gates: int) -> Callable[[Node], Shapes]:
    """LSTM (4 gates), GRU (3), RNN (1): Y, Y_h and, for LSTM, Y_c."""

    def rule(node: Node) -> Shapes:
        shape = node.x.shape
        directions, features, hidden = recurrent_sizes(node)
        weight, recurrence = node.parameter("weight"), node.parameter("recurrence")
        if weight is not None and recurrence is not None:
            rows = {math.prod(weight.shape) // max(1, directions * features),
                    math.prod(recurrence.shape) // max(1, directions * hidden)}  # fmt: skip
            if rows != {gates * hidden}:
                node.fail(
                    "parameters",
                    f"weights {list(weight.shape)} and {list(recurrence.shape)} do not have "
                    f"{gates} gates of {hidden} units",
                )
        if len(shape) != 3 or features != shape[-1]:
            node.fail("inputs", f"the input is {list(shape)}; the weight reads {features} features")
        if node.integer("layout", 0):
            y, state = (*shape[:2], directions, hidden), (shape[0], directions, hidden)
        else:
            y, state = (shape[0], directions, shape[1], hidden), (directions, shape[1], hidden)
        outputs = [(y, node.x.dtype), (state, node.x.dtype), (state, node.x.dtype)]
        return outputs[: 3 if gates == 4 else 2]

    return rule


def recurrent_sizes(node: Node) -> tuple[int, int, int]:
    """Directions, input features and hidden size.

    Weights are (D, gates H, I) and (D, gates H, H); those of DynamicQuantizeLSTM the other way
    round, (D, I, gates H) and (D, H, gates H).
    """
    weight, recurrence = node.parameter("weight"), node.parameter("recurrence")
    if weight is not None and recurrence is not None:
        kernel, loop = weight.shape, recurrence.shape
    elif node.has_input(1) and node.has_input(2):
        kernel, loop = node.input(1).shape, node.input(2).shape
    else:
        node.fail("attributes.hidden_size", "is needed where the weights are left out")
    if len(kernel) != 3 or len(loop) != 3:
        detail = f"weights {list(kernel)} and {list(loop)}; both need 3 axes"
        node.fail("parameters", detail)
    axis = 1 if node.layer.op == "DynamicQuantizeLSTM" else 2
    return kernel[0], kernel[axis], loop[axis]


def einsum(node: Node) -> Shapes:
    """Einsum with an explicit or implied output."""
    labels, out = einsum_labels(node)
    sizes: dict[str, int] = {}
    for subscript, shape in zip(labels, einsum_shapes(node), strict=True):
        if len(subscript) != len(shape):
            node.fail("attributes.equation", f"{subscript!r} for a tensor {list(shape)}")
        for label, extent in zip(subscript, shape, strict=True):
            known = sizes.setdefault(label, extent)
            if known == 1:
                sizes[label] = extent
            elif extent not in (1, known) and not isinstance(extent, Symbol):
                node.fail("attributes.equation", f"{label!r} is both {known} and {extent}")
    unknown = [label for label in out if label not in sizes]
    if unknown:
        node.fail("attributes.equation", f"no operand has the label {unknown[0]!r}")
    return [([sizes[label] for label in out], node.x.dtype)]


def einsum_shapes(node: Node) -> list[Sequence[int]]:
    """Shapes of the operands: activations, then parameters."""
    given = [t.shape for t in node.inputs if t is not None]
    return [*given, *(p.shape for p in node.parameters)]


def einsum_labels(node: Node) -> tuple[list[str], str]:
    """Axis labels of each operand and of the output."""
    equation = node.text("equation", "").replace(" ", "")
    if not equation or "..." in equation:
        node.fail("attributes.equation", f"{equation!r} is not supported: write every axis out")
    left, arrow, out = equation.partition("->")
    labels = left.split(",")
    if len(labels) != len(einsum_shapes(node)):
        node.fail("attributes.equation", f"names {len(labels)} operands")
    if not arrow:
        joined = "".join(labels)
        out = "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
    return labels, out


# --- moving data ----------------------------------------------------------------------------------


def reshape_target(node: Node) -> list[int]:
    """The shape a Reshape asks for, with 0 (copy) and -1 (infer) filled in."""
    target = node.integer_list("shape")
    if target is None:
        node.fail("attributes.shape", "Reshape needs a target shape")
    return fill_shape(node, node.x.shape, target, bool(node.integer("allowzero", 0)))


def fill_shape(node: Node, shape: Dims, target: list[int], zero_is_zero: bool = False) -> list[int]:
    """Fill 0 and -1 of a Reshape's target in."""
    out: list[int] = []
    rest = list(shape)
    for axis, dim in enumerate(target):
        if dim == 0 and not zero_is_zero:
            if axis >= len(shape):
                node.fail("attributes.shape", f"{target} copies axis {axis} of {list(shape)}")
            dim = shape[axis]
        out.append(dim)
    for dim in out:
        if dim in rest and (isinstance(dim, Symbol)):
            rest.remove(dim)
    known = [dim for dim in out if dim != -1 and not isinstance(dim, Symbol)]
    if -1 in out:
        amount = volume(rest) if rest else 1
        divisor = math.prod(known)
        if isinstance(amount, Symbol):
            if divisor != 1:
                raise Symbolic(str(amount))
        elif divisor == 0 or amount % divisor:
            node.fail("attributes.shape", f"{list(shape)} cannot be reshaped to {target}")
        else:
            amount //= divisor
        if out.count(-1) > 1:
            node.fail("attributes.shape", f"{target} infers more than one axis")
        out[out.index(-1)] = amount
    elif volume(rest or [1]) != math.prod(known):
        node.fail(
            "attributes.shape",
            f"{list(shape)} cannot be reshaped to {target}: tensor {node.layer.outputs[0].name!r} "
            "would not have as many elements",
        )
    return out


def reshape(node: Node) -> Shapes:
    """Reshape."""
    return [(reshape_target(node), node.x.dtype)]


def flatten(node: Node) -> Shapes:
    """Flatten: two axes, split at `axis`."""
    shape = node.x.shape
    axis = node.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        node.fail("attributes.axis", f"axis {axis} of a tensor of rank {len(shape)}")
    return [((volume(shape[:axis] or (1,)), volume(shape[axis:] or (1,))), node.x.dtype)]


def squeeze_axes(node: Node) -> list[int]:
    """The axes that Squeeze removes."""
    rank = len(node.x.shape)
    axes = node.integer_list("axes")
    if axes is None:
        return [axis for axis, dim in enumerate(node.x.shape) if dim == 1]
    return checked_axes(node, axes, rank)


def checked_axes(node: Node, axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    for axis in axes:
        if not -rank <= axis < rank:
            node.fail("attributes.axes", f"axis {axis} of a tensor of rank {rank}")
    return [axis % rank for axis in axes]


def squeeze(node: Node) -> Shapes:
    """Squeeze."""
    gone = set(squeeze_axes(node))
    for axis in gone:
        if node.x.shape[axis] != 1:
            node.fail("attributes.axes", f"axis {axis} has size {node.x.shape[axis]}, not 1")
    return [([d for a, d in enumerate(node.x.shape) if a not in gone], node.x.dtype)]


def unsqueeze_axes(node: Node) -> list[int]:
    """Where, in the output, Unsqueeze puts axes of size 1."""
    axes = node.integer_list("axes")
    if axes is None:
        node.fail("attributes.axes", "Unsqueeze needs axes")
    found = checked_axes(node, axes, len(node.x.shape) + len(axes))
    if len(set(found)) < len(found):
        node.fail("attributes.axes", f"{axes} names an axis twice")
    return found


def unsqueeze(node: Node) -> Shapes:
    """Unsqueeze."""
    shape = list(node.x.shape)
    for axis in sorted(unsqueeze_axes(node)):
        shape.insert(axis, 1)
    return [(shape, node.x.dtype)]


def permutation(node: Node) -> list[int]:
    """The axes of a Transpose."""
    rank = len(node.x.shape)
    perm = node.integers("perm", list(range(rank))[::-1])
    if perm is None or sorted(perm) != list(range(rank)):
        node.fail("attributes.perm", f"{perm} does not permute {rank} axes")
    return perm


def transpose(node: Node) -> Shapes:
    """Transpose."""
    return [([node.x.shape[axis] for axis in permutation(node)], node.x.dtype)]


def concat(node: Node) -> Shapes:
    """Concat: activations, and parameters where a piece is constant."""
    pieces = concat_pieces(node)
    rank = len(pieces[0])
    axis = node.axis(rank=rank)
    for piece in pieces:
        fits = len(piece) == rank and all(
            a == b or isinstance(a, Symbol) or isinstance(b, Symbol)
            for other, (a, b) in enumerate(zip(piece, pieces[0], strict=True))
            if other != axis
        )
        if not fits:
            listed = ", ".join(str(list(p)) for p in pieces)
            node.fail("inputs", f"cannot be concatenated along axis {axis}: {listed}")
    shape = list(pieces[0])
    if len(pieces) > 1:
        shape[axis] = sum(piece[axis] for piece in pieces)
    return [(shape, node.x.dtype)]


def concat_pieces(node: Node) -> list[Dims]:
    """Shapes of the pieces, in order; `parameter_inputs` says where the constant ones stand."""
    pieces: list[Dims] = [t.shape for t in node.inputs if t is not None]
    places = node.integers("parameter_inputs") or []
    for place, parameter in zip(places, node.parameters, strict=False):
        pieces.insert(place, parameter.shape)
    if not pieces:
        node.fail("inputs", "Concat needs at least one input")
    return pieces


def split_sizes(node: Node) -> list[int]:
    """Extents of the pieces of a Split."""
    axis = node.axis(default=0)
    extent = node.x.shape[axis]
    sizes = node.integer_list("split")
    if sizes is None:
        count = node.integer("num_outputs", len(node.layer.outputs))
        step = -(-extent // count)
        sizes = [step] * (extent // step) + ([extent % step] if extent % step else [])
    if sum(sizes) != extent or len(sizes) != len(node.layer.outputs) or min(sizes) < 0:
        node.fail(
            "attributes.split",
            f"pieces {sizes} for {len(node.layer.outputs)} outputs of an axis of {extent}",
        )
    return sizes


def split(node: Node) -> Shapes:
    """Split."""
    axis = node.axis(default=0)
    shape = node.x.shape
    return [((*shape[:axis], s, *shape[axis + 1 :]), node.x.dtype) for s in split_sizes(node)]


def slices(node: Node) -> list[tuple[int, slice, int]]:
    """(axis, slice, number of elements) for every sliced axis."""
    rank = len(node.x.shape)
    starts, ends = node.integer_list("starts"), node.integer_list("ends")
    if starts is None or ends is None:
        node.fail("attributes.starts", "Slice needs starts and ends")
    axes = node.integer_list("axes")
    steps = node.integer_list("steps")
    axes = list(range(len(starts))) if axes is None else checked_axes(node, axes, rank)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        node.fail("attributes.starts", "starts, ends, axes and steps must match; no step is 0")
    found = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        dim = node.x.shape[axis]
        if isinstance(dim, Symbol) and start == 0 and step == 1 and end >= 2**31 - 1:
            continue
        start, end = (bound + dim if bound < 0 else bound for bound in (start, end))
        if step > 0:
            start, end = max(0, min(start, dim)), max(0, min(end, dim))
        else:
            start, end = max(0, min(start, dim - 1)), max(-1, min(end, dim - 1))
        # -1 is "beyond the front" here; in Python it would be the last position
        bounds = slice(start, None if end < 0 else end, step)
        found.append((axis, bounds, len(range(dim)[bounds])))
    return found


def slice_(node: Node) -> Shapes:
    """Slice."""
    shape = list(node.x.shape)
    for axis, _, extent in slices(node):
        shape[axis] = extent
    return [(shape, node.x.dtype)]


def table_of(node: Node) -> Dims | None:
    """Shape of a learned table that Gather reads, if that is what it reads."""
    parameter = node.parameter("weight")
    return parameter.shape if parameter is not None else None


def gather(node: Node) -> Shapes:
    """Gather: from an activation, or rows of a learned table."""
    table = table_of(node)
    data = node.x.shape if table is None else table
    axis = node.axis(default=0, rank=len(data))
    indices = gather_indices_shape(node)
    taken = node.integer_list("indices") if "indices" in node.attributes else None
    if taken and not isinstance(data[axis], Symbol):
        wrong = [index for index in taken if not -data[axis] <= index < data[axis]]
        if wrong:
            node.fail("attributes.indices", f"{wrong[0]} on an axis of {data[axis]}")
    dtype = node.x.dtype if table is None else node.dtype
    return [((*data[:axis], *indices, *data[axis + 1 :]), dtype)]


def gather_indices_shape(node: Node) -> Dims:
    """Shape of the indices."""
    if "indices" in node.attributes:
        return tuple(np.shape(node.attributes["indices"]))
    return node.input(0 if table_of(node) is not None else 1).shape


def gather_nd(node: Node) -> Shapes:
    """GatherND."""
    batch = node.integer("batch_dims", 0)
    indices = (
        tuple(np.shape(node.attributes["indices"]))
        if "indices" in node.attributes
        else node.input(1).shape
    )
    depth = batch + indices[-1]
    if depth > len(node.x.shape):
        node.fail("inputs", f"indices into {depth} axes of a tensor {list(node.x.shape)}")
    return [((*indices[:-1], *node.x.shape[depth:]), node.x.dtype)]


def gather_elements(node: Node) -> Shapes:
    """GatherElements: the shape of the indices."""
    if "indices" in node.attributes:
        return [(np.shape(node.attributes["indices"]), node.x.dtype)]
    return [(node.input(1).shape, node.x.dtype)]


def pads(node: Node) -> list[tuple[int, int]]:
    """(before, after) per axis of a Pad."""
    rank = len(node.x.shape)
    amounts = node.integer_list("pads")
    if amounts is None:
        node.fail("attributes.pads", "Pad needs pads")
    listed = node.integer_list("axes")
    axes = list(range(rank)) if listed is None else checked_axes(node, listed, rank)
    if len(amounts) != 2 * len(axes):
        node.fail("attributes.pads", f"{len(amounts)} numbers for {len(axes)} axes")
    out = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        out[axis] = (amounts[place], amounts[len(axes) + place])
    return out


def pad(node: Node) -> Shapes:
    """Pad."""
    shape = [
        dim if before == after == 0 else dim + before + after
        for dim, (before, after) in zip(node.x.shape, pads(node), strict=True)
    ]
    return [(shape, node.x.dtype)]


def expand(node: Node) -> Shapes:
    """Expand."""
    target = node.integer_list("shape")
    if target is None:
        node.fail("attributes.shape", "Expand needs a target shape")
    return [(broadcast(node, (node.x.shape, target)), node.x.dtype)]


def tile(node: Node) -> Shapes:
    """Tile."""
    repeats = node.integer_list("repeats")
    if repeats is None or len(repeats) != len(node.x.shape):
        node.fail("attributes.repeats", f"{repeats} for a tensor {list(node.x.shape)}")
    pairs = zip(node.x.shape, repeats, strict=True)
    return [([d if r == 1 else d * r for d, r in pairs], node.x.dtype)]


def resize(node: Node) -> Shapes:
    """Resize and Upsample: by sizes or by scales, for all axes or the stated ones."""
    shape = list(node.x.shape)
    listed = node.integers("axes")
    axes = list(range(len(shape))) if listed is None else checked_axes(node, listed, len(shape))
    sizes = node.integer_list("sizes")
    if sizes:
        if len(sizes) != len(axes):
            node.fail("attributes.sizes", f"{sizes} for {len(axes)} axes")
        policy = node.text("keep_aspect_ratio_policy", "stretch")
        if policy not in ("stretch", "not_larger", "not_smaller"):
            node.fail("attributes.keep_aspect_ratio_policy", f"{policy!r} is no policy")
        if policy != "stretch":
            # all axes by the scale of one: the smallest, or the largest
            ratios = [extent / shape[axis] for axis, extent in zip(axes, sizes, strict=True)]
            scale = min(ratios) if policy == "not_larger" else max(ratios)
            sizes = [math.floor(scale * shape[axis] + 0.5) for axis in axes]
        for axis, extent in zip(axes, sizes, strict=True):
            shape[axis] = extent
        return [(shape, node.x.dtype)]
    scales = node.operand("scales")
    if scales is None or scales.size != len(axes):
        node.fail("attributes.scales", "Resize needs as many scales, or sizes, as axes")
    for axis, scale in zip(axes, scales.reshape(-1).tolist(), strict=True):
        # the tolerance undoes what float32 does to a scale such as 1/3
        shape[axis] = shape[axis] if scale == 1 else math.floor(shape[axis] * scale + 1e-5)
    return [(shape, node.x.dtype)]


def depth_to_space(node: Node) -> Shapes:
    """DepthToSpace."""
    n, c, h, w = four(node)
    b = node.integer("blocksize")
    if node.text("mode", "DCR") not in ("DCR", "CRD"):
        node.fail("attributes.mode", f"{node.text('mode', 'DCR')!r} is neither DCR nor CRD")
    if c % (b * b):
        node.fail("attributes.blocksize", f"{b * b} does not divide {c} channels")
    return [((n, c // (b * b), h * b, w * b), node.x.dtype)]


def space_to_depth(node: Node) -> Shapes:
    """SpaceToDepth."""
    n, c, h, w = four(node)
    b = node.integer("blocksize")
    if h % b or w % b:
        node.fail("attributes.blocksize", f"{b} does not divide {h} x {w} positions")
    return [((n, c * b * b, h // b, w // b), node.x.dtype)]


def four(node: Node) -> tuple[int, int, int, int]:
    """The shape of an image tensor."""
    if len(node.x.shape) != 4:
        node.fail("inputs", f"{node.layer.op} needs 4 axes; the input is {list(node.x.shape)}")
    n, c, h, w = node.x.shape
    return n, c, h, w


# --- reductions -----------------------------------------------------------------------------------


def reduced_axes(node: Node) -> list[int]:
    """Axes that a reduction removes."""
    rank = len(node.x.shape)
    axes = node.integer_list("axes")
    if axes:
        return checked_axes(node, axes, rank)
    return [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))


def reduce(node: Node) -> Shapes:
    """ReduceMean and its kin."""
    gone = set(reduced_axes(node))
    keep = node.integer("keepdims", 1)
    shape = [1 if a in gone else d for a, d in enumerate(node.x.shape) if keep or a not in gone]
    return [(shape, node.x.dtype)]


def arg_reduce(node: Node) -> Shapes:
    """ArgMax, ArgMin."""
    axis = node.axis(default=0)
    keep = node.integer("keepdims", 1)
    shape = [1 if a == axis else d for a, d in enumerate(node.x.shape) if keep or a != axis]
    return [(shape, "int64")]


def top_k(node: Node) -> Shapes:
    """TopK: values and indices."""
    k = node.integer_list("k") or node.integer_list("K")
    if not k:
        node.fail("attributes.k", "TopK needs k")
    shape = list(node.x.shape)
    axis = node.axis(default=-1)
    if k[0] < 0 or (not isinstance(shape[axis], Symbol) and k[0] > shape[axis]):
        node.fail("attributes.k", f"the {k[0]} largest of {shape[axis]}")
    shape[axis] = k[0]
    return [(shape, node.x.dtype), (shape, "int64")]


# --- making data, quantising, the rest ------------------------------------------------------------


def constant(node: Node) -> Shapes:
    """Constant: the shape of its value, or of the array that stands for it."""
    output = node.layer.outputs[0]
    value = node.attributes.get("value")
    if value is None:
        array_only = node.parameter("weight") or node.parameter("state")
        if array_only is None:
            raise Symbolic("a constant without value")
        return [(array_only.shape, output.dtype or array_only.dtype or node.dtype)]
    array = np.asarray(value)
    dtype = output.dtype or {"i": "int64", "b": "bool"}.get(array.dtype.kind, node.dtype)
    return [(array.shape, dtype)]


def shape_of(node: Node) -> Shapes:
    """Shape: as many numbers as axes."""
    rank = len(node.x.shape)
    start, end = shape_range(node)
    return [((max(0, len(range(rank)[start:end])),), "int64")]


def shape_range(node: Node) -> tuple[int, int | None]:
    """First and last axis that Shape reports."""
    return node.integer("start", 0), node.attributes.get("end")


def scalar(dtype: str) -> Callable[[Node], Shapes]:
    """A scalar."""

    def rule(node: Node) -> Shapes:
        return [((), dtype)]

    return rule


def constant_of_shape(node: Node) -> Shapes:
    """ConstantOfShape."""
    target = node.integer_list("shape") if "shape" in node.attributes else None
    if target is None:
        target = node.integer_list("input")
    if target is None:
        node.fail("attributes.shape", "ConstantOfShape needs a shape")
    value = np.asarray(node.attributes.get("value", 0.0))
    kind = {"i": "int64", "b": "bool"}.get(value.dtype.kind, node.dtype)
    return [(target, node.layer.outputs[0].dtype or kind)]


def range_(node: Node) -> Shapes:
    """Range: needs its bounds."""
    start, limit, delta = (node.operand(key) for key in ("start", "limit", "delta"))
    if start is None or limit is None or delta is None:
        node.fail("attributes.limit", "Range needs start, limit and delta")
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    integral = np.issubdtype(start.dtype, np.integer)
    return [((count,), node.layer.outputs[0].dtype or ("int64" if integral else node.dtype))]


def quantize(node: Node) -> Shapes:
    """QuantizeLinear: the dtype of the zero point, else uint8."""
    point = node.parameter("zero_point")
    dtype = point.dtype if point is not None and point.dtype else None
    if dtype is None and node.has_input(2):
        dtype = node.input(2).dtype
    return [(node.x.shape, dtype or node.layer.outputs[0].dtype or "uint8")]


def dynamic_quantize(node: Node) -> Shapes:
    """DynamicQuantizeLinear: values, scale, zero point."""
    return [(node.x.shape, "uint8"), ((), "float32"), ((), "uint8")]


def floating(node: Node) -> Shapes:
    """The shape of the first input in the request's floating dtype."""
    return [(node.x.shape, node.layer.outputs[0].dtype or node.dtype)]


def declared(node: Node) -> Shapes:
    """What the graph declares; data decides, so nothing can be derived."""
    raise Symbolic(f"the output shape of {node.layer.op} depends on data")


def like(position: int) -> Callable[[Node], Shapes]:
    """The shape and dtype of another input."""

    def rule(node: Node) -> Shapes:
        return [(node.input(position).shape, node.input(position).dtype)]

    return rule


def one_hot(node: Node) -> Shapes:
    """OneHot: a new axis of `depth`."""
    depth = node.integer_list("depth")
    if not depth:
        node.fail("attributes.depth", "OneHot needs a depth")
    shape = list(node.x.shape)
    shape.insert(node.axis(default=-1, rank=len(shape) + 1), depth[0])
    return [(shape, node.layer.outputs[0].dtype or node.dtype)]


def eye_like(node: Node) -> Shapes:
    """EyeLike."""
    return [(node.x.shape, node.layer.outputs[0].dtype or node.x.dtype)]


def random(node: Node) -> Shapes:
    """RandomNormal and its kin: the stated shape."""
    return [(node.integers("shape") or [], node.dtype)]


def grid_sample(node: Node) -> Shapes:
    """GridSample: channels of the image, positions of the grid."""
    grid = node.input(1).shape
    return [((*node.x.shape[:2], *grid[1:-1]), node.x.dtype)]


def roi_align(node: Node) -> Shapes:
    """RoiAlign, MaxRoiPool: one patch per region."""
    rois = node.input(1).shape[0]
    size = node.integers("pooled_shape") or [
        node.integer("output_height", 1),
        node.integer("output_width", 1),
    ]
    return [((rois, node.x.shape[1], *size), node.x.dtype)]


def attention_packed(node: Node) -> Shapes:
    """com.microsoft Attention: input (B, S, I), weights for query, key and value side by side."""
    b, s, _ = node.x.shape
    weight = node.parameter("weight")
    sizes = node.integers("qkv_hidden_sizes")
    hidden = sizes[2] if sizes else (weight.shape[1] // 3 if weight else node.x.shape[2])
    return [((b, s, hidden), node.x.dtype)]


def attention(node: Node) -> Shapes:
    """Attention, MultiHeadAttention: query's positions, value's features."""
    query, value = node.x.shape, node.input(2).shape
    if len(query) == 4:
        return [((*query[:3], value[3]), node.x.dtype)]
    heads, kv = node.integer("q_num_heads", 1), node.integer("kv_num_heads", 1)
    return [((*query[:2], value[-1] * heads // kv), node.x.dtype)]


def outputs_with_statistics(node: Node) -> Shapes:
    """The first output like the input; mean and variance, where asked for, per row."""
    axis, rank = node.axis(default=-1), len(node.x.shape)
    rows = (*node.x.shape[:axis], *(1,) * (rank - axis))
    found: list[tuple[Sequence[int], str]] = [(node.x.shape, node.x.dtype)]
    found += [(rows, "float32")] * (len(node.layer.outputs) - 1)
    return found


def batch_statistics(node: Node) -> Shapes:
    """BatchNormalization: in training form it also writes its statistics."""
    found: list[tuple[Sequence[int], str]] = [(node.x.shape, node.x.dtype)]
    found += [((node.x.shape[1],), node.dtype)] * (len(node.layer.outputs) - 1)
    return found


def skip_normalization(node: Node) -> Shapes:
    """SkipLayerNormalization: result, two statistics, and the sum where asked for."""
    rows = node.x.shape[:-1]
    out = (node.x.shape, node.x.dtype)
    return [out, ((*rows, 1), "float32"), ((*rows, 1), "float32"), out]


def dropout(node: Node) -> Shapes:
    """Dropout: the input, and the mask where asked for."""
    return [(node.x.shape, node.x.dtype), (node.x.shape, "bool")]
