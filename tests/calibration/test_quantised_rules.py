"""Quantised networks run as onnxruntime runs them, whatever the integers' sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.backends.onnxruntime_rules import discover
from latency_service.core.efficiency import Layout
from latency_service.core.profile import FusionRules
from tests.calibration.optimised import both

CHANNELS, EDGE, TOKENS = 32, 8, 5
SIGNS: dict[str, Any] = {"unsigned": np.uint8, "signed": np.int8}


@pytest.fixture(scope="module")
def rules() -> tuple[FusionRules, Layout | None]:
    return discover("CPUExecutionProvider", "onnxruntime-cpu-1-thread", 1)


class Net:
    """A network that was quantised ahead, in the making."""

    def __init__(self, sign: str, shape: tuple[int, ...] = (1, CHANNELS, EDGE, EDGE)) -> None:
        self.shape = shape
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.scale = self.constant(np.float32(0.02))
        self.zero = self.constant(SIGNS[sign](3))
        # of what is never negative
        self.lowest = self.constant(SIGNS[sign](np.iinfo(SIGNS[sign]).min))

    def constant(self, value: Any) -> str:
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def q(self, x: str, positive: bool = False) -> str:
        """Rounded, and numbers again."""
        zero = self.lowest if positive else self.zero
        rounded = self.add("QuantizeLinear", x, self.scale, zero)
        return self.add("DequantizeLinear", rounded, self.scale, zero)

    def relu(self, x: str) -> str:
        return self.q(self.add("Relu", x), positive=True)

    def learned(self, *shape: int) -> str:
        whole = (noise(shape, len(self.constants)) * 9).astype(np.int8)
        none = self.constant(np.int8(0))
        return self.add("DequantizeLinear", self.constant(whole), self.scale, none)

    def conv(self, x: str) -> str:
        return self.add("Conv", x, self.learned(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)

    def model(self, *outputs: str) -> bytes:
        feeds = {"x": np.zeros(self.shape, np.float32)}
        return assemble(self.nodes, feeds, outputs, self.constants)


def chain(sign: str) -> bytes:
    """Every tensor has one reader."""
    net = Net(sign)
    return net.model(net.q(net.conv(net.relu(net.conv(net.q("x"))))))


def residual(sign: str) -> bytes:
    """A shortcut reads what a convolution reads, too."""
    net = Net(sign)
    start = net.q(net.conv(net.q("x")))
    inside = net.q(net.conv(net.relu(net.conv(start))))
    total = net.relu(net.add("Add", inside, start))
    return net.model(net.q(net.conv(total)))


def ends_in_a_number(sign: str) -> bytes:
    """What a convolution writes is returned as numbers, not rounded."""
    net = Net(sign)
    return net.model(net.conv(net.q("x")))


def dense(op: str, readers: int) -> Any:
    """A learned matrix, beside others that read the same tokens."""

    def make(sign: str) -> bytes:
        net = Net(sign, (TOKENS, CHANNELS))
        x = net.q("x")
        return net.model(*(net.q(net.add(op, x, net.learned(CHANNELS, 7))) for _ in range(readers)))

    return make


NETWORKS = {
    "chain": chain,
    "residual": residual,
    "numbers": ends_in_a_number,
    **{f"{op}-{n}": dense(op, n) for op in ("MatMul", "Gemm") for n in (1, 2)},
}
# Two names of one kernel.
ALIKE = {"QGemm": "QLinearMatMul", "FusedConv": "Conv", "Gemm": "MatMul"}
OPS = (
    "QLinearConv", "Conv", "QLinearAdd", "Add", "QLinearMatMul", "MatMul", "QuantizeLinear",
    "DequantizeLinear", "Relu", "ReorderInput", "ReorderOutput",
)  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_those_that_the_runtime_leaves(
    name: str, sign: str, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    left, families = both(NETWORKS[name](sign), rules, tmp_path)
    theirs = [ALIKE.get(op, op) for op in left]
    ours = [family.partition("/")[0] for family in families]
    counted = {op: ours.count(op) for op in OPS}
    if (name, sign) == ("residual", "signed"):
        # it turns an image in vain, behind another rounding
        counted = {
            **counted,
            **{op: counted[op] + 1 for op in ("QuantizeLinear", "DequantizeLinear")},
        }
    assert counted == {op: theirs.count(op) for op in OPS}


def test_weights_that_are_dequantised_are_neither_packed_nor_in_blocks(
    rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    _, families = both(ends_in_a_number("unsigned"), rules, tmp_path)
    assert "Conv/dense/computed" in families
