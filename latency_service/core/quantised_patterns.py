"""Groups of operators around 8-bit arithmetic that runtimes run as one.

A network that was quantised ahead arrives as floating operators between a DequantizeLinear and a
QuantizeLinear; one that is quantised while it runs, as DynamicQuantizeLinear, MatMulInteger, Cast
and Mul. Runtimes have one kernel for either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from latency_service.core.geometry import VIEWS
from latency_service.core.node import Node, Tensor
from latency_service.core.wiring import Match, Wiring, activations

# What runs on integers in an operator's place; as in onnxruntime's selectors of such groups.
_ON_INTEGERS = {
    "Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": "QLinearMatMul",
    "Add": "QLinearAdd", "Mul": "QLinearMul", "Sigmoid": "QLinearSigmoid",
    "LeakyRelu": "QLinearLeakyRelu", "Concat": "QLinearConcat", "Softmax": "QLinearSoftmax",
    "AveragePool": "QLinearAveragePool", "GlobalAveragePool": "QLinearGlobalAveragePool",
    "MaxPool": "MaxPool", "Transpose": "Transpose", "Resize": "Resize",
    "DepthToSpace": "DepthToSpace", "Split": "Split", "Slice": "Slice", "Gather": "Gather",
}  # fmt: skip

# What runs in place of operators that vanish.
NOTHING = ""
_CLAMPS = ("Relu", "Clip")
# Operators that take the place of others for the sake of 8-bit arithmetic.
INTEGER_FORMS = frozenset(
    {*_ON_INTEGERS.values(), "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QuantizeLinear"}
)
INTEGERS = frozenset({"int8", "uint8"})
# What a runtime does with signed activations: it runs on them as on unsigned ones, or it makes
# those unsigned that one layer alone reads.
SIGNED, SIGNED_ONCE = "quantised-signed", "quantised-signed-once"
# They compare what they read first with what they write, whatever they multiply it with.
_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})
# Products whose unsigned kernels alone the runtime has; with signed numbers it stays with floats.
_UNSIGNED_ONLY = frozenset({"Conv", "MatMul"})


class _Group(NamedTuple):
    """An operator that runs on integers: it, what it writes them with, and the results."""

    members: list[int]
    ends: tuple[Tensor, ...]
    runs_as: str


def quantised(wiring: Wiring) -> Iterator[Match]:
    """Operators between DequantizeLinear and QuantizeLinear.

    Several may read one DequantizeLinear: it vanishes if all of them run on integers, and counts
    with the layer that wrote those.
    """
    nodes = wiring.nodes
    groups = {
        index: group
        for index, node in enumerate(nodes)
        if (group := _on_integers(wiring, index, node)) is not None
    }
    writers = {member for group in groups.values() for member in group.members}

    def vanishing(integers: Tensor) -> list[int]:
        if id(integers) in wiring.returned:
            return []
        return [
            reader
            for reader in wiring.reader(integers, "DequantizeLinear")
            if id(nodes[reader].outputs[0]) not in wiring.returned
            and all(r in groups for r in wiring.readers.get(id(nodes[reader].outputs[0]), [-1]))
        ]

    for index, group in groups.items():
        gone = [member for end in group.ends for member in vanishing(end)]
        members = tuple(sorted([*group.members, *gone]))
        yield Match(members, index, group.runs_as, group.ends[0], group.ends[1:])
    for index, node in enumerate(nodes):
        if node.layer.op == "QuantizeLinear" and index not in writers and node.outputs:
            gone = vanishing(node.outputs[0])
            # rounding clamps anyway where the zero point is the lowest number, as after a Relu;
            # which it is, a layer graph does not say
            clamp = wiring.source(node.inputs[0], *_CLAMPS) if node.inputs else None
            gone += [] if clamp is None else [clamp]
            if gone:
                members = tuple(sorted([index, *gone]))
                yield Match(members, index, "QuantizeLinear", node.outputs[0])


def _on_integers(wiring: Wiring, index: int, node: Node) -> _Group | None:
    op, nodes = node.layer.op, wiring.nodes
    runs_as = NOTHING if op in VIEWS else _ON_INTEGERS.get(op)
    # of a learned table the rows are taken that whole numbers name
    sources = [] if op == "Gather" and node.parameter("weight") else activations(node)
    if runs_as is None or not (sources or op == "Gather"):
        return None
    if not all(wiring.written_by(tensor, "DequantizeLinear") for tensor in sources):
        return None
    kernels = [p for p in node.parameters if p.role in ("weight", "state")]
    if any(parameter.dtype not in INTEGERS for parameter in kernels):
        return None
    members, ends = [index], []
    for end in node.outputs:
        clamp = wiring.only_reader(end, *_CLAMPS)
        if clamp is not None:
            members.append(clamp)
            end = nodes[clamp].outputs[0]
        rounded = wiring.only_reader(end, "QuantizeLinear")
        if rounded is None:
            return None
        members.append(rounded)
        ends.append(nodes[rounded].outputs[0])
    if not ends:
        return None
    compared = sources[:1] if op in _PRODUCTS else sources
    forms = {_form(wiring, _integers_behind(wiring, tensor)) for tensor in compared}
    forms |= {_form(wiring, written) for written in ends}
    if op not in _PRODUCTS:
        signed = "uint8" if SIGNED in wiring.recognised else "int8"
        forms |= {signed if p.dtype == "int8" else p.dtype or "float32" for p in kernels}
    if len(forms) > 1 or not forms <= INTEGERS or (op in _UNSIGNED_ONLY and "int8" in forms):
        return None
    return _Group(members, tuple(ends), runs_as)


def _integers_behind(wiring: Wiring, numbers: Tensor) -> Tensor | None:
    """What a DequantizeLinear reads to write these."""
    inputs = wiring.nodes[wiring.writer[id(numbers)]].inputs
    return inputs[0] if inputs else None


def _form(wiring: Wiring, integers: Tensor | None) -> str:
    """The dtype in which the runtime keeps quantised activations.

    onnxruntime, where signed kernels are slow, makes those unsigned that a single layer reads
    (core/optimizer/qdq_transformer/qdq_s8_to_u8.cc).
    """
    if integers is None:
        return "int8"
    if integers.dtype != "int8" or SIGNED in wiring.recognised:
        return "uint8" if integers.dtype == "int8" else integers.dtype
    alone = SIGNED_ONCE in wiring.recognised and _readers(wiring, integers) == 1
    return "uint8" if alone and wiring.written_by(integers, "QuantizeLinear") else "int8"


def _readers(wiring: Wiring, integers: Tensor) -> int:
    """How many layers read integers, those behind a DequantizeLinear counted one by one."""
    count = int(id(integers) in wiring.returned)
    for reader in wiring.readers.get(id(integers), []):
        node = wiring.nodes[reader]
        if node.layer.op != "DequantizeLinear" or not node.outputs:
            return 2
        numbers = id(node.outputs[0])
        count += len(wiring.readers.get(numbers, [])) + (numbers in wiring.returned)
    return count


def dynamic_product(wiring: Wiring) -> Iterator[Match]:
    """A product of integers brought back to numbers: MatMulInteger, Cast, Mul, perhaps a bias.

    With the DynamicQuantizeLinear before it, if nobody else reads that.
    """
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "MatMulInteger":
            continue
        cast = wiring.only_reader(node.outputs[0], "Cast")
        scaled = None if cast is None else wiring.only_reader(nodes[cast].outputs[0], "Mul")
        if cast is None or scaled is None:
            continue
        factor = [t for t in activations(nodes[scaled]) if t is not nodes[cast].outputs[0]]
        scales = wiring.source(factor[0], "Mul") if len(factor) == 1 else None
        if scales is None:
            continue
        members, end = [index, cast, scaled, scales], scaled
        bias = wiring.only_reader(nodes[scaled].outputs[0], "Add")
        if bias is not None and len(activations(nodes[bias])) == 1:
            members.append(bias)
            end = bias
        runs_as = "MatMulIntegerToFloat"
        rounded = wiring.source(node.inputs[0], "DynamicQuantizeLinear")
        if rounded is not None:
            members.append(rounded)
            runs_as = "DynamicQuantizeMatMul"
        yield Match(tuple(sorted(members)), index, runs_as, nodes[end].outputs[0])
