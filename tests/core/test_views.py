"""Views that the runtime executes are kernels that move nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel, moved_bytes
from latency_service.core.fit import fit
from latency_service.core.fit_settings import Settings
from latency_service.core.geometry import Dim
from latency_service.core.graph import (
    GraphInput,
    Layer,
    LayerGraph,
    Output,
    Parameter,
    layer_graph,
)
from latency_service.core.predict import Predictor
from latency_service.core.sample import Sample, Workload
from latency_service.core.sweep import totals_s

LEVELS = ((2.0**20, 64e9), (2.0**29, 16e9))
TAKES_2_US = FamilyModel(2e-6, None, 1.0, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
MOVES = FamilyModel(1e-6, None, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)


def chain(*steps: tuple[str, tuple[int, ...]], dtype: str = "float32") -> LayerGraph:
    """Operators one behind the other, each with the shape of what it writes."""
    layers = []
    for k, (op, shape) in enumerate(steps):
        attributes = {"shape": list(shape)} if op == "Reshape" else {}
        if op in ("Squeeze", "Unsqueeze"):
            attributes = {"axes": [0]}
        layers.append(Layer(f"n{k}", op, (f"t{k}",), (Output(f"t{k + 1}"),), attributes))
    return layer_graph(
        (GraphInput("t0", (1, 7, 11, 13), dtype),), tuple(layers), (f"t{len(steps)}",)
    )


def model_of(*families: str) -> Efficiency:
    models = {name: TAKES_2_US if "Reshape" in name else MOVES for name in families}
    return Efficiency(models, 0.0, LEVELS, 8, 0.04)


def views(graph: LayerGraph, *families: str) -> list[str]:
    """Layers whose kernels are views."""
    costs = cost_model(graph, efficiency=model_of(*families))
    assert costs.kernels is not None
    names = zip(costs.kernels.families, costs.kernels.layers, strict=True)
    return [costs.names[layer] for family, layer in names if family == "Reshape"]


MEASURED = ("float32 Reshape", "float32 Relu")
IMAGE, ROWS = (1, 7, 11, 13), (7, 143)


@pytest.mark.parametrize("op", ["Reshape", "Flatten", "Squeeze", "Unsqueeze"])
def test_every_view_is_one(op: str) -> None:
    shape = {"Reshape": ROWS, "Flatten": (1, 1001), "Squeeze": IMAGE[1:], "Unsqueeze": (1, *IMAGE)}
    assert views(chain(("Relu", IMAGE), (op, shape[op]), ("Relu", shape[op])), *MEASURED) == ["n1"]


def test_of_several_in_a_row_the_last_is_executed() -> None:
    graph = chain(("Reshape", ROWS), ("Reshape", (1, 1001)), ("Squeeze", (1001,)))
    assert views(graph, *MEASURED) == ["n2"]
    read_on = chain(("Reshape", ROWS), ("Relu", ROWS), ("Reshape", (1001,)), ("Relu", (1001,)))
    assert views(read_on, *MEASURED) == ["n0", "n2"]


def test_where_none_was_measured_they_are_given_away() -> None:
    graph = chain(("Relu", IMAGE), ("Reshape", ROWS))
    assert views(graph, "float32 Relu", "float32 Transpose", "int8 Reshape") == []


def test_a_view_moves_nothing_whatever_its_size() -> None:
    costs = cost_model(chain(("Relu", IMAGE), ("Reshape", ROWS)), efficiency=model_of(*MEASURED))
    assert costs.kernels is not None
    row = costs.kernels.dims[costs.kernels.families.index("Reshape")]
    assert moved_bytes(row, 4.0) == 0.0
    assert row[Dim.ROWS] == 7 * 11 * 13


def test_it_takes_its_time_and_is_costed() -> None:
    model = model_of(*MEASURED)
    graph = chain(("Relu", IMAGE), ("Reshape", ROWS), ("Relu", ROWS), ("Flatten", (7, 143)))
    assert cost_model(graph).free.tolist() == [False, True, False, True]
    calibrated = cost_model(graph, efficiency=model)
    assert not calibrated.free.any()
    seconds = Predictor(calibrated, model).at(calibrated.sizes).seconds
    # 1001 numbers of 4 bytes are read and written
    moving = 1e-6 + 8008e-9
    assert seconds == pytest.approx([moving, 2e-6, moving, 2e-6])
    assert totals_s(Predictor(calibrated, model), calibrated.sizes[None]) == pytest.approx(
        [2 * moving + 4e-6]
    )


def flattened(filters: int) -> LayerGraph:
    """A convolution whose images become rows for a dense layer."""
    layers = (
        Layer("conv", "Conv", ("x",), (Output("y"),), {},
              (Parameter("weight", (filters, 3, 1, 1)),)),
        Layer("rows", "Flatten", ("y",), (Output("z"),)),
        Layer("fc", "Gemm", ("z",), (Output("w"),), {"transB": 1},
              (Parameter("weight", (13, filters * 35)),)),
    )  # fmt: skip
    return layer_graph((GraphInput("x", (1, 3, 5, 7)),), layers, ("w",))


def test_pruned_channels_leave_a_view_with_fewer_elements() -> None:
    # a curve over the logarithm of elements: what 31 filters leave differs from what 17 do
    curved = replace(
        TAKES_2_US,
        features=("log_rows",),
        lengths=(3.0,),
        points=((1.0,), (3.0,)),
        weights=(0.1, 0.9),
    )
    model = replace(model_of(*MEASURED), families={"float32 Reshape": curved})
    seconds = []
    for filters, alive in ((31, 31), (31, 17), (17, 17)):
        predictor = Predictor(cost_model(flattened(filters), efficiency=model), model)
        place = predictor.kernels.families.index("Reshape")
        counts = np.array([alive if g.prunable else g.size for g in predictor.costs.groups], float)
        seconds.append(float(predictor.at(counts).seconds[place]))
    assert seconds[1] == pytest.approx(seconds[2])
    assert abs(seconds[0] / seconds[1] - 1.0) > 0.01


@given(st.floats(0.3e-6, 9e-6), st.integers(0, 2**31 - 1))
def test_one_that_takes_equally_long_everywhere_is_fitted_as_that(took: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(23):
        tokens, width = (int(n) for n in rng.integers(2, 997, 2))
        work = Workload(
            "Reshape", ((1, tokens, width),), {"shape": [tokens, width]}, outputs=((tokens, width),)
        )
        samples.append(Sample(work, took * float(rng.uniform(0.95, 1.05))))
    (found,) = fit(samples, Settings())
    assert found.name == "float32 Reshape"
    dims = np.ones((1, len(Dim)))
    dims[0, [Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.CONSTANT_ELEMENTS, Dim.EXTRA_ELEMENTS]] = 0.0
    dims[0, Dim.ROWS] = 197 * 192
    assert float(found.model.seconds(dims, 4.0)[0]) == pytest.approx(took, rel=0.1)
