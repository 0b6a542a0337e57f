"""Workloads as ONNX models.

A model holds the operator once behind a kernel that writes its input, or, for an accelerator,
several times with operands of its own: one run alone of a small operator would time little but the
call. Data are random, so that no runtime takes a short cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from latency_service.calibration.backends.onnx_placement import (
    OVERWRITES,
    POSITIVE,
    TAKES_OVER,
    VIEWS,
    adds_a_shortcut,
    leads,
    producer,
)
from latency_service.calibration.backends.onnx_types import NUMPY, OPERAND_TYPES, TYPES
from latency_service.core.ops import OPS
from latency_service.core.sample import Workload

Array = npt.NDArray[Any]

# Leaves blocks of channels behind where the runtime stores images so.
BLOCKER = "MaxPool"
_LARGEST_IR, _OPSET = 10, 20
_CONTRIB = frozenset({
    "FusedMatMul", "BiasGelu", "FastGelu", "QuickGelu", "SkipLayerNormalization", "QLinearAdd",
    "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
    "QLinearSoftmax", "DynamicQuantizeLSTM", "QLinearConcat",
})  # fmt: skip
_B = 3  # position of QLinearMatMul's second matrix
_TWO_OPERANDS = frozenset({"Add", "Sum", "Mul"})
# Pools of quantised images, which the runtime turns so that channels come last: what they run as,
# and how they are told.
_CHANNELS_LAST: dict[str, tuple[str, dict[str, Any]]] = {
    "MaxPool": ("NhwcMaxPool", {}),
    "QLinearAveragePool": ("QLinearAveragePool", {"channels_last": 1}),
    "QLinearGlobalAveragePool": ("QLinearGlobalAveragePool", {"channels_last": 1}),
}


def build_model(
    work: Workload,
    copies: int,
    seed: int = 0,
    apart: bool = False,
    blocked: bool = False,
    lead: bool = False,
) -> tuple[bytes, dict[str, Any]]:
    """(model, feeds) that run a workload so many times, each with weights of its own.

    Args:
        apart: give each copy inputs of its own too, so that none can be left out as a repetition.
        blocked: let its inputs come from poolings, which leave blocks of channels behind.
        lead: let a kernel of another operator write each input, where it holds floating numbers.
    """
    builder = _Builder(work, np.random.default_rng(seed), lead)
    for copy in range(copies):
        builder.add(copy, copy if apart else 0, blocked)
    return builder.model(), builder.feeds


class _Builder:
    """A model in the making."""

    def __init__(self, work: Workload, rng: np.random.Generator, lead: bool) -> None:
        self.work, self.rng, self.lead = work, rng, lead
        self.feeds: dict[str, Any] = {}
        self.constants: list[TensorProto] = []
        self.nodes: list[NodeProto] = []
        self.outputs: list[str] = []
        self.pooled: set[str] = set()

    def add(self, copy: int, inputs: int, blocked: bool) -> None:
        """One copy, reading the inputs of that number."""
        work, op = self.work, OPS[self.work.op]
        attributes = dict(work.attributes)
        named = {key: attributes.pop(key) for key in list(attributes) if key in op.constants}
        runs_as, domain = work.op, "com.microsoft" if work.op in _CONTRIB else ""
        is_image = bool(work.inputs) and len(work.inputs[0]) == 4
        turned = work.dtype == "int8" and work.op in _CHANNELS_LAST and is_image
        if turned:
            runs_as, more = _CHANNELS_LAST[work.op]
            domain = "com.microsoft"
            attributes |= more
        names: list[str] = []
        for position, shape in enumerate(work.inputs):
            if turned and len(shape) == 4:
                shape = (shape[0], *shape[2:], shape[1])
            operand = op.operands[min(position, len(op.operands) - 1)]
            if position in work.learned:
                names.append(f"w{position}_{copy}")
                self._constant(names[-1], self._data(operand, shape, learned=True))
            else:
                near = position > 0 or not adds_a_shortcut(work)
                names.append(self._feed(f"x{position}_{inputs}", operand, shape, blocked, near))
        for key, value in named.items():
            place = op.operands.index(key)
            names += [""] * (place + 1 - len(names))
            names[place] = f"{key}_{copy}"
            self._constant(names[place], _setting(key, value, work))
        while names and not names[-1]:
            names.pop()
        if work.op == "QLinearConcat":
            names = self._with_scales(names)
        written = [f"y{copy}_{k}" for k in range(max(len(work.outputs), 1))]
        self.nodes.append(
            helper.make_node(runs_as, names, written, f"n{copy}", domain=domain, **attributes)
        )
        for step, merged in enumerate(work.merges):
            written = [self._merge(written[0], merged, f"{copy}_{step}")]
        if self.lead and (work.merges or work.op in OVERWRITES | TAKES_OVER | VIEWS):
            # what a network returns is not merged by every rule, nor written where something was
            # read: another kernel reads it
            end = f"end_{copy}"
            self.nodes.append(helper.make_node(producer(work.op), written, [end], end))
            written = [end]
        self.outputs += written

    def _with_scales(self, names: Sequence[str]) -> list[str]:
        """Each tensor with its own scale and zero point, behind those of what is written."""
        scaled: list[str] = []
        for place, name in enumerate(["", *names]):
            scale, zero = f"scale{place}", f"zero{place}"
            if not any(constant.name == scale for constant in self.constants):
                self._constant(scale, np.asarray(0.02 + 0.01 * place, dtype=np.float32))
                self._constant(zero, np.asarray(place, dtype=np.uint8))
            scaled += [name, scale, zero] if place else [scale, zero]
        return scaled

    def _feed(
        self, name: str, operand: str, shape: Sequence[int], blocked: bool, near: bool = True
    ) -> str:
        near &= self.lead
        if name not in self.feeds:
            self.feeds[name] = self._data(operand, shape, learned=False)
            if near:
                self._produce(name)
        if near and self.feeds[name].dtype.kind == "f":
            name = f"{name}_written"
        if not blocked or len(shape) != 4:
            return name
        pooled = f"{name}_blocked"
        if pooled not in self.pooled:
            self.pooled.add(pooled)
            self.nodes.append(
                helper.make_node(BLOCKER, [name], [pooled], pooled, kernel_shape=[1, 1])
            )
        return pooled

    def _produce(self, name: str) -> None:
        """A kernel that writes the input, as the layer before it does in a network."""
        if self.feeds[name].dtype.kind == "f":
            first, *others = leads(self.work.op)
            written = f"{name}_read" if others else f"{name}_written"
            self.nodes.append(helper.make_node(first, [name], [written], written))
            for op in others:
                reads, written = [written] * 2, f"{name}_written"
                self.nodes.append(helper.make_node(op, reads, [written], written))

    def _merge(self, written: str, merged: str, name: str) -> str:
        """An operator behind the workload, for the runtime to merge."""
        operands = [written]
        if merged.endswith("/learned"):
            operands.append(f"bias_{name}")
            bias = self._data("", self.work.outputs[0][-1:], learned=True)
            self._constant(operands[-1], bias)
        elif merged in _TWO_OPERANDS:
            # blocks are added to blocks: a shortcut comes from a convolution, as the sum does
            operands.append(self._feed("addend", "", self.work.outputs[0], self.lead))
        elif merged == "Clip":
            for key, value in (("min", 0.0), ("max", 6.0)):
                operands.append(f"{key}_{name}")
                self._constant(operands[-1], np.asarray(value, dtype=NUMPY[self.work.dtype]))
        op = merged.removesuffix("/learned")
        self.nodes.append(helper.make_node(op, operands, [f"m{name}"], f"m{name}n"))
        return f"m{name}"

    def _data(self, operand: str, shape: Sequence[int], learned: bool) -> Array:
        dtype = OPERAND_TYPES.get((self.work.op, operand), self.work.dtype)
        if self.work.op == "QLinearMatMul" and _B not in self.work.learned:
            # of two activations both are unsigned
            dtype = "uint8" if operand in ("b", "b_zero_point") else dtype
        if operand.endswith("_scale"):
            return np.full(shape, 0.02, dtype=np.float32)
        if operand == "sequence_lens":
            return np.full(shape, self.work.inputs[0][0], dtype=np.int32)
        if operand.endswith("_zero_point"):
            return np.zeros(shape, dtype=NUMPY[dtype])
        if (self.work.op, operand) == ("Pow", "B") and learned and not shape:
            # what exporters write; runtimes have a kernel of its own for it
            return np.asarray(2.0, dtype=NUMPY[dtype])
        data = _random(self.rng, shape, dtype)
        if self.work.op in POSITIVE and data.dtype.kind == "f" and (learned or shape):
            data = np.abs(data) + np.asarray(0.5, dtype=data.dtype)
        return data

    def _constant(self, name: str, data: Array) -> None:
        self.constants.append(numpy_helper.from_array(data, name))

    def model(self) -> bytes:
        """Everything added so far."""
        return assemble(self.nodes, self.feeds, self.outputs, self.constants)


def noise(shape: Sequence[int], seed: int = 0) -> Array:
    """Normal numbers in float32."""
    return _random(np.random.default_rng(seed), shape, "float32")


def assemble(
    nodes: Sequence[NodeProto],
    feeds: Mapping[str, Any],
    outputs: Sequence[str],
    constants: Sequence[TensorProto],
    named: Sequence[int] = (),
) -> bytes:
    """A model of these nodes, which every supported release of onnxruntime reads.

    Args:
        named: axes of the inputs that have a name instead of a size.
    """
    inputs = [
        helper.make_tensor_value_info(
            name,
            TYPES[str(value.dtype)],
            [f"axis{k}" if k in named else size for k, size in enumerate(value.shape)],
        )
        for name, value in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(list(nodes), "workload", inputs, results, list(constants))
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=_LARGEST_IR)
    return bytes(model.SerializeToString())


def mixed_network(blocks: int) -> tuple[bytes, dict[str, Any]]:
    """(model, feeds) of a chain of small kernels, no two neighbours of one kind."""
    width, edge = 24, 14
    feeds: dict[str, Any] = {"x": noise((1, width, edge, edge))}
    constants = [
        numpy_helper.from_array(data, name)
        for name, data in (
            ("across", noise((width, width, 1, 1)) * 0.1), ("along", noise((width, 1, 3, 3)) * 0.1),
            ("mix", noise((width, width)) * 0.1), ("scale", noise((width,))),
        )
    ]  # fmt: skip
    nodes: list[NodeProto] = []

    def step(op: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    image = step("Neg", "x")
    for _ in range(blocks):
        spatial = step("Conv", image, "across", kernel_shape=[1, 1])
        spatial = step("Conv", spatial, "along", group=width, pads=[1, 1, 1, 1])
        image = step("Add", image, spatial)
        rows = step("Transpose", image, perm=[0, 2, 3, 1])
        rows = step("LayerNormalization", rows, "scale", axis=-1)
        rows = step("Softmax", step("MatMul", rows, "mix"), axis=-1)
        turned = step("Transpose", rows, perm=[0, 3, 1, 2])
        gate = step("Sigmoid", step("ReduceMean", turned, keepdims=1))
        image = step("Mul", step("Tanh", turned), gate)
    return assemble(nodes, feeds, [f"t{len(nodes) - 1}"], constants), feeds


@lru_cache(maxsize=1)
def _pool() -> Array:
    """Normal numbers to cut operands from: drawing them anew takes longer than running some."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def _random(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    count = math.prod(shape)
    begin = int(rng.integers(0, 1 << 19))
    part = _pool()[begin:]
    data = np.resize(part, count) if count > part.size else part[:count].copy()
    if dtype == "bool":
        return np.asarray(data > 0).reshape(shape)
    if not dtype.startswith("float"):
        data = np.abs(data * 30.0).clip(0, 100)
    return np.asarray(data.reshape(shape), dtype=NUMPY[dtype])


def _setting(key: str, value: Any, work: Workload) -> Array:
    if key in ("min", "max", "constant_value", "value", "values"):
        return np.asarray(value, dtype=NUMPY[work.dtype])
    if key in ("scales", "roi"):
        return np.asarray(value, dtype=np.float32)
    return np.asarray(value, dtype=np.int64)
