"""Sliding windows (convolution, transposed convolution, pooling) and patches of an image."""

from __future__ import annotations

import marshal
import math
from collections.abc import Hashable, Sequence

from latency_service.core.node import Dims, Node
from latency_service.core.ops.shapes.rule import Shapes

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


# Networks repeat a few windows; what they give is worth remembering.
_REMEMBERED: dict[Hashable, tuple[int, ...]] = {}
_MOST_REMEMBERED = 10_000


def spatial(node: Node, size: Dims, kernel: Dims, ceil: bool = False) -> Sequence[int]:
    """Output size of a sliding window along every spatial axis."""
    get = node.attributes.get
    settings = (get("strides"), get("dilations"), get("pads"), get("auto_pad"))
    # as bytes: true is no stride, though it equals 1 (`repr` takes three times as long)
    key = (size, kernel, ceil, marshal.dumps(settings))
    found = _REMEMBERED.get(key)
    if found is None:
        found = tuple(_spatial(node, size, kernel, ceil))
        if len(_REMEMBERED) >= _MOST_REMEMBERED:
            _REMEMBERED.clear()
        _REMEMBERED[key] = found
    return found


def _spatial(node: Node, size: Dims, kernel: Dims, ceil: bool) -> list[int]:
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
    size = spatial(node, shape[2:], tuple(kernel), bool(node.integer("ceil_mode", 0)))
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
