"""ONNX attributes as plain values, those of old operator versions in today's form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx

from latency_service.core.errors import ModelFileError
from latency_service.ingest.constants import (
    LARGEST_EXTENT,
    Constant,
    as_setting,
    dtype_name,
    from_tensor,
)
from latency_service.ingest.text import check_text

# bound here once: they are compared with every attribute of a file
_A = onnx.AttributeProto
_INT, _INTS, _FLOAT, _FLOATS = _A.INT, _A.INTS, _A.FLOAT, _A.FLOATS
_STRING, _STRINGS, _TENSOR, _GRAPH = _A.STRING, _A.STRINGS, _A.TENSOR, _A.GRAPH
_SPARSE = _A.SPARSE_TENSOR

# Lists longer than this hold data (the trees of a decision forest), not settings.
_LONGEST = 4096

_IGNORED = frozenset({"consumed_inputs", "doc_string"})

# Operators with a dtype among their attributes, as ONNX's code.
CODED_DTYPES = frozenset(
    {
        "Cast", "QuantizeLinear", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike",
        "RandomUniformLike",
    }
)  # fmt: skip

# Operators whose `axis` meant 1 before it meant -1.
_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


def read_attributes(
    node: onnx.NodeProto, inner: Callable[[onnx.GraphProto, str], Any]
) -> dict[str, Any]:
    """The attributes that can matter for costs; others are left out.

    Args:
        node: any node.
        inner: reads a graph that stands in an attribute of the given name.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name, kind = attribute.name, attribute.type
        value: Any
        if kind == _INT:
            value = attribute.i
        elif kind == _INTS:
            value = attribute.ints[:]
        elif kind == _FLOAT:
            value = _float(attribute.f)
        elif kind == _FLOATS:
            value = [_float(number) for number in attribute.floats]
        elif kind == _STRING:
            value = _text(attribute.s)
        elif kind == _STRINGS:
            value = [_text(item) for item in attribute.strings]
        elif kind == _GRAPH:
            value = inner(attribute.g, name)
        elif kind == _TENSOR:
            tensor = from_tensor(attribute.t, f"{node.name or node.op_type}.{name}", False)
            array = tensor.value
            value = None if array is None else as_setting(array)
        else:
            continue
        if value is None or name in _IGNORED:
            continue
        if type(value) is list and (len(value) > _LONGEST or None in value):
            continue
        found[name] = value
    check_text(found)
    return found


def _float(number: float) -> float | None:
    # float32 as people wrote it: 0.01, not 0.009999999776482582
    return float(f"{number:.7g}") if math.isfinite(number) else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def constant_value(node: onnx.NodeProto, name: str) -> Constant | None:
    """What a Constant node holds; None for forms that are no dense tensor of numbers."""
    for attribute in node.attribute:
        kind = attribute.type
        if kind == _TENSOR:
            return from_tensor(attribute.t, name, False)
        tensor = onnx.TensorProto()
        if kind == _SPARSE:
            return from_sparse(attribute.sparse_tensor, name)
        if kind in (_FLOAT, _FLOATS):
            tensor.data_type = onnx.TensorProto.FLOAT
            tensor.float_data.extend([attribute.f] if kind == _FLOAT else attribute.floats)
            count = len(tensor.float_data)
        elif kind in (_INT, _INTS):
            tensor.data_type = onnx.TensorProto.INT64
            tensor.int64_data.extend([attribute.i] if kind == _INT else attribute.ints)
            count = len(tensor.int64_data)
        elif kind in (_STRING, _STRINGS):
            tensor.data_type = onnx.TensorProto.STRING
            count = 1 if kind == _STRING else len(attribute.strings)
        else:
            continue
        if kind in (_FLOATS, _INTS, _STRINGS):
            tensor.dims.append(count)
        return from_tensor(tensor, name, False)
    return None


def from_sparse(sparse: onnx.SparseTensorProto, name: str) -> Constant:
    """A sparse tensor counts as the dense one that it stands for."""
    found = from_tensor(sparse.values, name, True)
    from_tensor(sparse.indices, name, True)
    shape = tuple(sparse.dims)
    if shape and not 0 <= min(shape) <= max(shape) <= LARGEST_EXTENT:
        raise ModelFileError(f"tensor {name!r} has the impossible shape {list(shape)}")
    return found._replace(shape=shape, source=None)


def modernise(op: str, attributes: dict[str, Any], opset: int) -> None:
    """Rewrite what operators of older opsets said differently."""
    if op in _SOFTMAX and opset < 13:
        attributes.setdefault("axis", 1)
    elif op == "Pad" and "paddings" in attributes:
        attributes["pads"] = attributes.pop("paddings")
    elif op == "Upsample" and "height_scale" in attributes:
        attributes["scales"] = [
            1.0, 1.0, attributes.pop("height_scale"), attributes.pop("width_scale", 1.0),
        ]  # fmt: skip
    elif op in CODED_DTYPES:
        for key in ("to", "output_dtype", "dtype"):
            code = attributes.get(key)
            if code == 0:
                del attributes[key]
            elif isinstance(code, int):
                attributes[key] = dtype_name(code, f"attribute {key} of {op}")
            elif isinstance(code, str):
                attributes[key] = _OLD_NAMES.get(code, code.lower())


_OLD_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def operand_names(op: str, names: tuple[str, ...], opset: int) -> tuple[str, ...]:
    """ONNX's names of an operator's inputs in the model's opset, from those of today."""
    return ("X", "scales") if op == "Resize" and opset < 11 else names
