"""One measured operator: its shapes, and the seconds it took.

The format of recorded measurements is one JSON object a line, `{"op", "inputs", "outputs",
"attributes", "latency_s"}`: operators, attributes and shapes are ONNX's, learned operands stand
among the inputs, a scalar has shape `[]`. See docs/calibration.md#samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_service.core.errors import LatencyServiceError, SampleError
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, layer_graph
from latency_service.core.ops import OPS
from latency_service.core.units import BYTES_PER_ELEMENT

Dims = tuple[int, ...]

# What a runtime does between layouts; measured like operators, though no network names them.
REORDERS = ("ReorderInput", "ReorderOutput")

# Operators whose operands after the first are learned, unless the sample says otherwise.
_LEARNED_BY_DEFAULT = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN", "QLinearConv", "ConvInteger", "PRelu"}
)


@dataclass(frozen=True, slots=True)
class Workload:
    """One operator at one shape: what a microbenchmark runs.

    Attributes:
        inputs: shapes of all operands, learned ones among them.
        attributes: ONNX's, and constant operands (the bounds of Slice, ...) under their names.
        dtype: of its tensors.
        learned: positions of the operands that are constants of the network.
        outputs: shapes; empty where the operator determines them.
        merges: elementwise operators applied to the output, for the runtime to merge.
    """

    op: str
    inputs: tuple[Dims, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    learned: tuple[int, ...] = ()
    outputs: tuple[Dims, ...] = ()
    merges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A workload and how long it took.

    Attributes:
        latency_s: seconds of the operator itself, dispatch left out where it could be told apart.
        rounds_s: seconds of every round, where there were several.
        cached_s: what it took with its large constants still in the last cache, where that was
            measured beside `latency_s`, for which they came from memory.
        blocked: whether the operator ran on images stored in blocks of channels, where it has a
            plain form too (convolutions have not: their shape decides).
        reference_s: seconds that a kernel which is the same for all samples took between its runs.
    """

    workload: Workload
    latency_s: float
    rounds_s: tuple[float, ...] = ()
    blocked: bool = False
    cached_s: float | None = None
    reference_s: float | None = None


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """The sample as one line of a recording; `sample_from_json` gives it back."""
    work = sample.workload
    row: dict[str, Any] = {
        "op": work.op,
        "inputs": [list(shape) for shape in work.inputs],
        "outputs": [list(shape) for shape in work.outputs],
        "attributes": dict(work.attributes),
        "dtype": work.dtype,
        "learned": list(work.learned),
        "latency_s": sample.latency_s,
    }
    if sample.rounds_s:
        row["rounds_s"] = list(sample.rounds_s)
    if sample.blocked:
        row["blocked"] = True
    if sample.cached_s is not None:
        row["cached_s"] = sample.cached_s
    if sample.reference_s is not None:
        row["reference_s"] = sample.reference_s
    if work.merges:
        row["merges"] = list(work.merges)
    return row


