"""What onnxruntime merges and how it stores images, read from its own optimised graphs.

Small networks that end or begin with the operator in question are optimised, not run: an operator
that is gone has been merged, a reorder that appears says where images are stored in blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.backends.onnxruntime_process import share_threads
from latency_service.core.channels_last import CHANNELS_LAST
from latency_service.core.efficiency import Layout
from latency_service.core.profile import FusionRules
from latency_service.core.quantised_patterns import SIGNED, SIGNED_ONCE

_CHANNELS = 64
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",
                "Gelu", "Softplus", "PRelu")  # fmt: skip
_POOLS: dict[str, dict[str, Any]] = {
    "MaxPool": {"kernel_shape": [2, 2]}, "AveragePool": {"kernel_shape": [2, 2]},
    "GlobalAveragePool": {}, "GlobalMaxPool": {},
}  # fmt: skip


class _Net:
    """A small network in the making."""

    def __init__(self, shape: Sequence[int], second: Sequence[int] | None = None) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.feeds = {"x": noise(shape)}
        if second is not None:
            self.feeds["z"] = noise(second)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def conv(self, x: str, inputs: int = _CHANNELS, filters: int = _CHANNELS) -> str:
        weight = self.constant(noise((filters, inputs, 1, 1)) * 0.1)
        return self.add("Conv", x, weight, kernel_shape=[1, 1])

    def scalar(self, value: float) -> str:
        return self.constant(np.float32(value))

    def normalise(self, op: str, x: str, width: int) -> str:
        vectors = 4 if op == "BatchNormalization" else 2
        ones = [self.constant(np.ones(width, np.float32) * (k + 1)) for k in range(vectors)]
        return self.add(op, x, *ones)

    def step(self, op: str, x: str, other: str = "z") -> str:
        if op == "Clip":
            return self.add(op, x, self.scalar(0.0), self.scalar(6.0))
        if op == "PRelu":
            return self.add(op, x, self.constant(np.full((_CHANNELS, 1, 1), 0.1, np.float32)))
        if op in ("Add", "Mul"):
            return self.add(op, x, other)
        return self.add(op, x)


def discover(provider: str, runtime: str, threads: int) -> tuple[FusionRules, Layout | None]:
    """The rules of the runtime on this machine."""
    ask = _Asker(provider, threads)
    sequences, patterns = ask.sequences(), ask.patterns()
    # a batch of any size, as most exporters write it; and images and texts of any
    batches = _Asker(provider, threads, lambda rank: [0]).merges()
    sizes = _Asker(provider, threads, _all_but_channels).merges()
    folds = tuple(op for op in ("BatchNormalization", "Add", "Mul") if ask.folds(op))
    rules = FusionRules(
        fold=folds,
        sequences=sequences,
        static=tuple(found for found in (*sequences, *patterns) if found not in batches),
        sized=tuple(found for found in batches if found not in sizes),
        patterns=patterns,
        origin="measured",
        source=f"optimised graphs of onnxruntime {onnxruntime.__version__} ({runtime})",
    )
    return rules, ask.layout()


def _all_but_channels(rank: int) -> list[int]:
    channels = 1 if rank == 4 else rank - 1
    return [axis for axis in range(rank) if axis != channels]


class _Asker:
    """Optimises small networks and looks at what is left."""

    def __init__(
        self, provider: str, threads: int, named: Callable[[int], list[int]] = lambda rank: []
    ) -> None:
        self.provider = provider
        self.threads = threads
        self.named = named  # axes of an input of this rank that have no size

    def optimised(self, net: _Net, *outputs: str) -> list[Any]:
        """Nodes of the optimised graph; those before it if the runtime cannot load it."""
        named = self.named(net.feeds["x"].ndim)
        model = assemble(net.nodes, net.feeds, outputs, net.constants, named)
        with tempfile.TemporaryDirectory(prefix="latency-service-") as folder:
            path = Path(folder) / "optimised.onnx"
            options = onnxruntime.SessionOptions()
            share_threads(options, self.threads)
            options.log_severity_level = 4
            options.optimized_model_filepath = str(path)
            try:
                onnxruntime.InferenceSession(model, options, providers=[self.provider])
                return list(onnx.load(str(path)).graph.node)
            except Exception:
                return list(net.nodes)

    def ops(self, net: _Net, *outputs: str) -> list[str]:
        """Operators of the optimised graph."""
        return [node.op_type for node in self.optimised(net, *outputs)]

    def folds(self, op: str) -> bool:
        net = _Net((1, _CHANNELS, 8, 8))
        end = net.conv("x")
        if op == "BatchNormalization":
            end = net.normalise(op, end, _CHANNELS)
        else:
            end = net.add(op, end, net.constant(noise((1, _CHANNELS, 1, 1))))
        return op not in self.ops(net, net.conv(end))

    def merges(self) -> tuple[str, ...]:
        """Sequences and patterns."""
        return (*self.sequences(), *self.patterns())

    def sequences(self) -> tuple[str, ...]:
        """What contractions merge, in steps."""
        found: list[str] = []
        image = (1, _CHANNELS, 8, 8)
        for steps in [(op,) for op in (*_ACTIVATIONS, "Add")] + [
            ("Add", op) for op in _ACTIVATIONS
        ]:
            net = _Net(image)
            # the addend is another convolution's output, as a shortcut's is
            beside = net.conv("x")
            x = net.conv("x")
            for op in steps:
                x = net.step(op, x, beside)
            left = self.ops(net, net.conv(x))
            if not set(steps) & set(left) and "HardSigmoid" not in left and "Mul" not in left:
                found.append(" ".join(("Conv", *steps)))
        rows = (50, _CHANNELS)
        for op in _ACTIVATIONS[:6]:
            net = _Net(rows)
            weight, bias = net.constant(noise((_CHANNELS, 96))), net.constant(noise((96,)))
            end = net.step(op, net.add("Gemm", "x", weight, bias))
            if op not in self.ops(net, end):
                found.append(f"Gemm {op}")
        return tuple(found)

    def patterns(self) -> tuple[str, ...]:
        """Groups of operators that have become fewer."""
        found = tuple(name for name in _PATTERNS if self.recognises(name))
        return (*found, CHANNELS_LAST) if self._turns_integers() else found

    def recognises(self, pattern: str) -> bool:
        """Whether a group of operators has become fewer."""
        net, outputs, gone = _PATTERNS[pattern]()
        return gone not in self.ops(net, *outputs)

    def layout(self) -> Layout | None:
        """Blocks of channels, if convolutions use them."""
        if not self._reorders(_CHANNELS):
            return None
        block = next((size for size in (4, 8, 16, 32, 64) if self._pool_converts(size)), 16)
        alignment = next((step for step in (1, 2, 4, 8, 16) if self._reorders(64 + step)), block)
        converts = tuple(op for op in _POOLS if self._converts(op))
        keeps = tuple(op for op in (*_ACTIVATIONS, *_POOLS, *_KEEPERS) if self._keeps(op))
        return Layout(block, alignment, converts, keeps, self._turns())

    def _reorders(self, channels: int) -> bool:
        net = _Net((1, channels, 8, 8))
        return any("Reorder" in op for op in self.ops(net, net.conv("x", channels)))

    def _pool_converts(self, channels: int) -> bool:
        net = _Net((1, channels, 8, 8))
        left = self.ops(net, net.add("MaxPool", net.add("Neg", "x"), **_POOLS["MaxPool"]))
        return any("Reorder" in op for op in left)

    def _converts(self, op: str) -> bool:
        net = _Net((1, _CHANNELS, 8, 8))
        # between other layers: what is fed to a network is converted for more operators
        left = self.ops(net, net.add(op, net.add("Neg", "x"), **_POOLS[op]))
        return any("Reorder" in name for name in left)

    def _turns(self) -> bool:
        """Whether no transposition is left between a normalisation and two convolutions."""
        net = _Net((1, _CHANNELS, 8, 8))
        last = net.add("Transpose", net.conv("x"), perm=[0, 2, 3, 1])
        last = net.normalise("LayerNormalization", last, _CHANNELS)
        left = self.ops(net, net.conv(net.add("Transpose", last, perm=[0, 3, 1, 2])))
        return "Transpose" not in left

    def _turns_integers(self) -> bool:
        """Whether a convolution on integers has its channels turned behind the positions."""
        net, outputs, _ = _quantised()
        return "Transpose" in self.ops(net, *outputs)

    def _keeps(self, op: str) -> bool:
        """Whether only the ends are reordered with the operator between two convolutions."""
        net = _Net((1, _CHANNELS, 8, 8))
        first, second = net.conv("x"), net.conv("x")
        inputs = _CHANNELS
        if op in _POOLS:
            x = net.add(op, first, **_POOLS[op])
        elif op == "BatchNormalization":
            x = net.normalise(op, first, _CHANNELS)
        elif op == "QuickGelu":
            x = net.add(op, first, domain="com.microsoft", alpha=1.0)
        elif op == "Concat":
            x, inputs = net.add(op, first, second, axis=1), 2 * _CHANNELS
        elif op in _RESIZES:
            scales = net.constant(np.array([1, 1, 2, 2], np.float32))
            x = net.add("Resize", first, "", scales, **_RESIZES[op])
        else:
            x = net.step(op, first, second)
        left = self.ops(net, net.conv(x, inputs))
        return left.count("ReorderOutput") == 1 and left.count("ReorderInput") == 1


# As PyTorch's exporter writes them.
_RESIZES = {
    "Resize": {
        "mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric",
    },
    "Resize/linear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}  # fmt: skip
_KEEPERS = ("Add", "Mul", "Concat", *_RESIZES, "BatchNormalization", "QuickGelu")


def _erf_net(scale: str = "Div") -> tuple[_Net, str, str]:
    net = _Net((1, 50, _CHANNELS))
    x = net.add("MatMul", "x", net.constant(noise((_CHANNELS, 96))))
    root = net.scalar(2**0.5 if scale == "Div" else 0.5**0.5)
    return net, x, net.add("Add", net.add("Erf", net.add(scale, x, root)), net.scalar(1.0))


def _gelu(scale: str = "Mul") -> tuple[_Net, tuple[str, ...], str]:
    net, x, plus = _erf_net(scale)
    return net, (net.add("Mul", net.add("Mul", x, plus), net.scalar(0.5)),), "Erf"


def _gelu_divided() -> tuple[_Net, tuple[str, ...], str]:
    return _gelu("Div")


def _gelu_halved() -> tuple[_Net, tuple[str, ...], str]:
    net, x, plus = _erf_net()
    return net, (net.add("Mul", x, net.add("Mul", net.scalar(0.5), plus)),), "Erf"


def _swish() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, _CHANNELS, 8, 8))
    return net, (net.add("Mul", "x", net.add("Sigmoid", "x")),), "Sigmoid"


def _scaled_product() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, 3, 50, 64), (1, 3, 50, 64))
    turned = net.add("Transpose", "z", perm=[0, 1, 3, 2])
    return net, (net.add("Div", net.add("MatMul", "x", turned), net.scalar(8.0)),), "Div"


def _linear() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, 50, _CHANNELS))
    product = net.add("MatMul", "x", net.constant(noise((_CHANNELS, 96))))
    return net, (net.add("Add", product, net.constant(noise((96,)))),), "Add"


def _skip_normalisation() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, 50, _CHANNELS), (1, 50, _CHANNELS))
    return net, (net.normalise("LayerNormalization", net.add("Add", "x", "z"), _CHANNELS),), "Add"


def _layer_normalisation() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, 50, _CHANNELS))
    axes = net.constant(np.array([-1], np.int64))
    centred = net.add("Sub", "x", net.add("ReduceMean", "x", axes))
    variance = net.add("ReduceMean", net.add("Pow", centred, net.scalar(2.0)), axes)
    root = net.add("Sqrt", net.add("Add", variance, net.scalar(1e-5)))
    scaled = net.add(
        "Mul", net.add("Div", centred, root), net.constant(np.ones(_CHANNELS, np.float32))
    )
    return net, (net.add("Add", scaled, net.constant(np.ones(_CHANNELS, np.float32))),), "Sqrt"


def _quantised(
    dtype: type[np.integer[Any]] = np.uint8, readers: int = 1
) -> tuple[_Net, tuple[str, ...], str]:
    """Activations of a dtype, and how many convolutions read them."""
    net = _Net((1, _CHANNELS, 8, 8))
    scale, zero = net.scalar(0.02), net.constant(dtype(0))
    whole, none = net.constant(np.ones((_CHANNELS, _CHANNELS, 1, 1), np.int8)), np.int8(0)
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "x", scale, zero), scale, zero)
    ends = []
    for _ in range(readers):
        weight = net.add("DequantizeLinear", whole, scale, net.constant(none))
        y = net.add("QuantizeLinear", net.add("Conv", x, weight), scale, zero)
        ends.append(net.add("DequantizeLinear", y, scale, zero))
    return net, tuple(ends), "Conv"


def _signed() -> tuple[_Net, tuple[str, ...], str]:
    return _quantised(np.int8, readers=2)


def _signed_once() -> tuple[_Net, tuple[str, ...], str]:
    return _quantised(np.int8)


def _dynamic_product() -> tuple[_Net, tuple[str, ...], str]:
    net = _Net((1, 50, _CHANNELS))
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]))
    whole, none = np.ones((_CHANNELS, 96), np.int8), net.constant(np.int8(0))
    product = net.add("MatMulInteger", "q", net.constant(whole), "zero", none)
    scales = net.add("Mul", "scale", net.scalar(0.02))
    return net, (net.add("Mul", net.add("Cast", product, to=1), scales),), "MatMulInteger"


_PATTERNS = {
    "quantised": _quantised,
    SIGNED: _signed,
    SIGNED_ONCE: _signed_once,
    "dynamic-product": _dynamic_product,
    "layer-normalisation": _layer_normalisation,
    "gelu": _gelu,
    "gelu-divided": _gelu_divided,
    "gelu-halved": _gelu_halved,
    "swish": _swish,
    "scaled-product": _scaled_product,
    "linear": _linear,
    "skip-layer-normalisation": _skip_normalisation,
}
