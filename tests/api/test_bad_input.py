"""What goes in wrong comes out as a clear problem, and leaves no trace."""

import json
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper

from latency_service.usecases import Workbench
from tests.api.graphs import chain, two_layer


def problem(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = reply.json()
    assert document["status"] == status
    assert document["detail"]
    return document


def send(client: TestClient, graph: Any, status: int = 422, **options: Any) -> dict[str, Any]:
    return problem(
        client.post("/v1/coefficients", json={"device": "v100", "graph": graph, **options}), status
    )


def change(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    graph = two_layer()
    edit(graph)
    return graph


def rename_input(layer: int, name: str) -> dict[str, Any]:
    return change(lambda graph: graph["layers"][layer].update(inputs=[name]))


@pytest.fixture(autouse=True)
def _nothing_is_stored(bench: Workbench, client: TestClient) -> Any:
    before = bench.graphs.count()
    yield
    assert bench.graphs.count() == before
    assert client.get("/healthz").status_code == 200


def test_a_cycle_is_named(client: TestClient) -> None:
    found = send(client, rename_input(0, "relu1"))

    assert "cycle" in found["detail"]
    assert found["errors"][0]["layer"] in {"conv1", "bn1", "relu1"}


def test_a_missing_tensor_is_named_with_its_reader(client: TestClient) -> None:
    found = send(client, rename_input(1, "conv7"))

    assert {"layer": "bn1", "field": "inputs"}.items() <= found["errors"][0].items()
    assert "'conv7'" in found["detail"]


def test_an_unknown_operator_is_named_with_the_remedy(client: TestClient) -> None:
    found = send(client, change(lambda graph: graph["layers"][2].update(op="Frobnicate")))

    assert found["type"] == "urn:latency-service:unknown-op"
    assert found["errors"][0]["layer"] == "relu1"
    assert '"unknown_ops": "freeze"' in found["detail"]


def test_a_wrong_shape_is_named_with_the_right_one(client: TestClient) -> None:
    found = send(
        client,
        change(lambda graph: graph["layers"][0]["outputs"][0].update(shape=["N", 61, 31, 36])),
    )

    assert found["errors"][0]["layer"] == "conv1"
    assert found["errors"][0]["field"] == "outputs[0].shape"
    assert "37" in found["errors"][0]["detail"]


def test_all_errors_are_told_at_once(client: TestClient) -> None:
    graph = two_layer()
    graph["layers"][0]["attributes"]["group"] = "one"
    graph["layers"][1]["op"] = "Frobnicate"
    graph["layers"][2]["op"] = "Fabulate"

    found = send(client, graph)

    assert {error["layer"] for error in found["errors"]} == {"conv1", "bn1", "relu1"}


def test_schema_errors_name_layer_and_field(client: TestClient) -> None:
    graph = two_layer()
    graph["layers"][0]["parameters"][0]["shape"][1] = -3
    graph["layers"][1]["ops"] = "BatchNormalization"

    found = send(client, graph)

    where = {(error["layer"], error["field"]) for error in found["errors"]}
    assert ("conv1", "parameters[0].shape[1]") in where
    assert any(layer == "bn1" for layer, _ in where)


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_nan_is_no_json(client: TestClient, literal: bytes) -> None:
    body = json.dumps({"device": "v100", "graph": two_layer()}).encode()
    body = body.replace(b'"group": 1', b'"group": ' + literal)
    reply = client.post(
        "/v1/coefficients", content=body, headers={"content-type": "application/json"}
    )

    problem(reply, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"graph"', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    reply = client.post(
        "/v1/coefficients", content=body, headers={"content-type": "application/json"}
    )

    problem(reply, 400)


def test_too_many_layers_are_refused(client: TestClient) -> None:
    found = send(client, chain(501))

    assert "LATENCY_SERVICE_MAX_LAYERS" in found["detail"]


def test_more_channels_than_memory_are_refused(client: TestClient) -> None:
    filters = 2**31 - 1
    layer = {
        "name": "wide",
        "op": "Conv",
        "inputs": ["x"],
        "parameters": [{"role": "weight", "shape": [filters, 1, 1, 1]}],
    }
    graph = {
        "inputs": [{"name": "x", "shape": [1, 1, 1, 1]}],
        "layers": [layer],
        "outputs": ["wide"],
    }

    assert send(client, graph)["errors"][0]["layer"] == "wide"


@pytest.mark.parametrize("depth", [40, 150, 240, 250, 900])
def test_graphs_inside_graphs_without_end_are_refused(client: TestClient, depth: int) -> None:
    leaf = '{"layers": [{"name": "leaf", "op": "Relu", "inputs": ["x"]}], "outputs": ["leaf"]}'
    opening = "".join(
        f'{{"outputs": ["if{n}"], "layers": [{{"name": "if{n}", "op": "If", "inputs": ["x"], '
        f'"attributes": {{"else_branch": {leaf}, "then_branch": '
        for n in range(depth)
    )
    graph = opening + leaf + "}}]}" * depth
    body = '{"device": "v100", "graph": ' + graph.replace(
        "{", '{"inputs": [{"name": "x", "shape": [1, 7]}], ', 1
    )

    reply = client.post(
        "/v1/coefficients", content=body + "}", headers={"content-type": "application/json"}
    )

    assert reply.status_code in (400, 422), reply.text[:200]


def test_a_body_over_the_limit_is_refused_by_its_header(client: TestClient) -> None:
    reply = client.post(
        "/v1/coefficients",
        content=b"{}",
        headers={"content-type": "application/json", "content-length": str(2 * 10**9)},
    )

    found = problem(reply, 413)
    assert "LATENCY_SERVICE_MAX_BODY_BYTES" in found["detail"]


def test_a_body_over_the_limit_is_refused_without_a_header(client: TestClient) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b"x" * 2**16

    reply = client.post(
        "/v1/coefficients", content=endless(), headers={"content-type": "application/json"}
    )

    problem(reply, 413)


def test_a_foreign_media_type_is_refused(client: TestClient) -> None:
    reply = client.post(
        "/v1/coefficients", content=b"a: b", headers={"content-type": "application/yaml"}
    )

    assert "application/json" in problem(reply, 415)["detail"]


def onnx_model() -> onnx.ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5, 3, 1, 1], [0.5] * 15)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 7, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 7, 7])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def send_model(client: TestClient, body: bytes, status: int = 422) -> dict[str, Any]:
    return problem(
        client.post(
            "/v1/graphs", content=body, headers={"content-type": "application/octet-stream"}
        ),
        status,
    )


