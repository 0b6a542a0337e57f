"""Groups of operators that runtimes run as one are found by their shape."""

from typing import Any

import pytest

from latency_service.core.costing import cost_model
from latency_service.core.costs import Pruning
from latency_service.core.graph import graph_from_json
from latency_service.core.profile import FusionRules

HEIGHT, WIDTH, CHANNELS = 11, 13, 3


def scalar(name: str, op: str, source: str) -> dict[str, Any]:
    """A step with a learned or known number."""
    number = {"role": "scale", "shape": [1]}
    return {"name": name, "op": op, "inputs": [source], "parameters": [number]}


def layer(name: str, op: str, *inputs: str) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": list(inputs)}


SHIFTED_ERF = [scalar("scaled", "Div", "x"), layer("erf", "Erf", "scaled"),
               scalar("plus", "Add", "erf")]  # fmt: skip
GELUS = {
    "half of the product": [
        *SHIFTED_ERF, layer("product", "Mul", "plus", "x"), scalar("y", "Mul", "product"),
    ],
    "half of x, the first of all layers": [
        scalar("half", "Mul", "x"), *SHIFTED_ERF, layer("y", "Mul", "plus", "half"),
    ],
    "half of the shifted error function": [
        *SHIFTED_ERF, scalar("half", "Mul", "plus"), layer("y", "Mul", "half", "x"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layers", GELUS.values(), ids=GELUS)
def test_a_gelu_is_one_operator_however_it_is_written(layers: list[dict[str, Any]]) -> None:
    graph = {
        "inputs": [{"name": "x", "shape": [1, CHANNELS, HEIGHT, WIDTH]}],
        "layers": layers,
        "outputs": ["y"],
    }
    rules = FusionRules(patterns=("gelu", "gelu-halved"))
    costs = cost_model(graph_from_json(graph), pruning=Pruning(), fusion=rules)

    (host,) = {found for found in costs.fused_into if found is not None}
    assert {costs.names[i] for i in (*costs.fuses[host], host)} == {row["name"] for row in layers}


@pytest.mark.parametrize(
    ("scale", "pattern", "merged"),
    [("Div", "gelu-divided", 4), ("Mul", "gelu-divided", 0), ("Mul", "gelu", 4)],
)
def test_a_runtime_may_know_a_gelu_by_its_division_only(
    scale: str, pattern: str, merged: int
) -> None:
    graph = {
        "inputs": [{"name": "x", "shape": [1, CHANNELS, HEIGHT, WIDTH]}],
        "layers": [scalar("scaled", scale, "x"), *GELUS["half of the product"][1:]],
        "outputs": ["y"],
    }
    rules = FusionRules(patterns=(pattern,))
    costs = cost_model(graph_from_json(graph), pruning=Pruning(), fusion=rules)
    assert sum(host is not None for host in costs.fused_into) == merged


@pytest.mark.parametrize(
    ("rows", "learned", "merged"),
    [(5, None, 1), (5, [5, 13], 1), (5, [13], 0), (1, [5, 13], 0)],
)
def test_a_normalisation_takes_an_addition_of_two_tensors(
    rows: int, learned: list[int] | None, merged: int
) -> None:
    added: dict[str, Any] = layer("sum", "Add", "x", "y")
    if learned is not None:
        added = layer("sum", "Add", "x") | {"parameters": [{"role": "bias", "shape": learned}]}
    vectors = [{"role": role, "shape": [13]} for role in ("scale", "bias")]
    graph = {
        "inputs": [{"name": name, "shape": [rows, 13]} for name in ("x", "y")],
        "layers": [added, layer("norm", "LayerNormalization", "sum") | {"parameters": vectors}],
        "outputs": ["norm"],
    }
    rules = FusionRules(patterns=("skip-layer-normalisation",))
    costs = cost_model(graph_from_json(graph), pruning=Pruning(), fusion=rules)
    assert sum(host is not None for host in costs.fused_into) == merged
