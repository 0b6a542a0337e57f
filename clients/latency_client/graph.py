"""A layer graph: what a network computes, in the vocabulary of ONNX, without its weights.

A framework's extraction adds layers to a `GraphBuilder`; the finished `LayerGraph` is what
`POST /v1/coefficients` takes. Activations are named tensors, what a layer has learned stands under
its parameters, constants are attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from latency_client.errors import GraphError

Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """An activation; `dtype` None is the request's."""

    name: str
    shape: Shape
    dtype: str | None = None


class Parameter(NamedTuple):
    """An array that the network has learned.

    Attributes:
        role: weight (Conv O,I,k; ConvTranspose I,O,k; Gemm O,I), bias, gamma, beta, mean, variance,
            recurrence.
        id: the same id in two layers is one parameter: a shared module, tied embeddings.
    """

    role: str
    shape: Shape
    id: str | None = None
    dtype: str | None = None


class Layer(NamedTuple):
    """One operator, applied once.

    Attributes:
        inputs: names of the activations it reads.
        parameters: None where operator, shapes and attributes are left to imply them.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]
    parameters: tuple[Parameter, ...] | None


class GraphInput(NamedTuple):
    """A tensor that is fed to the network; `batch_axis` None: it has none."""

    name: str
    shape: Shape
    dtype: str | None = None
    batch_axis: int | None = 0


@dataclass(frozen=True)
class LayerGraph:
    """A finished network, its layers in the order of their execution."""

    name: str
    inputs: tuple[GraphInput, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def writer(self) -> dict[str, Layer]:
        """Per tensor the layer that writes it."""
        return {tensor.name: layer for layer in self.layers for tensor in layer.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Layer]]:
        """Per tensor the layers that read it."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for name in layer.inputs:
                found.setdefault(name, []).append(layer)
        return found

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor."""
        found = {tensor.name: tensor.shape for tensor in self.inputs}
        found.update((t.name, t.shape) for layer in self.layers for t in layer.outputs)
        return found

    def document(self) -> dict[str, Any]:
        """The graph as the service takes it."""
        return {
            "name": self.name,
            "inputs": [_without_none(tensor, keep=("batch_axis",)) for tensor in self.inputs],
            "layers": [_layer_document(layer) for layer in self.layers],
            "outputs": list(self.outputs),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the graph's own name."""
        document = self.document()
        del document["name"]
        return digest_of(document)


def digest_of(document: Any) -> str:
    """`sha256:` and the hash of JSON values in one canonical spelling.

    Raises:
        GraphError: for a value that JSON does not have.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GraphError(f"the request cannot be written as JSON: {error}") from None
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _without_none(row: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {k: v for k, v in row._asdict().items() if v is not None or k in keep}


def _layer_document(layer: Layer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": layer.name,
        "op": layer.op,
        "inputs": layer.inputs,
        "outputs": [_without_none(tensor) for tensor in layer.outputs],
    }
    if layer.attributes:
        row["attributes"] = dict(layer.attributes)
    if layer.parameters is not None:
        row["parameters"] = [_without_none(parameter) for parameter in layer.parameters]
    return row


@dataclass
class GraphBuilder:
    """Collects inputs and layers in the order of their execution.

    Attributes:
        name: of the graph, for people.
    """

    name: str = ""
    _inputs: list[GraphInput] = field(default_factory=list)
    _layers: list[Layer] = field(default_factory=list)
    _shapes: dict[str, Shape] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        """The wanted name, with `_1`, `_2`, ... where it is taken."""
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def input(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str | None = None,
        batch_axis: int | None = 0,
    ) -> str:
        """Declare a tensor that is fed to the network; returns the name it got."""
        name = self.unique(name)
        self._inputs.append(GraphInput(name, tuple(shape), dtype, batch_axis))
        self._shapes[name] = tuple(shape)
        return name

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor that was declared or written."""
        return self._shapes[tensor]

    def add(
        self,
        name: str,
        op: str,
        inputs: Iterable[str],
        shapes: Sequence[Sequence[int]],
        attributes: Mapping[str, Any] | None = None,
        parameters: Iterable[Parameter] | None = (),
        dtypes: Sequence[str | None] | None = None,
    ) -> tuple[str, ...]:
        """Add a layer.

        Args:
            name: made unique by a number where it is taken.
            shapes: of each tensor it writes, batch included.
            parameters: None leaves them to be implied.
            dtypes: of each tensor it writes; None everywhere: the request's.

        Returns:
            The names of the tensors it writes: the layer's own, then `name:1`, `name:2`, ...

        Raises:
            GraphError: if it reads a tensor that nothing writes, or writes an impossible shape.
        """
        inputs = tuple(inputs)
        for tensor in inputs:
            if tensor not in self._shapes:
                raise GraphError(
                    f"layer {name!r} ({op}) reads tensor {tensor!r}, which no layer before it "
                    "writes and which is no input of the graph"
                )
        name = self.unique(name)
        outputs = []
        for position, shape in enumerate(shapes):
            if not all(isinstance(dim, int) and dim > 0 for dim in shape):
                raise GraphError(
                    f"layer {name!r} ({op}) writes a tensor of shape {list(shape)}; "
                    "every dimension must be a positive whole number"
                )
            tensor = name if position == 0 else f"{name}:{position}"
            self._shapes[tensor] = tuple(shape)
            outputs.append(Tensor(tensor, tuple(shape), dtypes[position] if dtypes else None))
        learned = None if parameters is None else tuple(parameters)
        self._layers.append(Layer(name, op, inputs, tuple(outputs), attributes or {}, learned))
        return tuple(tensor.name for tensor in outputs)

    def finish(self, outputs: Iterable[str]) -> LayerGraph:
        """The graph, without layers that no output needs.

        Raises:
            GraphError: if there is no output, or one that nothing writes.
        """
        wanted = tuple(dict.fromkeys(outputs))
        if not wanted:
            raise GraphError("the model returns no tensor that depends on its inputs")
        for tensor in wanted:
            if tensor not in self._shapes:
                raise GraphError(f"output {tensor!r} is written by no layer of the graph")
        needed = set(wanted)
        kept = []
        for layer in reversed(self._layers):
            if any(tensor.name in needed for tensor in layer.outputs):
                needed.update(layer.inputs)
                kept.append(layer)
        read = tuple(tensor for tensor in self._inputs if tensor.name in needed)
        return LayerGraph(self.name, read, tuple(reversed(kept)), wanted)
