"""Recurrent layers: their parts by hand, and what is found of them in measurements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.fit import fit, sample_geometry
from latency_service.core.fit_settings import Settings
from latency_service.core.geometry import Dim
from latency_service.core.predict import Predictor
from latency_service.core.recurrent import PARTS, fit_parts, parts_s
from latency_service.core.sample import Sample, Workload, workload_graph
from latency_service.core.sweep import totals_s

STEPS, IMAGES, WIDE, HIDDEN, BOTH = 31, 3, 17, 13, 2
# A machine that never was: seconds of one of each part.
TRUE = {"steps": 7e-7, "inputs": 11e-12, "reads": 29e-12, "gates": 13e-10}
FIXED_S = 23e-6


def lstm(
    steps: int = STEPS, images: int = IMAGES, wide: int = WIDE, hidden: int = HIDDEN, both: int = 2
) -> Workload:
    return Workload(
        "LSTM",
        (
            (steps, images, wide), (both, 4 * hidden, wide), (both, 4 * hidden, hidden),
            (both, 8 * hidden),
        ),
        {"hidden_size": hidden, "direction": "bidirectional" if both == 2 else "forward"},
        learned=(1, 2, 3),
        outputs=((steps, both, images, hidden),),
    )  # fmt: skip


def dims(work: Workload) -> np.ndarray:
    return np.array(sample_geometry(Sample(work, 1.0))[1])


def true_s(work: Workload) -> float:
    return FIXED_S + float(parts_s(dims(work), TRUE))


def test_the_parts_of_a_layer_are_counted() -> None:
    found = {name: float(part(dims(lstm()))) for name, part in PARTS.items()}
    assert found == {
        "steps": BOTH * STEPS,
        "inputs": BOTH * STEPS * IMAGES * WIDE * 4 * HIDDEN,
        "states": BOTH * STEPS * IMAGES * HIDDEN * 4 * HIDDEN,
        "reads": BOTH * STEPS * HIDDEN * 4 * HIDDEN,
        "weights": BOTH * (WIDE + HIDDEN) * 4 * HIDDEN,
        "gates": BOTH * STEPS * IMAGES * 4 * HIDDEN,
    }


def workloads() -> list[Workload]:
    sizes = itertools.product((5, 37, 101), (1, 3), (29, 193), (17, 67, 149), (1, 2))
    return [lstm(*row) for row in sizes]


def test_exact_measurements_give_the_parts_back() -> None:
    works = workloads()
    seconds = np.array(list(map(true_s, works)))
    fixed_s, parts = fit_parts(np.stack([dims(w) for w in works]), seconds)
    assert fixed_s == pytest.approx(FIXED_S, rel=1e-3)
    assert parts == pytest.approx(TRUE, rel=1e-3)


def test_outliers_pull_little() -> None:
    works = workloads()
    seconds = np.array(list(map(true_s, works)))
    seconds[::11] *= 3.0
    fixed_s, parts = fit_parts(np.stack([dims(w) for w in works]), seconds)
    other = lstm(61, 1, 83, 97)
    assert fixed_s + parts_s(dims(other), parts) == pytest.approx(true_s(other), rel=0.1)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 12),
)
@settings(deadline=None, max_examples=40)
def test_no_part_is_ever_negative(seed: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    works = [lstm(*map(int, chance.integers(1, 200, 4))) for _ in range(count)]
    seconds = np.exp(chance.normal(-9.0, 2.0, count))
    fixed_s, parts = fit_parts(np.stack([dims(w) for w in works]), seconds)
    assert fixed_s >= 0
    assert all(s > 0 for s in parts.values())
    assert (fixed_s + parts_s(np.stack([dims(w) for w in works]), parts) > 0).all()


def test_a_wide_state_is_told_from_wide_inputs() -> None:
    found = fit([Sample(work, true_s(work)) for work in workloads()], Settings())
    model = next(f.model for f in found if f.name == "float32 LSTM")
    # as much work in both, but one of them reads thirty times as much of its recurrence
    inputs, state = lstm(50, 1, 593, 19, 1), lstm(50, 1, 5, 107, 1)
    work = [dims(w)[Dim.WORK] for w in (inputs, state)]
    assert work[0] == pytest.approx(work[1], rel=0.05)
    predicted = [float(model.seconds(dims(w), 4.0)) for w in (inputs, state)]
    assert predicted == pytest.approx([true_s(inputs), true_s(state)], rel=0.05)


def test_on_a_gpu_they_are_rooflines() -> None:
    (found,) = fit([Sample(work, true_s(work)) for work in workloads()], Settings(units=80))
    assert found.model.parts == {}


def test_a_sweep_charges_the_same() -> None:
    plain = FamilyModel(FIXED_S, 1e9, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50, parts=TRUE)
    efficiency = Efficiency({"float32 LSTM": plain}, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    costs = cost_model(workload_graph(lstm()), efficiency=efficiency)
    found = Predictor(costs, efficiency)
    assert found.at(costs.sizes).seconds.sum() == pytest.approx(true_s(lstm()))
    assert totals_s(found, costs.sizes[None])[0] == pytest.approx(true_s(lstm()))


@pytest.mark.parametrize(
    ("op", "inputs", "learned"),
    [
        ("DynamicQuantizeMatMul", ((7, 31), (31, 61), (), ()), (1, 2, 3)),
        (
            "DynamicQuantizeLSTM",
            (
                (5, 1, 31), (2, 31, 52), (2, 13, 52), (2, 104), (1,), (2, 1, 13), (2, 1, 13),
                (2, 39), (2,), (2,), (2,), (2,),
            ),
            tuple(range(1, 12)),
        ),
    ],
)  # fmt: skip
def test_learned_integers_count_a_quarter(op, inputs, learned) -> None:
    outputs = ((7, 61),) if op.endswith("MatMul") else ((5, 2, 1, 13),)
    attributes = {} if op.endswith("MatMul") else {"hidden_size": 13, "direction": "bidirectional"}
    work = Workload(op, inputs, attributes, learned=learned, outputs=outputs)
    elements = 31 * 61 if op.endswith("MatMul") else 2 * (31 + 13) * 52
    # scales may come on top
    assert dims(work)[Dim.CONSTANT_ELEMENTS] == pytest.approx(elements / 4, abs=1)
