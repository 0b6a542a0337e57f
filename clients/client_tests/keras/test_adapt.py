"""Budgets of Keras models: what is shrunk, expanded and adapted really costs what was asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from client_tests.keras.networks import SMALL, image_of, randomise
from latency_client.errors import BudgetError, OptionError
from latency_client.keras import (
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    adapt,
    at_widths,
    expand,
    masked,
    shrink_to,
)
from latency_client.service import HttpService


def plain_flops(a: int, b: int) -> int:
    """Of `plain` with other widths: 5x5 on 7x11, 3x3 with stride 2 on 4x6, dense."""
    return 2 * (7 * 11 * 5 * 5 * 3 * a + 4 * 6 * 3 * 3 * a * b + b * 5)


def test_the_widest_multiple_is_found_and_built(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    regularizer = GammaFlopsRegularizer(model, service=service)
    # the classifier writes a bias on top of its products
    rest = float(regularizer.get_cost()) - plain_flops(13, 17)
    found = expand(regularizer, target_flops=plain_flops(26, 34) + rest)
    assert found.widths["a"] == 26
    assert found.widths["b"] == 34
    assert found.multiplier == pytest.approx(2, rel=1 / 13)
    wide = at_widths(model, found.widths)
    assert wide.get_layer("fc").kernel.shape == (34, 5)
    again = GammaFlopsRegularizer(wide, service=service)
    assert float(again.get_cost()) == pytest.approx(plain_flops(26, 34) + rest, rel=1e-6)
    with pytest.raises(BudgetError, match="shrink_to"):
        expand(regularizer, target_flops=plain_flops(13, 16))


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "flatten"])
def test_a_shrunk_model_meets_its_latency(name: str, service: HttpService) -> None:
    model = randomise(SMALL[name]())
    regularizer = GammaLatencyRegularizer(
        model, service=service, devices=["v100", "p100"], threshold=0.0
    )
    wanted = 0.6 * regularizer.costs_by_device()["p100-pcie-16gb"]
    structure = shrink_to(regularizer, device="p100", target_latency_s=wanted)
    small = regularizer.prune_to(structure)
    there = GammaLatencyRegularizer(small, service=service, device="p100", threshold=0.0)
    assert 0 < there.answers[0].latency_s <= wanted
    for layer, width in structure.layers.items():
        assert 0 < len(width.alive) <= width.size, layer


def test_an_adapted_model_meets_a_calibrated_budget_with_its_own_weights(
    service: HttpService,
) -> None:
    model = randomise(SMALL["residual"]())
    regularizer = GammaLatencyRegularizer(
        model, service=service, device="tile-board", threshold=0.0
    )
    budget_s = 0.95 * regularizer.answers[0].latency_s
    small = adapt(regularizer, budget_s, multiple_of=1)
    again = GammaLatencyRegularizer(small, service=service, device="tile-board", threshold=0.0)
    assert again.answers[0].latency_s <= budget_s * (1 + 1e-9)
    assert small.count_params() < model.count_params()
    with pytest.raises(BudgetError, match="no structure meets"):
        adapt(regularizer, 1e-12)


def test_the_strongest_channels_stay(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    gamma = np.linspace(0.1, 1.3, 13, dtype="float32")
    model.get_layer("a_bn").gamma.assign(gamma)
    regularizer = GammaFlopsRegularizer(model, service=service)
    structure = shrink_to(regularizer, target_flops=0.5 * float(regularizer.get_cost()))
    kept = structure.layers["a"].alive
    assert list(kept) == list(range(13 - len(kept), 13))
    small, hidden = regularizer.prune_to(structure), masked(model, structure)
    x: Any = image_of(model)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(small(x)), keras.ops.convert_to_numpy(hidden(x)), atol=2e-5
    )


def test_a_device_that_was_not_asked_for_is_named(service: HttpService) -> None:
    regularizer = GammaLatencyRegularizer(SMALL["plain"](), service=service, device="p100")
    with pytest.raises(OptionError, match=r"no device 'k80'; it has p100"):
        shrink_to(regularizer, device="k80", target_latency_s=1.0)
