"""Kernels that are launched while others run, as on a GPU."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.predict import Predictor, Structure
from latency_service.core.sweep import totals_s
from tests.core.dense import dense

LAUNCH_S, RATE = 7e-6, 1e9
GEMM = FamilyModel(LAUNCH_S, RATE, 1e15, 8, (), (), (), (), 0.0, 0.1, 0.1, 50)
QUEUED = Efficiency({"float32 Gemm": GEMM}, 0.0, ((2.0**30, 1e9),), 8, 0.04, launches_ahead=True)


def predictor(*widths: int, ahead: bool = True) -> Predictor:
    efficiency = replace(QUEUED, launches_ahead=ahead)
    return Predictor(cost_model(dense(1, *widths), efficiency=efficiency), efficiency)


def found(*widths: int) -> Structure:
    model = predictor(*widths)
    return model.at(model.costs.sizes)


def work_s(*widths: int) -> list[float]:
    return [2.0 * a * b / RATE for a, b in itertools.pairwise(widths)]


def test_long_kernels_hide_the_launches_behind_them() -> None:
    widths = (101, 103, 107, 109)  # 21 us and more each

    seconds = found(*widths).seconds

    first, *others = work_s(*widths)
    assert seconds == pytest.approx([LAUNCH_S + first, *others])


def test_short_kernels_wait_for_their_launch() -> None:
    widths = (3, 5, 7, 11)

    kernels = found(*widths)

    assert kernels.seconds.sum() == pytest.approx(3 * LAUNCH_S + work_s(*widths)[-1])
    assert kernels.fixed_s == pytest.approx(kernels.seconds - work_s(*widths))


def test_a_queue_that_runs_empty_is_waited_for_again() -> None:
    widths = (101, 103, 3, 5, 7, 11)  # 21 us, then kernels of less than one

    seconds = found(*widths).seconds

    assert seconds.sum() == pytest.approx(5 * LAUNCH_S + work_s(*widths)[-1])
    assert seconds[1] == pytest.approx(work_s(*widths)[1])


def test_alone_every_kernel_is_charged_its_launch() -> None:
    model = predictor(101, 103, 107, ahead=False)

    seconds = model.at(model.costs.sizes).seconds

    assert seconds == pytest.approx([LAUNCH_S + work for work in work_s(101, 103, 107)])


@pytest.mark.parametrize("widths", [(101, 103, 107, 109), (3, 5, 7, 11), (101, 103, 3, 5, 7)])
def test_many_sub_networks_cost_what_they_cost_one_by_one(widths: tuple[int, ...]) -> None:
    model = predictor(*widths)
    chance = np.random.default_rng(5)
    counts = np.stack(
        [chance.integers(0, int(size) + 1, 40) for size in model.costs.sizes], axis=1
    ).astype(np.float64)

    one_by_one = [model.at(row).seconds.sum() for row in counts]

    assert totals_s(model, counts) == pytest.approx(one_by_one, rel=2e-6, abs=1e-15)
