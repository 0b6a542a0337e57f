"""Groups mean what they say: a masked network computes exactly what the pruned one does.

Networks of random weights are run in onnxruntime twice: masked (every kernel slice that reads a
dead channel is zero) and pruned by the answer's members. Costs play no part here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_service.core.answer import costs_on
from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.graph import graph_from_json
from latency_service.core.ops import OPS
from latency_service.core.roofline import latency_model
from tests.core.graph_builder import Json
from tests.core.graphs import choosing, network
from tests.core.image_blocks import IMAGE
from tests.core.pruner import Pruner, positions
from tests.core.sequence_blocks import SEQUENCE
from tests.core.test_pruning_property import DEVICES

Array = npt.NDArray[Any]
Weights = dict[tuple[str, int], Array]

# The axis of a kernel that reads the layer's input.
READING = {"Conv": 1, "ConvTranspose": 0, "Gemm": 1, "MatMul": 0, "LSTM": 2}


def explicit(document: Json) -> Json:
    """The same graph with every implied parameter spelled out."""
    nodes = {node.name: node for node in bind(graph_from_json(document), Binding()).nodes}
    layers = []
    for row in document["layers"]:
        found = [
            {"role": p.role, "shape": list(p.shape)} | ({"id": p.id} if p.id else {})
            for p in nodes[row["name"]].parameters
        ]
        layers.append(row | ({"parameters": found} if found else {}))
    return document | {"layers": layers}


def weights_of(document: Json, rng: np.random.Generator) -> Weights:
    """Random values of a size that keeps signals alive; one array an id."""
    by_id: dict[str, Array] = {}
    weights: Weights = {}
    for row in document["layers"]:
        for i, parameter in enumerate(row.get("parameters") or ()):
            shape = parameter["shape"]
            fan_in = max(1.0, np.prod(shape) / max(shape, default=1))
            value = rng.normal(size=shape) / (np.sqrt(fan_in) if len(shape) > 1 else 2.0)
            if parameter["role"] in ("gamma", "variance"):
                value = 0.5 + np.abs(value)
            if row["op"] == "Div":
                value = np.sign(value) * (0.5 + np.abs(value))
            value = by_id.setdefault(parameter.get("id") or f"{row['name']}/{i}", value)
            weights[row["name"], i] = value.astype(np.float32)
    return weights


def masked(document: Json, weights: Weights, costs: CostModel, dead: Mapping[str, Any]) -> Weights:
    """Zero every kernel slice that reads a dead channel."""
    result = {key: value.copy() for key, value in weights.items()}
    rows = {row["name"]: row for row in document["layers"]}
    for group in groups_of(costs):
        for member in group["members"]:
            row = rows[member["layer"]]
            reads = READING.get(row["op"]) == member["axis"]
            grouped = row.get("attributes", {}).get("group", 1) > 1
            if member["role"] != "weight" or not reads or grouped:
                continue
            kernel = next(i for i, p in enumerate(row["parameters"]) if p["role"] == "weight")
            for channel in dead.get(group["id"], ()):
                index: list[Any] = [slice(None)] * len(row["parameters"][kernel]["shape"])
                index[member["axis"]] = list(positions(member, channel))
                result[row["name"], kernel][tuple(index)] = 0
    return result


def groups_of(costs: CostModel) -> list[Any]:
    return list(costs_on(latency_model(costs, DEVICES[0]), costs.sizes)["groups"])


def model_of(document: Json, weights: Weights) -> onnx.ModelProto:
    """An ONNX model: parameters and constant operands become initializers."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def constant(value: Any, name: str) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for row in document["layers"]:
        name, op, operands = row["name"], row["op"], OPS[row["op"]].operands
        attributes = dict(row.get("attributes", {}))
        inputs: list[str] = list(row["inputs"])
        for i, parameter in enumerate(row.get("parameters") or ()):
            value = weights[name, i]
            if op == "Gemm" and parameter["role"] == "weight":
                value = value.T
            place = constant(value, f"{name}/p{i}")
            inputs = [place, *inputs] if op == "Gather" else [*inputs, place]
        for key in [key for key in operands if key in attributes]:
            value = np.asarray(attributes.pop(key))
            kind = np.float32 if value.dtype.kind == "f" else np.int64
            inputs += [""] * (operands.index(key) - len(inputs))
            inputs.append(constant(value.astype(kind), f"{name}/{key}"))
        outputs = [output["name"] for output in row["outputs"]]
        if op == "Gemm" and len(row["outputs"][0]["shape"]) > 2:
            # ONNX's Gemm knows matrices only
            bias = inputs[2:]
            inner = [f"{name}/product"] if bias else outputs
            nodes.append(helper.make_node("MatMul", inputs[:2], inner, name))
            if bias:
                nodes.append(helper.make_node("Add", [*inner, *bias], outputs, f"{name}/bias"))
            continue
        nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    shapes = {out["name"]: out["shape"] for row in document["layers"] for out in row["outputs"]}
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info(row["name"], types[row["dtype"]], row["shape"])
            for row in document["inputs"]
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])
            for name in document["outputs"]
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(document: Json, weights: Weights, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model_of(document, weights).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


def check(document: Json, seed: int) -> tuple[int, float]:
    """Compare the outputs of the masked and the pruned network.

    Returns:
        How many channels died, and the largest value there was to begin with.
    """
    document = explicit(document)
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    costs = cost_model(graph_from_json(document), None, Pruning())
    dead = {
        group.id: chance.sample(range(group.size), max(1, group.size // 2))
        for group in costs.groups
        if group.prunable and group.size > 1
    }
    weights = weights_of(document, rng)
    pruner = Pruner(document, groups_of(costs), dead)
    pruned = pruner.prune()
    small = {key: value[np.ix_(*pruner.parameters[key])] for key, value in weights.items()}
    feeds = {
        row["name"]: rng.integers(0, 11, row["shape"])
        if row["dtype"] == "int64"
        else rng.normal(size=row["shape"]).astype(np.float32)
        for row in document["inputs"]
    }
    whole = run(document, weights, feeds)
    expected = run(document, masked(document, weights, costs, dead), feeds)
    found = run(pruned, small, feeds)
    scale = max(float(np.abs(before).max()) for before in whole)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale)
    return sum(map(len, dead.values())), scale


NETWORKS = {
    "residual": ["residual", "projected residual"],
    "concat": ["dense block", "concats added", "concat twice"],
    "depthwise": ["depthwise", "residual"],
    "squeeze-excite": ["squeeze-excite", "conv"],
    "grouped": ["grouped conv", "norm"],
    "shuffle": ["split", "shuffle", "pixel shuffle", "space to depth"],
    "attention": ["conv", "attention", "mlp", "lstm"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_masked_network_computes_what_the_pruned_one_does(name: str) -> None:
    for seed in range(6):
        died, scale = check(network(NETWORKS[name], choosing(seed)), seed)
        assert died > 0
        assert scale > 1e-3


@pytest.mark.parametrize("name", [*IMAGE, *SEQUENCE])
def test_so_does_every_building_block(name: str) -> None:
    for seed in range(4):
        check(network([name], choosing(seed), name in SEQUENCE and bool(seed % 2)), seed)
