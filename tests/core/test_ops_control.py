from __future__ import annotations

from typing import Any

import pytest

from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.errors import GraphError, UnknownOpError
from latency_service.core.graph import graph_from_json
from tests.core.cases import FLOAT, cost_at, costed, group_of

EXPECTED = ("If", "Loop", "Scan")

BATCH, WIDTH, HIDDEN = 2, 5, 7
DENSE_FLOPS = 2 * BATCH * HIDDEN * HIDDEN
DENSE_BYTES = FLOAT * (2 * BATCH * HIDDEN + HIDDEN * HIDDEN)


def row(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    parameters = attributes.pop("parameters", None)
    found = {"name": name, "op": op, "inputs": list(inputs), "outputs": [{"name": name}],
             "attributes": attributes}  # fmt: skip
    return found | ({} if parameters is None else {"parameters": parameters})


def dense(name: str, source: str, c_in: int, c_out: int) -> dict[str, Any]:
    return row(name, "Gemm", source, parameters=[{"role": "weight", "shape": [c_out, c_in]}])


def network(*layers: dict[str, Any], inputs: tuple[dict[str, Any], ...] = ()) -> CostModel:
    """The layers behind x, which a Gemm gives 7 channels."""
    source = {"name": "source", "shape": [BATCH, WIDTH]}
    rows = [dense("x", "source", WIDTH, HIDDEN), *layers]
    out = layers[-1]["outputs"][0]["name"]
    return costed(graph_from_json({"inputs": [source, *inputs], "layers": rows, "outputs": [out]}))


def inner(*layers: dict[str, Any], inputs: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"inputs": list(inputs), "layers": list(layers), "outputs": [layers[-1]["name"]]}


FLAG: dict[str, Any] = {"name": "flag", "shape": [], "dtype": "bool", "batch_axis": None}
COUNT: dict[str, Any] = {"name": "count", "shape": [], "dtype": "int64", "batch_axis": None}


def test_if_costs_its_dearer_branch_and_freezes_what_it_reads() -> None:
    branch = row(
        "branch",
        "If",
        "flag",
        then_branch=inner(row("cheap", "Relu", "x")),
        else_branch=inner(dense("dear", "x", HIDDEN, HIDDEN)),
    )
    costs = network(branch, row("end", "Relu", "branch"), inputs=(FLAG,))
    found = cost_at(costs, "branch/else_branch/dear", {})
    assert (found.flops, found.bytes) == (DENSE_FLOPS, DENSE_BYTES)
    assert found.weights == found.parameters == HIDDEN * HIDDEN
    assert "branch/then_branch/cheap" not in costs.names
    assert cost_at(costs, "branch", {}).bytes == 0
    assert cost_at(costs, "end", {}).bytes == FLOAT * 2 * BATCH * HIDDEN
    assert not any(group.prunable for group in costs.groups)
    assert any("else_branch" in text for text in costs.assumptions)


def test_if_with_a_known_condition_costs_that_branch() -> None:
    branch = row(
        "branch",
        "If",
        "flag",
        then_branch=inner(row("cheap", "Relu", "x")),
        else_branch=inner(dense("dear", "x", HIDDEN, HIDDEN)),
    )
    costs = network(row("flag", "Constant", value=True), branch)
    assert cost_at(costs, "branch/then_branch/cheap", {}).bytes == FLOAT * 2 * BATCH * HIDDEN
    assert "branch/else_branch/dear" not in costs.names


STEP: tuple[dict[str, Any], ...] = (
    {"name": "i", "shape": [], "dtype": "int64", "batch_axis": None},
    {"name": "go on", "shape": [], "dtype": "bool", "batch_axis": None},
    {"name": "state", "shape": [BATCH, HIDDEN]},
)


def loop(*inputs: str, **attributes: Any) -> dict[str, Any]:
    body = inner(
        row("still", "Identity", "go on"), dense("next", "state", HIDDEN, HIDDEN), inputs=STEP
    )
    body["outputs"] = ["still", "next", "next"]
    found = row("loop", "Loop", *inputs, body=body, **attributes)
    return found | {"outputs": [{"name": "last"}, {"name": "all"}]}


@pytest.mark.parametrize("given", ["attribute", "input"])
def test_loop_costs_its_body_times_the_trip_count(given: str) -> None:
    trips = 11
    if given == "attribute":
        layers = [loop("x", M=trips)]
    else:
        layers = [row("trips", "Constant", value=trips), loop("trips", "", "x")]
    costs = network(*layers, row("end", "Relu", "all"))
    body = cost_at(costs, "loop/body/next", {})
    assert (body.flops, body.bytes) == (trips * DENSE_FLOPS, trips * DENSE_BYTES)
    assert body.parameters == HIDDEN * HIDDEN  # learned once, however often it runs
    assert cost_at(costs, "end", {}).bytes == FLOAT * 2 * trips * BATCH * HIDDEN
    assert not any(group.prunable for group in costs.groups)


def test_loop_inside_a_loop_multiplies_the_trip_counts() -> None:
    body = inner(row("still", "Identity", "go on"), loop("state", M=3), inputs=STEP)
    body["outputs"] = ["still", "last"]
    outer = row("outer", "Loop", "x", body=body, M=5) | {"outputs": [{"name": "result"}]}
    costs = network(outer)
    found = cost_at(costs, "outer/body/loop/body/next", {})
    assert (found.flops, found.bytes) == (3 * 5 * DENSE_FLOPS, 3 * 5 * DENSE_BYTES)


def test_loop_whose_count_is_data_is_refused_by_name() -> None:
    with pytest.raises(GraphError, match=r"layer 'loop'.*trip count of this Loop depends on data"):
        network(loop("count", "", "x"), inputs=(COUNT,))


def test_scan_runs_its_body_once_per_entry() -> None:
    steps = 3
    sequence = {"name": "sequence", "shape": [BATCH, steps, HIDDEN]}
    body = inner(
        row("sum", "Add", "state", "entry"),
        dense("next", "sum", HIDDEN, HIDDEN),
        inputs=({"name": "state", "shape": [BATCH, HIDDEN]},
                {"name": "entry", "shape": [BATCH, HIDDEN]}),
    )  # fmt: skip
    body["outputs"] = ["next", "sum"]
    axes = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]}
    scan = row("scan", "Scan", "x", "sequence", body=body, **axes)
    scan["outputs"] = [{"name": "last"}, {"name": "sums"}]
    costs = network(scan, row("end", "ReduceMax", "sums", axes=[1]), inputs=(sequence,))
    dense_row = cost_at(costs, "scan/body/next", {})
    assert (dense_row.flops, dense_row.bytes) == (steps * DENSE_FLOPS, steps * DENSE_BYTES)
    assert cost_at(costs, "scan/body/sum", {}).bytes == steps * FLOAT * 3 * BATCH * HIDDEN
    # read (2, 3, 7), write (2, 1, 7)
    assert cost_at(costs, "end", {}).bytes == FLOAT * BATCH * HIDDEN * (steps + 1)


