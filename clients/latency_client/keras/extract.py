"""From a Keras model to a layer graph, layers named as the user has named them.

The graph that Keras records (functional and sequential models) is walked node by node. A layer or
model of the user's own is called on symbolic tensors, so that Keras records what happens inside.
What each layer means in ONNX's terms stands in the tables of `convolutions`, `dense`, `shaping`,
`merging` and `operations`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from latency_client.errors import GraphError, OptionError, UnsupportedOperatorError
from latency_client.graph import GraphBuilder, LayerGraph, Parameter
from latency_client.keras.values import Shape, Tensors, Value, moved_shape
from latency_client.keras.views import Binding, View, straight

Handler = Callable[["Call"], Any]

# Variables of a gate that have one number per channel.
GATE_ROLES = ("gate", "gate_mask", "gate_slope")

# By the name of the class, of those that Keras defines itself: layers, and operations (`keras.ops`,
# whose classes Keras does not export).
LAYERS: dict[str, Handler] = {}
OPERATIONS: dict[str, Handler] = {}


def layer(*names: str) -> Callable[[Handler], Handler]:
    """Register what Keras's layers of some names mean."""
    return _register(LAYERS, names)


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Register what operations of `keras.ops` mean."""
    return _register(OPERATIONS, names)


def _register(table: dict[str, Handler], names: Iterable[str]) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        for name in names:
            if name in table:
                raise RuntimeError(f"{name} is registered twice")
            table[name] = handler
        return handler

    return keep


@dataclass(frozen=True)
class Extraction:
    """A model as a layer graph, and where the graph's parameters are in the model.

    Attributes:
        bindings: by (layer of the graph, role).
        owners: per layer of the graph the layer or operation of Keras that it is a part of.
        gates: per layer whose channels a gate lets through, the gate.
    """

    graph: LayerGraph
    bindings: Mapping[tuple[str, str], Binding]
    owners: Mapping[str, Any]
    gates: Mapping[str, Any]


@dataclass
class Call:
    """One use of a layer or operation.

    Attributes:
        op: the layer or operation of Keras.
        name: of the layer in the graph; its parts are `name/part`.
        args, kwargs: as in the call, with a `Value` for every tensor.
        shapes, dtypes: of what it returns, flat.
    """

    trace: Trace
    op: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: list[Shape]
    dtypes: list[str]

    @property
    def x(self) -> Value:
        """The first tensor that it reads."""
        found = next(iter(self.values), None)
        if found is None:
            raise GraphError(f"layer {self.name!r} ({type(self.op).__name__}) reads no tensor")
        return found

    @property
    def values(self) -> list[Value]:
        """All tensors that it reads, in order."""
        return [v for v in keras.tree.flatten((self.args, self.kwargs)) if isinstance(v, Value)]

    @property
    def shape(self) -> Shape:
        """Of the first tensor that it returns."""
        return self.shapes[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the call, by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def refuse(self, why: str, remedy: str) -> UnsupportedOperatorError:
        """An error that names this layer."""
        kind = type(self.op).__name__
        return UnsupportedOperatorError(
            f"layer {self.name!r} ({kind}) {why}; {remedy}", [(kind, self.name)]
        )


class Trace:
    """The graph in the making."""

    def __init__(self, name: str, freeze_unknown: bool = False) -> None:
        """Start with an empty graph."""
        self.freeze_unknown = freeze_unknown
        self.builder = GraphBuilder(name)
        self.tensors = Tensors(self.builder)
        self.bindings: dict[tuple[str, str], Binding] = {}
        self.owners: dict[str, Any] = {}
        self.gates: dict[str, Any] = {}
        self._writers: dict[str, tuple[str, str, Sequence[str]]] = {}
        self._ids: dict[int, str] = {}
        self._taken: set[str] = set()
        self._variables: list[Any] = []

    # --- writing layers ---------------------------------------------------------------------------

    def add(
        self,
        call: Call,
        name: str,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[Sequence[int]],
        attributes: Mapping[str, Any] | None = None,
        bindings: Mapping[str, Binding] | None = None,
        dtypes: Sequence[str | None] | None = None,
        constants: Sequence[Parameter] = (),
    ) -> tuple[str, ...]:
        """Add a layer and remember where its parameters are."""
        bound = dict(bindings or {})
        parameters = [
            Parameter(role, binding.shape, self._id(binding.variable))
            for role, binding in bound.items()
        ]
        made = self.builder.add(
            name, op, inputs, shapes, attributes, [*parameters, *constants], dtypes
        )
        layer_name = made[0]
        self.owners[layer_name] = call.op
        for tensor in made:
            self._writers[tensor] = layer_name, op, inputs
        for role, binding in bound.items():
            self.bindings[layer_name, role] = binding
        return made

    def source_of(self, tensor: str) -> str | None:
        """The layer that has made a tensor's channels: a normalisation, else what has a weight."""
        while tensor in self._writers:
            name, op, inputs = self._writers[tensor]
            if (name, "gamma") in self.bindings or (name, "weight") in self.bindings:
                return name
            if len(inputs) != 1 or op in ("Reshape", "Flatten", "Transpose", "Concat", "Slice"):
                return None
            (tensor,) = inputs
        return None

    def _id(self, variable: Any) -> str:
        known = self._ids.get(id(variable))
        if known is None:
            known, count = str(variable.path), 0
            while known in self._taken:
                count += 1
                known = f"{variable.path}#{count}"
            self._taken.add(known)
            self._ids[id(variable)] = known
            self._variables.append(variable)  # alive as long as its id is used
        return known

    # --- walking what Keras has recorded ----------------------------------------------------------

    def walk(self, outputs: Sequence[Any], known: dict[int, Value], prefix: str) -> list[Value]:
        """Write all layers between known tensors and some outputs.

        Args:
            known: by id of symbolic tensor.
            prefix: of the layers' names.
        """
        for node in in_order(outputs, known):
            args, kwargs = _with_values(node.arguments.args, node.arguments.kwargs, known)
            first = next(
                (v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value)), None
            )
            shapes = _shapes(node, args, kwargs, first)
            dtypes = [str(tensor.dtype) for tensor in node.outputs]
            name = prefix + node.operation.name
            call = Call(self, node.operation, name, args, kwargs, shapes, dtypes)
            results = keras.tree.flatten(self.apply(call))
            if len(results) != len(node.outputs):
                raise call.refuse(
                    f"returns {len(node.outputs)} tensors, of which {len(results)} are understood",
                    "ask it for one tensor only",
                )
            for tensor, value in zip(node.outputs, results, strict=True):
                known[id(tensor)] = value
        return [known[id(tensor)] for tensor in outputs]

    def apply(self, call: Call) -> Any:
        """Write one layer or operation, or what it is made of."""
        op = call.op
        if isinstance(op, keras.Layer):
            handler = _handler(LAYERS, op)
            if handler is not None:
                return handler(call)
            if recorded(op):
                known = {
                    id(tensor): value
                    for tensor, value in zip(
                        keras.tree.flatten(op.inputs), call.values, strict=True
                    )
                }
                outputs = keras.tree.flatten(op.outputs)
                return self.walk(outputs, known, f"{call.name}/")
            try:
                return self.inside(call)
            except UnsupportedOperatorError:
                if not self.freeze_unknown or not call.shapes:
                    raise
                return self.frozen(call)
        handler = _handler(OPERATIONS, op)
        if handler is None and self.freeze_unknown:
            return self.frozen(call)
        if handler is None:
            raise call.refuse(
                "is an operation without a counterpart in ONNX's terms",
                'register_layer a counterpart for a layer around it, or pass unknown_ops="freeze"',
            )
        return handler(call)

    def frozen(self, call: Call) -> list[Value]:
        """A layer that is not understood, under the name of its class."""
        kept = getattr(call.op, "variables", [])
        bindings = {
            f"weight{i or ''}": Binding(v, straight(len(v.shape))) for i, v in enumerate(kept)
        }
        # nothing is known of its axes: what comes with the channels second goes on so
        second = all(value.channels_second for value in call.values) and all(
            len(shape) > 2 for shape in call.shapes
        )
        order = self.tensors.moved if second else self.tensors.plain
        shapes = [moved_shape(shape) if second else shape for shape in call.shapes]
        dtypes = [_dtype(dtype) for dtype in call.dtypes]
        names = [order(value) for value in call.values]
        kind = type(call.op).__name__
        made = self.add(call, call.name, kind, names, shapes, {}, bindings, dtypes)
        return [
            Value(shape, None if second else name, name if second else None, dtype)
            for shape, name, dtype in zip(call.shapes, made, dtypes, strict=True)
        ]

    def inside(self, call: Call) -> list[Value]:
        """Record what a layer of the user's own does, by calling it on symbolic tensors."""
        op = call.op
        stand_ins: dict[int, Any] = {}
        known: dict[int, Value] = {}

        def symbolic(value: Any) -> Any:
            if not isinstance(value, Value):
                return value
            if id(value) not in stand_ins:
                tensor = keras.KerasTensor(value.shape, dtype=value.dtype or "float32")
                stand_ins[id(value)] = tensor
                known[id(tensor)] = value
            return stand_ins[id(value)]

        args, kwargs = keras.tree.map_structure(symbolic, (call.args, call.kwargs))
        if "training" in inspect.signature(op.call).parameters:
            kwargs = {**kwargs, "training": False}
        try:
            made = op.call(*args, **kwargs)
        except UnsupportedOperatorError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise call.refuse(
                f"cannot be called on symbolic tensors ({reason[0] if reason else error!r})",
                "write it with keras.layers and keras.ops (x * weight rather than weight * x), or "
                'register_layer a counterpart for it, or pass unknown_ops="freeze"',
            ) from error
        outputs = keras.tree.flatten(made)
        nodes = in_order(outputs, known)
        try:
            return self.walk(outputs, known, f"{call.name}/" if call.name else "")
        finally:
            # the calls above are no part of the user's model
            for node in nodes:
                node.operation._inbound_nodes.remove(node)


