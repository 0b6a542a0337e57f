"""Quantised images are turned where layers that want channels last meet those that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latency_service.core.binding import Binding
from latency_service.core.channels_last import CHANNELS_LAST
from latency_service.core.costing import cost_model
from latency_service.core.costs import Kernels
from latency_service.core.efficiency import Efficiency
from latency_service.core.geometry import Dim, turned_geometry
from latency_service.core.graph import graph_from_json
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Workload, workload_graph

HEIGHT, WIDTH, CHANNELS = 11, 13, 17
EFFICIENCY = Efficiency({}, 0.0, ((1e6, 1e9),), 8, 0.04)
Row = dict[str, Any]


def layer(name: str, op: str, *inputs: str, dtype: str | None = None, **more: Any) -> Row:
    out = {"name": name} | ({"dtype": dtype} if dtype else {})
    return {"name": name, "op": op, "inputs": list(inputs), "outputs": [out], **more}


def conv(name: str, source: str, channels: int = CHANNELS) -> Row:
    weight = {"role": "weight", "shape": [CHANNELS, channels, 1, 1], "dtype": "int8"}
    return layer(name, "QLinearConv", source, dtype="uint8", parameters=[weight])


def kernels(layers: list[Row], *outputs: str, last: bool = True, images: int = 1) -> Kernels:
    graph = {
        "inputs": [
            {"name": "x", "shape": [images, CHANNELS, HEIGHT, WIDTH], "dtype": "uint8"},
            {"name": "z", "shape": [images, CHANNELS, HEIGHT, WIDTH], "dtype": "uint8"},
        ],
        "layers": layers,
        "outputs": list(outputs),
    }
    rules = FusionRules(patterns=("quantised", *([CHANNELS_LAST] if last else [])))
    found = cost_model(graph_from_json(graph), fusion=rules, efficiency=EFFICIENCY).kernels
    assert found is not None
    return found


def test_convolutions_in_a_row_turn_what_they_are_fed_and_what_they_return() -> None:
    rows = [conv("a", "x"), conv("b", "a"), conv("c", "b")]
    found = kernels(rows, "c")
    assert found.families[3:] == ("Transpose/last", "Transpose/last")
    assert found.layers.tolist() == [0, 1, 2, 0, 2]
    assert found.dtypes[3:] == ("int8", "int8")
    elements = CHANNELS * HEIGHT * WIDTH
    assert found.dims[3:, Dim.IN_ELEMENTS].tolist() == [elements, elements]
    assert found.dims[3:, Dim.WIDTH].tolist() == [CHANNELS, WIDTH]
    assert "Transpose/last" not in kernels(rows, "c", last=False).families


def test_an_image_is_turned_once_however_many_read_it() -> None:
    rows = [conv("a", "x"), conv("b", "x"), layer("sum", "QLinearAdd", "a", "b", dtype="uint8")]
    found = kernels([*rows, conv("c", "sum")], "a", "b", "c")
    # x; and what is returned
    assert found.families.count("Transpose/last") == 4


def test_a_sum_of_one_image_of_each_kind_is_plain() -> None:
    rows = [conv("a", "x"), layer("sum", "QLinearAdd", "a", "z", dtype="uint8"), conv("c", "sum")]
    found = kernels(rows, "c")
    turned = [place for place, family in zip(found.layers, found.families, strict=True)
              if family == "Transpose/last"]  # fmt: skip
    assert turned == [0, 0, 2, 2]


@pytest.mark.parametrize("images", [1, 3])
def test_a_mean_on_its_way_to_a_convolution_runs_over_leading_axes(images: int) -> None:
    rows = [
        conv("a", "x"),
        layer("numbers", "DequantizeLinear", "a"),
        layer("mean", "ReduceMean", "numbers", attributes={"axes": [2, 3], "keepdims": 1}),
        layer("rounded", "QuantizeLinear", "mean", dtype="uint8"),
        conv("gate", "rounded"),
        layer("product", "QLinearMul", "a", "gate", dtype="uint8"),
        conv("end", "product"),
    ]
    found = kernels(rows, "end", images=images)
    # x, and the end; a mean has one position
    assert found.families.count("Transpose/last") == 2
    assert f"ReduceMean/{'leading' if images == 1 else 'strided'}" in found.families
    product = found.dims[found.families.index("QLinearMul/broadcast")]
    assert product[Dim.INNER] == CHANNELS
    assert product[Dim.ROWS] == images * HEIGHT * WIDTH


def test_without_a_convolution_behind_it_a_mean_is_plain() -> None:
    rows = [
        conv("a", "x"),
        layer("numbers", "DequantizeLinear", "a"),
        layer("mean", "ReduceMean", "numbers", attributes={"axes": [2, 3], "keepdims": 1}),
    ]
    found = kernels(rows, "mean")
    assert "ReduceMean" in found.families
    assert found.families.count("Transpose/last") == 2


def test_joined_channels_that_stand_last_lie_in_short_runs() -> None:
    rows = [conv("a", "x"), conv("b", "a"),
            layer("both", "QLinearConcat", "a", "b", dtype="uint8", attributes={"axis": 1}),
            conv("c", "both", 2 * CHANNELS)]  # fmt: skip
    for last, inner in ((True, CHANNELS), (False, CHANNELS * HEIGHT * WIDTH)):
        found = kernels(rows, "c", last=last)
        dims = found.dims[found.families.index("QLinearConcat")]
        assert dims[Dim.INNER] == inner
        assert dims[Dim.ROWS] == 2 * CHANNELS * HEIGHT * WIDTH // inner


def test_transpositions_of_the_network_that_say_the_same_are_gone() -> None:
    rows = [
        conv("a", "x"),
        layer("last", "Transpose", "a", attributes={"perm": [0, 2, 3, 1]}),
        layer("rows", "DequantizeLinear", "last"),
        layer("erf", "LayerNormalization", "rows", parameters=[
            {"role": "gamma", "shape": [CHANNELS]}]),
        layer("rounded", "QuantizeLinear", "erf", dtype="uint8"),
        layer("first", "Transpose", "rounded", attributes={"perm": [0, 3, 1, 2]}),
        conv("c", "first"),
    ]  # fmt: skip
    found = kernels(rows, "c")
    assert sum(family.startswith("Transpose") for family in found.families) == 2
    assert sum(f.startswith("Transpose") for f in kernels(rows, "c", last=False).families) == 2
    assert {1, 5}.isdisjoint(found.layers.tolist())


@pytest.mark.parametrize("to_last", [True, False])
def test_turning_is_measured_as_the_transposition_that_it_is(to_last: bool) -> None:
    image = (3, CHANNELS, HEIGHT, WIDTH)
    read = image if to_last else (3, HEIGHT, WIDTH, CHANNELS)
    perm = [0, 2, 3, 1] if to_last else [0, 3, 1, 2]
    out = tuple(read[axis] for axis in perm)
    work = Workload("Transpose", (read,), {"perm": perm}, "int8", outputs=(out,))
    found = cost_model(workload_graph(work), Binding(), efficiency=EFFICIENCY).kernels
    assert found is not None
    family, dims = turned_geometry(image, to_last)
    assert found.families == (family,)
    assert np.array_equal(found.dims[0], dims)
