from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from latency_service.core.canonical import graph_to_json
from latency_service.core.errors import GraphError, Problem
from latency_service.core.graph import GraphInput, LayerGraph, Parameter
from latency_service.ingest import parse_layer_graph, read_network

GRAPH: dict[str, Any] = {
    "name": "net",
    "inputs": [{"name": "image", "shape": ["N", 3, 11, 13], "dtype": "float32"}],
    "layers": [
        {
            "name": "conv",
            "op": "Conv",
            "inputs": ["image"],
            "attributes": {"kernel_shape": [5, 5], "auto_pad": "VALID", "group": 1},
            "parameters": [{"role": "weight", "shape": [7, 3, 5, 5], "id": "w"}],
        },
        {"name": "relu", "op": "Relu", "inputs": ["conv"]},
    ],
    "outputs": ["relu"],
}


def problems(change: Callable[[dict[str, Any]], Any]) -> list[Problem]:
    document = copy.deepcopy(GRAPH)
    change(document)
    with pytest.raises(GraphError) as caught:
        parse_layer_graph(json.dumps(document).encode())
    # values that have been parsed already give the same errors
    with pytest.raises(GraphError) as again:
        parse_layer_graph(document)
    assert again.value.problems == caught.value.problems
    return caught.value.problems


def conv(document: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = document["layers"][0]
    return layer


def test_a_graph_becomes_layers_with_names_of_what_they_read() -> None:
    graph = parse_layer_graph(json.dumps(GRAPH).encode())
    assert graph.inputs == (GraphInput("image", ("N", 3, 11, 13), "float32", 0),)
    assert graph.layers[0].parameters == (Parameter("weight", (7, 3, 5, 5), None, "w"),)
    assert graph.layers[1].inputs == ("conv",)
    assert graph.layers[1].parameters is None


def test_json_and_back_is_the_same_graph() -> None:
    graph = parse_layer_graph(GRAPH)
    assert parse_layer_graph(json.dumps(graph_to_json(graph)).encode()) == graph


def test_an_inner_graph_reads_the_tensors_around_it() -> None:
    document = copy.deepcopy(GRAPH)
    inner = {"layers": [{"name": "r", "op": "Relu", "inputs": ["conv"]}], "outputs": ["r"]}
    document["layers"][1] = {
        "name": "relu", "op": "If", "inputs": ["conv"],
        "attributes": {"then_branch": inner, "else_branch": inner},
    }  # fmt: skip
    layer = parse_layer_graph(document).layers[1]
    assert isinstance(layer.attributes["then_branch"], LayerGraph)


def test_all_problems_come_at_once_by_layer_name_and_field() -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["inputs"][0]["shape"][1] = 0
        conv(document)["parameters"][0]["shape"][1] = -3
        document["layers"][1].pop("op")

    assert problems(spoil) == [
        Problem(None, "inputs[0].shape[1]", "a dimension is a positive integer or a name; it is 0"),
        Problem("conv", "parameters[0].shape[1]", "must be greater than 0; it is -3"),
        Problem("relu", "op", "is missing"),
    ]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "", None, 2**31])
def test_a_dimension_is_a_positive_integer_or_a_name(wrong: Any) -> None:
    (problem,) = problems(lambda d: d["inputs"][0]["shape"].__setitem__(2, wrong))
    assert problem.field == "inputs[0].shape[2]"
    assert "positive integer or a name" in problem.detail


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    (problem,) = problems(lambda d: conv(d).update(kernel=3))
    assert problem == Problem(
        "conv",
        "kernel",
        "is no known field; known: name, op, inputs, outputs, attributes, parameters",
    )


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    (problem,) = problems(lambda d: d["inputs"][0].update(dtype="fp32"))
    assert problem.field == "inputs[0].dtype"
    assert "float32" in problem.detail


@pytest.mark.parametrize("value", [None, float("nan"), [1.0, float("-inf")], [{"layers": []}]])
def test_an_attribute_is_finite_and_plain(value: Any) -> None:
    (problem,) = problems(lambda d: conv(d)["attributes"].update(alpha=value))
    assert (problem.layer, problem.field) == ("conv", "attributes.alpha")


def test_an_inner_problem_is_named_by_the_path_to_it() -> None:
    inner = {"layers": [{"name": "r", "op": 3}], "outputs": ["r"]}
    (problem,) = problems(lambda d: conv(d)["attributes"].update(body=inner))
    assert (problem.layer, problem.field) == ("conv/body/r", "op")


def test_a_layer_without_a_name_is_told_by_its_position() -> None:
    (problem,) = problems(lambda d: conv(d).update(name=3))
    assert (problem.layer, problem.field) == ("layers[0]", "name")


def test_wrong_wiring_is_found_after_the_fields() -> None:
    (problem,) = problems(lambda d: conv(d).update(inputs=["nothing"]))
    assert (problem.layer, problem.field) == ("conv", "inputs")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"layers": ',
        b"[1]",
        b"3",
        b'{"layers": NaN, "outputs": []}',
        json.dumps(GRAPH).encode("utf-16"),
        b'{"layers": [{"name": "\xff", "op": "Relu"}], "outputs": ["x"]}',
        b'{"layers": [{"name": "\\ud800", "op": "Relu"}], "outputs": ["x"]}',
        b"[" * 100_000,
        b'{"layers":[{"name":"x","op":"If","attributes":{"g":' * 100,
    ],
)
def test_what_is_no_layer_graph_is_refused(body: bytes) -> None:
    with pytest.raises(GraphError):
        parse_layer_graph(body)


def test_graphs_nested_without_end_are_refused() -> None:
    graph: dict[str, Any] = {"layers": [], "outputs": ["x"]}
    for _ in range(2000):
        layer = {"name": "x", "op": "If", "attributes": {"then_branch": graph}}
        graph = {"layers": [layer], "outputs": ["x"]}
    with pytest.raises(GraphError, match="nested too deeply"):
        parse_layer_graph(graph)


def test_json_is_told_from_onnx_by_its_first_byte() -> None:
    assert read_network(b"\n  " + json.dumps(GRAPH).encode(), "renamed").name == "renamed"
