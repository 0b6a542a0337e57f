"""Small whole networks that a calibration runs beside its operators.

Operators are measured one at a time; in a network a kernel stands between others, and starts a
little sooner (`Efficiency.alone_s`), and in a tiny one its code and data never leave the core's own
cache (`Efficiency.near_bytes`). Most of these networks say how much; the last two of each kind, of
other sizes, take no part in the fit and show in the report what the result is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from latency_service.calibration.backends import RunsNetworks
from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.timing import Reading, faster_half

# What a call takes that computes next to nothing.
NOTHING = "nothing"


class Reference(NamedTuple):
    """A network.

    Attributes:
        fitted: whether it takes part in the fit.
        tiny: whether all of it fits into the nearer caches.
    """

    name: str
    build: Callable[[], tuple[bytes, dict[str, Any]]]
    fitted: bool
    tiny: bool = False


class _Net:
    """A network in the making."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.seed = seed

    def constant(self, value: npt.NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def learned(self, *shape: int) -> str:
        self.seed += 1
        data: npt.NDArray[Any] = noise(shape, self.seed)
        data /= math.sqrt(max(math.prod(shape[1:]), 1))
        return self.constant(data)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def conv(
        self, x: str, n_in: int, n_out: int, kernel: int = 1, stride: int = 1, group: int = 1
    ) -> str:
        weight, bias = self.learned(n_out, n_in // group, kernel, kernel), self.learned(n_out)
        return self.add(
            "Conv", x, weight, bias, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
            strides=[stride] * 2, group=group,
        )  # fmt: skip

    def classifier(self, x: str, width: int, classes: int) -> str:
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.add("Gemm", flat, self.learned(classes, width), self.learned(classes), transB=1)

    def conv_1d(self, x: str, n_in: int, n_out: int, kernel: int, stride: int) -> str:
        pads = [kernel // 2] * 2 if kernel < 8 else [0, 0]
        return self.add(
            "Conv", x, self.learned(n_out, n_in, kernel), self.learned(n_out),
            kernel_shape=[kernel], pads=pads, strides=[stride],
        )  # fmt: skip

    def dense(self, x: str, n_in: int, n_out: int) -> str:
        return self.add("Gemm", x, self.learned(n_out, n_in), self.learned(n_out), transB=1)

    def normalised(self, x: str, width: int) -> str:
        return self.add("LayerNormalization", x, self.learned(width), self.learned(width), axis=-1)

    def model(self, output: str, shape: tuple[int, ...]) -> tuple[bytes, dict[str, Any]]:
        feeds = {"x": noise(shape)}
        return assemble(self.nodes, feeds, [output], self.constants), feeds


def _inverted(width: int, edge: int) -> tuple[bytes, dict[str, Any]]:
    """Inverted residuals with squeeze-and-excite (Howard et al. 2019, MobileNetV3)."""
    net = _Net()
    x = net.add("HardSwish", net.conv("x", 3, width, 3, 2))
    now = width
    for block in range(8):
        stride = 2 if block % 3 == 0 else 1
        out = now * 2 if block in (3, 6) else now
        wide = 4 * now
        y = net.add("HardSwish", net.conv(x, now, wide))
        y = net.add("HardSwish", net.conv(y, wide, wide, 5 if block % 2 else 3, stride, wide))
        if block % 2:
            gate = net.add("GlobalAveragePool", y)
            gate = net.add("Relu", net.conv(gate, wide, wide // 4))
            y = net.add("Mul", y, net.add("HardSigmoid", net.conv(gate, wide // 4, wide)))
        y = net.conv(y, wide, out)
        x = net.add("Add", x, y) if stride == 1 and out == now else y
        now = out
    x = net.add("HardSwish", net.conv(x, now, 6 * now))
    return net.model(net.classifier(x, 6 * now, 200), (1, 3, edge, edge))


def _residual(width: int, edge: int) -> tuple[bytes, dict[str, Any]]:
    """Residual blocks of two 3x3 convolutions (He et al. 2016)."""
    net = _Net()
    x = net.add("Relu", net.conv("x", 3, width, 3, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    now = width
    for block in range(6):
        out = now * 2 if block in (2, 4) else now
        stride = 2 if out != now else 1
        y = net.conv(net.add("Relu", net.conv(x, now, out, 3, stride)), out, out, 3)
        shortcut = x if out == now else net.conv(x, now, out, 1, 2)
        x = net.add("Relu", net.add("Add", y, shortcut))
        now = out
    return net.model(net.classifier(x, now, 200), (1, 3, edge, edge))


def _shuffled(width: int, edge: int) -> tuple[bytes, dict[str, Any]]:
    """Halves that are convolved, joined and shuffled (Ma et al. 2018, ShuffleNet v2)."""
    net = _Net()
    x = net.add("Relu", net.conv("x", 3, width, 3, 4))
    side = -(-edge // 4)
    halves = net.constant(np.array([width // 2] * 2, np.int64))
    for _ in range(6):
        left, right = f"l{len(net.nodes)}", f"r{len(net.nodes)}"
        net.nodes.append(helper.make_node("Split", [x, halves], [left, right], axis=1))
        half = width // 2
        right = net.add("Relu", net.conv(right, half, half))
        right = net.conv(right, half, half, 3, 1, half)
        right = net.add("Relu", net.conv(right, half, half))
        x = net.add("Concat", left, right, axis=1)
        apart = net.constant(np.array([1, 2, half, side, side], np.int64))
        x = net.add("Transpose", net.add("Reshape", x, apart), perm=[0, 2, 1, 3, 4])
        x = net.add("Reshape", x, net.constant(np.array([1, width, side, side], np.int64)))
    return net.model(net.classifier(x, width, 100), (1, 3, edge, edge))


def _joined(growth: int, edge: int) -> tuple[bytes, dict[str, Any]]:
    """Layers that read all before them (Huang et al. 2017), there and back in resolution."""
    net = _Net()
    x = net.add("Relu", net.conv("x", 3, 2 * growth, 3, 2))
    wide = x
    now = 2 * growth
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    for _ in range(6):
        y = net.add("Relu", net.conv(x, now, 4 * growth))
        x = net.add("Concat", x, net.add("Relu", net.conv(y, 4 * growth, growth, 3)), axis=1)
        now += growth
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    nothing = net.constant(np.zeros(0, np.float32))
    x = net.add("Resize", net.conv(x, now, growth), nothing, scales, mode="nearest")
    x = net.add("Concat", x, wide, axis=1)
    x = net.add("Relu", net.conv(x, 3 * growth, 4 * growth, 3, 2))
    return net.model(net.classifier(x, 4 * growth, 200), (1, 3, edge, edge))


def _attention(width: int, tokens: int) -> tuple[bytes, dict[str, Any]]:
    """Transformer blocks that normalise first (Vaswani et al. 2017)."""
    net, heads = _Net(), 4
    each = width // heads
    apart = net.constant(np.array([1, tokens, heads, each], np.int64))
    joined = net.constant(np.array([1, tokens, width], np.int64))
    scale = net.constant(np.asarray(each**0.5, np.float32))

    def dense(x: str, n_in: int, n_out: int) -> str:
        return net.add("Add", net.add("MatMul", x, net.learned(n_in, n_out)), net.learned(n_out))

    x = "x"
    for _ in range(3):
        y = net.normalised(x, width)
        q, k, v = (
            net.add("Transpose", net.add("Reshape", dense(y, width, width), apart), perm=order)
            for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        weights = net.add("Softmax", net.add("Div", net.add("MatMul", q, k), scale), axis=-1)
        y = net.add("Transpose", net.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        x = net.add("Add", x, dense(net.add("Reshape", y, joined), width, width))
        y = net.add("Gelu", dense(net.normalised(x, width), width, 4 * width))
        x = net.add("Add", x, dense(y, 4 * width, width))
    return net.model(net.normalised(x, width), (1, tokens, width))


def _perceptron(width: int, depth: int) -> tuple[bytes, dict[str, Any]]:
    """Dense layers, each normalised, over a window of features, as keyword spotters have them."""
    net, inputs = _Net(), 1024
    x, now = net.add("Flatten", "x"), inputs
    for _ in range(depth):
        x = net.add("Relu", net.normalised(net.dense(x, now, width), width))
        now = width
    return net.model(net.add("Sigmoid", net.dense(x, width, 1)), (1, 16, inputs // 16))


def _voice(width: int, samples: int) -> tuple[bytes, dict[str, Any]]:
    """Magnitudes of filters over a sound, convolutions, an LSTM: a detector of voices."""
    net, half = _Net(), np.array([width, width], np.int64)
    pads = net.constant(np.array([0, 0, 0, 0, 0, width // 2], np.int64))
    x = net.conv_1d(net.add("Pad", "x", pads, mode="reflect"), 1, 2 * width, 2 * width, width)
    steps = (samples + width // 2 - 2 * width) // width + 1
    net.nodes.append(helper.make_node("Split", [x, net.constant(half)], ["re", "im"], axis=1))
    two = net.constant(np.asarray(2.0, np.float32))
    x = net.add("Sqrt", net.add("Add", net.add("Pow", "re", two), net.add("Pow", "im", two)))
    x = net.add("Relu", net.conv_1d(x, width, width, 3, 1))
    x = net.add("Relu", net.conv_1d(x, width, width // 2, 3, 2))
    x = net.add("Relu", net.conv_1d(x, width // 2, width, 3, 1))
    x = net.add("Transpose", x, perm=[2, 0, 1])
    gates = 4 * width
    weights = net.learned(1, gates, width), net.learned(1, gates, width), net.learned(1, 2 * gates)
    x = net.add("LSTM", x, *weights, hidden_size=width)
    rows = net.constant(np.array([-(-steps // 2), width], np.int64))
    x = net.dense(net.add("Relu", net.add("Reshape", x, rows)), width, 1)
    return net.model(net.add("Sigmoid", x), (1, 1, samples))


def _nothing() -> tuple[bytes, dict[str, Any]]:
    net = _Net()
    return net.model(net.add("Neg", "x"), (1,))


def _named(
    name: str, build: Callable[[int, int], tuple[bytes, dict[str, Any]]], *sizes: tuple[int, int]
) -> list[Reference]:
    """All sizes but the last two for the fit, those for the report."""
    return [
        Reference(f"{name} {a}x{b}", partial(build, a, b), k < len(sizes) - 2, "tiny" in name)
        for k, (a, b) in enumerate(sizes)
    ]


REFERENCES: tuple[Reference, ...] = (
    *_named("inverted residuals", _inverted,
            (16, 128), (24, 192), (32, 96), (16, 224), (16, 160), (32, 128)),
    *_named("residual blocks", _residual,
            (32, 128), (64, 96), (40, 160), (96, 96), (48, 128), (64, 160)),
    *_named("shuffled halves", _shuffled,
            (64, 112), (116, 128), (176, 96), (116, 192), (96, 128), (128, 96)),
    *_named("joined layers", _joined, (16, 112), (24, 96), (32, 128), (24, 128), (32, 96)),
    *_named("attention", _attention,
            (320, 64), (448, 50), (192, 128), (256, 197), (160, 49), (384, 98)),
    *_named("tiny attention", _attention, (32, 16), (64, 12), (48, 16), (32, 32)),
    *_named("tiny perceptron", _perceptron, (32, 2), (128, 4), (64, 3), (96, 2)),
    *_named("tiny voice", _voice, (32, 512), (128, 576), (64, 512), (96, 768)),
    Reference(NOTHING, _nothing, fitted=True, tiny=True),
)  # fmt: skip

# Runs of a round: so many, and of a tiny network as many as fit into so many seconds. Before them
# it runs untimed: what lay between the rounds has left nothing of it in any cache, and the last one
# keeps what comes again.
_SETTLE, _RUNS, _ROUND_S = 4, 6, 3e-3


class ReferenceRuns:
    """Networks that stay ready all through a campaign; every round gives one value each."""

    def __init__(self, backend: RunsNetworks) -> None:
        self._clock = backend.clock
        # as samples: at the usual pace, but several threads are only ever held up
        self._share = 0.5 if backend.threads == 1 else 0.1
        self._sessions = {row.name: backend.network(*row.build()) for row in REFERENCES}
        self._rounds: dict[str, list[Sequence[Reading]]] = {name: [] for name in self._sessions}

    def round(self) -> None:
        """Run every network a few times."""
        for name, session in self._sessions.items():
            _run(session, _SETTLE)
            first = len(session.readings)
            _run(session, _RUNS)
            self._rounds[name].append(session.readings[first:])

    def seconds(self) -> dict[str, float]:
        """Median over rounds, of several threads the lowest tenth.

        In each the mean of the faster half counts, of the runs that had the core to themselves: a
        neighbour that stays on it makes every run of several rounds half as long again.
        """
        return {name: self._usual_s(rounds) for name, rounds in self._rounds.items() if rounds}

    def _usual_s(self, rounds: Sequence[Sequence[Reading]]) -> float:
        undisturbed = self._clock.undisturbed_rounds(rounds)
        each = [faster_half([reading.wall_s for reading in part]) for part in undisturbed]
        return float(np.quantile(each, self._share))


def _run(session: Any, least: int) -> None:
    """Run so often at least, and so long."""
    spent_s, count = 0.0, 0
    while count < least or spent_s < _ROUND_S:
        spent_s += session.run()
        count += 1
