"""force_group and exclude, with MorphNet's contracts, and dead layers."""

from typing import Any

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.errors import OptionError
from latency_service.core.graph import graph_from_json
from latency_service.core.profile import ComputeRate, Device, Memory, Profile
from latency_service.core.roofline import latency_model
from latency_service.core.scoring import latencies_s, structure, structures, totals

CHANNELS, WIDE, NARROW = 3, 17, 13


def conv(name: str, source: str, filters: int, channels: int) -> dict[str, Any]:
    weight = {"role": "weight", "shape": [filters, channels, 1, 1]}
    return {"name": name, "op": "Conv", "inputs": [source], "parameters": [weight]}


GRAPH = {
    "inputs": [{"name": "x", "shape": [1, CHANNELS, 7, 11]}],
    "layers": [
        conv("tower/a", "x", WIDE, CHANNELS),
        conv("tower/b", "x", WIDE, CHANNELS),
        conv("tower/c", "x", NARROW, CHANNELS),
        {
            "name": "join",
            "op": "Concat",
            "inputs": ["tower/a", "tower/b", "tower/c"],
            "attributes": {"axis": 1},
        },
        conv("head", "join", 5, 2 * WIDE + NARROW),
    ],
    "outputs": ["head"],
}


def costed(**options: Any) -> CostModel:
    return cost_model(graph_from_json(GRAPH), pruning=Pruning(**options))


def group_of(costs: CostModel, layer: str) -> int:
    ((group, _),) = costs.writes[costs.names.index(layer)]
    return group


def test_forced_layers_share_a_group() -> None:
    apart, together = costed(), costed(force_group=("tower/a|tower/b",))

    assert group_of(apart, "tower/a") != group_of(apart, "tower/b")
    assert group_of(together, "tower/a") == group_of(together, "tower/b")
    assert together.reads[together.names.index("head")][0][1] == 2


def test_excluded_layers_are_never_pruned() -> None:
    costs = costed(exclude=("tower/a",))

    assert not costs.groups[group_of(costs, "tower/a")].prunable
    assert costs.groups[group_of(costs, "tower/b")].prunable


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"force_group": ("tower/[ac]",)}, "equally many"),
        ({"force_group": ("nobody",)}, "matches no layer"),
        ({"force_group": ("join|head",)}, "3 channel groups"),
        ({"force_group": ("(",)}, "regular expression"),
        ({"exclude": ("nobody",)}, "matches no layer"),
        ({"exclude": ("[",)}, "regular expression"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, culprit: str) -> None:
    with pytest.raises(OptionError, match=culprit):
        costed(**options)


def test_group_ids_do_not_depend_on_what_is_alive() -> None:
    costs = costed()

    assert [group.id for group in costs.groups] == [f"g{n}" for n in range(len(costs.groups))]
    assert group_of(costs, "tower/a") < group_of(costs, "tower/b") < group_of(costs, "tower/c")


def device() -> Profile:
    return Profile(
        Device("d", "d", "none", "cpu"),
        "ideal",
        Memory(7e9, "derived", "a test"),
        (ComputeRate("float32", "float32", 11e9, "derived", "a test", True),),
    )


def test_a_dead_tower_costs_nothing_and_the_others_what_they_did() -> None:
    costs = costed()
    model = latency_model(costs, device())
    name = costs.groups[group_of(costs, "tower/b")].id

    full, dead = latencies_s([model], np.stack([structure(costs, {}), structure(costs, {name: 0})]))

    tower = costs.names.index("tower/b")
    n_in, n_out = CHANNELS, WIDE
    alone = max(
        (costs.flops[tower] @ [1, n_in, n_out, n_in * n_out]) / 11e9,
        (costs.bytes[tower] @ [1, n_in, n_out, n_in * n_out]) / 7e9,
    )
    assert full[0] - dead[0] > alone


def test_a_kernel_that_an_inner_graph_shares_is_counted_once_and_kept() -> None:
    shared = {"role": "weight", "shape": [WIDE, CHANNELS, 1, 1], "id": "shared"}
    inner = conv("inner", "x", WIDE, CHANNELS) | {"parameters": [shared]}
    other = {"layers": [{"name": "cheap", "op": "Relu", "inputs": ["x"]}], "outputs": ["cheap"]}
    branches = {"then_branch": {"layers": [inner], "outputs": ["inner"]}, "else_branch": other}
    graph = {
        "inputs": [
            {"name": "x", "shape": [1, CHANNELS, 7, 11]},
            {"name": "flag", "shape": [], "dtype": "bool", "batch_axis": None},
        ],
        "layers": [
            conv("outer", "x", WIDE, CHANNELS) | {"parameters": [shared]},
            {"name": "choice", "op": "If", "inputs": ["flag"], "attributes": branches},
        ],
        "outputs": ["outer", "choice"],
    }

    costs = cost_model(graph_from_json(graph), pruning=Pruning(freeze_outputs=False))

    full = costs.sizes[None, :]
    assert totals(costs, costs.weights, full)[0] == WIDE * CHANNELS
    assert not costs.groups[group_of(costs, "outer")].prunable


def test_counts_are_checked() -> None:
    costs = costed()
    a = costs.groups[group_of(costs, "tower/a")].id

    for alive, culprit in (
        ({"g99": 1}, "g99"),
        ({a: WIDE + 1}, a),
        ({a: -1}, a),
        ({"g0": 1}, "g0"),
    ):
        with pytest.raises(OptionError, match=culprit):
            structure(costs, alive)
    with pytest.raises(OptionError, match="whole numbers"):
        structures(costs, [a], np.array([[1.5]]))
    with pytest.raises(OptionError, match="one column"):
        structures(costs, [a], np.array([[1.0, 2.0]]))
    with pytest.raises(OptionError, match="whole numbers"):
        structures(costs, [a], np.array([[np.nan]]))
