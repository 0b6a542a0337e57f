"""Networks to measure with: the examples as layer graphs, and as ONNX files with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EXAMPLES = Path(__file__).parents[1] / "examples"

# ONNX takes these as inputs; a layer graph holds them as attributes.
_OPERANDS = {"Reshape": ("shape",), "ReduceMean": ("axes",), "Clip": ("min", "max")}


@cache
def layer_graph(name: str) -> dict[str, Any]:
    """An example network in the wire format."""
    document: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return document


@cache
def onnx_bytes(name: str, seed: int = 0) -> bytes:
    """The same network as an ONNX file, with random weights."""
    graph = layer_graph(name)
    generator = np.random.default_rng(seed)
    initializers: dict[str, TensorProto] = {}
    nodes = []
    for layer in graph["layers"]:
        attributes = dict(layer.get("attributes", {}))
        inputs = list(layer["inputs"])
        for parameter in layer.get("parameters") or _implied(layer):
            key = parameter.get("id") or f"{layer['name']}.{parameter['role']}"
            if key not in initializers:
                array = generator.standard_normal(parameter["shape"]).astype(np.float32)
                initializers[key] = numpy_helper.from_array(np.abs(array) * 0.05, key)
            inputs.append(key)
        for operand in _OPERANDS.get(layer["op"], ()):
            if operand in attributes:
                value = np.array(attributes.pop(operand))
                kind = np.float32 if operand in ("min", "max") else np.int64
                key = f"{layer['name']}.{operand}"
                initializers[key] = numpy_helper.from_array(value.astype(kind), key)
                inputs.append(key)
        if layer["op"] == "Gemm":
            attributes["transB"] = 1
        outputs = [output["name"] for output in layer["outputs"]]
        nodes.append(helper.make_node(layer["op"], inputs, outputs, layer["name"], **attributes))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            name,
            [
                helper.make_tensor_value_info(t["name"], TensorProto.FLOAT, t["shape"])
                for t in graph["inputs"]
            ],
            [
                helper.make_tensor_value_info(output["name"], TensorProto.FLOAT, output["shape"])
                for layer in graph["layers"]
                for output in layer["outputs"]
                if output["name"] in graph["outputs"]
            ],
            list(initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(data)
    return data


def _implied(layer: dict[str, Any]) -> list[dict[str, Any]]:
    """BatchNormalization's vectors, which the layer graph leaves out."""
    if layer["op"] != "BatchNormalization":
        return []
    channels = layer["outputs"][0]["shape"][1]
    return [{"role": role, "shape": [channels]} for role in ("gamma", "beta", "mean", "variance")]
