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


def gated(sign: str) -> bytes:
    """Squeeze and excite: a mean of every channel, a convolution of it, a product."""
    net = Net(sign)
    x = net.q(net.conv(net.q("x")))
    mean = net.q(net.add("ReduceMean", x, net.constant(np.array([2, 3])), keepdims=1))
    weight = net.learned(CHANNELS, CHANNELS, 1, 1)
    gate = net.q(net.add("Sigmoid", net.q(net.add("Conv", mean, weight))))
    return net.model(net.q(net.conv(net.q(net.add("Mul", x, gate)))))


def ends_in_a_mean(sign: str) -> bytes:
    """Nothing behind the last convolution wants channels last."""
    net = Net(sign)
    x = net.q(net.conv(net.q("x")))
    x = net.q(net.add("Mul", x, net.q(net.add("Sigmoid", x))))
    mean = net.q(net.add("ReduceMean", x, net.constant(np.array([2, 3])), keepdims=1))
    return net.model(net.q(net.add("Reshape", mean, net.constant(np.array([1, CHANNELS])))))


def joined(normalised: bool) -> Any:
    """Two convolutions side by side, perhaps a normalisation in floating numbers, another one."""

    def make(sign: str) -> bytes:
        net = Net(sign)
        first = net.q(net.conv(net.q("x")))
        both = net.q(net.add("Concat", net.q(net.conv(first)), first, axis=1))
        if normalised:
            ones = [net.constant(np.full(2 * CHANNELS, k + 1.0, np.float32)) for k in range(4)]
            both = net.relu(net.add("BatchNormalization", both, *ones))
        weight = net.learned(CHANNELS, 2 * CHANNELS, 1, 1)
        return net.model(net.q(net.add("Conv", both, weight)))

    return make


def joined_with_a_plain_one(sign: str) -> bytes:
    """One image comes from a convolution on integers, the other from one that stays with floats."""
    net = Net(sign)
    inside = net.q(net.conv(net.q("x")))
    weight = net.learned(CHANNELS, CHANNELS, 2, 2)
    pooled = net.q(net.add("MaxPool", inside, kernel_shape=[2, 2], strides=[2, 2]))
    up = net.q(net.add("ConvTranspose", pooled, weight, strides=[2, 2]))
    both = net.q(net.add("Concat", inside, up, axis=1))
    return net.model(net.q(net.add("Conv", both, net.learned(CHANNELS, 2 * CHANNELS, 1, 1))))


def turned(sign: str) -> bytes:
    """A normalisation over channels that stand last, as in a ConvNeXt."""
    net = Net(sign)
    x = net.q(net.conv(net.q("x")))
    x = net.q(net.add("Transpose", x, perm=[0, 2, 3, 1]))
    ones = net.constant(np.ones(CHANNELS, np.float32))
    x = net.q(net.add("LayerNormalization", x, ones))
    x = net.q(net.add("Transpose", x, perm=[0, 3, 1, 2]))
    return net.model(net.q(net.conv(x)))


def halved(sign: str) -> bytes:
    """Half of the channels go through a convolution, as in a ShuffleNet."""
    net = Net(sign)
    x = net.q("x")
    names = ["left", "right"]
    net.nodes.append(helper.make_node("Split", [x], names, axis=1, num_outputs=2))
    left, right = (net.q(name) for name in names)
    half = CHANNELS // 2
    right = net.q(net.add("Conv", right, net.learned(half, half, 1, 1)))
    return net.model(net.q(net.add("Concat", left, right, axis=1)))


def table(sign: str) -> bytes:
    """Rows of a learned table."""
    net = Net(sign, (TOKENS, CHANNELS))
    whole = (noise((41, CHANNELS)) * 9).astype(SIGNS[sign])
    rows = net.add("DequantizeLinear", net.constant(whole), net.scale, net.zero)
    found = net.q(net.add("Gather", rows, net.add("ArgMax", "x", axis=1, keepdims=0)))
    return net.model(net.q(net.add("Add", found, net.q("x"))))


NETWORKS = {
    "chain": chain,
    "residual": residual,
    "numbers": ends_in_a_number,
    "gated": gated,
    "mean": ends_in_a_mean,
    "joined": joined(False),
    "normalised": joined(True),
    "mixed": joined_with_a_plain_one,
    "turned": turned,
    "halved": halved,
    "table": table,
    **{f"{op}-{n}": dense(op, n) for op in ("MatMul", "Gemm") for n in (1, 2)},
}
# Two names of one kernel.
ALIKE = {"QGemm": "QLinearMatMul", "FusedConv": "Conv", "Gemm": "MatMul"}
# Where it turns numbers behind a DequantizeLinear, and rounds them again.
IN_VAIN = {("residual", "signed"), ("gated", "signed")}
OPS = (
    "QLinearConv", "Conv", "QLinearAdd", "Add", "QLinearMatMul", "MatMul", "QuantizeLinear",
    "DequantizeLinear", "Relu", "ReorderInput", "ReorderOutput", "Transpose", "QLinearConcat",
    "Concat", "QLinearMul", "Mul", "QLinearSigmoid", "Split", "Gather", "Reshape",
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
    if (name, sign) in IN_VAIN:
        again = {op: counted[op] + 1 for op in ("QuantizeLinear", "DequantizeLinear")}
        counted |= again | {"Transpose": counted["Transpose"] + 2 * (name == "gated")}
    assert counted == {op: theirs.count(op) for op in OPS}


def test_weights_that_are_dequantised_are_neither_packed_nor_in_blocks(
    rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    _, families = both(ends_in_a_number("unsigned"), rules, tmp_path)
    assert "Conv/dense/computed" in families