def sample_from_json(row: Any, where: str = "sample") -> Sample:
    """Read one recorded measurement.

    Args:
        where: what to call it in an error message ("samples.jsonl, line 7").

    Raises:
        SampleError: naming the field, what it holds and what it must hold.
    """
    if not isinstance(row, Mapping):
        raise SampleError(f"{where}: must be a JSON object; it is {row!r:.80}")
    op = row.get("op")
    if not isinstance(op, str) or (op not in OPS and op not in REORDERS):
        raise SampleError(
            f"{where}: op is {op!r}, which the cost model does not know; operators are ONNX's "
            "('Conv', 'Gemm', 'MatMul', ...)"
        )
    inputs = _shapes(row, "inputs", where)
    latency = row.get("latency_s")
    number = isinstance(latency, int | float) and not isinstance(latency, bool)
    if latency is None or not number or not math.isfinite(latency) or latency <= 0:
        raise SampleError(f"{where}: latency_s must be a positive number; it is {latency!r}")
    attributes = row.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise SampleError(f"{where}: attributes must be an object; it is {attributes!r:.80}")
    dtype = row.get("dtype", "float32")
    if dtype not in BYTES_PER_ELEMENT:
        raise SampleError(
            f"{where}: dtype is {dtype!r}; known: {', '.join(sorted(BYTES_PER_ELEMENT))}"
        )
    default = tuple(range(1, len(inputs))) if op in _LEARNED_BY_DEFAULT else _learned(op, inputs)
    learned = row.get("learned", default)
    if not isinstance(learned, list | tuple) or not set(learned) <= set(range(len(inputs))):
        raise SampleError(f"{where}: learned must list positions of inputs; it is {learned!r}")
    rounds = row.get("rounds_s", [])
    if not isinstance(rounds, list) or not all(_is_number(value) for value in rounds):
        raise SampleError(f"{where}: rounds_s must be a list of numbers; it is {rounds!r:.80}")
    cached, reference = (_seconds(row, key, where) for key in ("cached_s", "reference_s"))
    outputs = _shapes(row, "outputs", where) if row.get("outputs") else ()
    merges = row.get("merges", [])
    if not isinstance(merges, list) or not all(
        isinstance(merged, str) and merged.removesuffix("/learned") in OPS for merged in merges
    ):
        raise SampleError(f"{where}: merges must list operators; it is {merges!r:.80}")
    work = Workload(
        op, inputs, dict(attributes), str(dtype), tuple(learned), outputs, tuple(merges)
    )
    return Sample(
        work,
        float(latency),
        tuple(map(float, rounds)),
        row.get("blocked") is True,
        cached,
        reference,
    )


def _seconds(row: Mapping[str, Any], key: str, where: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if not (_is_number(value) and 0 < value < math.inf):
        raise SampleError(f"{where}: {key} must be a positive number; it is {value!r:.80}")
    return float(value)


def _learned(op: str, inputs: tuple[Dims, ...]) -> tuple[int, ...]:
    """Scales and biases of normalisations, scalar operands of everything else."""
    if op in OPS and OPS[op].family == "normalisation":
        return tuple(range(1, len(inputs)))
    return tuple(p for p, shape in enumerate(inputs) if p and not shape)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shapes(row: Mapping[str, Any], key: str, where: str) -> tuple[Dims, ...]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise SampleError(f"{where}: {key} must be a list of shapes; it is {value!r:.80}")
    for shape in value:
        if not isinstance(shape, list) or not all(
            isinstance(dim, int) and not isinstance(dim, bool) and dim > 0 for dim in shape
        ):
            raise SampleError(
                f"{where}: {key} holds {shape!r:.80}, which is no list of positive integers"
            )
    return tuple(tuple(shape) for shape in value)


def workload_graph(work: Workload) -> LayerGraph:
    """The workload as a network of one layer.

    Raises:
        SampleError: if the operator cannot have these shapes and attributes.
    """
    op = OPS[work.op]
    integers = work.dtype in ("int8", "uint8")
    activations: list[str] = []
    feeds: list[GraphInput] = []
    parameters: list[Parameter] = []
    for position, shape in enumerate(work.inputs):
        if position in work.learned:
            operand = op.operands[position] if position < len(op.operands) else "B"
            role = op.roles.get(operand, "weight")
            parameters.append(Parameter(role, shape))
        else:
            feeds.append(GraphInput(f"x{position}", shape, work.dtype, None))
            activations.append(f"x{position}")
    dtype = work.dtype if integers else None
    outputs = tuple(Output(f"y{k}", shape, dtype) for k, shape in enumerate(work.outputs)) or tuple(
        Output(f"y{k}") for k in range(_output_count(work))
    )
    layer = Layer(
        "layer", work.op, tuple(activations), outputs, dict(work.attributes), tuple(parameters)
    )
    try:
        return layer_graph(tuple(feeds), (layer,), tuple(out.name for out in outputs))
    except LatencyServiceError as error:
        raise SampleError(f"{work.op} {[list(s) for s in work.inputs]}: {error}") from None


def _output_count(work: Workload) -> int:
    if work.op == "Split":
        parts = work.attributes.get("split") or work.attributes.get("num_outputs", 2)
        return len(parts) if isinstance(parts, list | tuple) else int(parts)
    return 1
