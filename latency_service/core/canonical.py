"""A layer graph as canonical JSON, and the address that follows from it.

The text is put together by hand: building dictionaries for an encoder takes a fifth longer.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, Shape

_INT = {int}

_quoted = json.encoder.encode_basestring
_encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def graph_to_json(graph: LayerGraph) -> dict[str, Any]:
    """The graph as JSON values, keys sorted; `graph_from_json` gives it back."""
    document: dict[str, Any] = json.loads(_graph_text(graph, graph.name))
    return document


def canonical_text(graph: LayerGraph) -> str:
    """The graph as canonical JSON: no spaces, keys sorted, layers ordered, without its name.

    Call it on a graph whose inferred shapes are filled in (`bind.resolve`).
    """
    return _graph_text(graph, "")


def _graph_text(graph: LayerGraph, name: str) -> str:
    named = f'"name":{_quoted(name)},' if name else ""
    return (
        f'{{"inputs":[{",".join(map(_input_text, graph.inputs))}],'
        f'"layers":[{",".join(map(_layer_text, graph.layers))}],'
        f'{named}"outputs":{_names_text(graph.outputs)}}}'
    )


def _input_text(tensor: GraphInput) -> str:
    axis = _encoded(tensor.batch_axis)
    return (
        f'{{"batch_axis":{axis},{_dtype_text(tensor.dtype)}"name":{_quoted(tensor.name)},'
        f'"shape":{_shape_text(tensor.shape)}}}'
    )


def _layer_text(layer: Layer) -> str:
    attributes = parameters = ""
    if layer.attributes:
        pairs = sorted(layer.attributes.items())
        listed = ",".join([f"{_quoted(key)}:{_value_text(value)}" for key, value in pairs])
        attributes = f'"attributes":{{{listed}}},'
    if layer.parameters is not None:
        parameters = f',"parameters":[{",".join(map(_parameter_text, layer.parameters))}]'
    return (
        f'{{{attributes}"inputs":{_names_text(layer.inputs)},"name":{_quoted(layer.name)},'
        f'"op":{_quoted(layer.op)},"outputs":[{",".join(map(_output_text, layer.outputs))}]'
        f"{parameters}}}"
    )


def _output_text(output: Output) -> str:
    shape = "" if output.shape is None else f',"shape":{_shape_text(output.shape)}'
    return f'{{{_dtype_text(output.dtype)}"name":{_quoted(output.name)}{shape}}}'


def _parameter_text(parameter: Parameter) -> str:
    stated = "" if parameter.id is None else f'"id":{_quoted(parameter.id)},'
    return (
        f'{{{_dtype_text(parameter.dtype)}{stated}"role":{_quoted(parameter.role)},'
        f'"shape":{_shape_text(parameter.shape)}}}'
    )


def _dtype_text(dtype: str | None) -> str:
    return "" if dtype is None else f'"dtype":{_quoted(dtype)},'


def _names_text(names: tuple[str, ...]) -> str:
    return f"[{','.join(map(_quoted, names))}]"


@lru_cache(maxsize=4096)
def _shape_text(shape: Shape) -> str:
    return _encoded(shape)


def _value_text(value: Any) -> str:
    if isinstance(value, LayerGraph):
        return _graph_text(value, value.name)
    if type(value) is list and set(map(type, value)) <= _INT:
        return f"[{','.join(map(str, value))}]"
    return str(value) if type(value) is int else _encoded(value)


def graph_id(text: str) -> str:
    """The address of a graph: SHA-256 of its canonical text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
