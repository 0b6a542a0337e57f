"""Cost and penalty against hand arithmetic, finite differences and the service's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_tests.networks import residual_concat, two_layers
from latency_client.reference import costs, evaluate
from latency_client.request import Request
from latency_client.resources import RESOURCES, CostArrays, cost_arrays
from latency_client.service import HttpService


def layer_cost(arrays: CostArrays, layer: str, counts: Any) -> float:
    return float(evaluate(arrays, counts, counts).costs[0, arrays.layers.index(layer)])


def test_every_resource_by_hand(service: HttpService) -> None:
    answer = service.coefficients(Request(two_layers(), "p100"))
    arrays = {name: cost_arrays([answer], RESOURCES[name]) for name in RESOURCES}
    full = arrays["flops"].sizes
    pixels, peak, bandwidth = 7 * 11, 9.3e12, 732e9

    assert layer_cost(arrays["flops"], "b", full) == 2 * pixels * 3 * 3 * 13 * 17
    assert layer_cost(arrays["model_size"], "b", full) == 3 * 3 * 13 * 17
    assert layer_cost(arrays["activation"], "b", full) == 17
    assert layer_cost(arrays["activation"], "b.bn", full) == 0
    assert arrays["activation"].unit == "channels"
    assert layer_cost(arrays["latency"], "b", full) == pytest.approx(
        max(
            2 * pixels * 3 * 3 * 13 * 17 / peak,
            4 * (pixels * (13 + 17) + 3 * 3 * 13 * 17) / bandwidth,
        ),
        rel=1e-12,
    )
    assert costs(arrays["latency"], full)[0] == pytest.approx(answer.latency_s, rel=1e-12)


def test_a_dead_layer_costs_nothing(service: HttpService) -> None:
    answer = service.coefficients(Request(residual_concat(), "v100"))
    arrays = cost_arrays([answer])
    counts = arrays.sizes
    (column,) = np.flatnonzero(arrays.writes[arrays.layers.index("c")])
    counts[column] = 0
    found = evaluate(arrays, counts, np.zeros_like(counts))

    for name in ("c", "c.bn", "c.relu"):
        assert found.costs[0, arrays.layers.index(name)] == 0
    assert found.costs[0, arrays.layers.index("d")] > 0


@pytest.fixture(scope="module")
def two_devices(service: HttpService) -> CostArrays:
    graph = residual_concat()
    return cost_arrays([service.coefficients(Request(graph, name)) for name in ("v100", "p100")])


@given(seed=st.integers(0, 2**32 - 1))
def test_the_gradient_is_that_of_the_penalty(two_devices: CostArrays, seed: int) -> None:
    arrays = two_devices
    random = np.random.default_rng(seed)
    counts = np.floor(random.uniform(0, arrays.sizes + 1))
    strengths = random.uniform(0, 3, arrays.sizes.size)
    found = evaluate(arrays, counts, strengths)

    # the penalty is linear in the strengths
    assert found.gradient @ strengths == pytest.approx(found.penalty, rel=1e-12)
    for column in range(arrays.sizes.size):
        step = np.eye(arrays.sizes.size)[column]
        more = evaluate(arrays, counts, strengths + step).penalty
        assert more - found.penalty == pytest.approx(found.gradient[:, column], rel=1e-9, abs=1e-15)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_are_what_the_service_says_of_the_shrunk_network(
    service: HttpService, seed: int
) -> None:
    request = Request(residual_concat(), "p100")
    answer = service.coefficients(request)
    random = np.random.default_rng(seed)
    alive = {g.id: int(random.integers(0, g.size + 1)) for g in answer.groups if g.prunable}
    shrunk = service.coefficients(request.with_options(alive=alive))
    arrays = cost_arrays([answer])
    counts = np.array([alive.get(g.id, g.size) for g in answer.groups], dtype=np.float64)

    assert costs(arrays, counts)[0] == pytest.approx(shrunk.latency_s, rel=1e-9)
    many = np.stack([counts, arrays.sizes])
    assert costs(arrays, many)[0] == pytest.approx([shrunk.latency_s, answer.latency_s], rel=1e-9)
