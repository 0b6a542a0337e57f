"""Which quantised images have their channels last, and where they are turned.

onnxruntime's convolutions and pools on integers want the channels of a position side by side; other
operators take them as they come or want them first. It turns an image where one kind meets the
other, and moves these transpositions on as long as that saves some
(core/optimizer/transpose_optimization).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from latency_service.core.dequantised import DEQUANTISING
from latency_service.core.fusion import Chain
from latency_service.core.geometry import REDUCTIONS, TO_FIRST, TO_LAST, Dim, Row
from latency_service.core.node import Node, Tensor
from latency_service.core.ops.shapes.reductions import reduced_axes
from latency_service.core.quantised_patterns import INTEGER_FORMS, INTEGERS

# What a runtime that does so is known by (`FusionRules.patterns`).
CHANNELS_LAST = "quantised-channels-last"
# They write channels last whatever they read.
_WANT_LAST = frozenset({"QLinearConv", "MaxPool"})
# On integers: they take channels first or last.
_TAKE_EITHER = frozenset({
    "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat",
    "QLinearAveragePool", "QLinearGlobalAveragePool", "QuantizeLinear", DEQUANTISING, "Split",
    "Slice", "Pad", "Resize",
})  # fmt: skip


class Turn(NamedTuple):
    """An image that is turned.

    Attributes:
        layer: position of the layer that pays: the reader of one whose channels stand first, the
            writer of one whose channels stand last.
        to_last: whether its channels stand last afterwards.
    """

    layer: int
    tensor: Tensor
    to_last: bool


class Arranged(NamedTuple):
    """How a network's quantised images lie.

    Attributes:
        last: layers that read and write them with channels last.
        turns: what that costs.
        gone: transpositions of the network that need not run, for what they read lies so already.
    """

    last: frozenset[int]
    turns: list[Turn]
    gone: frozenset[int]


NOTHING_LAST = Arranged(frozenset(), [], frozenset())


class _Kernel(NamedTuple):
    layer: int
    op: str
    node: Node
    reads: list[Tensor]
    writes: list[Tensor]


def arrange_last(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    host_of: Sequence[int | None],
    chains: Sequence[Chain | None],
) -> Arranged:
    """Follow the channels through a network.

    Args:
        host_of, chains: as in `find_kernels`.
    """
    kernels = list(_kernels(nodes, host_of, chains))
    if not any(_wants_last(kernel) for kernel in kernels):
        return NOTHING_LAST
    wanted = _wanted(kernels)
    lies_last: dict[int, int] = {}  # by tensor: who wrote it
    turned: set[tuple[int, bool]] = set()
    last: set[int] = set()
    gone: set[int] = set()
    turns: list[Turn] = []

    def turn(layer: int, tensor: Tensor, to_last: bool) -> None:
        if (id(tensor), to_last) not in turned and not _is_flat(tensor):
            turned.add((id(tensor), to_last))
            turns.append(Turn(layer, tensor, to_last))

    for kernel in kernels:
        if _turns(kernel, TO_LAST) and id(kernel.reads[0]) in lies_last:
            gone.add(kernel.layer)
            continue
        if _turns(kernel, TO_FIRST) and any(id(tensor) in wanted for tensor in kernel.writes):
            gone.add(kernel.layer)
            runs_last = True
        elif _wants_last(kernel):
            runs_last = True
            for tensor in kernel.reads[:1]:
                if id(tensor) not in lies_last:
                    turn(kernel.layer, tensor, to_last=True)
        else:
            runs_last = _runs_last(kernel, lies_last, wanted)
            for tensor in () if runs_last else kernel.reads:
                if id(tensor) in lies_last:
                    turn(lies_last[id(tensor)], tensor, to_last=False)
        if runs_last:
            last.add(kernel.layer)
            lies_last.update((id(tensor), kernel.layer) for tensor in kernel.writes)
    for tensor in outputs:
        if id(tensor) in lies_last:
            turn(lies_last[id(tensor)], tensor, to_last=False)
    return Arranged(frozenset(last), turns, frozenset(gone))


def with_channels_last(row: Row, node: Node) -> Row:
    """The kernel of a layer that reads and writes images with their channels last."""
    family, dims, follows = row
    op, _, kind = family.partition("/")
    values = list(dims)
    image = node.outputs[0].shape
    if op in REDUCTIONS:
        family = f"{op}/leading" if image[0] == 1 else f"{op}/strided"
    elif op == "QLinearConcat" or kind == "broadcast":
        pieces = [t.shape[1] for t in node.inputs if t is not None and len(t.shape) == len(image)]
        together = float(min(pieces, default=1) if op == "QLinearConcat" else image[1])
        values[Dim.INNER] = together
        values[Dim.ROWS] = max(values[Dim.OUT_ELEMENTS] // together, 1.0)
        values[Dim.WIDTH] = float(image[1])
    return family, tuple(values), follows


def _kernels(
    nodes: Sequence[Node], host_of: Sequence[int | None], chains: Sequence[Chain | None]
) -> Iterator[_Kernel]:
    """What runs, in order, with the integers that it reads behind what stands for them."""
    writers = {id(tensor): index for index, node in enumerate(nodes) for tensor in node.outputs}

    def behind(tensor: Tensor, on_integers: bool) -> Tensor:
        writer = writers.get(id(tensor))
        if writer is None or nodes[writer].layer.op != DEQUANTISING or not nodes[writer].inputs:
            return tensor
        vanished = on_integers or host_of[writer] is not None
        return (nodes[writer].inputs[0] or tensor) if vanished else tensor

    for index, node in enumerate(nodes):
        if host_of[index] is not None or not node.outputs:
            continue
        chain = chains[index]
        members = [node] if chain is None else [nodes[member] for member in chain.members]
        op = node.layer.op if chain is None or chain.runs_as is None else chain.runs_as
        inside = {id(tensor) for member in members for tensor in member.outputs}
        on_integers = chain is not None and op in INTEGER_FORMS
        reads = [
            behind(tensor, on_integers)
            for member in members
            for tensor in member.inputs
            if tensor is not None and tensor.value is None and id(tensor) not in inside
        ]
        writes = [tensor for member in members for tensor in member.outputs]
        yield _Kernel(index, op, node, reads, writes)


def _is_image(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4


def _is_flat(tensor: Tensor) -> bool:
    """Whether turning it moves nothing."""
    return not _is_image(tensor) or math.prod(tensor.shape[2:]) == 1 or tensor.shape[1] == 1


def _turns(kernel: _Kernel, order: list[int]) -> bool:
    turns = kernel.op == "Transpose" and bool(kernel.reads)
    return turns and kernel.node.integers("perm") == order


def _wants_last(kernel: _Kernel) -> bool:
    if kernel.op not in _WANT_LAST or not kernel.reads or not _is_image(kernel.reads[0]):
        return False
    return kernel.reads[0].dtype in INTEGERS


def _takes_either(kernel: _Kernel) -> bool:
    node, op = kernel.node, kernel.op
    if not all(_is_image(tensor) or tensor.size == 1 for tensor in (*kernel.reads, *node.outputs)):
        return False
    if op == "QLinearConcat":
        return node.integer("axis", 0) % 4 == 1
    if op in REDUCTIONS:
        return sorted(reduced_axes(node)) == [2, 3]
    return op in _TAKE_EITHER or node.op.family == "elementwise"


def _wanted(kernels: Sequence[_Kernel]) -> set[int]:
    """Tensors that reach a layer which wants channels last, through others that take either."""
    wanted: set[int] = set()
    for kernel in reversed(kernels):
        passes_on = any(id(tensor) in wanted for tensor in kernel.writes) and _takes_either(kernel)
        if passes_on or _wants_last(kernel) or _turns(kernel, TO_LAST):
            wanted.update(id(tensor) for tensor in kernel.reads)
    return wanted


def _runs_last(kernel: _Kernel, lies_last: Mapping[int, int], wanted: set[int]) -> bool:
    """Of one image on its way to a layer that wants it so, or where all of several lie so."""
    images = {id(t): t for t in kernel.reads if _is_image(t) and not _is_flat(t)}
    if not images or not all(place in lies_last for place in images) or not _takes_either(kernel):
        return False
    return len(images) > 1 or any(id(tensor) in wanted for tensor in kernel.writes)
