"""Costs at pruned counts are the costs of the pruned network: what the whole service rests on.

Graphs are generated (tests/core/graphs.py), groups asked for, channels drawn; the pruned network is
built from the answer's members alone (tests/core/pruner.py) and costed at its own full width.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_service.core.answer import LayerCost, costs_on
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.graph import graph_from_json
from latency_service.core.profile import ComputeRate, Device, FusionRules, Memory, Profile
from latency_service.core.roofline import LatencyModel, latency_model
from latency_service.core.scoring import latencies_s, structure
from tests.core.graph_builder import Builder, Json
from tests.core.graphs import choosing, graphs, network
from tests.core.image_blocks import IMAGE
from tests.core.pruner import prune
from tests.core.sequence_blocks import SEQUENCE, head_norm, heads_of

# FLOPs per byte at which compute and memory meet: from "all memory" to "all compute".
RIDGES = (0.01, 1.0, 7.0, 1e4)
FUSION = FusionRules(
    fold=("BatchNormalization", "Mul", "Add"),
    fuse=("Relu", "LeakyRelu", "Sigmoid", "Clip", "PRelu", "Gelu", "Add", "Mul"),
)
QUANTITIES = ("flops", "bytes", "weights", "parameters", "latency_s", "compute_s", "memory_s")

thorough = settings(
    max_examples=max(200, settings().max_examples),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
quick = settings(thorough, max_examples=thorough.max_examples // 5)


def profile(ridge: float) -> Profile:
    """A device with 1 GB/s and so many FLOPs per byte."""
    memory = Memory(1e9, "recalled", "")
    rate = ComputeRate("float32", "float32", ridge * 1e9, "recalled", "", default=True)
    return Profile(Device("test", "Test", "nobody", "cpu"), "ideal", memory, (rate,))


DEVICES = [profile(ridge) for ridge in RIDGES]


def costs_of(
    document: Json, pruning: Pruning | None = None, fusion: FusionRules | None = None
) -> CostModel:
    return cost_model(graph_from_json(document), None, pruning, fusion)


def on_devices(costs: CostModel) -> list[LatencyModel]:
    return [latency_model(costs, device) for device in DEVICES]


def drawn(draw: Any, costs: CostModel, least: int = 1) -> dict[str, list[int]]:
    """Channels that die, by group: any set of which at least `least` are left."""
    dead = {}
    for group in costs.groups:
        if group.prunable and group.size > least:
            order = draw(st.permutations(range(group.size)))
            dead[group.id] = sorted(order[: draw(st.integers(0, group.size - least))])
    return dead


def counted(costs: CostModel, dead: Mapping[str, list[int]]) -> np.ndarray[Any, Any]:
    live = {group.id: group.size - len(dead.get(group.id, ())) for group in costs.groups}
    return structure(costs, {name: count for name, count in live.items() if name in dead})


def check(document: Json, costs: CostModel, dead: Mapping[str, list[int]], **options: Any) -> None:
    """Build the pruned network and compare what it costs, layer by layer."""
    answer = costs_on(latency_model(costs, DEVICES[0]), costs.sizes)
    pruned = costs_of(prune(document, answer["groups"], dead), **options)
    assert pruned.names == costs.names
    counts = counted(costs, dead)
    for model, again in zip(on_devices(costs), on_devices(pruned), strict=True):
        here, there = costs_on(model, counts), costs_on(again, pruned.sizes)
        for ours, theirs in zip(here["layers"], there["layers"], strict=True):
            compare(ours, theirs)
        found, expected = here["totals"], there["totals"]
        for quantity in ("latency_s", "flops", "bytes", "weights", "parameters"):
            assert found[quantity] == pytest.approx(expected[quantity], rel=1e-12), quantity


def compare(ours: LayerCost, theirs: LayerCost) -> None:
    found, expected = amounts(ours), amounts(theirs)
    assert found == pytest.approx(expected, rel=1e-12, abs=0), ours["name"]


def amounts(row: LayerCost) -> dict[str, float]:
    return {key: value for key, value in row.items() if key in QUANTITIES}  # type: ignore[misc]


# --- the property ---------------------------------------------------------------------------------


@thorough
@given(st.data(), graphs(), st.booleans())
def test_costs_at_pruned_counts_are_the_costs_of_the_pruned_network(
    data: st.DataObject, document: Json, freeze_outputs: bool
) -> None:
    pruning = Pruning(freeze_outputs=freeze_outputs)
    costs = costs_of(document, pruning)
    dead = drawn(data.draw, costs)
    check(document, costs, dead, pruning=pruning)


@pytest.mark.parametrize("name", [*IMAGE, *SEQUENCE])
def test_every_building_block_by_itself(name: str) -> None:
    for seed in range(12):
        rng = random.Random(seed)
        document = network([name], choosing(seed), name in SEQUENCE and bool(seed % 2))
        costs = costs_of(document)
        dead = {
            group.id: rng.sample(range(group.size), rng.randrange(group.size))
            for group in costs.groups
            if group.prunable
        }
        check(document, costs, dead)


@quick
@given(st.data(), graphs())
def test_so_it_is_where_the_runtime_fuses(data: st.DataObject, document: Json) -> None:
    # a tensor that is left with one channel may be fused where two could not
    costs = costs_of(document, None, FUSION)
    dead = drawn(data.draw, costs, least=2)
    check(document, costs, dead, pruning=None, fusion=FUSION)


@quick
@given(graphs())
def test_fusing_changes_no_sums_but_bytes(document: Json) -> None:
    apart, fused = costs_of(document), costs_of(document, None, FUSION)
    for quantity in ("flops", "weights", "parameters"):
        assert (getattr(apart, quantity) == getattr(fused, quantity)).all()
    model = on_devices(apart)[0], on_devices(fused)[0]
    bytes_apart, bytes_fused = (costs_on(m, m.costs.sizes)["totals"]["bytes"] for m in model)
    assert bytes_fused <= bytes_apart * (1 + 1e-12)
    assert all((fused.bytes[row] == 0).all() for guests in fused.fuses for row in guests)


@quick
@given(st.data(), graphs())
def test_many_structures_at_once_cost_what_each_costs(data: st.DataObject, document: Json) -> None:
    costs = costs_of(document)
    models = on_devices(costs)
    rows = np.stack([counted(costs, drawn(data.draw, costs, least=0)) for _ in range(3)])
    seconds = latencies_s(models, rows)
    for (i, row), (j, model) in itertools.product(enumerate(rows), enumerate(models)):
        alone = costs_on(model, row)["totals"]["latency_s"]
        assert seconds[i, j] == pytest.approx(alone, rel=1e-12)


# --- dead groups ----------------------------------------------------------------------------------


@quick
@given(st.data(), graphs())
def test_a_layer_without_live_outputs_or_inputs_costs_nothing(
    data: st.DataObject, document: Json
) -> None:
    costs = costs_of(document)
    prunable = [group.id for group in costs.groups if group.prunable]
    killed = set(data.draw(st.lists(st.sampled_from(prunable)))) if prunable else set()
    model = latency_model(costs, DEVICES[1])
    full = costs_on(model, costs.sizes)["layers"]
    for before, after in zip(
        full, costs_on(model, structure(costs, dict.fromkeys(killed, 0)))["layers"], strict=True
    ):
        sides = [{use["group"] for use in uses} for uses in (before["reads"], before["writes"])]
        if any(side and side <= killed for side in sides):
            assert set(amounts(after).values()) == {0.0}
        elif not (sides[0] | sides[1]) & killed:
            compare(after, before)


# --- what a group is ------------------------------------------------------------------------------


@quick
@given(st.data(), graphs())
def test_groups_depend_neither_on_what_lives_nor_on_the_order_of_layers(
    data: st.DataObject, document: Json
) -> None:
    costs = costs_of(document)
    alive = counted(costs, drawn(data.draw, costs))
    model = latency_model(costs, DEVICES[1])
    keys = ("id", "size", "prunable", "members")
    groups = [
        [{key: group[key] for key in keys} for group in costs_on(model, counts)["groups"]]  # type: ignore[literal-required]
        for counts in (costs.sizes, alive)
    ]
    assert groups[0] == groups[1]
    shuffled = document | {"layers": data.draw(st.permutations(document["layers"]))}
    assert costs_of(shuffled).groups == costs.groups


@quick
@given(graphs())
def test_outputs_are_frozen_unless_asked(document: Json) -> None:
    costs = costs_of(document)
    writers = {out["name"]: row["name"] for row in document["layers"] for out in row["outputs"]}
    for output in document["outputs"]:
        row = costs.names.index(writers[output])
        assert not any(costs.groups[group].prunable for group, _ in costs.writes[row])


@quick
@given(st.data(), graphs())
def test_excluded_layers_are_never_pruned(data: st.DataObject, document: Json) -> None:
    name = data.draw(st.sampled_from(document["layers"]))["name"]
    pruning = Pruning(exclude=(f"^{name}$",), freeze_outputs=False)
    costs, free = costs_of(document, pruning), costs_of(document, Pruning(freeze_outputs=False))
    row = costs.names.index(name)
    assert not any(costs.groups[group].prunable for group, _ in costs.writes[row])
    # nothing else is frozen: what is prunable goes down by no more than what the layer writes
    written = sum(free.groups[group].size for group, _ in free.writes[row])
    left, right = (sum(g.size for g in c.groups if g.prunable) for c in (free, costs))
    assert left - right <= written
    check(document, costs, drawn(data.draw, costs), pruning=pruning)


@quick
@given(st.data(), st.integers(0, 10**6))
def test_forced_layers_share_a_group(data: st.DataObject, seed: int) -> None:
    document = network(["activation"], choosing(seed))
    stem = document["layers"][0]["outputs"][0]
    shape = stem["shape"]
    sides = []
    for side in "ab":
        sides.append(
            {
                "name": f"forced {side}",
                "op": "Conv",
                "inputs": [stem["name"]],
                "outputs": [{"name": side, "shape": [shape[0], 5, *shape[2:]]}],
                "attributes": {"kernel_shape": [1, 1]},
            }
        )
        end = {
            "name": f"end {side}",
            "op": "Conv",
            "inputs": [side],
            "outputs": [{"name": f"end {side}", "shape": [shape[0], 2, *shape[2:]]}],
            "attributes": {"kernel_shape": [1, 1]},
        }
        sides.append(end)
    document = document | {
        "layers": [*document["layers"], *sides],
        "outputs": [*document["outputs"], "end a", "end b"],
    }
    apart = costs_of(document)
    pruning = Pruning(force_group=("^forced ",))
    costs = costs_of(document, pruning)
    first, second = (costs.names.index(f"forced {side}") for side in "ab")
    assert costs.writes[first] == costs.writes[second]
    assert apart.writes[first] != apart.writes[second]
    assert len(apart.groups) == len(costs.groups) + 1
    check(document, costs, drawn(data.draw, costs), pruning=pruning)


# Sizes of the groups that a block must have, each built with the first of its variants.
PROMISES: dict[str, tuple[int, ...]] = {
    "residual": (5,),  # the inner width
    "squeeze-excite": (5,),
    "dense block": (5, 5),
    "concat twice": (5,),
    "concats added": (3, 1, 4),
    "grouped conv": (3,),
    "depthwise": (5,),
    "pixel shuffle": (3,),
    "split": (3, 3),
    "attention": (3,),  # heads
    "mlp": (5,),
    "gated mlp": (5,),
    "lstm": (5,),
    "token mixing": (5,),
}


@pytest.mark.parametrize("name", PROMISES)
def test_what_is_promised_to_be_prunable_is(name: str) -> None:
    costs = costs_of(network([name]))
    found = [group.size for group in costs.groups if group.prunable]
    for size in PROMISES[name]:
        assert size in found, found
        found.remove(size)


def test_heads_that_are_normalised_can_go() -> None:
    for seed in range(20):
        builder = Builder(choosing(seed))
        x = builder.input((1, 4, 5))
        rows = [builder.linear(x, 6) for _ in range(2)]
        q, k = heads_of(builder, rows[0], 3), heads_of(builder, rows[1], 3, keys=True)
        scores = builder.layer("MatMul", [head_norm(builder, q), k], (1, 3, 4, 4))
        builder.outputs.append(scores.name)
        costs = costs_of(builder.document(), Pruning(freeze_outputs=False))
        assert [group.size for group in costs.groups if group.prunable] == [3]


def test_a_channel_shuffle_is_pruned_by_columns() -> None:
    """Without grouped convolutions, six channels seen as (3, 2) keep three that can go."""
    costs = costs_of(network(["shuffle"], lambda options: options[-1]))
    assert 3 in [group.size for group in costs.groups if group.prunable]