@pytest.mark.parametrize("cut", [1, 10, 40, 60])
def test_a_truncated_onnx_file_is_refused(client: TestClient, cut: int) -> None:
    send_model(client, onnx_model().SerializeToString()[:-cut])


@pytest.mark.parametrize("body", [b"", b"\x00" * 100, b"PK\x03\x04 a zip file", b"\x08" * 4096])
def test_what_is_no_onnx_file_is_refused(client: TestClient, body: bytes) -> None:
    send_model(client, body)


def test_an_onnx_file_that_points_at_a_file_is_refused(client: TestClient) -> None:
    model = onnx_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"

    found = send_model(client, model.SerializeToString())

    assert "external" in found["detail"]
    assert "root:" not in json.dumps(found)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"dims": {"M": 3}}, "M"),
        ({"shapes": {"picture": [1, 2]}}, "picture"),
        ({"shapes": {"image": [1, 2]}}, "image"),
        ({"dtype": "float33"}, "float33"),
        ({"math": "float33"}, "float33"),
        ({"alive": {"g9": 1}}, "g9"),
        ({"alive": {"g1": 1000}}, "g1"),
        ({"alive": {"g0": 1}}, "g0"),
        ({"model": "calibrated"}, "calibrat"),
        ({"fusion": "runtime"}, "fusion"),
        ({"exclude": ["conv7"]}, "conv7"),
        ({"exclude": ["("]}, "("),
        ({"force_group": ["conv1|image7", "nothing"]}, "nothing"),
        ({"colour": "red"}, "colour"),
        ({"unknown_ops": "guess"}, "unknown_ops"),
    ],
)
def test_an_impossible_option_is_named(
    client: TestClient, options: dict[str, Any], culprit: str
) -> None:
    assert culprit in send(client, two_layer(), **options)["detail"]


def test_an_unknown_device_runtime_or_revision_is_not_found(client: TestClient) -> None:
    base = {"graph": two_layer()}
    for options in (
        {"device": "v1000"},
        {"device": "v100", "runtime": "abacus"},
        {"device": "v100", "revision": 99},
        {"device": "v100", "revision": "sha256:" + "0" * 64},
    ):
        problem(client.post("/v1/coefficients", json=base | options), 404)


def test_an_unbound_dimension_is_named(client: TestClient) -> None:
    graph = two_layer()
    graph["inputs"][0]["shape"] = ["N", 3, "height", 37]
    for layer in graph["layers"]:
        del layer["outputs"]
    del graph["layers"][0]["parameters"][1]

    found = send(client, graph)

    assert found["type"] == "urn:latency-service:unbound-dimension"
    assert "'height'" in found["detail"]


def test_neither_graph_nor_id_is_told(client: TestClient) -> None:
    found = problem(client.post("/v1/coefficients", json={"device": "v100"}), 422)

    assert "graph_id" in found["detail"]


def test_a_graph_that_is_gone_is_to_be_sent_again(client: TestClient) -> None:
    reply = client.get(f"/v1/graphs/sha256:{'0' * 64}")

    assert "again" in problem(reply, 404)["detail"]


@pytest.mark.parametrize("path", ["/v2/devices", "/v1/device"])
def test_an_unknown_path_is_a_problem_too(client: TestClient, path: str) -> None:
    problem(client.get(path), 404)


def test_a_wrong_method_is_a_problem_too(client: TestClient) -> None:
    problem(client.delete("/v1/devices"), 405)
