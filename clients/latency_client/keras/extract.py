"""From a Keras model to a layer graph, layers named as the user has named them.

What Keras has recorded of the model is walked (`walk`); what each layer means in ONNX's terms
stands in `convolutions`, `dense`, `normalisations`, `activations`, `shaping`, `merging` and
`operations`, which register it in `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from latency_client.errors import GraphError, OptionError
from latency_client.graph import LayerGraph
from latency_client.keras.registry import LAYERS, handler_of
from latency_client.keras.trace import Call, Trace
from latency_client.keras.values import Value, dtype_name
from latency_client.keras.views import Binding
from latency_client.keras.walk import inside, recorded, walk


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
        lambda x: Value(tuple(x.shape), dtype=dtype_name(x.dtype)),
        examples(model, example_inputs),
    )
    flat = keras.tree.flatten(values)
    own = model.inputs if recorded(model) else None
    if own is not None and len(flat) != len(own):
        raise GraphError(f"the model takes {len(own)} inputs, not {len(flat)}")
    for position, value in enumerate(flat):
        open_batch = own is None or own[position].shape[0] is None
        if batch_size is not None and value.rank and open_batch:
            value.shape = (batch_size, *value.shape[1:])
        value.input = own[position].name if own else f"input_{position}" if position else "input"
    if own is not None:
        known = {id(t): v for t, v in zip(own, flat, strict=True)}
        for tensor, value in zip(own, flat, strict=True):
            _check_input(tensor, value)
        results = walk(trace, keras.tree.flatten(model.outputs), known, "")
    elif handler_of(LAYERS, model) is not None:
        raise GraphError("a single layer is no model; wrap it in keras.Sequential")
    else:
        results = inside(Call(trace, model, "", (values,), {}, [], []))
    outputs = [value.moved or trace.tensors.features(value) for value in results]
    graph = trace.builder.finish(outputs)
    owners = {row.name: trace.owners.get(row.name) for row in graph.layers}
    bindings = {key: b for key, b in trace.bindings.items() if key[0] in graph.by_name}
    return Extraction(graph, bindings, owners, trace.gates)


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
