"""Shape rules against onnxruntime, which runs each operator on a one-node model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.graph import graph_from_json
from latency_service.core.ops import OPS

OPSET = 21
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """A node with concrete inputs.

    Attributes:
        shapes: of its float32 activations.
        settings: constant operands, by ONNX's name.
        weights: shape of learned operands, by ONNX's name.
        opset: where today's has no such operator.
    """

    op: str
    shapes: Sequence[Dims]
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Dims] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = OPSET

    def __str__(self) -> str:
        given = {**self.settings, **self.weights, **self.attributes}
        words = [f"{key}={value}" for key, value in given.items()]
        return " ".join([self.op, *(str(list(s)) for s in self.shapes), *words]).replace(", ", ",")


def spec(
    op: str,
    *shapes: Dims,
    settings: dict[str, Any] | None = None,
    weights: dict[str, Dims] | None = None,
    outputs: int = 1,
    opset: int = OPSET,
    **attributes: Any,
) -> Spec:
    return Spec(op, shapes, settings or {}, weights or {}, attributes, outputs, opset)


def by_onnxruntime(spec: Spec) -> list[Dims]:
    """Shapes of what the operator really writes."""
    operands = OPS[spec.op].operands
    feeds: dict[str, npt.NDArray[np.float32]] = {}
    fixed: dict[str, npt.NDArray[Any]] = {}
    names: list[str] = []
    fed = iter(range(len(spec.shapes)))
    for key in operands:
        if key in spec.settings:
            value = np.array(spec.settings[key])
            whole = value.dtype.kind == "i" or not value.size
            fixed[key] = value.astype(np.int64 if whole else np.float32)
            names.append(key)
        elif key in spec.weights:
            fixed[key] = np.ones(spec.weights[key], np.float32)
            names.append(key)
        elif key not in OPS[spec.op].constants and (place := next(fed, None)) is not None:
            names.append(f"in{place}")
        else:
            names.append("")
    names += [f"in{place}" for place in fed]
    while not names[-1]:
        names.pop()
    for place, shape in enumerate(spec.shapes):
        feeds[f"in{place}"] = np.ones(shape, np.float32)
    outputs = [f"out{i}" for i in range(spec.outputs)]
    node = helper.make_node(spec.op, names, outputs, **spec.attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, key) for key, value in fixed.items()],
    )
    opsets = [helper.make_opsetid("", spec.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [array.shape for array in session.run(None, feeds)]


def by_us(spec: Spec) -> list[Dims]:
    op = OPS[spec.op]
    inputs = [
        {"name": f"in{i}", "shape": list(shape), "dtype": "float32", "batch_axis": None}
        for i, shape in enumerate(spec.shapes)
    ]
    layer: dict[str, Any] = {
        "name": "layer",
        "op": spec.op,
        "inputs": [tensor["name"] for tensor in inputs],
        "outputs": [{"name": f"out{i}"} for i in range(spec.outputs)],
        "attributes": {**spec.attributes, **spec.settings},
    }
    if spec.weights:
        layer["parameters"] = [
            {"role": op.roles[key], "shape": list(shape)} for key, shape in spec.weights.items()
        ]
    graph = graph_from_json({"inputs": inputs, "layers": [layer], "outputs": ["out0"]})
    return [tensor.shape for tensor in bind(graph, Binding()).nodes[-1].outputs]


def windows() -> Iterator[Spec]:
    """Pools and convolutions of odd sizes, with every way to round and pad."""
    for size, kernel, stride, pads, ceil in itertools.product(
        (7, 10, 11), (2, 3), (1, 2, 3), ((0, 0), (1, 0), (1, 1)), (0, 1)
    ):
        common: dict[str, Any] = {"kernel_shape": [kernel], "strides": [stride], "pads": list(pads)}
        yield spec("MaxPool", (2, 3, size), **common, ceil_mode=ceil)
        if not ceil:
            yield spec("Conv", (2, 3, size), weights={"W": (5, 3, kernel)}, strides=[stride],
                       pads=list(pads))  # fmt: skip
        yield spec("AveragePool", (2, 3, size), **common, ceil_mode=ceil)
    for size, stride, auto in itertools.product(
        (7, 11, 12), (1, 2, 3), ("SAME_UPPER", "SAME_LOWER", "VALID")
    ):
        yield spec("MaxPool", (1, 3, size, 13), kernel_shape=[3, 2], strides=[stride, 2],
                   auto_pad=auto)  # fmt: skip
        yield spec("Conv", (1, 3, size, 13), weights={"W": (5, 3, 3, 2)}, strides=[stride, 2],
                   auto_pad=auto)  # fmt: skip
    yield spec("MaxPool", (1, 3, 17, 19), kernel_shape=[3, 2], dilations=[2, 3], outputs=2)
    yield spec("MaxPool", (1, 3, 17, 19), kernel_shape=[3, 2], dilations=[3, 2], strides=[2, 2],
               ceil_mode=1)  # fmt: skip
    yield spec("LpPool", (1, 3, 11, 13), kernel_shape=[3, 2], strides=[2, 3], p=2)
    yield spec("MaxPool", (1, 2, 5, 7, 11), kernel_shape=[2, 3, 2], strides=[1, 2, 3])
    yield spec("Conv", (2, 6, 11, 13), weights={"W": (9, 2, 3, 5)}, group=3, dilations=[2, 1])
    yield spec("Conv", (1, 2, 5, 7, 11), weights={"W": (3, 2, 2, 3, 5)}, strides=[1, 2, 3])
    for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield spec(name, (2, 3, 5, 7))


def transposed_convolutions() -> Iterator[Spec]:
    for stride, pads, extra, dilation in itertools.product(
        (1, 2, 3), ((0, 0), (1, 0), (1, 2)), (0, 1), (1, 2)
    ):
        if extra < stride:
            yield spec("ConvTranspose", (1, 4, 7), weights={"W": (4, 3, 3)}, strides=[stride],
                       pads=list(pads), output_padding=[extra], dilations=[dilation])  # fmt: skip
    yield spec("ConvTranspose", (1, 4, 7, 11), weights={"W": (4, 3, 3, 2)}, group=2,
               strides=[2, 3])  # fmt: skip
    yield spec("ConvTranspose", (1, 4, 7), weights={"W": (4, 3, 4)}, strides=[2],
               auto_pad="SAME_UPPER")  # fmt: skip
    yield spec("ConvTranspose", (1, 4, 7), weights={"W": (4, 3, 4)}, strides=[2],
               auto_pad="VALID")  # fmt: skip
    yield spec("ConvTranspose", (1, 4, 7), weights={"W": (4, 3, 4)}, strides=[2],
               output_shape=[15])  # fmt: skip


def slices() -> Iterator[Spec]:
    far = 2**62
    for start, end, step in (
        (0, 5, 1), (2, -1, 1), (-3, far, 1), (1, 10, 3), (0, 100, 4), (8, 3, 1), (-100, 4, 2),
        (-1, -far, -1), (-1, 0, -1), (9, 2, -2), (100, -100, -3), (5, -8, -2), (-2, -7, -4),
        (3, -11, -1), (3, -12, -1), (-100, -200, -1), (-100, 3, -1),
    ):  # fmt: skip
        settings = {"starts": [start], "ends": [end], "axes": [1], "steps": [step]}
        yield spec("Slice", (2, 11, 3), settings=settings)
    settings = {"starts": [1, 0], "ends": [5, 2], "axes": [-1, 0]}
    yield spec("Slice", (3, 5, 7), settings=settings)
    yield spec("Slice", (3, 5, 7), settings={"starts": [1, 0], "ends": [5, 2]})


def resizes() -> Iterator[Spec]:
    for size, scale in itertools.product((7, 10, 13), (0.5, 0.3, 1.5, 2.0, 0.7, 1 / 3, 2.3)):
        yield spec("Resize", (1, 2, size, 11), settings={"scales": [1.0, 1.0, scale, scale]})
    yield spec("Resize", (1, 2, 7, 11), settings={"sizes": [1, 2, 13, 5]})
    yield spec("Resize", (1, 2, 7, 11), settings={"sizes": [5, 13]}, axes=[3, 2])
    yield spec("Resize", (1, 2, 7, 11), settings={"scales": [2.0, 3.0]}, axes=[-1, -2])
    for policy in ("not_larger", "not_smaller"):
        for sizes in ([13, 17], [5, 23], [20, 3]):
            yield spec("Resize", (1, 2, 7, 11), settings={"sizes": sizes}, axes=[2, 3],
                       keep_aspect_ratio_policy=policy)  # fmt: skip
    yield spec("Upsample", (1, 2, 7, 11), settings={"scales": [1.0, 1.0, 2.0, 3.0]}, opset=9)


def products() -> Iterator[Spec]:
    for left, right in (
        ((3, 5), (5, 7)), ((2, 3, 5), (5, 7)), ((5,), (5, 7)), ((3, 5), (5,)), ((5,), (5,)),
        ((2, 1, 3, 5), (11, 5, 7)), ((2, 3, 5), (2, 5, 7)), ((5,), (2, 5, 7)), ((2, 3, 5), (5,)),
    ):  # fmt: skip
        yield spec("MatMul", left, right)
    yield spec("Gemm", (3, 5), weights={"B": (7, 5)}, transB=1)
    yield spec("Gemm", (5, 3), weights={"B": (7, 5)}, transA=1, transB=1)
    yield spec("Einsum", (2, 3, 5), (2, 5, 7), equation="bij,bjk->bik")
    yield spec("Einsum", (3, 5), (5, 7), equation="zj,ja")
    yield spec("Einsum", (3, 5), (5, 7), equation="ij,jk->ikj")
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, count in (("forward", 1), ("bidirectional", 2)):
            weights: dict[str, Dims] = {"W": (count, gates * 7, 5), "R": (count, gates * 7, 7)}
            yield spec(op, (3, 2, 5), weights=weights, hidden_size=7, direction=direction,
                       outputs=3 if op == "LSTM" else 2)  # fmt: skip


def shapes_and_axes() -> Iterator[Spec]:
    shape = (2, 3, 5, 7)
    yield spec("Transpose", shape)
    yield spec("Transpose", shape, perm=[2, 0, 3, 1])
    yield spec("Concat", shape, (2, 4, 5, 7), (2, 1, 5, 7), axis=-3)
    yield spec("Split", shape, settings={"split": [2, 4, 1]}, axis=3, outputs=3)
    yield spec("Split", shape, axis=-1, num_outputs=3, outputs=3)
    yield spec("Split", shape, axis=2, num_outputs=5, outputs=5)
    for target in ([2, -1], [0, 0, -1], [0, -1, 7], [5, 42], [-1], [1, 0, 10, 7]):
        yield spec("Reshape", shape, settings={"shape": target})
    for axis in (-4, -1, 0, 1, 3, 4):
        yield spec("Flatten", shape, axis=axis)
    yield spec("Squeeze", (1, 3, 1, 7))
    yield spec("Squeeze", (1, 3, 1, 7), settings={"axes": [-2]})
    for axes in ([0], [-1], [1, 3], [-1, 0], [4, 2]):
        yield spec("Unsqueeze", (3, 5, 7), settings={"axes": axes})
    for target in ([2, 3, 5, 7], [1, 1, 7], [11, 1, 1, 1, 1], [7]):
        yield spec("Expand", (3, 1, 7), settings={"shape": target})
    yield spec("Tile", shape, settings={"repeats": [1, 2, 1, 3]})
    yield spec("Pad", shape, settings={"pads": [0, 1, 2, 0, 3, 0, -1, 0]})
    yield spec("Pad", shape, settings={"pads": [1, 2, 3, 4], "axes": [-1, 1]})
    for mode in ("DCR", "CRD"):
        yield spec("DepthToSpace", (2, 12, 5, 7), blocksize=2, mode=mode)
    yield spec("SpaceToDepth", (2, 3, 6, 9), blocksize=3)
    for axis, indices in ((0, [1, 0, 1]), (1, 2), (-1, [[0, 1], [2, 6]])):
        yield spec("Gather", shape, settings={"indices": indices}, axis=axis)
    yield spec("GatherElements", shape, settings={"indices": [[[[0, 1]]]]}, axis=3)
    yield spec("GatherND", shape, settings={"indices": [[0, 1], [1, 2], [0, 0]]})
    yield spec("GatherND", shape, settings={"indices": [[[1]], [[2]]]}, batch_dims=1)
    for op in ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceMax"):
        yield spec(op, shape)
        yield spec(op, shape, keepdims=0)
        yield spec(op, shape, settings={"axes": [1, -1]})
        yield spec(op, shape, settings={"axes": [0]}, keepdims=0)
        yield spec(op, shape, noop_with_empty_axes=1)
    yield spec("ArgMax", shape, axis=-2)
    yield spec("ArgMin", shape, keepdims=0)
    yield spec("TopK", shape, settings={"K": [3]}, axis=2, outputs=2)
    yield spec("CumSum", shape, settings={"axis": 1})
    yield spec("Trilu", shape)
    yield spec("GridSample", (2, 3, 5, 7), (2, 11, 13, 2))
    yield spec("Shape", shape, start=1, end=-1)
    yield spec("Size", shape)
    yield spec("EyeLike", (3, 5))
    yield spec("Dropout", shape, outputs=2)


def normalisations() -> Iterator[Spec]:
    for axis in (-1, 1, -2):
        scale = (2, 3, 5, 7)[axis:]
        weights = {"Scale": scale, "B": scale}
        yield spec("LayerNormalization", (2, 3, 5, 7), weights=weights, axis=axis, outputs=3)
    yield spec("GroupNormalization", (2, 6, 5), weights={"scale": (6,), "bias": (6,)}, num_groups=3)
    yield spec("LRN", (2, 3, 5, 7), size=3)
    for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        yield spec(op, (2, 3, 5), axis=1)


def pairs() -> Iterator[Spec]:
    for left, right in (
        ((2, 3, 5), (2, 3, 5)), ((2, 3, 5), (5,)), ((3, 1), (2, 1, 5)), ((), (2, 3)), ((1,), ()),
        ((7, 1, 5), (3, 1)),
    ):  # fmt: skip
        for op in ("Add", "Greater", "Max"):
            yield spec(op, left, right)
    yield spec("Sum", (2, 1, 5), (3, 1), (5,))
    yield spec("PRelu", (2, 3, 5), (3, 1))


SPECS = [
    *windows(), *transposed_convolutions(), *slices(), *resizes(), *products(),
    *shapes_and_axes(), *normalisations(), *pairs(),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_output_shapes_are_those_of_onnxruntime(spec: Spec) -> None:
    assert by_us(spec) == by_onnxruntime(spec)