def _handler(table: Mapping[str, Handler], op: Any) -> Handler | None:
    """What is registered for an operation, unless a subclass computes something else."""
    for kind in type(op).__mro__:
        if kind.__name__ in table and (
            kind.__module__.startswith("keras.") or table[kind.__name__] in _OWN
        ):
            same = getattr(type(op), "call", None) is getattr(kind, "call", None)
            return table[kind.__name__] if same else None
    return None


_OWN: set[Handler] = set()


def register_layer(kind: type, handler: Handler) -> None:
    """Teach the extraction a layer of one's own.

    Args:
        kind: the class.
        handler: takes a `Call`, adds layers to `call.trace` and returns a `Value` per tensor.
    """
    LAYERS[kind.__name__] = handler
    _OWN.add(handler)


def recorded(op: Any) -> bool:
    """Whether Keras has recorded what a model does: functional and sequential ones."""
    if not isinstance(op, keras.Model) or not getattr(op, "inputs", None):
        return False
    owner = next((kind for kind in type(op).__mro__ if "call" in kind.__dict__), None)
    return owner is not None and owner.__module__.startswith("keras.")


def in_order(outputs: Sequence[Any], known: Mapping[int, Any]) -> list[Any]:
    """Nodes that lead to some outputs, each after those it needs; no recursion: nets are deep."""
    order: list[Any] = []
    done: set[int] = set()
    stack = [(_node(tensor), False) for tensor in reversed(outputs) if id(tensor) not in known]
    while stack:
        node, ready = stack.pop()
        if node is None or id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        needed = [t for t in node.arguments.keras_tensors if id(t) not in known]
        stack.extend((_node(tensor), False) for tensor in reversed(needed))
    return order


