"""Widths that meet budgets, by the coefficients and by the service's own scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_tests.networks import residual_concat
from latency_client import errors
from latency_client.budget import Meter, adapt_counts, expand, shrink_to
from latency_client.request import Request
from latency_client.service import HttpService
from latency_client.strength import strength_sweep, suggested_strength
from latency_client.structure import Structure, make_structure

QUANTITIES = ["latency_s", "flops", "weights"]


@pytest.fixture(scope="module")
def meter(service: HttpService) -> Meter:
    request = Request(residual_concat(), "p100")
    return Meter(request, service.coefficients(request), service)


@pytest.fixture(scope="module")
def full(meter: Meter) -> Structure:
    random = np.random.default_rng(0)
    strengths = {g.id: random.random(g.size) for g in meter.answer.groups}
    return make_structure(meter.request.graph, meter.answer, {}, strengths)


def value(meter: Meter, structure: Structure, quantity: str) -> float:
    groups = tuple(group.id for group in meter.answer.groups)
    return float(meter(structure.counts(groups)[None], quantity)[0])


@settings(max_examples=20)
@given(part=st.floats(0.3, 0.99), quantity=st.sampled_from(QUANTITIES))
def test_a_shrunk_structure_meets_its_budget_and_nothing_wider_does(
    meter: Meter, full: Structure, part: float, quantity: str
) -> None:
    budget = part * value(meter, full, quantity)
    shrunk = shrink_to(full, meter, **{f"target_{quantity}": budget})  # type: ignore[arg-type]
    assert value(meter, shrunk, quantity) <= budget
    for group in meter.answer.groups:
        kept, strength = shrunk.masks[group.id], full.strengths[group.id]
        assert group.prunable or kept.all()
        if not kept.all():
            assert strength[kept].min() >= strength[~kept].max()


def test_a_budget_that_nothing_meets_says_how_far_one_gets(meter: Meter, full: Structure) -> None:
    with pytest.raises(errors.BudgetError, match="no width meets latency_s"):
        shrink_to(full, meter, target_latency_s=1e-12)
    with pytest.raises(errors.BudgetError, match="no structure meets"):
        adapt_counts(full, meter, 1e-12)
    with pytest.raises(errors.BudgetError, match="narrow it with shrink_to"):
        expand(full, meter, target_flops=1)


@pytest.mark.parametrize("targets", [{}, {"target_flops": 1, "target_weights": 1}])
def test_exactly_one_budget_is_given(
    meter: Meter, full: Structure, targets: dict[str, float]
) -> None:
    with pytest.raises(errors.OptionError, match="exactly one"):
        shrink_to(full, meter, **targets)  # type: ignore[arg-type]


def test_expansion_by_hand(meter: Meter, full: Structure) -> None:
    def weights(a: int, c: int, d: int) -> int:
        return 9 * 3 * a + 9 * a * a + a * c + 9 * (a + c) * d + 9 * d * 5

    # doubled widths fit exactly, one channel more does not
    budget = weights(26, 34, 38)
    expanded = expand(full, meter, target_weights=budget)
    assert expanded.widths == {"a": 26, "b": 26, "c": 34, "d": 38}
    assert expanded.value == budget
    assert expanded.multiplier == pytest.approx(2, abs=0.06)
    tight = expand(full, meter, target_weights=budget, multiple_of=8)
    # a takes a third of its step before d does: 13 x 2.1 is still 3 steps, 19 x 2.1 already 5
    assert tight.widths == {"a": 24, "b": 24, "c": 32, "d": 40}
    assert tight.value == weights(24, 32, 40) <= budget


@settings(max_examples=15)
@given(part=st.floats(0.3, 0.95))
def test_adaptation_meets_its_budget_and_keeps_the_strongest(
    meter: Meter, full: Structure, part: float
) -> None:
    budget = part * value(meter, full, "latency_s")
    adapted = adapt_counts(full, meter, budget)
    assert value(meter, adapted, "latency_s") <= budget
    for group in meter.answer.groups:
        kept = adapted.masks[group.id]
        assert kept.any()
        if not kept.all():
            assert full.strengths[group.id][kept].min() >= full.strengths[group.id][~kept].max()


def test_calibrated_profiles_are_measured_by_scores(service: HttpService) -> None:
    request = Request(residual_concat(), "tile-board")
    answer = service.coefficients(request)
    assert answer.model == "calibrated"
    assert {group.channel_step for group in answer.groups} == {8}
    meter = Meter(request, answer, service)
    sizes = np.array([group.size for group in answer.groups], dtype=np.float64)
    prunable = np.array([group.prunable for group in answer.groups])
    rows = np.stack([sizes, np.where(prunable, 8, sizes)])
    alive = {g.id: 8 for g in answer.groups if g.prunable}
    shrunk = service.coefficients(request.with_options(alive=alive))
    wanted = [answer.latency_s, shrunk.latency_s]
    assert meter(rows, "latency_s") == pytest.approx(wanted, rel=1e-9)

    strengths = {g.id: np.linspace(0.1, 1, g.size) for g in answer.groups}
    structure = make_structure(request.graph, answer, {}, strengths)
    budget = (answer.latency_s + shrunk.latency_s) / 2
    for found in (
        adapt_counts(structure, meter, budget),
        shrink_to(structure, meter, target_latency_s=budget),
    ):
        assert value(meter, found, "latency_s") <= budget


def test_strengths_lie_around_the_inverse_cost() -> None:
    assert suggested_strength(2e-4) == 5000
    sweep = strength_sweep(2e-4, count=3, decades=2)
    assert sweep == pytest.approx((500, 5000, 50_000))
    for cost in (0.0, float("nan"), -1.0):
        with pytest.raises(errors.OptionError, match="positive cost"):
            suggested_strength(cost)
