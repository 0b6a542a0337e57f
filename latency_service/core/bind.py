"""From a layer graph with named dimensions to layers with concrete tensors.

A request binds the names (`dims`), gives input shapes (`shapes`) or a batch size; every other shape
follows from the operators. Shapes that the graph states itself are checked against that, as long as
the request does not change the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from latency_service.core import control
from latency_service.core.binding import Binding, bound_symbols, input_shape
from latency_service.core.errors import (
    GraphError,
    Problem,
    UnknownOpError,
)
from latency_service.core.graph import Layer, LayerGraph, Output, Shape, made
from latency_service.core.masks import MASKING, stated_shares
from latency_service.core.node import (
    MOST_VALUES,
    Dims,
    Node,
    Symbol,
    Symbolic,
    Tensor,
    named_dims,
)
from latency_service.core.ops import OPS
from latency_service.core.ops.unknown import UNKNOWN
from latency_service.core.units import FLOATING, check_dtype


@dataclass(slots=True)
class Network:
    """A graph whose shapes are known.

    Attributes:
        nodes: in canonical order, inner graphs taken apart.
        outputs: what the network returns.
        dtype: of floating tensors that state none.
        batch_size: along the first input's batch axis.
        assumptions: what was taken for granted, in words.
    """

    nodes: list[Node]
    outputs: list[Tensor]
    dtype: str
    batch_size: int
    assumptions: list[str]


def bind(graph: LayerGraph, binding: Binding) -> Network:
    """Give every tensor of a graph its shape.

    Raises:
        UnboundDimensionError: naming each dimension that has no value.
        UnknownOpError: naming each unknown operator, unless they are frozen.
        GraphError: for impossible shapes and attributes, all of them at once.
        OptionError: for a binding that does not fit the graph.
    """
    dtype = check_dtype(binding.dtype or _own_dtype(graph))
    symbols, changed = bound_symbols(graph, binding)
    binder = Binder(dtype, binding.dtype, symbols, binding.unknown_ops, changed)
    batch = 1
    for position, declared in enumerate(graph.inputs):
        shape = input_shape(declared, binding, symbols)
        if declared.batch_axis is not None and position == 0 and shape:
            batch = shape[declared.batch_axis]
        named = named_dims(declared.shape)
        binder.tensors[declared.name] = Tensor(
            declared.name, shape, binder.stored(declared.dtype or dtype), named=named
        )
    nodes = binder.run(graph.layers)
    binder.finish()
    outputs = [tensor for name in graph.outputs if (tensor := binder.tensors[name]) is not None]
    return Network(nodes, outputs, dtype, batch, binder.assumptions)


def resolve(graph: LayerGraph) -> LayerGraph:
    """The graph with its inferable output shapes filled in, symbolic dimensions kept.

    Shapes that depend on arithmetic with a named dimension stay open until a request binds it.

    Raises:
        GraphError: if a stated shape contradicts what the operators give.
    """
    symbols: dict[str, int] = {name: Symbol(name) for name in graph.symbols}  # type: ignore[misc]
    dtype = _own_dtype(graph)
    binder = Binder(dtype, None, symbols, "freeze", changed=False, symbolic=True)
    for declared in graph.inputs:
        shape = tuple(symbols[d] if isinstance(d, str) else d for d in declared.shape)
        binder.tensors[declared.name] = Tensor(declared.name, shape, declared.dtype or dtype)
    binder.run(graph.layers)
    binder.finish()
    tensors = binder.tensors
    layers = [
        made(
            Layer, (name, op, inputs, tuple([_filled(o, tensors) for o in outputs]), settings, held)
        )
        for name, op, inputs, outputs, settings, held in graph.layers
    ]
    return replace(graph, layers=tuple(layers))


def _filled(output: Output, tensors: Mapping[str, Tensor | None]) -> Output:
    if output.shape is not None or not output.name:
        return output
    tensor = tensors.get(output.name)
    if tensor is None:
        return output
    shape = tensor.shape
    if Symbol in map(type, shape):
        # a plain text where a dimension is named
        shape = tuple([str(dim) if isinstance(dim, Symbol) else dim for dim in shape])
    return made(Output, (output.name, shape, output.dtype))


def _own_dtype(graph: LayerGraph) -> str:
    """What the graph itself computes in: its first floating input's dtype, else float32."""
    stated = (tensor.dtype for tensor in graph.inputs)
    return next((dtype for dtype in stated if dtype in FLOATING), None) or "float32"


