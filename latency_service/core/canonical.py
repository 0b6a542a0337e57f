"""A layer graph as canonical JSON, and the address that follows from it.

The text is put together by hand: building dictionaries for an encoder takes a fifth longer.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from math import isfinite
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
    name, op, inputs, outputs, settings, held = layer
    attributes = parameters = ""
    if settings:
        listed = [f"{_quoted(key)}:{_value_text(settings[key])}" for key in sorted(settings)]
        attributes = f'"attributes":{{{",".join(listed)}}},'
    if held is not None:
        parameters = f',"parameters":[{",".join(map(_parameter_text, held))}]'
    return (
        f'{{{attributes}"inputs":{_names_text(inputs)},"name":{_quoted(name)},'
        f'"op":{_quoted(op)},"outputs":[{",".join(map(_output_text, outputs))}]{parameters}}}'
    )


def _output_text(output: Output) -> str:
    name, shape, dtype = output
    stated = "" if shape is None else f',"shape":{_shape_text(shape)}'
    return f'{{{_dtype_text(dtype)}"name":{_quoted(name)}{stated}}}'


def _parameter_text(parameter: Parameter) -> str:
    role, shape, dtype, named = parameter
    stated = "" if named is None else f'"id":{_quoted(named)},'
    return f'{{{_dtype_text(dtype)}{stated}"role":{_quoted(role)},"shape":{_shape_text(shape)}}}'


def _dtype_text(dtype: str | None) -> str:
    return "" if dtype is None else f'"dtype":{_quoted(dtype)},'


def _names_text(names: tuple[str, ...]) -> str:
    return f"[{','.join(map(_quoted, names))}]"


@lru_cache(maxsize=4096)
def _shape_text(shape: Shape) -> str:
    return _encoded(shape)


def _value_text(value: Any) -> str:
    # the encoder itself takes ten times as long
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is list and set(map(type, value)) <= _INT:
        return f"[{','.join(map(str, value))}]"
    if kind is str:
        return _quoted(value)
    if kind is float and isfinite(value):
        return repr(value)
    return _graph_text(value, value.name) if kind is LayerGraph else _encoded(value)


def graph_id(text: str) -> str:
    """The address of a graph: SHA-256 of its canonical text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