def _node(tensor: Any) -> Any:
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        raise GraphError(
            f"tensor {getattr(tensor, 'name', tensor)!r} comes from outside of the model; make it "
            "an input of the model, or a constant"
        )
    node = history.operation._inbound_nodes[history.node_index]
    if node.is_input and not isinstance(history.operation, keras.layers.InputLayer):
        return node
    if node.is_input:
        raise GraphError(
            f"tensor {tensor.name!r} is an input that the model does not list among its inputs"
        )
    return node


def _with_values(args: Any, kwargs: Any, known: Mapping[int, Value]) -> tuple[Any, Any]:
    def value(leaf: Any) -> Any:
        return known[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    return keras.tree.map_structure(value, (args, kwargs))  # type: ignore[no-any-return]


def _shapes(node: Any, args: Any, kwargs: Any, first: Value | None) -> list[Shape]:
    """Shapes of what a node returns, for the sizes that the model is extracted at."""
    recorded = [tuple(tensor.shape) for tensor in node.outputs]
    batch = first.shape[0] if first is not None and first.shape else 1
    read = [tuple(t.shape) for t in node.arguments.keras_tensors]
    plain_batch = all(shape and shape[0] is None for shape in (*recorded, *read))
    inner = [dim for shape in (*recorded, *read) for dim in shape[1:]]
    if plain_batch and None not in inner:
        return [(batch, *shape[1:]) for shape in recorded]

    def symbolic(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return keras.KerasTensor(leaf.shape, dtype=leaf.dtype or "float32")
        return leaf

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    made = node.operation.compute_output_spec(*args, **kwargs)
    found = [tuple(tensor.shape) for tensor in keras.tree.flatten(made)]
    if any(None in shape for shape in found):
        raise GraphError(
            f"layer {node.operation.name!r} returns a tensor of shape {list(found[0])} whose size "
            "depends on the data; give the model fixed sizes"
        )
    return found


def extract(
    model: Any,
    example_inputs: Any = None,
    *,
    batch_size: int | None = None,
    unknown_ops: str = "refuse",
) -> Extraction:
    """Write a model as a layer graph.

    Args:
        example_inputs: an array, or arrays as the model takes them; only shapes and dtypes count.
            None: the model's own input shapes, batch 1.
        batch_size: rows in place of the example's, where the model leaves them open.
        unknown_ops: "freeze": a layer that is not understood is written under its own name.

    Raises:
        UnsupportedOperatorError: naming the layer, and what to do.
        GraphError: if the model cannot be called, or a size is not known.
    """
    if unknown_ops not in ("refuse", "freeze"):
        raise OptionError(f'unknown_ops={unknown_ops!r} is neither "refuse" nor "freeze"')
    trace = Trace(str(model.name), unknown_ops == "freeze")
    values = keras.tree.map_structure(
        lambda x: Value(
            tuple(x.shape), dtype=_dtype(x.dtype), input=getattr(x, "name", None) or "input"
        ),
        examples(model, example_inputs),
    )
    flat = keras.tree.flatten(values)
    for position, value in enumerate(flat):
        own = getattr(model, "inputs", None) if recorded(model) else None
        if (
            batch_size is not None
            and value.rank
            and (own is None or own[position].shape[0] is None)
        ):
            value.shape = (batch_size, *value.shape[1:])
        value.input = own[position].name if own else f"input_{position}" if position else "input"
    if recorded(model):
        if len(flat) != len(model.inputs):
            raise GraphError(f"the model takes {len(model.inputs)} inputs, not {len(flat)}")
        known = {id(t): v for t, v in zip(model.inputs, flat, strict=True)}
        for tensor, value in zip(model.inputs, flat, strict=True):
            _check_input(tensor, value)
        results = trace.walk(keras.tree.flatten(model.outputs), known, "")
    else:
        call = Call(trace, model, "", (values,), {}, [], [])
        results = _unprefixed(trace, call)
    outputs = [value.moved or trace.tensors.features(value) for value in results]
    graph = trace.builder.finish(outputs)
    owners = {row.name: trace.owners.get(row.name) for row in graph.layers}
    bindings = {key: b for key, b in trace.bindings.items() if key[0] in graph.by_name}
    return Extraction(graph, bindings, owners, trace.gates)


def _unprefixed(trace: Trace, call: Call) -> list[Value]:
    handler = _handler(LAYERS, call.op)
    if handler is not None:
        raise GraphError("a single layer is no model; wrap it in keras.Sequential")
    return trace.inside(call)


def _check_input(tensor: Any, value: Value) -> None:
    fits = len(tensor.shape) == value.rank and all(
        own is None or own == given for own, given in zip(tensor.shape[1:], value.shape[1:],
                                                          strict=True)
    )  # fmt: skip
    if not fits:
        raise GraphError(
            f"the example for input {tensor.name!r} has shape {list(value.shape)}; the model takes "
            f"{[None, *tensor.shape[1:]]}"
        )


def examples(model: Any, example_inputs: Any) -> Any:
    """What a model is called on: the example, or symbolic tensors of its own sizes, batch 1.

    Raises:
        GraphError: if a size is not known.
    """
    if example_inputs is None:
        if not recorded(model):
            raise GraphError(
                "example_inputs is missing; a model of one's own does not tell its input shapes"
            )
        missing = [t.name for t in model.inputs if None in t.shape[1:]]
        if missing:
            raise GraphError(
                f"input {missing[0]!r} has no fixed size; pass example_inputs of the size that the "
                "costs are meant for"
            )
        return [keras.KerasTensor((1, *t.shape[1:]), dtype=t.dtype) for t in model.inputs]
    if not recorded(model) and not model.built:
        model(example_inputs)
    return keras.tree.map_structure(
        lambda x: x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x),
        example_inputs,
    )


def _dtype(dtype: Any) -> str | None:
    """The dtype of a tensor in the graph; None for floats: the request's."""
    name = keras.backend.standardize_dtype(dtype)
    return None if "float" in name else name


def weight_of(variable: Any, view: View | None = None) -> Binding:
    """A binding, straight unless a view is given."""
    return Binding(variable, view or straight(len(variable.shape)))
