"""What whole networks say of all families at once."""

from __future__ import annotations

import math

import pytest

from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel

MODEL = FamilyModel(1e-6, 1e9, 1e9, 1, (), (), (), (), 0.25, 0.1, 0.1, 50)
FLOATING = ("float32 Conv/dense", "float16 MatMul/learned", "float32 LSTM", "float32 Relu")
# The last two read floating numbers, and multiply integers.
OTHERS = (
    "int8 QLinearConv/dense", "int8 Relu", "float32 DynamicQuantizeLSTM",
    "float32 DynamicQuantizeMatMul",
)  # fmt: skip


def test_networks_of_floating_numbers_say_nothing_of_integers() -> None:
    merged = {"float32 Conv Relu": 3e-12, "int8 QLinearConv Relu": 5e-12}
    plain = Efficiency(
        dict.fromkeys((*FLOATING, *OTHERS), MODEL), 0.0, ((1e6, 1e9),), 8, 0.04, merged
    )

    slowed = plain.slowed(0.03).slowed(0.01)

    assert slowed.slower == pytest.approx(0.04)
    for name in FLOATING:
        assert slowed.families[name].mean == pytest.approx(0.29)
    for name in OTHERS:
        assert slowed.families[name].mean == 0.25
    assert slowed.merged["float32 Conv Relu"] == pytest.approx(3e-12 * math.exp(0.04))
    assert slowed.merged["int8 QLinearConv Relu"] == 5e-12
