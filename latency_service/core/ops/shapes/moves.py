"""Elements taken, joined, repeated or padded: Concat, Split, Slice, Gather, Pad, Tile, Resize."""

from __future__ import annotations

import math

import numpy as np

from latency_service.core.node import Dims, Node, Symbol
from latency_service.core.ops.shapes.rule import Shapes, checked_axes


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
        if count != len(node.layer.outputs):
            node.fail("attributes.num_outputs", f"{count}, but {len(node.layer.outputs)} outputs")
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
