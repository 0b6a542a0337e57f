"""Masks of attention: shares by hand, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.errors import GraphError
from latency_service.core.family import FamilyModel
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, layer_graph
from latency_service.core.masks import masked_shares
from latency_service.core.predict import Predictor
from latency_service.core.sweep import totals_s

PRODUCT = FamilyModel(1e-6, 53e9, 11e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
MOVES = replace(PRODUCT, flops_per_s=None)
PLAIN = Efficiency(
    {
        "float32 MatMul/activations": PRODUCT,
        **{f"float32 {op}": MOVES for op in ("Softmax", "Add", "Add/broadcast")},
    },
    0.0,
    ((2.0**30, 1e9),),
    8,
    0.04,
)
SLOW = replace(PLAIN, slow_runs={"masked": 71e-9, "subnormal": 139e-9, "product": 37e-9})
HEADS, TOKENS, DEPTH = 3, 37, 13
SHARES = {"masked_runs": 0.5, "subnormal_runs": 0.25, "subnormal_share": 0.125}


class TestShares:
    def test_a_causal_mask_hides_the_later_positions(self):
        mask = np.triu(np.full((37, 37), -1e9, np.float32), 1)
        # rows of 37 are runs of 16, 16 and 5, whose last positions row 36, 31 and 15 still see
        runs = 36 + 31 + 15
        assert masked_shares(mask) == {"masked_runs": pytest.approx(runs / (3 * 37), abs=1e-6)}

    def test_minus_a_hundred_leaves_subnormal_numbers(self):
        mask = np.zeros((5, 2, 17), np.float32)
        mask[0, 0, 3] = mask[0, 0, 4] = -100.0
        mask[1, 0, 16] = -np.inf
        assert masked_shares(mask) == {
            "masked_runs": pytest.approx(2 / 20),
            "subnormal_runs": pytest.approx(1 / 20),
            "subnormal_share": pytest.approx(2 / 170, abs=1e-6),
        }

    @pytest.mark.parametrize("value", [0.0, -1.0, -87.0])
    def test_what_leaves_a_normal_number_hides_nothing(self, value):
        assert masked_shares(np.full((7, 11), value, np.float32)) == {}

    def test_exponentials_say_where_it_begins_and_ends(self):
        with np.errstate(under="ignore"):
            left = np.exp(np.array([-87.0, -87.5, -103.0, -104.5], np.float32))
        assert (left >= np.finfo(np.float32).tiny).tolist() == [True, False, False, False]
        assert (left > 0).tolist() == [True, True, True, False]
        shares = [masked_shares(np.array([[v, 0]])) for v in (-87.0, -87.5, -103.0, -104.5)]
        assert ["masked_runs" in s for s in shares] == [False, True, True, True]
        assert ["subnormal_share" in s for s in shares] == [False, True, True, False]


def attention(shares: dict[str, float], axis: int = -1, views: bool = False) -> LayerGraph:
    """Softmax of masked scores, times values; through reshapes and back with `views`."""
    flat, whole = [1, HEADS, TOKENS, TOKENS], [HEADS, TOKENS, TOKENS]

    def view(name: str, source: str, shape: list[int]) -> Layer:
        return Layer(name, "Reshape", (source,), (Output(name),), {"shape": shape})

    layers = [Layer("mask", "Add", ("scores", "bias"), (Output("masked"),), shares)]
    if views:
        layers += [view("there", "masked", flat), view("back", "there", whole)]
    scores = "back" if views else "masked"
    layers.append(Layer("softmax", "Softmax", (scores,), (Output("shares"),), {"axis": axis}))
    if views:
        layers.append(view("again", "shares", whole))
    first = "again" if views else "shares"
    layers.append(Layer("product", "MatMul", (first, "values"), (Output("y"),)))
    inputs = (
        GraphInput("scores", (HEADS, TOKENS, TOKENS)),
        GraphInput("bias", (1, TOKENS, TOKENS)),
        GraphInput("values", (HEADS, TOKENS, DEPTH)),
    )
    return layer_graph(inputs, tuple(layers), ("y",))


def seconds(graph: LayerGraph, efficiency: Efficiency) -> dict[str, float]:
    costs = cost_model(graph, efficiency=efficiency)
    predictor = Predictor(costs, efficiency)
    found = predictor.at(costs.sizes)
    assert costs.kernels is not None
    assert found.seconds.sum() == pytest.approx(totals_s(predictor, costs.sizes[None])[0])
    return {
        costs.names[layer]: float(s)
        for layer, s in zip(costs.kernels.layers, found.seconds, strict=True)
    }


@pytest.mark.parametrize("views", [False, True])
def test_a_mask_costs_its_softmax_and_the_product_behind(views):
    graph = attention(SHARES, views=views)
    without, with_mask = seconds(graph, PLAIN), seconds(graph, SLOW)
    # rows of 37 scores are three runs; a quarter leave zeros, a quarter subnormal numbers
    runs = HEADS * TOKENS * 3
    assert with_mask["softmax"] - without["softmax"] == pytest.approx(
        runs * (0.25 * 71e-9 + 0.25 * 139e-9)
    )
    # each subnormal number meets a row of 13 values
    numbers = 0.125 * HEADS * TOKENS * TOKENS
    assert with_mask["product"] - without["product"] == pytest.approx(numbers * DEPTH / 16 * 37e-9)
    assert with_mask["mask"] == without["mask"]


def test_without_a_mask_nothing_is_slow():
    assert seconds(attention({}), SLOW) == seconds(attention({}), PLAIN)


def test_a_softmax_over_other_axes_has_no_runs():
    graph = attention(SHARES, axis=1)
    assert seconds(graph, SLOW)["softmax"] == seconds(graph, PLAIN)["softmax"]


@pytest.mark.parametrize("share", [-1.0, 1.5, "half", None])
def test_what_is_no_share_is_refused_on_any_device(share):
    with pytest.raises(GraphError, match=r"'mask', field 'attributes.masked_runs'.*0 and 1"):
        cost_model(attention({"masked_runs": share}))
    with pytest.raises(GraphError, match=r"'mask', field 'attributes.masked_runs'.*0 and 1"):
        seconds(attention({"masked_runs": share}), SLOW)
