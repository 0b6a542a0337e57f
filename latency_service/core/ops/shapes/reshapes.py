"""The same elements under other axes: reshaped, squeezed, transposed, moved into channels."""

from __future__ import annotations

import math

from latency_service.core.node import Dims, Node, Symbol, Symbolic, volume
from latency_service.core.ops.shapes.rule import Shapes, checked_axes


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
        for dim in node.x.shape:
            if isinstance(dim, Symbol):
                raise Symbolic(dim)  # which may be bound to 1
        return [axis for axis, dim in enumerate(node.x.shape) if dim == 1]
    return checked_axes(node, axes, rank)


def squeeze(node: Node) -> Shapes:
    """Squeeze."""
    gone = set(squeeze_axes(node))
    for axis in gone:
        if isinstance(node.x.shape[axis], Symbol):
            raise Symbolic(node.x.shape[axis])
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
