"""Walking the graph that Keras records, node by node.

A layer or model of the user's own is called on symbolic tensors, so that Keras records what happens
inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from latency_client.errors import GraphError, UnsupportedOperatorError
from latency_client.keras.registry import LAYERS, OPERATIONS, handler_of
from latency_client.keras.trace import Call, Trace
from latency_client.keras.values import Shape, Value, dtype_name, moved_shape
from latency_client.keras.views import Binding, straight


def walk(trace: Trace, outputs: Sequence[Any], known: dict[int, Value], prefix: str) -> list[Value]:
    """Write all layers between known tensors and some outputs.

    Args:
        known: by id of symbolic tensor.
        prefix: of the layers' names.
    """
    for node in in_order(outputs, known):
        args, kwargs = _with_values(node.arguments.args, node.arguments.kwargs, known)
        shapes = _shapes(node, args, kwargs)
        dtypes = [str(tensor.dtype) for tensor in node.outputs]
        name = prefix + node.operation.name
        call = Call(trace, node.operation, name, args, kwargs, shapes, dtypes)
        results = keras.tree.flatten(_apply(call))
        if len(results) != len(node.outputs):
            raise call.refuse(
                f"returns {len(node.outputs)} tensors, of which {len(results)} are understood",
                "ask it for one tensor only",
            )
        for tensor, value in zip(node.outputs, results, strict=True):
            known[id(tensor)] = value
    return [known[id(tensor)] for tensor in outputs]


def _apply(call: Call) -> Any:
    """Write one layer or operation, or what it is made of."""
    op = call.op
    if isinstance(op, keras.Layer):
        handler = handler_of(LAYERS, op)
        if handler is not None:
            return handler(call)
        if recorded(op):
            known = {
                id(tensor): value
                for tensor, value in zip(keras.tree.flatten(op.inputs), call.values, strict=True)
            }
            outputs = keras.tree.flatten(op.outputs)
            return walk(call.trace, outputs, known, f"{call.name}/")
        try:
            return inside(call)
        except UnsupportedOperatorError:
            if not call.trace.freeze_unknown or not call.shapes:
                raise
            return _frozen(call)
    handler = handler_of(OPERATIONS, op)
    if handler is None and call.trace.freeze_unknown:
        return _frozen(call)
    if handler is None:
        raise call.refuse(
            "is an operation without a counterpart in ONNX's terms",
            'register_layer a counterpart for a layer around it, or pass unknown_ops="freeze"',
        )
    return handler(call)


def _frozen(call: Call) -> list[Value]:
    """A layer that is not understood, under the name of its class."""
    kept = getattr(call.op, "variables", [])
    bindings = {f"weight{i or ''}": Binding(v, straight(len(v.shape))) for i, v in enumerate(kept)}
    # nothing is known of its axes: what comes with the channels second goes on so
    second = all(value.channels_second for value in call.values) and all(
        len(shape) > 2 for shape in call.shapes
    )
    order = call.trace.tensors.moved if second else call.trace.tensors.plain
    shapes = [moved_shape(shape) if second else shape for shape in call.shapes]
    dtypes = [dtype_name(dtype) for dtype in call.dtypes]
    names = [order(value) for value in call.values]
    kind = type(call.op).__name__
    made = call.trace.add(call, call.name, kind, names, shapes, {}, bindings, dtypes)
    return [
        Value(shape, None if second else name, name if second else None, dtype)
        for shape, name, dtype in zip(call.shapes, made, dtypes, strict=True)
    ]


def inside(call: Call) -> list[Value]:
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
        return walk(call.trace, outputs, known, f"{call.name}/" if call.name else "")
    finally:
        # the calls above are no part of the user's model
        for node in nodes:
            node.operation._inbound_nodes.remove(node)


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
        if id(node) in done:
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
    if node.is_input and isinstance(history.operation, keras.layers.InputLayer):
        raise GraphError(
            f"tensor {tensor.name!r} is an input that the model does not list among its inputs"
        )
    return node


def _with_values(args: Any, kwargs: Any, known: Mapping[int, Value]) -> tuple[Any, Any]:
    def value(leaf: Any) -> Any:
        return known[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = keras.tree.map_structure(value, (args, kwargs))
    return args, kwargs


def _shapes(node: Any, args: Any, kwargs: Any) -> list[Shape]:
    """Shapes of what a node returns, for the sizes that the model is extracted at."""
    written = [tuple(tensor.shape) for tensor in node.outputs]
    read = [tuple(t.shape) for t in node.arguments.keras_tensors]
    plain_batch = all(shape and shape[0] is None for shape in (*written, *read))
    inner = [dim for shape in (*written, *read) for dim in shape[1:]]
    if plain_batch and None not in inner:
        values = (v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value))
        first = next(values, None)
        batch = first.shape[0] if first is not None and first.shape else 1
        return [(batch, *shape[1:]) for shape in written]

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