class Binder:
    """Runs the shape rules over a list of layers.

    Attributes:
        tensors: by name; None where a shape cannot be known (after an error, or symbolically), and
            for "", which is no tensor.
    """

    def __init__(
        self,
        dtype: str,
        replacing: str | None,
        symbols: dict[str, int],
        unknown_ops: str,
        changed: bool,
        symbolic: bool = False,
    ) -> None:
        self.dtype = dtype
        self.replacing = replacing
        self.symbols = symbols
        self.unknown_ops = unknown_ops
        self.changed = changed
        self.symbolic = symbolic
        self.asks_names = bool(symbols) and not symbolic
        self.tensors: dict[str, Tensor | None] = {"": None}
        self.assumptions: list[str] = []
        self.problems: list[Problem] = []
        self.unknown: list[Problem] = []

    def inner(self) -> Binder:
        """A binder for a graph inside a layer: it sees copies of the tensors around it."""
        twin = Binder(
            self.dtype, self.replacing, self.symbols, self.unknown_ops, self.changed, self.symbolic
        )
        twin.assumptions, twin.unknown = self.assumptions, self.unknown
        twin.tensors = {
            name: t and Tensor(t.name, t.shape, t.dtype, t.value, t.named)
            for name, t in self.tensors.items()
        }
        return twin

    def stored(self, dtype: str) -> str:
        """The dtype a tensor is charged in: the request's replaces floating ones."""
        return self.replacing if self.replacing is not None and dtype in FLOATING else dtype

    def finish(self) -> None:
        """Raise what was found on the way."""
        if self.problems:
            raise GraphError([*self.problems, *self.unknown])
        if self.unknown:
            raise UnknownOpError(self.unknown)

    def run(self, layers: tuple[Layer, ...], prefix: str = "") -> list[Node]:
        """Nodes of all layers, inner graphs taken apart."""
        nodes: list[Node] = []
        for layer in layers:
            try:
                nodes += self._layer(layer, prefix)
            except GraphError as error:
                self.problems += error.problems
                self._declare_all(layer)
            except (LookupError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
                detail = f"{layer.op} cannot be read with these inputs and attributes ({error})"
                self.problems.append(Problem(prefix + layer.name, "attributes", detail))
                self._declare_all(layer)
        return nodes

    def _layer(self, layer: Layer, prefix: str) -> list[Node]:
        tensors = self.tensors
        inputs = list(map(tensors.__getitem__, layer.inputs))
        if None in inputs and any(
            name and tensor is None for name, tensor in zip(layer.inputs, inputs, strict=True)
        ):
            self._declare_all(layer)
            return []
        op = OPS.get(layer.op)
        if op is not None and op.expanded:
            return self._expand(layer, inputs, prefix)
        if op is None:
            if self.unknown_ops != "freeze":
                self.unknown.append(Problem(prefix + layer.name, "op", _unknown_op(layer.op)))
                self._declare_all(layer)
                return []
            op = UNKNOWN
        node = Node(layer, op, inputs, self.dtype, prefix + layer.name)
        node.stored = self.stored
        if op is UNKNOWN and not self.symbolic:
            self.assumptions.append(
                f"layer {node.name!r} has the unknown op {layer.op!r}: charged its bytes, its "
                "channels frozen"
            )
        try:
            if layer.parameters is None and op.implied is not None:
                node.parameters = op.implied(node)
            found = op.shape(node)
            if layer.attributes and layer.op in MASKING:
                stated_shares(node)
        except Symbolic as signal:
            return self._undetermined(node, layer, str(signal))
        for output, (dims, dtype) in zip(layer.outputs, found, strict=False):
            shape = tuple(dims)
            if output.shape is not None and self._as_bound(output.shape) != shape:
                self._compare(node, output, shape)
            if output.dtype is not None:
                dtype = output.dtype
            tensor = Tensor(output.name, shape, self.stored(dtype))
            if self.asks_names:
                stated = output.shape
                tensor.named = self._named(node, shape) if stated is None else named_dims(stated)
            node.outputs.append(tensor)
            if output.name:
                tensors[output.name] = tensor
        if len(found) < len(layer.outputs):
            node.fail(
                "outputs", f"{layer.op} writes {len(found)} tensors, not {len(layer.outputs)}"
            )
        if op.value is not None:
            self._fold(node)
        return [node]

    def _named(self, node: Node, shape: Dims) -> int:
        """`Tensor.named` of an output whose shape is not stated: as those that are read."""
        read = max((t.named for t in node.inputs if t is not None and t.value is None), default=0)
        # where a single position is left, no name can be but the batch's
        return min(read, 1) if all(dim == 1 for dim in shape[2:]) else read

    def _undetermined(self, node: Node, layer: Layer, reason: str) -> list[Node]:
        """Shapes that depend on data, or symbolically on a name: what the graph states counts."""
        for output in layer.outputs:
            tensor = self._declared(output)
            if tensor is not None:
                node.outputs.append(tensor)
            elif output.name and not self.symbolic:
                detail = f"{reason}: state the shape of output {output.name!r}"
                if self.changed and output.shape is not None:
                    detail = (
                        f"tensor {output.name!r} is stated as {list(output.shape)} and cannot be "
                        "derived, so it does not scale with the batch size or shapes asked for"
                    )
                node.fail("outputs", detail)
            if output.name:
                self.tensors[output.name] = tensor
        return [node]

    def _declare_all(self, layer: Layer) -> None:
        for output in layer.outputs:
            if output.name:
                self.tensors[output.name] = self._declared(output)

    def _declared(self, output: Output) -> Tensor | None:
        """The tensor as the graph states it, if that says enough."""
        if output.shape is None:
            return None
        stated = all(isinstance(dim, int) for dim in output.shape)
        if self.changed and stated and not self.problems:
            return None
        dims: list[int] = []
        for stated_dim in output.shape:
            dim = self.symbols.get(stated_dim) if isinstance(stated_dim, str) else stated_dim
            if dim is None:
                return None
            dims.append(dim)
        dtype = self.stored(output.dtype or self.dtype)
        return Tensor(output.name, tuple(dims), dtype, named=named_dims(output.shape))

    def _as_bound(self, shape: Shape) -> Shape:
        """A stated shape with its first axis, the usual named one, bound."""
        if shape and isinstance(shape[0], str):
            return (self.symbols.get(shape[0], shape[0]), *shape[1:])
        return shape

    def _compare(self, node: Node, output: Output, shape: Dims) -> None:
        """Check a stated shape; a name that is new is bound by what was derived."""
        assert output.shape is not None
        fits = len(output.shape) == len(shape)
        if fits:
            for stated, derived in zip(output.shape, shape, strict=True):
                if isinstance(stated, str):
                    self.symbols.setdefault(stated, derived)
                elif stated != derived and not self.changed and not isinstance(derived, Symbol):
                    fits = False
        if not fits:
            index = node.layer.outputs.index(output)
            self.problems.append(
                Problem(
                    node.name,
                    f"outputs[{index}].shape",
                    f"tensor {output.name!r} is stated as {list(output.shape)}, but "
                    f"{node.layer.op} gives {list(shape)}",
                )
            )

    def _fold(self, node: Node) -> None:
        """Follow arithmetic on shapes."""
        op = node.op
        if not op.of_shapes and any(t is not None and t.value is None for t in node.inputs):
            return
        if not op.of_shapes and not node.inputs and not node.attributes:
            return
        if any(isinstance(d, Symbol) for t in (*node.inputs, *node.outputs) if t for d in t.shape):
            return
        if any(output.size > MOST_VALUES for output in node.outputs) or node.parameters:
            return
        assert op.value is not None
        with np.errstate(all="ignore"):
            for tensor, value in zip(node.outputs, op.value(node), strict=False):
                tensor.value = value

    def _expand(self, layer: Layer, inputs: list[Tensor | None], prefix: str) -> list[Node]:
        nodes, outputs = control.expand(self, layer, inputs, prefix)
        for output, tensor in zip(layer.outputs, outputs, strict=False):
            if not output.name:
                continue
            if tensor is None:
                tensor = self._declared(output)
                if tensor is None and not self.symbolic and not self.problems and not self.unknown:
                    raise GraphError(
                        Problem(
                            prefix + layer.name,
                            "outputs",
                            f"the shape of {output.name!r} depends on data: state it",
                        )
                    )
            self.tensors[output.name] = tensor and Tensor(
                output.name, tensor.shape, tensor.dtype, named=tensor.named
            )
        return nodes


def _unknown_op(op: str) -> str:
    return (
        f"op {op!r} is not known to the cost model (docs/cost-model.md#operators lists those that "
        'are). Add it to latency_service/core/ops/table/, or send "unknown_ops": "freeze" to '
        "charge its bytes only and keep its channels"
    )
