"""If, Loop and Scan: inner graphs are taken apart into ordinary layers whose channels are frozen.

An If costs its dearer branch, unless its condition follows from shapes; a Loop or Scan its body
times a constant trip count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latency_service.core.errors import GraphError, Problem
from latency_service.core.graph import Layer, LayerGraph, captured
from latency_service.core.node import Node, Tensor
from latency_service.core.ops import OPS
from latency_service.core.traffic import standalone

if TYPE_CHECKING:
    from latency_service.core.bind import Binder

# Weighs bytes against FLOPs where no device is given: the ridge point of a middling accelerator.
_FLOPS_PER_BYTE = 16.0

Expansion = tuple[list[Node], list[Tensor | None]]


def expand(binder: Binder, layer: Layer, inputs: list[Tensor | None], prefix: str) -> Expansion:
    """The layers that run in place of a control-flow layer, and what it returns."""
    if layer.op == "If":
        return _if(binder, layer, inputs, prefix)
    if layer.op == "Loop":
        return _loop(binder, layer, inputs, prefix)
    return _scan(binder, layer, inputs, prefix)


def _graph(layer: Layer, key: str, prefix: str) -> LayerGraph:
    graph = layer.attributes.get(key)
    if not isinstance(graph, LayerGraph):
        raise GraphError(
            Problem(prefix + layer.name, f"attributes.{key}", f"{layer.op} needs a graph here")
        )
    return graph


@dataclass(slots=True)
class _Inner:
    """What running an inner graph once comes to."""

    nodes: list[Node]
    outputs: list[Tensor | None]
    problems: list[Problem]

    @property
    def cost(self) -> float:
        return sum(
            node.times * max(node.flops.constant, _FLOPS_PER_BYTE * node.moved_bytes)
            for node in self.nodes
        )


def _run(
    binder: Binder, graph: LayerGraph, prefix: str, feeds: list[Tensor | None], times: float = 1.0
) -> _Inner:
    """Bind an inner graph; its nodes are costed on their own, at full width."""
    inner = binder.inner()
    for position, declared in enumerate(graph.inputs):
        fed = feeds[position] if position < len(feeds) else None
        inner.tensors[declared.name] = fed and Tensor(
            declared.name, fed.shape, fed.dtype, named=fed.named
        )
    nodes = inner.run(graph.layers, prefix)
    for node in nodes:
        node.frozen = True
        node.times *= times
    if not binder.symbolic and not inner.problems and not inner.unknown:
        standalone(nodes)
    return _Inner(nodes, [inner.tensors[name] for name in graph.outputs], inner.problems)


def _if(binder: Binder, layer: Layer, inputs: list[Tensor | None], prefix: str) -> Expansion:
    name = prefix + layer.name
    condition = inputs[0] if inputs else None
    branches = ["then_branch", "else_branch"]
    if condition is not None and condition.value is not None and condition.value.size == 1:
        branches = [branches[0] if bool(condition.value.reshape(-1)[0]) else branches[1]]
    found = {
        key: _run(binder, _graph(layer, key, prefix), f"{name}/{key}/", []) for key in branches
    }
    possible = {key: inner for key, inner in found.items() if not inner.problems}
    if not possible:
        binder.problems += [problem for inner in found.values() for problem in inner.problems]
        return [], [None] * len(layer.outputs)
    if binder.symbolic and len(possible) > 1:
        pairs = zip(*(inner.outputs for inner in possible.values()), strict=False)
        agreed = [a if a and b and a.shape == b.shape else None for a, b in pairs]
        return [], [*agreed, *[None] * (len(layer.outputs) - len(agreed))]
    dearer = max(possible, key=lambda key: possible[key].cost)
    if len(possible) < len(branches):
        other = next(iter(set(branches) - {dearer}))
        binder.assumptions.append(
            f"layer {name!r}: charged the {dearer} of an If; its {other} is impossible at these "
            f"sizes ({found[other].problems[0]})"
        )
    elif len(branches) > 1:
        binder.assumptions.append(f"layer {name!r}: charged the {dearer} of an If, the dearer one")
    inner = possible[dearer]
    return _with_captures(binder, layer, inputs, inner.nodes, inner.outputs, prefix)


def _loop(binder: Binder, layer: Layer, inputs: list[Tensor | None], prefix: str) -> Expansion:
    name = prefix + layer.name
    body = _graph(layer, "body", prefix)
    limit: Any = layer.attributes.get("M")
    if limit is None and inputs and inputs[0] is not None and inputs[0].value is not None:
        limit = inputs[0].value.reshape(-1)[0]
    if limit is None or not 0 <= int(limit) < 2**31:
        if binder.symbolic:
            return [], [None] * len(layer.outputs)
        raise GraphError(
            Problem(
                name,
                "inputs",
                "the trip count of this Loop depends on data, so its cost is unknown: replace it "
                "by a constant (M), or unroll the loop",
            )
        )
    trips = int(limit)
    # M and the condition come first, unless they are constants and left out of `inputs`
    carried = inputs[-(len(body.inputs) - 2) :] if len(body.inputs) > 2 else []
    counter = Tensor("iteration", (), "int64")
    going = Tensor("condition", (), "bool")
    inner = _run(binder, body, f"{name}/body/", [counter, going, *carried], times=trips)
    binder.problems += inner.problems
    results = inner.outputs
    states = results[1 : 1 + len(carried)]
    scans = [
        None if t is None else Tensor(t.name, (trips, *t.shape), t.dtype)
        for t in results[1 + len(carried) :]
    ]
    return _with_captures(binder, layer, inputs, inner.nodes, [*states, *scans], prefix)


def _scan(binder: Binder, layer: Layer, inputs: list[Tensor | None], prefix: str) -> Expansion:
    name = prefix + layer.name
    body = _graph(layer, "body", prefix)
    scanned = layer.attributes.get("num_scan_inputs", 1)
    if not isinstance(scanned, int) or not 0 < scanned <= len(inputs):
        raise GraphError(
            Problem(name, "attributes.num_scan_inputs", f"is {scanned!r} of {len(inputs)} inputs")
        )
    states = inputs[: len(inputs) - scanned]
    axes = layer.attributes.get("scan_input_axes") or [0] * scanned
    feeds: list[Tensor | None] = list(states)
    trips = 1
    for tensor, axis in zip(inputs[len(states) :], axes, strict=True):
        if tensor is None:
            raise GraphError(Problem(name, "inputs", "a scanned input is missing"))
        trips = tensor.shape[axis]
        shape = list(tensor.shape)
        del shape[axis]
        feeds.append(Tensor(tensor.name, tuple(shape), tensor.dtype))
    inner = _run(binder, body, f"{name}/body/", feeds, times=trips)
    binder.problems += inner.problems
    results = inner.outputs
    scans: list[Tensor | None] = []
    places = layer.attributes.get("scan_output_axes") or [0] * (len(results) - len(states))
    for result, place in zip(results[len(states) :], places, strict=True):
        if result is None:
            scans.append(None)
            continue
        stacked = list(result.shape)
        stacked.insert(place if place >= 0 else len(stacked) + 1 + place, trips)
        scans.append(Tensor(result.name, tuple(stacked), result.dtype))
    return _with_captures(
        binder, layer, inputs, inner.nodes, [*results[: len(states)], *scans], prefix
    )


def _with_captures(
    binder: Binder,
    layer: Layer,
    inputs: list[Tensor | None],
    nodes: list[Node],
    outputs: list[Tensor | None],
    prefix: str,
) -> Expansion:
    """Put a free node before the inner ones that freezes every channel they read from outside."""
    names = dict.fromkeys(n for _, inner in layer.subgraphs for n in captured(inner))
    reads = [binder.tensors.get(name) for name in names]
    marker = layer._replace(attributes={}, outputs=())
    gate = Node(
        marker,
        OPS[layer.op],
        [*inputs, *(t for t in reads if t)],
        binder.dtype,
        prefix + layer.name,
    )
    return [gate, *nodes], outputs
