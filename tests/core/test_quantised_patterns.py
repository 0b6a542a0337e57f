"""Groups around 8-bit arithmetic become the kernels that runtimes have for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.efficiency import Efficiency
from latency_service.core.geometry import Dim
from latency_service.core.graph import graph_from_json
from latency_service.core.profile import FusionRules

RULES = FusionRules(patterns=("quantised", "dynamic-product"))
EFFICIENCY = Efficiency({}, 0.0, ((1e6, 1e9),), 8, 0.04)
HEIGHT, WIDTH, CHANNELS, FILTERS = 11, 13, 3, 17
Row = dict[str, Any]


def layer(name: str, op: str, *inputs: str, outputs: Sequence[str] = (), **more: Any) -> Row:
    written = [{"name": out} for out in outputs or (name,)]
    return {"name": name, "op": op, "inputs": list(inputs), "outputs": written, **more}


def to_integers(name: str, source: str) -> Row:
    return layer(name, "QuantizeLinear", source) | {"outputs": [{"name": name, "dtype": "uint8"}]}


def to_numbers(name: str, source: str) -> Row:
    return layer(name, "DequantizeLinear", source)


def conv(name: str, source: str, channels: int = CHANNELS) -> Row:
    weight = {"role": "weight", "shape": [FILTERS, channels, 1, 1], "dtype": "int8"}
    return layer(name, "Conv", source, parameters=[weight])


def costed(layers: list[Row], shape: Sequence[int], *outputs: str) -> CostModel:
    graph = {"inputs": [{"name": "x", "shape": list(shape)}], "layers": layers,
             "outputs": list(outputs)}  # fmt: skip
    return cost_model(graph_from_json(graph), fusion=RULES, efficiency=EFFICIENCY)


def kernels(costs: CostModel) -> list[tuple[str, str]]:
    assert costs.kernels is not None
    found = zip(costs.kernels.layers, costs.kernels.dtypes, costs.kernels.families, strict=True)
    return [(costs.names[layer], f"{dtype} {family}") for layer, dtype, family in found]


def test_a_convolution_between_conversions_runs_on_integers() -> None:
    costs = costed(
        [to_integers("q0", "x"), to_numbers("d0", "q0"), conv("conv", "d0"),
         layer("relu", "Relu", "conv"), to_integers("q1", "relu"), to_numbers("end", "q1")],
        (1, CHANNELS, HEIGHT, WIDTH), "end",
    )  # fmt: skip
    assert sorted(kernels(costs)) == [
        ("conv", "int8 QLinearConv/pointwise"),
        ("end", "float32 DequantizeLinear"),
        ("q0", "float32 QuantizeLinear"),
    ]
    assert costs.kernels is not None
    dims = costs.kernels.dims[kernels(costs).index(("conv", "int8 QLinearConv/pointwise"))]
    assert dims[Dim.WORK] == 2 * HEIGHT * WIDTH * CHANNELS * FILTERS
    assert dims[Dim.IN_ELEMENTS] == HEIGHT * WIDTH * CHANNELS
    assert dims[Dim.OUT_ELEMENTS] == HEIGHT * WIDTH * FILTERS


def test_a_conversion_that_several_read_vanishes_only_if_all_run_on_integers() -> None:
    def network(*rest: Row, end: str) -> list[str]:
        layers = [to_integers("q0", "x"), to_numbers("d0", "q0"), conv("conv", "d0", CHANNELS),
                  to_integers("q1", "conv"), to_numbers("d1", "q1"), *rest]  # fmt: skip
        costs = costed(layers, (1, CHANNELS, HEIGHT, WIDTH), end)
        return [family for _, family in sorted(kernels(costs))]

    shortcut = [conv("more", "d1", FILTERS), to_integers("q2", "more"), to_numbers("d2", "q2"),
                layer("sum", "Add", "d1", "d2"), to_integers("end", "sum")]  # fmt: skip
    assert network(*shortcut, end="end") == [
        "int8 QLinearConv/pointwise",
        "int8 QLinearConv/pointwise",
        "float32 QuantizeLinear",
        "int8 QLinearAdd",
    ]
    beside = [conv("more", "d1", FILTERS), to_integers("q2", "more"), to_numbers("d2", "q2"),
              layer("mean", "ReduceMean", "d1", attributes={"axes": [2, 3]}),
              layer("end", "Add", "mean", "d2")]  # fmt: skip
    assert network(*beside, end="end") == [
        "int8 QLinearConv/pointwise",
        "float32 DequantizeLinear",
        "float32 DequantizeLinear",
        "float32 Add/broadcast",
        "float32 ReduceMean",
        "int8 QLinearConv/pointwise",
        "float32 QuantizeLinear",
    ]


def test_a_view_between_conversions_costs_nothing() -> None:
    costs = costed(
        [to_integers("q0", "x"), to_numbers("d0", "q0"), layer("flat", "Flatten", "d0"),
         to_integers("q1", "flat"), to_numbers("d1", "q1"),
         layer("dense", "Gemm", "d1", parameters=[
             {"role": "weight", "shape": [7, 33], "dtype": "int8"}]),
         to_integers("end", "dense")],
        (1, 3, 11), "end",
    )  # fmt: skip
    assert kernels(costs) == [("q0", "float32 QuantizeLinear"), ("dense", "int8 QLinearMatMul")]
    places = {name: place for place, name in enumerate(costs.names)}
    gone = [places[name] for name in ("flat", "q1", "d1")]
    assert np.allclose(costs.bytes[gone], 0.0)
    assert [costs.fused_into[place] for place in gone] == [None, places["flat"], places["flat"]]


def test_a_product_of_two_quantised_activations_is_a_family_of_its_own() -> None:
    costs = costed(
        [to_integers("q0", "x"), to_numbers("d0", "q0"), layer("product", "MatMul", "d0", "d0"),
         to_integers("end", "product")],
        (3, 11, 11), "end",
    )  # fmt: skip
    assert ("product", "int8 QLinearMatMul/activations") in kernels(costs)


def test_floating_weights_keep_a_layer_floating() -> None:
    floating = conv("conv", "d0")
    floating["parameters"][0]["dtype"] = "float32"
    costs = costed(
        [to_integers("q0", "x"), to_numbers("d0", "q0"), floating, to_integers("end", "conv")],
        (1, CHANNELS, HEIGHT, WIDTH), "end",
    )  # fmt: skip
    assert ("conv", "float32 Conv/pointwise") in kernels(costs)


def product(name: str, quantised: str, width: int, filters: int) -> list[Row]:
    weight = {"role": "weight", "shape": [width, filters], "dtype": "int8"}
    one = {"role": "scale", "shape": [1], "dtype": "float32"}
    return [
        layer(f"{name}-integers", "MatMulInteger", quantised, parameters=[weight]),
        layer(f"{name}-cast", "Cast", f"{name}-integers", attributes={"to": "float32"}),
        layer(f"{name}-scales", "Mul", "scale", parameters=[one]),
        layer(name, "Mul", f"{name}-cast", f"{name}-scales"),
    ]


ROUNDED = layer("rounded", "DynamicQuantizeLinear", "x", outputs=("r", "scale", "zero"))


def test_a_product_quantised_on_the_way_is_one_kernel() -> None:
    costs = costed([ROUNDED, *product("end", "r", 7, 11)], (5, 7), "end")
    assert kernels(costs) == [("end-integers", "float32 DynamicQuantizeMatMul")]


def test_products_that_share_what_was_quantised_quantise_once() -> None:
    layers = [ROUNDED, *product("a", "r", 7, 11), *product("b", "r", 7, 11),
              layer("end", "Add", "a", "b")]  # fmt: skip
    assert sorted(kernels(costed(layers, (5, 7), "end"))) == [
        ("a-integers", "int8 MatMulIntegerToFloat"),
        ("b-integers", "int8 MatMulIntegerToFloat"),
        ("end", "float32 Add"),
        ("rounded", "float32 DynamicQuantizeLinear"),
    ]


def test_a_softmax_between_conversions_runs_on_integers() -> None:
    softmax = layer("softmax", "Softmax", "d0") | {"attributes": {"axis": 1}}
    costs = costed(
        [to_integers("q0", "x"), to_numbers("d0", "q0"), softmax,
         to_integers("q1", "softmax"), to_numbers("end", "q1")],
        (1, CHANNELS, HEIGHT, WIDTH), "end",
    )  # fmt: skip
    assert sorted(kernels(costs)) == [
        ("end", "float32 DequantizeLinear"),
        ("q0", "float32 QuantizeLinear"),
        ("softmax", "int8 QLinearSoftmax/strided"),
    ]


SIGNED = "int8"


def signed(rows: list[Row]) -> list[Row]:
    """The same network on signed activations."""
    for row in rows:
        for out in row["outputs"]:
            if out.get("dtype") == "uint8":
                out["dtype"] = SIGNED
    return rows


def families(layers: list[Row], rules: Sequence[str], *outputs: str) -> list[str]:
    graph = {"inputs": [{"name": "x", "shape": [1, CHANNELS, HEIGHT, WIDTH]}], "layers": layers,
             "outputs": list(outputs)}  # fmt: skip
    found = cost_model(
        graph_from_json(graph), fusion=FusionRules(patterns=("quantised", *rules)),
        efficiency=EFFICIENCY,
    ).kernels  # fmt: skip
    assert found is not None
    return [family for family in found.families if "uantizeLinear" not in family]


def one_reader() -> list[Row]:
    return [to_integers("q0", "x"), to_numbers("d0", "q0"), conv("conv", "d0"),
            to_integers("q1", "conv"), to_numbers("end", "q1")]  # fmt: skip


def two_readers() -> list[Row]:
    return [to_integers("q0", "x"), to_numbers("d0", "q0"),
            conv("a", "d0"), to_integers("q1", "a"), to_numbers("end", "q1"),
            conv("b", "d0"), to_integers("q2", "b"), to_numbers("more", "q2")]  # fmt: skip


def test_signed_activations_run_on_integers_where_the_runtime_says_so() -> None:
    plain, whole = "Conv/pointwise", "QLinearConv/pointwise"
    assert families(one_reader(), (), "end") == [whole]
    assert families(signed(one_reader()), (), "end") == [plain]
    assert families(signed(one_reader()), ("quantised-signed-once",), "end") == [whole]
    both = signed(two_readers())
    assert families(both, ("quantised-signed-once",), "end", "more") == [plain, plain]
    assert families(both, ("quantised-signed",), "end", "more") == [whole, whole]


def test_sixteen_bits_are_no_eight() -> None:
    rows = one_reader()
    for row in rows:
        for out in row["outputs"]:
            out.update({"dtype": "uint16"} if "dtype" in out else {})
    assert families(rows, ("quantised-signed",), "end") == ["Conv/pointwise"]


def test_an_addition_runs_on_integers_only_with_integers_of_one_sign() -> None:
    def added(dtype: str) -> list[str]:
        add = layer("add", "Add", "d0", parameters=[
            {"role": "weight", "shape": [CHANNELS, 1, 1], "dtype": dtype}])  # fmt: skip
        rows = [to_integers("q0", "x"), to_numbers("d0", "q0"), add,
                to_integers("q1", "add"), to_numbers("end", "q1")]  # fmt: skip
        return families(rows, (), "end")

    assert added("uint8") == ["QLinearAdd/broadcast"]
    assert added("int8") == ["Add/broadcast"]


def test_rounding_clamps() -> None:
    rows = [layer("relu", "Relu", "x"), to_integers("q0", "relu"), to_numbers("end", "q0")]
    assert [family for _, family in sorted(kernels(costed(rows, (7, 11), "end")))] == [
        "float32 DequantizeLinear", "float32 QuantizeLinear",
    ]  # fmt: skip


def test_numbers_are_dequantised_for_each_layer_that_reads_them() -> None:
    rows = [to_integers("q0", "x"), to_numbers("d0", "q0"),
            *(layer(name, "Erf", "d0") for name in ("a", "b", "c"))]  # fmt: skip
    found = kernels(costed(rows, (7, 11), "a", "b", "c"))
    assert found.count(("d0", "float32 DequantizeLinear")) == 3