def test_unknown_operator_is_refused_by_name() -> None:
    with pytest.raises(UnknownOpError, match=r"layer 'odd'.*'Oddity'.*unknown_ops"):
        network(row("odd", "Oddity", "x"))


def test_unknown_operator_is_charged_its_bytes_and_frozen_on_request() -> None:
    """Reads x (2, 7), its weight (11, 3); writes (2, 13) in float16."""
    odd = row("odd", "Oddity", "x", parameters=[{"role": "weight", "shape": [11, 3]}])
    odd["outputs"] = [{"name": "odd", "shape": [BATCH, 13], "dtype": "float16"}]
    graph = graph_from_json(
        {
            "inputs": [{"name": "source", "shape": [BATCH, WIDTH]}],
            "layers": [dense("x", "source", WIDTH, HIDDEN), odd],
            "outputs": ["odd"],
        }
    )
    costs = cost_model(graph, Binding(unknown_ops="freeze"), Pruning(freeze_outputs=False))
    found = cost_at(costs, "odd", {})
    assert found.bytes == FLOAT * (BATCH * HIDDEN + 11 * 3) + 2 * BATCH * 13
    assert (found.flops, found.parameters) == (0, 11 * 3)
    assert not costs.groups[int(group_of(costs, HIDDEN)[1:])].prunable
    assert costs.assumed.tolist() == [False, True]
    assert any("Oddity" in text for text in costs.assumptions)
