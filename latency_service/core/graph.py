"""A layer graph: what a network computes, without its weights.

Operators, attributes and shape order are ONNX's. Three conventions of our own:

* `inputs` of a layer are activations. What it has learned stands under `parameters`.
* A constant operand (the target shape of Reshape, the bounds of Slice, ...) is an attribute under
  the name ONNX gives that input. Where one of them is computed by other layers instead, all of
  them stay in `inputs` at ONNX's positions, the constant ones written by `Constant` layers.
* A graph inside a layer (If, Loop, Scan) is an attribute that holds a `LayerGraph`; its layers may
  read the tensors around it.

Layers are kept in canonical order: topological, ties by name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from latency_service.core.errors import GraphError, Problem

Dim = int | str
Shape = tuple[Dim, ...]

# Deeper than any exporter nests; every level costs Python some frames of its stack.
MOST_DEPTH = 32

_NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})

# Parts of a graph are named tuples: they are made by the thousand, and cost a third of frozen
# dataclasses to make. `made(Layer, (...))`, with all fields, costs a third of `Layer(...)`, whose
# constructor is a function in Python.
made = tuple.__new__


class GraphInput(NamedTuple):
    """A tensor that is fed to the network.

    Attributes:
        shape: positive integers, or names that a request binds.
        dtype: None is the request's dtype.
        batch_axis: the axis that a request's `batch_size` replaces; None: there is none.
    """

    name: str
    shape: Shape
    dtype: str | None = None
    batch_axis: int | None = 0


class Output(NamedTuple):
    """A tensor that a layer writes; without a shape, its operator determines it."""

    name: str
    shape: Shape | None = None
    dtype: str | None = None


class Parameter(NamedTuple):
    """An array that the network has learned.

    Attributes:
        role: weight (Conv O,I,k; ConvTranspose I,O,k; Gemm O,I, as with transB=1), bias, gamma,
            beta, mean, variance, recurrence (LSTM, GRU), scale or zero_point.
        dtype: as stored; None is the request's dtype.
        id: the same id in two layers is one parameter.
    """

    role: str
    shape: tuple[int, ...]
    dtype: str | None = None
    id: str | None = None


class Layer(NamedTuple):
    """A node of the graph.

    Attributes:
        inputs: names of activations; "" for an optional one that is left out.
        outputs: what it writes; "" as name for an optional one that is left out.
        parameters: None where operator, shapes and attributes are left to imply them.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, Any] = _NO_ATTRIBUTES
    parameters: tuple[Parameter, ...] | None = None

    @property
    def subgraphs(self) -> Iterator[tuple[str, LayerGraph]]:
        """The graphs inside the layer, by attribute name."""
        for name, value in self.attributes.items():
            if isinstance(value, LayerGraph):
                yield name, value


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """A network. Build one with `layer_graph`, which checks and orders it.

    Attributes:
        depth: 1 without inner graphs, else one more than the deepest of them.
    """

    inputs: tuple[GraphInput, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    name: str = ""
    depth: int = 1

    @property
    def symbols(self) -> set[str]:
        """Names of the dimensions that a request has to bind."""
        return {dim for tensor in self.inputs for dim in tensor.shape if isinstance(dim, str)}

    @property
    def is_complete(self) -> bool:
        """Whether every output states its shape."""
        for layer in self.layers:
            for output in layer.outputs:
                if output.shape is None and output.name:
                    return False
        return True

    @property
    def layer_count(self) -> int:
        """Layers, those of inner graphs included."""
        count = len(self.layers)
        if self.depth > 1:
            count += sum(inner.layer_count for layer in self.layers for _, inner in layer.subgraphs)
        return count


def layer_graph(
    inputs: tuple[GraphInput, ...],
    layers: tuple[Layer, ...] | list[Layer],
    outputs: tuple[str, ...],
    name: str = "",
    outer: frozenset[str] = frozenset(),
) -> LayerGraph:
    """Check the wiring and put the layers into canonical order.

    Args:
        layers: in any order.
        outer: tensors around an inner graph that its layers may read.

    Raises:
        GraphError: with every duplicate name, dangling input and cycle there is.
    """
    problems: list[Problem] = []
    writer: dict[str, int | None] = dict.fromkeys(outer)
    for position, tensor in enumerate(inputs):
        if tensor.name in writer and tensor.name not in outer:
            problems.append(
                Problem(None, f"inputs[{position}].name", f"input {tensor.name!r} is given twice")
            )
        writer[tensor.name] = None
    seen: set[str] = set()
    for index, layer in enumerate(layers):
        if layer.name in seen:
            problems.append(Problem(layer.name, "name", "two layers have this name; rename one"))
        seen.add(layer.name)
        for output in layer.outputs:
            if not output.name:
                continue
            if output.name in writer and output.name not in outer:
                first = writer[output.name]
                other = (
                    "an input of the graph" if first is None else f"layer {layers[first].name!r}"
                )
                detail = f"tensor {output.name!r} is already written by {other}"
                problems.append(Problem(layer.name, "outputs", detail))
            else:
                writer[output.name] = index
    waiting = [0] * len(layers)
    readers: list[list[int]] = [[] for _ in layers]
    nested = [layer for layer in layers if any(map(_is_inner, layer.attributes.values()))]
    for index, layer in enumerate(layers):
        for tensor_name in _reads(layer) if nested else layer.inputs:
            if not tensor_name:
                continue
            if tensor_name not in writer:
                problems.append(
                    Problem(
                        layer.name,
                        "inputs",
                        f"reads tensor {tensor_name!r}, which no layer writes and which is no "
                        "input of the graph",
                    )
                )
                continue
            source = writer[tensor_name]
            if source is not None:
                waiting[index] += 1
                readers[source].append(index)
    if not outputs:
        problems.append(Problem(None, "outputs", "the graph names no output"))
    for position, tensor_name in enumerate(outputs):
        if tensor_name not in writer:
            problems.append(
                Problem(None, f"outputs[{position}]", f"no layer writes tensor {tensor_name!r}")
            )
    ready = [(layer.name, index) for index, layer in enumerate(layers) if not waiting[index]]
    heapq.heapify(ready)
    order: list[Layer] = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(layers[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (layers[reader].name, reader))
    if len(order) < len(layers):
        stuck = sorted(layers[i].name for i in range(len(layers)) if waiting[i])
        problems.append(
            Problem(stuck[0], "inputs", f"the graph has a cycle through {', '.join(stuck[:8])}")
        )
    depth = 1 + max((inner.depth for layer in nested for _, inner in layer.subgraphs), default=0)
    if depth > MOST_DEPTH:
        problems.append(
            Problem(None, "layers", f"graphs inside layers are nested more than {MOST_DEPTH} deep")
        )
    if problems:
        raise GraphError(problems)
    return LayerGraph(tuple(inputs), tuple(order), tuple(outputs), name, depth)


def _is_inner(value: Any) -> bool:
    return isinstance(value, LayerGraph)


def _reads(layer: Layer) -> Iterator[str]:
    """Every tensor that a layer needs, those that its inner graphs capture included."""
    for name in layer.inputs:
        if name:
            yield name
    for value in layer.attributes.values():
        if isinstance(value, LayerGraph):
            yield from captured(value)


def captured(graph: LayerGraph) -> list[str]:
    """Tensors that an inner graph reads from the graph around it."""
    own = {tensor.name for tensor in graph.inputs}
    own.update(output.name for layer in graph.layers for output in layer.outputs)
    wanted = [name for layer in graph.layers for name in _reads(layer)]
    return [name for name in dict.fromkeys([*wanted, *graph.outputs]) if name not in own]


def graph_from_json(document: Mapping[str, Any], outer: frozenset[str] = frozenset()) -> LayerGraph:
    """Read a layer graph from JSON values whose types have been checked already.

    Raises:
        GraphError: as `layer_graph`.
    """
    inputs = tuple(
        GraphInput(item["name"], tuple(item["shape"]), item.get("dtype"), item.get("batch_axis", 0))
        for item in document.get("inputs", ())
    )
    rows = document["layers"]
    names = outer
    nested = any(_is_graph(value) for row in rows for value in row.get("attributes", {}).values())
    if nested:
        names = outer | {tensor.name for tensor in inputs}
        names |= {out["name"] for row in rows for out in row.get("outputs") or ()}
        names |= {row["name"] for row in rows if row.get("outputs") is None}
    layers = [_layer_from_json(row, names, nested) for row in rows]
    return layer_graph(
        inputs, layers, tuple(document["outputs"]), document.get("name") or "", outer
    )


def _layer_from_json(row: Mapping[str, Any], outer: frozenset[str], nested: bool) -> Layer:
    outputs = row.get("outputs")
    parameters = row.get("parameters")
    attributes = dict(row.get("attributes", ()))
    if nested:
        for key, value in attributes.items():
            if _is_graph(value):
                attributes[key] = graph_from_json(value, outer)
    parts = (
        row["name"],
        row["op"],
        tuple(row.get("inputs", ())),
        (Output(row["name"]),) if outputs is None else tuple(map(_output_from_json, outputs)),
        attributes,
        None if parameters is None else tuple(map(_parameter_from_json, parameters)),
    )
    return made(Layer, parts)


def _output_from_json(item: Mapping[str, Any]) -> Output:
    shape = item.get("shape")
    parts = (item["name"], None if shape is None else tuple(shape), item.get("dtype"))
    return made(Output, parts)


def _parameter_from_json(item: Mapping[str, Any]) -> Parameter:
    parts = (item["role"], tuple(item["shape"]), item.get("dtype"), item.get("id"))
    return made(Parameter, parts)


def _is_graph(value: Any) -> bool:
    # not Mapping: asking that of every attribute takes longer than reading it
    return isinstance(value, dict) and "layers" in value
