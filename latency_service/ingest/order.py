"""Which nodes of an ONNX graph matter, and in which order to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import onnx

from latency_service.core.errors import ModelFileError
from latency_service.core.graph import made
from latency_service.core.ops import OPS
from latency_service.ingest.text import check_text

# The operators that hold graphs. Only these, and operators unknown here, are searched for them.
HOLDS_GRAPHS = frozenset({"If", "Loop", "Scan"})
_NO_GRAPHS = frozenset(OPS) - HOLDS_GRAPHS
_GRAPH = onnx.AttributeProto.GRAPH


def _captures(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a graph inside a node names."""
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            for inner in attribute.g.node:
                yield from inner.input
                yield from _captures(inner)
            for info in attribute.g.output:
                yield info.name


class Wired(NamedTuple):
    """A node and what it is called; taking a name out of protobuf twice takes twice as long.

    Attributes:
        op: its operator, of `domain`.
        reads: names of its inputs; "" for one that is left out.
        writes: names of its outputs.
    """

    proto: onnx.NodeProto
    name: str
    op: str
    domain: str
    reads: list[str]
    writes: list[str]


def needed_nodes(graph: onnx.GraphProto, outputs: list[str]) -> Iterator[Wired]:
    """The nodes that an output depends on, each after those that it reads from."""
    nodes = [
        made(Wired, (node, node.name, node.op_type, node.domain, node.input[:], node.output[:]))
        for node in graph.node
    ]
    names = [*outputs]
    for _, *own, reads, writes in nodes:
        names += own + reads + writes
    check_text(names)
    writers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.writes:
            if name and writers.setdefault(name, index) != index:
                raise ModelFileError(
                    f"tensor {name!r} is written by two nodes, {nodes[writers[name]].name!r} "
                    f"and {node.name!r}: the file is no valid ONNX model"
                )
    sources: dict[int, set[int]] = {}
    ordered = True
    waiting = [writers[name] for name in outputs if name in writers]
    while waiting:
        index = waiting.pop()
        if index in sources:
            continue
        node = nodes[index]
        found = {writers[name] for name in node.reads if name in writers}
        if node.op not in _NO_GRAPHS:
            found.update(writers[name] for name in _captures(node.proto) if name in writers)
        sources[index] = found
        waiting.extend(found)
        ordered = ordered and (not found or max(found) < index)
    order: Iterable[int] = sorted(sources)
    if not ordered:
        try:
            order = list(TopologicalSorter(sources).static_order())
        except CycleError as error:
            through = ", ".join(sorted({repr(nodes[i].name) for i in error.args[1]}))
            raise ModelFileError(f"the graph has a cycle through the nodes {through}") from error
    for index in order:
        yield nodes[index]
