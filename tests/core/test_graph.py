"""Wiring, canonical order, addresses, and binding of named dimensions."""

import hashlib
import json
import random
from typing import Any

import pytest

from latency_service.core.bind import bind, resolve
from latency_service.core.binding import Binding
from latency_service.core.canonical import canonical_text, graph_id, graph_to_json
from latency_service.core.errors import GraphError, OptionError, UnboundDimensionError
from latency_service.core.graph import graph_from_json

BATCH, CHANNELS, HEIGHT, WIDTH, FILTERS = 5, 3, 29, 31, 17


def conv(name: str, source: str, filters: int, channels: int, **more: Any) -> dict[str, Any]:
    weight = {"role": "weight", "shape": [filters, channels, 3, 3], "id": f"{name}.w"}
    return {
        "name": name,
        "op": "Conv",
        "inputs": [source],
        "attributes": {"pads": [1, 1, 1, 1]},
        "parameters": [weight],
    } | more


def document(shape: list[Any] | None = None) -> dict[str, Any]:
    return {
        "name": "diamond",
        "inputs": [{"name": "x", "shape": shape or ["N", CHANNELS, "H", WIDTH]}],
        "layers": [
            conv("stem", "x", FILTERS, CHANNELS),
            conv("right", "stem", FILTERS, FILTERS),
            conv("left", "stem", FILTERS, FILTERS),
            {"name": "sum", "op": "Add", "inputs": ["left", "right"]},
            {"name": "pool", "op": "GlobalAveragePool", "inputs": ["sum"]},
            {"name": "flat", "op": "Flatten", "inputs": ["pool"]},
        ],
        "outputs": ["flat"],
    }


def test_layers_are_ordered_topologically_and_ties_by_name() -> None:
    shuffled = document()
    random.Random(0).shuffle(shuffled["layers"])

    graph = graph_from_json(shuffled)

    assert [layer.name for layer in graph.layers] == [
        "stem", "left", "right", "sum", "pool", "flat",
    ]  # fmt: skip


def test_the_address_does_not_depend_on_order_name_or_stated_shapes() -> None:
    plain = canonical_text(resolve(graph_from_json(document())))
    other = document()
    other["name"] = "renamed"
    other["layers"].reverse()
    other["layers"][-1]["outputs"] = [{"name": "stem", "shape": ["N", FILTERS, "H", WIDTH]}]

    again = canonical_text(resolve(graph_from_json(other)))

    assert graph_id(plain) == graph_id(again)


def test_a_client_can_compute_the_address() -> None:
    text = canonical_text(resolve(graph_from_json(document())))

    parsed = json.loads(text)
    own = json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert own == text
    assert graph_id(text) == "sha256:" + hashlib.sha256(own.encode()).hexdigest()


def test_the_address_changes_with_an_attribute() -> None:
    other = document()
    other["layers"][0]["attributes"]["dilations"] = [1, 1]

    assert graph_id(canonical_text(graph_from_json(document()))) != graph_id(
        canonical_text(graph_from_json(other))
    )


def test_a_graph_survives_json() -> None:
    graph = resolve(graph_from_json(document()))

    assert graph_from_json(json.loads(json.dumps(graph_to_json(graph)))) == graph


def test_the_canonical_text_is_json_with_sorted_keys_and_no_spaces() -> None:
    given = document()
    given["layers"][0]["attributes"] |= {
        "z": True, "a": [1, True, 2.5e-7], "é\"\n": 'quoted "text"\t', "nested": [[1], []], "n": -1,
    }  # fmt: skip
    text = canonical_text(graph_from_json(given))
    plain: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    assert text == json.dumps(json.loads(text), **plain)
    assert json.loads(text)["layers"][0]["attributes"] == given["layers"][0]["attributes"]


def test_inferred_shapes_keep_their_names() -> None:
    graph = resolve(graph_from_json(document()))

    shapes = {layer.name: layer.outputs[0].shape for layer in graph.layers}
    assert shapes["stem"] == ("N", FILTERS, "H", WIDTH)
    assert shapes["pool"] == ("N", FILTERS, 1, 1)
    assert shapes["flat"] == ("N", FILTERS)


@pytest.mark.parametrize("attributes", [{}, {"axes": [0]}])
def test_a_named_dimension_is_squeezed_once_it_is_bound_to_1(attributes: dict[str, Any]) -> None:
    layer = {"name": "y", "op": "Squeeze", "inputs": ["x"], "attributes": attributes}
    inputs = [{"name": "x", "shape": ["N", FILTERS]}]
    graph = resolve(graph_from_json({"inputs": inputs, "layers": [layer], "outputs": ["y"]}))
    assert graph.layers[0].outputs[0].shape is None

    assert bind(graph, Binding(dims={"N": 1})).outputs[0].shape == (FILTERS,)
    if attributes:
        with pytest.raises(GraphError, match="axis 0 has size 2, not 1"):
            bind(graph, Binding(dims={"N": 2}))
    else:
        assert bind(graph, Binding(dims={"N": 2})).outputs[0].shape == (2, FILTERS)


