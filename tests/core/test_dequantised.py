"""Learned integers that a floating layer reads are dequantised for every run of it."""

from __future__ import annotations

from typing import Any

import pytest

from latency_service.core.costing import cost_model
from latency_service.core.costs import Kernels
from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.family import FamilyModel
from latency_service.core.fit_settings import Settings, settings_of
from latency_service.core.geometry import Dim, Follows, computed_form
from latency_service.core.graph import graph_from_json

HEIGHT, WIDTH, CHANNELS, FILTERS = 11, 13, 16, 32
FAMILY = FamilyModel(1e-6, None, 1e9, 1, (), (), (), (), 0.0, 0.04, 0.03, 11)
LAYOUT = Layout(16, 4, (), ())


def kernels(layer: dict[str, Any], shape: tuple[int, ...], *measured: str) -> Kernels:
    graph = {
        "inputs": [{"name": "x", "shape": list(shape)}],
        "layers": [{"name": "layer", "inputs": ["x"], "outputs": [{"name": "y"}], **layer}],
        "outputs": ["y"],
    }
    families = dict.fromkeys(measured, FAMILY)
    efficiency = Efficiency(families, 0.0, ((1e6, 1e9),), 8, 0.04, layout=LAYOUT)
    found = cost_model(graph_from_json(graph), efficiency=efficiency).kernels
    assert found is not None
    return found


def conv(dtype: str, edge: int = 3) -> dict[str, Any]:
    weight = {"role": "weight", "shape": [FILTERS, CHANNELS, edge, edge], "dtype": dtype}
    bias = {"role": "bias", "shape": [FILTERS], "dtype": "int32" if dtype == "int8" else dtype}
    pads = [edge // 2] * 4
    return {"op": "Conv", "parameters": [weight, bias], "attributes": {"pads": pads}}


IMAGE = (1, CHANNELS, HEIGHT, WIDTH)
MEASURED = "float32 DequantizeLinear"


def test_weights_and_bias_are_kernels_and_the_convolution_keeps_off_blocks() -> None:
    found = kernels(conv("int8"), IMAGE, MEASURED)
    assert found.families == ("DequantizeLinear", "DequantizeLinear", "Conv/dense/computed")
    weights = FILTERS * CHANNELS * 9
    elements = [Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.CONSTANT_ELEMENTS]
    assert found.dims[0, elements].tolist() == [weights, weights, 0]
    assert found.dims[1, elements].tolist() == [FILTERS, FILTERS, 0]
    positions = HEIGHT * WIDTH
    assert found.dims[2, elements].tolist() == [
        CHANNELS * positions + weights, FILTERS * positions, 0,
    ]  # fmt: skip
    assert found.dims[2, Dim.WORK] == 2 * positions * weights


def test_what_is_dequantised_dies_with_the_channels() -> None:
    found = kernels(conv("int8"), IMAGE, MEASURED)
    follows = found.follows[:2, [Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS]]
    assert follows.tolist() == [[Follows.BOTH] * 2, [Follows.WRITES] * 2]


def test_floating_weights_are_there_beforehand() -> None:
    found = kernels(conv("float32"), IMAGE, MEASURED)
    assert found.families == ("Conv/dense", "ReorderInput", "ReorderOutput")
    assert found.dims[0, Dim.CONSTANT_ELEMENTS] == FILTERS * CHANNELS * 9


def test_a_profile_that_never_dequantised_charges_the_convolution_alone() -> None:
    assert kernels(conv("int8"), IMAGE).families == ("Conv/dense",)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_dequantised_matrix_is_multiplied_like_an_activation(op: str) -> None:
    shape = [7, 29] if op == "Gemm" else [29, 7]
    weight = {"role": "weight", "shape": shape, "dtype": "int8"}
    found = kernels({"op": op, "parameters": [weight]}, (5, 29), MEASURED)
    assert found.families == ("DequantizeLinear", "MatMul/activations")
    assert found.dims[1, Dim.IN_ELEMENTS] == 5 * 29 + 29 * 7


def test_operators_on_integers_take_them_as_they_are() -> None:
    weight = {"role": "weight", "shape": [29, 7], "dtype": "int8"}
    found = kernels({"op": "DynamicQuantizeMatMul", "parameters": [weight]}, (5, 29), MEASURED)
    assert found.families == ("DynamicQuantizeMatMul",)


def test_a_table_of_integers_is_dequantised_whole() -> None:
    table = {"role": "weight", "shape": [1009, 7], "dtype": "int8"}
    gather = {"op": "Gather", "parameters": [table], "outputs": [{"name": "y", "dtype": "float32"}]}
    found = kernels(gather, (5,), MEASURED)
    assert found.families == ("DequantizeLinear", "Gather")
    assert found.dims[0, Dim.OUT_ELEMENTS] == 1009 * 7


@pytest.mark.parametrize(
    ("family", "computed"),
    [
        ("Conv/pointwise", "Conv/pointwise/computed"), ("Conv/first", "Conv/dense/computed"),
        ("Conv/depthwise", "Conv/depthwise/computed"), ("Conv/line", "Conv/line"),
        ("Gemm", "MatMul/activations"), ("ConvTranspose", "ConvTranspose"),
    ],
)  # fmt: skip
def test_forms_with_computed_weights(family: str, computed: str) -> None:
    assert computed_form(family) == computed


def test_computed_weights_stand_in_no_blocks() -> None:
    usual = Settings(layout=LAYOUT)
    assert settings_of("Conv/dense", usual).layout is LAYOUT
    assert settings_of("Conv/dense/computed", usual).layout is None
    assert settings_of("Conv/dense/computed", usual).panel == 16
    assert settings_of("Conv/depthwise/computed", usual).panel == 0
