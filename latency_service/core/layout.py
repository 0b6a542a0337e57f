"""Which tensors a runtime stores in blocks of channels, and where it has to reorder them.

Convolutions run on images whose channels are interleaved by 8 or 16; other operators want them one
after another. Between the two stands a reorder, which costs as much as a copy. What is worth
blocking, and which operators pass blocks on, is part of the calibrated profile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import NamedTuple

from latency_service.core.blocks import runs_on_blocks
from latency_service.core.dequantised import multiplies_computed
from latency_service.core.efficiency import Layout
from latency_service.core.geometry import TO_FIRST, TO_LAST
from latency_service.core.node import Node, Tensor
from latency_service.core.ops import Traffic
from latency_service.core.units import FLOATING

TO_BLOCKS, FROM_BLOCKS = "ReorderInput", "ReorderOutput"


# They leave one position of each channel.
_GLOBAL = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
# Operators of two operands, both of which must be blocked.
_PAIRS = frozenset({"Add", "Mul", "Sum"})


class Reorder(NamedTuple):
    """One tensor that changes its layout.

    Attributes:
        layer: position of the layer that pays: the reader of a plain one, the writer of a blocked.
        kind: `TO_BLOCKS` or `FROM_BLOCKS`.
    """

    layer: int
    kind: str
    tensor: Tensor


class Arrangement(NamedTuple):
    """How a network is laid out.

    Attributes:
        blocked: per layer, whether it runs on blocks.
        reorders: what that costs.
        turned: transpositions that reorders do.
    """

    blocked: list[bool]
    reorders: list[Reorder]
    turned: set[int]


class Placing:
    """Which layers run on blocks, and which tensors lie in them; layers are told in order.

    Attributes:
        runs: per layer so far.
        tensors: those in blocks, by id.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.runs: list[bool] = []
        self.tensors: set[int] = set()

    def place(self, node: Node, host: int | None, op: str) -> bool:
        """Whether the next layer runs on blocks.

        Args:
            host: the layer that it is merged into, whose layout it takes; None: none.
            op: the operator that the runtime runs in its place.
        """
        if host is None:
            inputs = [t for t in node.inputs if t is not None and t.value is None]
            runs = _runs_blocked(node, inputs, self.layout, self.tensors, op)
        else:
            runs = host < len(self.runs) and self.runs[host]
        self.runs.append(runs)
        if runs:
            self.tensors.update([id(tensor) for tensor in node.outputs])
        return runs

    def merges(self, node: Node, host: int) -> bool:
        """Whether a layer can be merged into a host: into one on blocks, if all it reads is."""
        return not self.runs[host] or all(
            tensor is None or tensor.value is not None or id(tensor) in self.tensors
            for tensor in node.inputs
        )


def arrange(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    layout: Layout,
    host_of: Sequence[int | None],
    runs_as: Sequence[str],
) -> Arrangement:
    """Follow the layouts through a network.

    Args:
        host_of: per layer the one that it is fused into; it takes that one's layout.
        runs_as: per layer the operator that the runtime runs in its place.
    """
    placing = Placing(layout)
    turns = _Turns(nodes, outputs) if layout.turns else None
    writers: dict[int, int] = {}  # blocked tensors: who wrote them
    plain_copies: set[int] = set()
    blocked_copies: set[int] = set()
    reorders: list[Reorder] = []

    def need_plain(tensor: Tensor) -> None:
        if id(tensor) in writers and id(tensor) not in plain_copies:
            plain_copies.add(id(tensor))
            reorders.append(Reorder(writers[id(tensor)], FROM_BLOCKS, tensor))

    for index, node in enumerate(nodes):
        inputs = [t for t in node.inputs if t is not None and t.value is None]
        host = host_of[index]
        if placing.place(node, host, runs_as[index]):
            for tensor in inputs:
                known = id(tensor) in writers or id(tensor) in blocked_copies
                if _reads_plain(node, tensor, layout):
                    need_plain(tensor)
                elif not known and host is None:
                    blocked_copies.add(id(tensor))
                    reorders.append(Reorder(index, TO_BLOCKS, tensor))
                    if turns is not None:
                        turns.into_blocks(tensor)
            payer = index if host is None else host
            writers.update((id(tensor), payer) for tensor in node.outputs)
        elif host is None and turns is not None and turns.out_of_blocks(index, writers):
            reorders.append(Reorder(index, FROM_BLOCKS, node.x))
        elif host is None:
            for tensor in inputs:
                need_plain(tensor)
    for tensor in outputs:
        need_plain(tensor)
    return Arrangement(placing.runs, reorders, set() if turns is None else turns.done)


