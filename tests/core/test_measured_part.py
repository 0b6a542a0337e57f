"""Images larger than any sample: charged like the part of them that was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.fit import FamilyFit, fit, sample_geometry
from latency_service.core.fit_settings import Settings
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, layer_graph
from latency_service.core.predict import Predictor
from latency_service.core.sample import Sample, Workload
from latency_service.core.sweep import totals_s

RATE = 61e9


def convolution(inputs: int, filters: int, high: int, wide: int) -> Workload:
    return Workload(
        "Conv",
        ((1, inputs, high, wide), (filters, inputs, 3, 3)),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        learned=(1,),
        outputs=((1, filters, high, wide),),
    )


def took(work: Workload) -> float:
    """More for few filters, whatever the image."""
    _, inputs, high, wide = work.inputs[0]
    filters = work.inputs[1][0]
    return 2.0 * 9 * inputs * filters * high * wide / RATE * (1.0 + 11.0 / filters)


def measured() -> FamilyFit:
    chance = np.random.default_rng(0)
    works = [
        convolution(*map(int, (*chance.integers(7, 97, 2), *chance.integers(5, 71, 2))))
        for _ in range(120)
    ]
    (found,) = fit([Sample(work, took(work)) for work in works], Settings())
    return found


MODEL = measured().model


def dims(work: Workload) -> np.ndarray:
    return np.array(sample_geometry(Sample(work, 1.0))[1])


@pytest.mark.parametrize("filters", [11, 31, 89])
def test_a_large_image_takes_as_many_times_a_part_of_it(filters: int) -> None:
    work = convolution(53, filters, 67 * 16, 61)
    assert 0.01 < float(MODEL.measured_part(dims(work))) < 0.2
    assert float(MODEL.seconds(dims(work), 4.0)) == pytest.approx(took(work), rel=0.05)


def test_what_was_measured_is_looked_at_whole() -> None:
    assert float(MODEL.measured_part(dims(convolution(53, 31, 29, 31)))) == 1.0


def test_on_a_gpu_all_of_it_is_looked_at() -> None:
    work = dims(convolution(53, 31, 67 * 16, 61))
    assert float(replace(MODEL, units=80, features=()).measured_part(work)) == 1.0


def network() -> LayerGraph:
    layers = tuple(
        Layer(
            f"conv{k}", "Conv", (f"t{k}",), (Output(f"t{k + 1}"),),
            {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (Parameter("weight", (b, a, 3, 3)),),
        )
        for k, (a, b) in enumerate(((3, 59), (59, 83), (83, 7)))
    )  # fmt: skip
    return layer_graph((GraphInput("t0", (1, 3, 613, 607)),), layers, ("t3",))


def test_a_pruned_network_is_looked_at_in_the_same_part() -> None:
    efficiency = Efficiency({"float32 Conv/dense": MODEL}, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    costs = cost_model(network(), efficiency=efficiency)
    predictor = Predictor(costs, efficiency)
    assert (predictor.measured_part < 1.0).all()
    chance = np.random.default_rng(1)
    sizes = [group.size if not group.prunable else 0 for group in costs.groups]
    counts = np.stack([
        np.where(sizes, sizes, [chance.integers(1, group.size + 1) for group in costs.groups])
        for _ in range(17)
    ]).astype(np.float64)  # fmt: skip
    one_by_one = [predictor.at(row).seconds.sum() for row in counts]
    assert totals_s(predictor, counts) == pytest.approx(one_by_one, rel=1e-9)
