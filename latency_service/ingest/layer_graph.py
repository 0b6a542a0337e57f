"""Layer graphs as JSON: what a request may contain, and every error in it by layer and field.

The types carry descriptions and examples, for they are the documentation of the request body too.
They are TypedDicts: pydantic checks them at the speed of its JSON parser and builds no objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    with_config,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from latency_service.core.errors import GraphError, Problem
from latency_service.core.graph import LayerGraph, graph_from_json
from latency_service.core.units import BYTES_PER_ELEMENT
from latency_service.ingest.constants import LARGEST_EXTENT

_STRICT = ConfigDict(extra="forbid", strict=True)
# Beyond this a list is a mistake or an attack, not a network.
_DEEPEST_LIST = 16


def _known_dtype(dtype: str) -> str:
    if dtype not in BYTES_PER_ELEMENT:
        known = ", ".join(sorted(BYTES_PER_ELEMENT))
        raise PydanticCustomError("dtype", "{dtype} is not a dtype; known: {known}", {
            "dtype": repr(dtype), "known": known,
        })  # fmt: skip
    return dtype


def _attribute(value: Any, depth: int = 0) -> Any:
    """A number, text, truth value, list of these, or a graph."""
    kind = type(value)
    if kind is int or kind is bool:
        return value
    if kind is str:
        return _TEXT.validate_python(value)
    if kind is float:
        if math.isfinite(value):
            return value
        raise PydanticCustomError("finite", "must be a finite number")
    if kind is list or kind is tuple:
        if depth == _DEEPEST_LIST:
            raise PydanticCustomError("deep", "lists are nested more than 16 deep")
        for item in value:
            if type(item) is not int:
                if isinstance(item, Mapping):
                    raise PydanticCustomError("graph", "a graph cannot stand in a list")
                _attribute(item, depth + 1)
        return value
    if isinstance(value, Mapping):
        return _GRAPH.validate_python(value)
    raise PydanticCustomError(
        "attribute", "must be a number, a text, true or false, a list of these, or a layer graph"
    )


Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
TensorName = Annotated[str, StringConstraints(max_length=1000)]
Extent = Annotated[int, Field(gt=0, le=LARGEST_EXTENT)]
Dimension = Extent | Name
# what data selects may be empty
WrittenDimension = Annotated[int, Field(ge=0, le=LARGEST_EXTENT)] | Name
Dtype = Annotated[
    str,
    AfterValidator(_known_dtype),
    Field(json_schema_extra={"enum": sorted(BYTES_PER_ELEMENT)}),
]
Attribute = Annotated[
    Any,
    AfterValidator(_attribute),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string"},
                {"type": "boolean"},
                {"type": "array", "items": {}},
                {"type": "object", "description": "a layer graph: the body of an If, Loop or Scan"},
            ]
        }
    ),
]


@with_config(_STRICT)
class GraphInputJson(TypedDict):
    """A tensor that is fed to the network."""

    name: Annotated[Name, Field(examples=["image"])]
    shape: Annotated[
        list[Dimension],
        Field(
            description="positive integers, or names that a request binds",
            examples=[["N", 3, 224, 224]],
        ),
    ]
    dtype: NotRequired[
        Annotated[Dtype | None, Field(description="defaults to the request's dtype")]
    ]
    batch_axis: NotRequired[
        Annotated[
            Annotated[int, Field(ge=0, le=63)] | None,
            Field(
                description="the axis that `batch_size` replaces, 0 unless stated; null: there is "
                "none"
            ),
        ]
    ]


@with_config(_STRICT)
class OutputJson(TypedDict):
    """A tensor that a layer writes."""

    name: Annotated[TensorName, Field(description='"" for an optional output that is left out')]
    shape: NotRequired[
        Annotated[
            list[WrittenDimension] | None,
            Field(description="may be left out where the operator determines it"),
        ]
    ]
    dtype: NotRequired[Annotated[Dtype | None, Field(description="if not the operator's")]]


@with_config(_STRICT)
class ParameterJson(TypedDict):
    """An array that the network has learned."""

    role: Annotated[
        Name,
        Field(
            description="weight, bias, gamma, beta, mean, variance, recurrence, scale, zero_point "
            "or state",
            examples=["weight"],
        ),
    ]
    shape: Annotated[
        list[Extent],
        Field(
            description="Conv O,I,k; ConvTranspose I,O,k; Gemm O,I; MatMul I,O",
            examples=[[64, 3, 5, 5]],
        ),
    ]
    dtype: NotRequired[Annotated[Dtype | None, Field(description="as stored")]]
    id: NotRequired[
        Annotated[Name | None, Field(description="the same id in two layers is one parameter")]
    ]


@with_config(_STRICT)
class LayerJson(TypedDict):
    """A node of the graph."""

    name: Annotated[Name, Field(examples=["conv1"])]
    op: Annotated[Name, Field(description="ONNX's operator name", examples=["Conv"])]
    inputs: NotRequired[
        Annotated[
            list[TensorName],
            Field(
                description='names of activations; "" for an optional one that is left out',
                examples=[["image"]],
            ),
        ]
    ]
    outputs: NotRequired[
        Annotated[
            list[OutputJson] | None,
            Field(description="left out: one tensor with the layer's name"),
        ]
    ]
    attributes: NotRequired[
        Annotated[
            dict[TensorName, Attribute],
            Field(
                description="ONNX's attributes, and its constant inputs under their names",
                examples=[{"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}],
            ),
        ]
    ]
    parameters: NotRequired[
        Annotated[
            list[ParameterJson] | None,
            Field(description="may be left out where operator and shapes imply them"),
        ]
    ]


@with_config(_STRICT)
class LayerGraphJson(TypedDict):
    """A network: its inputs, its layers in any order, and the tensors that it returns."""

    name: NotRequired[Annotated[TensorName | None, Field(examples=["two-layer"])]]
    inputs: NotRequired[list[GraphInputJson]]
    layers: list[LayerJson]
    outputs: Annotated[list[Name], Field(examples=[["relu1"]])]


_TEXT: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(max_length=100_000)])
_GRAPH: TypeAdapter[LayerGraphJson] = TypeAdapter(LayerGraphJson)


def parse_layer_graph(body: bytes | Mapping[str, Any]) -> LayerGraph:
    """Read a layer graph.

    Args:
        body: JSON in UTF-8, or values that have been parsed already.

    Raises:
        GraphError: with everything that is wrong: first the fields, else the wiring.
    """
    try:
        if isinstance(body, Mapping):
            document = _GRAPH.validate_python(body)
        else:
            document = _GRAPH.validate_json(body)
        return graph_from_json(document)
    except ValidationError as error:
        raise GraphError(_problems(error, body)) from None
    except RecursionError:
        raise GraphError("graphs inside layers are nested too deeply") from None


def _problems(error: ValidationError, body: bytes | Mapping[str, Any]) -> list[Problem]:
    raw: Any = body
    if not isinstance(body, Mapping):
        try:
            raw = json.loads(body)
        except (ValueError, RecursionError):
            raw = None
    found: dict[Problem, None] = {}
    for item in error.errors(include_url=False):
        found[problem_at(item["loc"], _detail(item), raw)] = None
    return list(found)


def problem_at(loc: Sequence[int | str], detail: str, raw: Any) -> Problem:
    """A place in the document as people say it: the layer by name, and the field in it.

    Args:
        loc: keys and positions from the top of the graph, as in pydantic's errors.
        detail: what is wrong there.
        raw: the document, as far as it could be read.
    """
    layer: str | None = None
    field = ""
    at = raw
    place = 0
    while place < len(loc):
        step = loc[place]
        graph_starts = place == 0 or (place > 1 and loc[place - 2] == "attributes")
        if step == "layers" and graph_starts and place + 1 < len(loc):
            # "layers", 3: name the layer, and start its fields anew
            at = _step(_step(at, step), loc[place + 1])
            name = at.get("name") if isinstance(at, Mapping) else None
            known = name if isinstance(name, str) and name else f"layers[{loc[place + 1]}]"
            around = f"{layer}/{field.removeprefix('attributes.')}" if field else layer
            layer = known if layer is None else f"{around}/{known}"
            field, place = "", place + 2
            continue
        if isinstance(step, int):
            field += f"[{step}]"
        elif place > 1 and loc[place - 2] == "shape":
            # pydantic names the alternative of a union here, not a field
            break
        else:
            field += f".{step}" if field else step
        at = _step(at, step)
        place += 1
    return Problem(layer and _sendable(layer), _sendable(field) or None, _sendable(detail))


def _sendable(text: str) -> str:
    """Without lone surrogates, which no UTF-8 answer could hold."""
    return text.encode("utf-8", "replace").decode()


def _step(value: Any, key: int | str) -> Any:
    try:
        return value[key]
    except (TypeError, LookupError):
        return None


def _detail(item: Any) -> str:
    """What is wrong, in our words where pydantic's do not help."""
    kind, loc, given = item["type"], item["loc"], item["input"]
    if kind == "json_invalid":
        return f"the body is no JSON: {item['ctx']['error']}"
    if len(loc) > 2 and "shape" in (loc[-2], loc[-3]) and isinstance(loc[-1], str):
        return f"a dimension is a positive integer or a name; it is {_shown(given)}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is no known field; known: {', '.join(_known_fields(loc))}"
    if kind in ("dict_type", "typed_dict_type", "mapping_type"):
        return f"must be an object; it is {_shown(given)}"
    message = str(item["msg"])
    message = message.replace("Input should be", "must be")
    return f"{message}; it is {_shown(given)}" if message.startswith("must be") else message


def _known_fields(loc: Sequence[int | str]) -> list[str]:
    fields: Mapping[str, Any] = LayerGraphJson.__annotations__
    in_layer = False
    for step in loc[:-1]:
        if step == "layers":
            fields, in_layer = LayerJson.__annotations__, True
        elif step == "inputs":
            fields = GraphInputJson.__annotations__
        elif step == "outputs" and in_layer:
            fields = OutputJson.__annotations__
        elif step == "parameters":
            fields = ParameterJson.__annotations__
        elif step == "attributes":
            fields, in_layer = LayerGraphJson.__annotations__, False
    return list(fields)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