class _Turns:
    """Transpositions beside reorders, which read and write channels that stand last as well.

    Attributes:
        done: those that a reorder does, by position.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[Tensor]) -> None:
        self.done: set[int] = set()
        turning = [
            (index, node)
            for index, node in enumerate(nodes)
            if node.layer.op == "Transpose" and node.outputs
        ]
        self._from_blocks = {
            index: node for index, node in turning if node.integers("perm") == TO_LAST
        }
        self._to_blocks = {
            id(node.outputs[0]): index
            for index, node in turning
            if node.integers("perm") == TO_FIRST
        }
        # of an image that others read, too, the transposition stays
        readers = Counter([id(t) for node in nodes if self._to_blocks for t in node.inputs])
        readers.update([id(tensor) for tensor in outputs])
        self._to_blocks = {
            tensor: index for tensor, index in self._to_blocks.items() if readers[tensor] == 1
        }

    def out_of_blocks(self, index: int, blocked: Container[int]) -> bool:
        """Whether a layer turns an image that lies in blocks: it is a reorder then."""
        node = self._from_blocks.get(index)
        if node is None or id(node.x) not in blocked:
            return False
        self.done.add(index)
        return True

    def into_blocks(self, tensor: Tensor) -> None:
        """A tensor goes into blocks: where it was turned for that alone, the reorder turns it."""
        if id(tensor) in self._to_blocks:
            self.done.add(self._to_blocks[id(tensor)])


def _reads_plain(node: Node, tensor: Tensor, layout: Layout) -> bool:
    """Whether a convolution into blocks reads an image of few channels as it is."""
    few = tensor.shape[1] < layout.block
    return few and node.op.contraction and node.integer("group", 1) == 1


def _runs_blocked(
    node: Node, inputs: list[Tensor], layout: Layout, blocked: Container[int], op: str
) -> bool:
    if not inputs or not node.outputs or len(inputs[0].shape) != 4 or node.frozen:
        return False
    if inputs[0].dtype not in FLOATING:
        return False
    if op == "Conv":
        if multiplies_computed(node):
            return False
        group, filters = node.integer("group", 1), node.outputs[0].shape[1]
        inputs_each = inputs[0].shape[1] // group
        return runs_on_blocks(group, inputs_each, filters, layout.block, layout.alignment)
    known = all(id(tensor) in blocked for tensor in inputs)
    if op in layout.converts:
        # the last block of a convolution's filters may be filled up; such an image goes back
        return inputs[0].shape[1] % layout.block == 0
    if op in _GLOBAL:
        return known and op in layout.keeps and inputs[0].shape[1] % layout.block == 0
    if op in ("Resize", "Upsample"):
        return known and _resizes_blocks(node, layout)
    if op not in layout.keeps or not known or node.op.traffic is Traffic.FREE:
        return False
    if op == "Concat":
        return node.integer("axis", 0) % 4 == 1 and all(
            tensor.shape[1] % layout.block == 0 for tensor in inputs
        )
    if op in _PAIRS and len(inputs) < 2:
        return False  # a number, or a learned operand, is not stored in blocks
    return all(tensor.shape == node.outputs[0].shape for tensor in inputs)


def _resizes_blocks(node: Node, layout: Layout) -> bool:
    """Images grow by whole factors; each way of doing it is an entry of its own."""
    mode = node.text("mode", "nearest")
    out, data = node.outputs[0].shape, node.x.shape
    whole = all(to % size == 0 for to, size in zip(out, data, strict=True))
    return whole and ("Resize" if mode == "nearest" else f"Resize/{mode}") in layout.keeps
