"""What a convolution on blocks of channels merges: additions of what lies in blocks, too."""

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.family import FamilyModel
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, layer_graph
from latency_service.core.predict import Predictor
from latency_service.core.profile import FusionRules

MODEL = FamilyModel(3e-6, 5e10, 2e10, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
EFFICIENCY = Efficiency(
    {f"float32 {name}": MODEL for name in ("Conv/pointwise", "Add", "Erf", "Relu")},
    0.0,
    ((1e6, 5e10), (1e8, 1e10)),
    16,
    0.04,
    layout=Layout(16, 4, (), ("Relu", "Add")),
)
RULES = FusionRules(sequences=("Conv Relu", "Conv Add"), source="a test")


def branches(filters: int, between: str) -> LayerGraph:
    """Two convolutions of one image, an activation behind the first, and their sum."""

    def conv(name: str, out: str) -> Layer:
        weight = Parameter("weight", (filters, 32, 1, 1))
        return Layer(name, "Conv", ("x",), (Output(out),), {}, (weight,))

    layers = (
        conv("first", "a"),
        Layer("between", between, ("a",), (Output("b"),), {}, ()),
        conv("second", "c"),
        Layer("sum", "Add", ("b", "c"), (Output("y"),), {}, ()),
    )
    return layer_graph((GraphInput("x", (1, 32, 7, 7)),), layers, ("y",))


@pytest.mark.parametrize(
    ("filters", "between", "kernels"),
    [
        # in blocks all along: what the first gives is merged into the second
        (48, "Relu", ["Conv/pointwise", "Conv/pointwise", "ReorderInput", "ReorderOutput"]),
        # an operator that knows no blocks: the sum is one of plain images, and so is the second's
        (
            48,
            "Erf",
            [
                "Add", "Conv/pointwise", "Conv/pointwise", "Erf",
                "ReorderInput", "ReorderOutput", "ReorderOutput",
            ],
        ),
    ],
)  # fmt: skip
def test_a_sum_is_merged_where_both_lie_in_blocks(
    filters: int, between: str, kernels: list[str]
) -> None:
    costs = cost_model(branches(filters, between), fusion=RULES, efficiency=EFFICIENCY)
    assert costs.kernels is not None
    assert sorted(costs.kernels.families) == kernels
    assert (costs.fused_into[costs.names.index("sum")] is None) == (between == "Erf")
    assert np.isfinite(Predictor(costs, EFFICIENCY).at(costs.sizes).seconds).all()


def test_without_a_layout_nothing_lies_in_blocks() -> None:
    costs = cost_model(branches(48, "Erf"), fusion=RULES)
    assert costs.names[costs.fused_into[costs.names.index("sum")] or 0] == "second"
