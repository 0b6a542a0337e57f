"""Networks in a dtype that the runtime was given no rate for: charged as what it computes in."""

from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.predict import interval_s
from latency_service.core.profile import ComputeRate, Device, Memory, Profile
from latency_service.core.roofline import LatencyModel, latency_model
from latency_service.core.sweep import totals_s
from tests.core.dense import dense

PLAIN = FamilyModel(1e-6, 1e9, 1e9, 1, (), (), (), (), 0.0, 0.02, 0.02, 50)
CALIBRATED = Efficiency({"float32 Gemm": PLAIN}, 0.0, ((2.0**20, 64e9),), 8, 0.04)


def profile(*dtypes: str) -> Profile:
    return Profile(
        Device("board", "Board", "nobody", "cpu"),
        "onnxruntime-cpu-1-thread",
        Memory(9e9, "measured", "here"),
        tuple(ComputeRate(dtype, dtype, 1e9, "measured", "here") for dtype in dtypes),
        efficiency=CALIBRATED,
    )


def model(board: Profile, dtype: str) -> LatencyModel:
    costs = cost_model(dense(3, 131, 97, 61), Binding(dtype=dtype), efficiency=CALIBRATED)
    return latency_model(costs, board, calibrated=True)


@pytest.mark.parametrize(
    ("dtype", "rates", "stands"),
    [
        ("float32", ("float32",), "float32"),
        ("float16", ("float32",), "float32"),
        ("float16", ("float32", "float16"), "float16"),
        ("bfloat16", ("float32",), "float32"),
        ("int8", ("float32",), "int8"),
        # nothing wider has a rate: whoever asks for that rate is refused
        ("float64", ("float32",), "float64"),
    ],
)
def test_the_dtype_whose_kernels_stand_for_anothers(
    dtype: str, rates: tuple[str, ...], stands: str
) -> None:
    assert profile(*rates).kernels_as(dtype) == stands


def test_a_half_precision_network_takes_what_it_takes_in_single_precision() -> None:
    board = profile("float32")
    half, single = model(board, "float16"), model(board, "float32")
    assert half.predictor is not None
    assert single.predictor is not None

    # two products of (3, 131) with (131, 97) and (97, 61), each 1 µs and its FLOPs at 1 GFLOP/s
    by_hand = 2e-6 + 2 * 3 * 97 * (131 + 61) / 1e9
    sizes = half.costs.sizes
    assert half.predictor.at(sizes).seconds.sum() == pytest.approx(by_hand)
    assert single.predictor.at(sizes).seconds.sum() == pytest.approx(by_hand)
    assert totals_s(half.predictor, sizes[None, :]) == pytest.approx([by_hand])


def test_that_is_said_and_widens_the_interval() -> None:
    board = profile("float32")
    half, single = model(board, "float16"), model(board, "float32")
    said = "float16 kernels were not measured on this device; charged like float32 ones"
    assert said in half.assumptions
    assert not any("float16" in text for text in single.assumptions)

    def width(found: LatencyModel) -> float:
        assert found.predictor is not None
        interval = interval_s(found.predictor, found.predictor.at(found.costs.sizes))
        assert interval is not None
        return float(np.log(interval[1] / interval[0]))

    assert width(half) > width(single) + 0.3


def test_a_dtype_with_a_rate_of_its_own_keeps_its_own_kernels() -> None:
    own = replace(PLAIN, fixed_s=3e-6)
    families = {"float32 Gemm": PLAIN, "float16 Gemm": own}
    board = replace(
        profile("float32", "float16"), efficiency=replace(CALIBRATED, families=families)
    )
    half = model(board, "float16")
    assert half.predictor is not None
    by_hand = 6e-6 + 2 * 3 * 97 * (131 + 61) / 1e9
    assert half.predictor.at(half.costs.sizes).seconds.sum() == pytest.approx(by_hand)
    assert not half.assumptions