def test_dims_shapes_and_batch_size_bind_names() -> None:
    graph = graph_from_json(document())
    by_dims = bind(graph, Binding(dims={"N": BATCH, "H": HEIGHT}))
    by_shape = bind(graph, Binding(shapes={"x": (BATCH, CHANNELS, HEIGHT, WIDTH)}))
    by_batch = bind(graph, Binding(batch_size=BATCH, dims={"H": HEIGHT}))

    for network in (by_dims, by_shape, by_batch):
        assert network.nodes[0].outputs[0].shape == (BATCH, FILTERS, HEIGHT, WIDTH)
        assert network.batch_size == BATCH


def test_a_named_batch_is_one_by_default() -> None:
    network = bind(graph_from_json(document()), Binding(dims={"H": HEIGHT}))

    assert network.batch_size == 1


@pytest.mark.parametrize(
    ("binding", "error", "culprit"),
    [
        (Binding(), UnboundDimensionError, "'H'"),
        (Binding(dims={"H": HEIGHT, "Q": 1}), OptionError, "'Q'"),
        (Binding(dims={"H": 0}), OptionError, "'H'"),
        (Binding(shapes={"y": (1,)}), OptionError, "'y'"),
        (Binding(shapes={"x": (1, CHANNELS)}), OptionError, "2 axes"),
        (
            Binding(dims={"H": 7}, shapes={"x": (1, CHANNELS, 11, WIDTH)}),
            OptionError,
            "both 7 and 11",
        ),
        (Binding(batch_size=2, dims={"N": 3, "H": HEIGHT}), OptionError, "batch_size is 2"),
    ],
)
def test_a_binding_that_does_not_fit_is_refused(binding, error, culprit: str) -> None:
    with pytest.raises(error, match=culprit):
        bind(graph_from_json(document()), binding)


def test_a_reshape_that_fixes_the_batch_does_not_scale_and_names_its_tensor() -> None:
    graph = document([1, CHANNELS, HEIGHT, WIDTH])
    graph["layers"].append(
        {
            "name": "fixed",
            "op": "Reshape",
            "inputs": ["flat"],
            "attributes": {"shape": [1, FILTERS]},
        }
    )
    graph["outputs"] = ["fixed"]

    bind(graph_from_json(graph), Binding())
    with pytest.raises(GraphError, match="'fixed'"):
        bind(graph_from_json(graph), Binding(batch_size=2))


def test_a_stated_shape_counts_where_data_decides() -> None:
    graph = document([1, CHANNELS, HEIGHT, WIDTH])
    found: dict[str, Any] = {"name": "found", "op": "NonZero", "inputs": ["flat"]}
    graph["layers"].append(found)
    graph["outputs"] = ["found"]
    with pytest.raises(GraphError, match="depends on data"):
        bind(graph_from_json(graph), Binding())

    found["outputs"] = [{"name": "found", "shape": [2, 7]}]

    assert bind(graph_from_json(graph), Binding()).outputs[0].shape == (2, 7)
    with pytest.raises(GraphError, match="does not scale"):
        bind(graph_from_json(graph), Binding(batch_size=2))


def test_the_requests_dtype_replaces_floating_types_only() -> None:
    graph = {
        "inputs": [
            {"name": "ids", "shape": [1, 7], "dtype": "int64"},
            {"name": "x", "shape": [1, 7], "dtype": "float32"},
        ],
        "layers": [
            {"name": "a", "op": "Relu", "inputs": ["x"]},
            {"name": "b", "op": "Neg", "inputs": ["ids"]},
        ],
        "outputs": ["a", "b"],
    }

    network = bind(graph_from_json(graph), Binding(dtype="float16"))

    assert [tensor.dtype for tensor in network.outputs] == ["float16", "int64"]
    assert network.dtype == "float16"


def test_every_wiring_error_is_told() -> None:
    graph = document()
    graph["layers"][1]["inputs"] = ["nowhere"]
    graph["layers"][2]["name"] = "stem"
    graph["outputs"] = ["nothing"]

    with pytest.raises(GraphError) as caught:
        graph_from_json(graph)

    details = " ".join(problem.detail for problem in caught.value.problems)
    for culprit in ("'nowhere'", "two layers", "'nothing'", "'left'"):
        assert culprit in details
