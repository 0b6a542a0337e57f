"""Who writes and who reads each tensor, and the groups of layers that patterns find there."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from latency_service.core.node import Node, Tensor


class Match(NamedTuple):
    """A group of layers that runs as one.

    Attributes:
        members: positions, ascending.
        host: position of the contraction, else of the first.
        runs_as: the operator that takes their place; "": none does.
        end: what it writes.
        others: what it writes besides.
    """

    members: tuple[int, ...]
    host: int
    runs_as: str
    end: Tensor
    others: tuple[Tensor, ...] = ()


class Wiring:
    """Who writes and who reads each tensor.

    Args:
        recognised: what else is known of the runtime (`FusionRules.patterns`).
    """

    def __init__(
        self, nodes: Sequence[Node], outputs: Sequence[Tensor], recognised: Container[str] = ()
    ) -> None:
        self.nodes = nodes
        self.recognised = recognised
        self.writer: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        self.returned = {id(tensor) for tensor in outputs}
        for index, node in enumerate(nodes):
            for written in node.outputs:
                self.writer[id(written)] = index
            for read in node.inputs:
                if read is not None:
                    self.readers.setdefault(id(read), []).append(index)

    def each(self, op: str) -> Iterator[tuple[int, Node]]:
        """Layers of an operator, with their positions."""
        return ((i, node) for i, node in enumerate(self.nodes) if node.layer.op == op)

    def only_reader(self, tensor: Tensor, *ops: str) -> int | None:
        """The one layer that reads a tensor, if its operator is one of those."""
        readers = self.readers.get(id(tensor), [])
        if len(readers) != 1 or id(tensor) in self.returned:
            return None
        return readers[0] if self.nodes[readers[0]].layer.op in ops else None

    def source(self, tensor: Tensor | None, *ops: str) -> int | None:
        """The layer that writes a tensor, if its operator is one of those and nobody else reads."""
        if tensor is None or id(tensor) in self.returned:
            return None
        index = self.writer.get(id(tensor))
        if index is None or len(self.readers.get(id(tensor), [])) != 1:
            return None
        return index if self.nodes[index].layer.op in ops else None

    def reader(self, tensor: Tensor, *ops: str) -> Iterator[int]:
        """Layers that read a tensor and have one of the operators."""
        return (i for i in self.readers.get(id(tensor), []) if self.nodes[i].layer.op in ops)

    def written_by(self, tensor: Tensor, op: str) -> bool:
        """Whether a layer of an operator writes a tensor."""
        index = self.writer.get(id(tensor))
        return index is not None and self.nodes[index].layer.op == op


def activations(node: Node) -> list[Tensor]:
    """What a layer reads that is neither learned nor known."""
    return [t for t in node.inputs if t is not None and t.value is None]
