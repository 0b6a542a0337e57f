"""Which measured family describes a kernel that an older calibration has no name for."""

import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.predict import assign
from latency_service.core.sample import Workload, workload_graph

MODEL = FamilyModel(1e-6, 1e9, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)


def convolution(inputs: int, kernel: int, group: int = 1) -> Workload:
    filters = inputs if group > 1 else 61
    return Workload(
        "Conv",
        ((1, inputs, 97), (filters, inputs // group, kernel)),
        {"group": group, "pads": [kernel // 2] * 2},
        learned=(1,),
        outputs=((1, filters, 97),),
    )


@pytest.mark.parametrize(
    ("work", "measured", "chosen", "exact"),
    [
        (convolution(31, 3), ("line", "dense"), "line", True),
        (convolution(31, 3), ("dense", "pointwise"), "dense", True),
        (convolution(1, 13), ("dense", "first"), "dense", True),
        (convolution(31, 1), ("line", "pointwise"), "line", True),
        # what computes the same over images is nearer than what computes otherwise, but not it
        (convolution(31, 1), ("dense", "pointwise"), "pointwise", False),
        (convolution(31, 3, 31), ("line", "depthwise"), "depthwise", True),
        (convolution(62, 3, 31), ("grouped", "grouped/line"), "grouped/line", True),
    ],
)
def test_convolutions_along_one_axis(
    work: Workload, measured: tuple[str, ...], chosen: str, exact: bool
) -> None:
    models = {f"float32 Conv/{kind}": MODEL for kind in measured}
    efficiency = Efficiency(models, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    costs = cost_model(workload_graph(work), efficiency=efficiency)
    assert costs.kernels is not None
    (assigned,) = assign(costs.kernels, efficiency)
    assert (assigned.name, assigned.exact) == (f"float32 Conv/{chosen}", exact)


def test_a_convolution_along_one_axis_may_read_its_weights() -> None:
    work = Workload("Conv", ((1, 31, 97), (61, 31, 1)), outputs=((1, 61, 97),))
    efficiency = Efficiency({"float32 Conv/pointwise": MODEL}, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    costs = cost_model(workload_graph(work), efficiency=efficiency)
    assert costs.kernels is not None
    (assigned,) = assign(costs.kernels, efficiency)
    assert assigned.name == "float32 Conv/pointwise"


@pytest.mark.parametrize(
    ("op", "measured", "chosen", "exact"),
    [
        ("ReduceMean", ("ReduceMean", "ReduceMean/leading"), "ReduceMean/leading", True),
        ("ReduceMean", ("ReduceMean", "ReduceMean/strided"), "ReduceMean/strided", True),
        ("ReduceMean", ("ReduceMean", "ReduceSum/leading"), "ReduceMean", False),
        ("ReduceL2", ("ReduceSum", "ReduceSum/leading"), "ReduceSum/leading", False),
    ],
)
def test_reductions_over_leading_axes(
    op: str, measured: tuple[str, ...], chosen: str, exact: bool
) -> None:
    work = Workload(op, ((1, 31, 97),), {"axes": [1], "keepdims": 1}, outputs=((1, 1, 97),))
    models = {f"float32 {name}": MODEL for name in measured}
    efficiency = Efficiency(models, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    costs = cost_model(workload_graph(work), efficiency=efficiency)
    assert costs.kernels is not None
    (assigned,) = assign(costs.kernels, efficiency)
    assert (assigned.name, assigned.exact) == (f"float32 {chosen}", exact)
