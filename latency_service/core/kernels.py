"""Which kernels a runtime executes for a network, and the shape of each.

A chain of merged layers is one kernel of its host; a tensor that changes its layout is a kernel of
its own, charged to the layer that causes it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import numpy as np

from latency_service.core.bind import Network
from latency_service.core.channels_last import (
    CHANNELS_LAST,
    NOTHING_LAST,
    Turn,
    arrange_last,
    with_channels_last,
)
from latency_service.core.costs import Kernels
from latency_service.core.dequantised import (
    DEQUANTISING,
    by_computed_weights,
    dequantised,
    dequantising,
    multiplies_computed,
)
from latency_service.core.efficiency import Efficiency
from latency_service.core.fusion import Chain, step_name
from latency_service.core.geometry import (
    COMPUTED,
    LINE,
    OTHER,
    REDUCTIONS,
    VIEW,
    VIEWS,
    Dim,
    Follows,
    Row,
    constant_size,
    geometry,
    kernel_dtype,
    reorder_geometry,
    turned_geometry,
)
from latency_service.core.layout import Reorder, arrange
from latency_service.core.masks import CAUSES, NONE_SLOW, Masks
from latency_service.core.node import Node
from latency_service.core.profile import FusionRules
from latency_service.core.quantised_patterns import INTEGER_FORMS, INTEGERS, NOTHING
from latency_service.core.units import RATE_DTYPE


def find_kernels(
    network: Network,
    free: Sequence[bool],
    host_of: Sequence[int | None],
    chains: Sequence[Chain | None],
    efficiency: Efficiency,
    rules: FusionRules | None,
) -> Kernels:
    """The kernels of a bound network.

    Args:
        free: per layer, whether it costs nothing.
        host_of: per layer the one that it is merged into.
        chains: per layer the chain that it hosts.
        efficiency: of the device; learned integers are numbers already, and views cost nothing,
            where it has not measured the kernels that they would need.
        rules: of the runtime.
    """
    nodes, layout, measured = network.nodes, efficiency.layout, efficiency.families
    runs_as = [_runs_as(node, chain) for node, chain in zip(nodes, chains, strict=True)]
    blocked = [False] * len(nodes)
    reorders: list[Reorder] = []
    turned: set[int] = set()
    if layout is not None:
        blocked, reorders, turned = arrange(nodes, network.outputs, layout, host_of, runs_as)
    images = NOTHING_LAST
    if rules is not None and CHANNELS_LAST in rules.patterns:
        images = arrange_last(nodes, network.outputs, host_of, chains)
    masks = Masks(nodes)
    readers = _readers_of_numbers(nodes, chains, host_of)
    table = _Table()
    for index, node in enumerate(nodes):
        if free[index] or host_of[index] is not None or not node.outputs:
            continue
        if index in turned or index in images.gone:
            continue
        chain = chains[index]
        if chain is not None and chain.runs_as == NOTHING:
            chain = None  # a view of integers is one of their bytes
        row = geometry(node) if chain is None else _merged(node, chain, nodes)
        if index in images.last:
            row = with_channels_last(row, node)
        members = [node] if chain is None else [nodes[member] for member in chain.members]
        dtype = _dtype(node, chain)
        stored = [] if _on_integers(chain) else list(dequantised(members))
        if stored and f"{dtype} {DEQUANTISING}" in measured:
            for parameter in stored:
                table.add(index, dequantising(parameter, row), "", dtype, node)
            if node.parameters and multiplies_computed(node):
                row = by_computed_weights(row)
        suffix = "/blocked" if blocked[index] and not node.op.contraction else ""
        merges = "" if chain is None else _merges(chain, nodes)
        slow = masks.slow_runs(members)
        if node.layer.op == DEQUANTISING and chain is None:
            # each layer that reads numbers has them dequantised for itself
            for _ in range(1, readers.get(id(node.outputs[0]), 1)):
                table.add(index, row, suffix, dtype, node, merges, slow)
        table.add(index, row, suffix, dtype, node, merges, slow)
    for reorder in reorders:
        table.add_reorder(reorder, nodes[reorder.layer])
    for turn in images.turns:
        table.add_turn(turn, nodes[turn.layer])
    return table.finish()


def _readers_of_numbers(
    nodes: Sequence[Node], chains: Sequence[Chain | None], host_of: Sequence[int | None]
) -> dict[int, int]:
    """By tensor, how many layers read it that do not run on the integers behind it."""
    readers: dict[int, int] = {}
    if all(node.layer.op != DEQUANTISING for node in nodes):
        return readers
    for index, node in enumerate(nodes):
        host = host_of[index]
        chain = chains[index if host is None else host]
        if chain is None or chain.runs_as not in INTEGER_FORMS:
            for tensor in node.inputs:
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    return readers


def executed_views(nodes: Sequence[Node], measured: Container[str]) -> Iterator[int]:
    """Positions of the views that the runtime executes, each of them a kernel that moves nothing.

    Of several in a row it executes the last one; none where what it reads is known beforehand.

    Args:
        measured: families, "dtype family"; views are given away where none of them is one.
    """
    views = [index for index, node in enumerate(nodes) if node.layer.op in VIEWS and node.outputs]
    read_on: dict[int, bool] = {}  # by tensor, whether a layer reads it that is no view
    for node in nodes if views else ():
        for tensor in node.inputs:
            read_on[id(tensor)] = node.layer.op not in VIEWS or read_on.get(id(tensor), False)
    for index in views:
        node = nodes[index]
        known = node.outputs[0].value is not None or not node.inputs or node.inputs[0] is None
        if known or not read_on.get(id(node.outputs[0]), True):
            continue
        if f"{kernel_dtype(node)} {VIEW}" in measured:
            yield index


def _runs_as(node: Node, chain: Chain | None) -> str:
    if chain is None or not chain.runs_as:
        return node.layer.op
    # blocks of channels are for floating numbers
    return f"{chain.runs_as} on {_dtype(node, chain)}" if _on_integers(chain) else chain.runs_as


def _on_integers(chain: Chain | None) -> bool:
    """Whether a chain is there for the sake of 8-bit arithmetic."""
    return chain is not None and (chain.runs_as in INTEGER_FORMS or chain.end.dtype in INTEGERS)


def _dtype(node: Node, chain: Chain | None) -> str:
    """Of the kernel's tensors: integers where a chain writes them."""
    if chain is None or chain.runs_as is None or chain.runs_as == "QuantizeLinear":
        return kernel_dtype(node)
    if chain.runs_as == "DynamicQuantizeMatMul":
        return chain.end.dtype
    return "int8" if _on_integers(chain) else kernel_dtype(node)


def _merges(chain: Chain, nodes: Sequence[Node]) -> str:
    """What a contraction merges, as the profile's sequences call it; folded operators vanish."""
    host = nodes[chain.host]
    if not host.op.contraction or chain.runs_as is not None:
        return ""
    guests = [nodes[index] for index in chain.members if index != chain.host]
    steps = [step_name(guest) for guest in guests if guest.layer.op not in _FOLDED]
    return " ".join((step_name(host), *steps)) if steps else ""


_FOLDED = frozenset({"BatchNormalization"})


# A merged operator whose loops are those of one of its members.
_LOOPS_AS = {"SkipLayerNormalization": "LayerNormalization"}


def _merged(node: Node, chain: Chain, nodes: Sequence[Node]) -> Row:
    """Geometry of a chain: the host's, with what the others read besides."""
    family, dims, follows = geometry(node)
    runs_as = chain.runs_as or node.layer.op
    values = list(dims)
    if chain.runs_as in INTEGER_FORMS:
        # the loops are those of the operator that it stands for
        op, slash, kind = family.partition("/")
        keeps = op == "Conv" or not node.op.contraction or kind == "activations"
        family = chain.runs_as + (slash + kind if keeps else "")
    elif not node.op.contraction and chain.runs_as is not None:
        like = _LOOPS_AS.get(runs_as, runs_as)
        ends = [nodes[index] for index in chain.members if nodes[index].layer.op == like]
        if ends:
            reads = dims[Dim.IN_ELEMENTS]
            family, own, follows = geometry(ends[-1])
            values = list(own)
            if like != runs_as:
                values[Dim.IN_ELEMENTS] = reads
                family = runs_as
        else:
            family = runs_as
    elif chain.runs_as == "Gemm":
        family = chain.runs_as
    elif chain.runs_as == "MatMul":
        turned = any(nodes[index].layer.op == "Transpose" for index in chain.members)
        family = "MatMul/transposed" if turned else family
    values[Dim.OUT_ELEMENTS] = float(chain.end.size + sum(other.size for other in chain.others))
    values[Dim.CONSTANT_ELEMENTS] *= constant_size(runs_as) / constant_size(node.layer.op)
    for index in chain.members:
        if index == chain.host:
            continue
        member = nodes[index]
        inside = {id(t) for other in chain.members for t in nodes[other].outputs}
        values[Dim.EXTRA_ELEMENTS] += sum(
            t.size
            for t in member.inputs
            if t is not None and t.value is None and id(t) not in inside
        )
    if chain.runs_as is not None:
        # a pattern reads its one input once, however many of its members do
        values[Dim.EXTRA_ELEMENTS] = 0.0
    return family, tuple(values), follows


class _Table:
    """Rows of kernels in the making."""

    def __init__(self) -> None:
        self.layers: list[int] = []
        self.families: list[str] = []
        self.fallbacks: list[tuple[str, ...]] = []
        self.dtypes: list[str] = []
        self.dims: list[tuple[float, ...]] = []
        self.follows: list[tuple[Follows, ...]] = []
        self.times: list[float] = []
        self.merges: list[str] = []
        self.slow_runs: list[tuple[float, ...]] = []

    def add(
        self,
        layer: int,
        row: Row,
        suffix: str,
        dtype: str,
        node: Node,
        merges: str = "",
        slow_runs: tuple[float, ...] = NONE_SLOW,
    ) -> None:
        """One kernel of a layer."""
        family, dims, follows = row
        self.layers.append(layer)
        self.families.append(family + suffix)
        others = _fallbacks(family, node, dims[Dim.TAPS])
        self.fallbacks.append((family, *others) if suffix else others)
        self.dtypes.append(dtype)
        self.dims.append(dims)
        self.follows.append(follows)
        self.times.append(node.times)
        self.merges.append(merges)
        self.slow_runs.append(slow_runs)

    def add_reorder(self, reorder: Reorder, node: Node) -> None:
        """A tensor that changes its layout."""
        row = reorder.kind, reorder_geometry(reorder.tensor.shape), OTHER
        self.add(reorder.layer, row, "", kernel_dtype(node), node)

    def add_turn(self, turn: Turn, node: Node) -> None:
        """A quantised image whose channels go behind its positions, or back."""
        dtype = turn.tensor.dtype
        row = *turned_geometry(turn.tensor.shape, turn.to_last), OTHER
        self.add(turn.layer, row, "", RATE_DTYPE.get(dtype, dtype), node)

    def finish(self) -> Kernels:
        """The table as arrays."""
        return Kernels(
            np.array(self.layers, dtype=np.int64),
            tuple(self.families),
            tuple(self.fallbacks),
            tuple(self.dtypes),
            np.array(self.dims, dtype=np.float64).reshape(-1, len(Dim)),
            np.array(self.follows, dtype=np.int64).reshape(-1, len(Dim)),
            np.array(self.times, dtype=np.float64),
            tuple(self.merges),
            np.array(self.slow_runs, dtype=np.float64).reshape(-1, len(CAUSES)),
        )


# Families that were parts of others in earlier calibrations: those describe them too.
_FINER = {
    "MatMul/transposed": "MatMul/activations", "QLinearMatMul/activations": "QLinearMatMul",
    **{f"{op}/first": f"{op}/dense" for op in ("Conv", "QLinearConv", "ConvInteger")},
    f"Conv/{LINE}": "Conv/dense",
    **{f"Conv/{kind}/{LINE}": f"Conv/{kind}" for kind in ("depthwise", "grouped")},
    **{f"{op}/leading": f"{op}/strided" for op in REDUCTIONS},
    **{
        f"Conv/{kind}/{COMPUTED}": f"Conv/{kind}"
        for kind in ("pointwise", "dense", "depthwise", "grouped")
    },
}  # fmt: skip


def usual_forms(family: str) -> Iterator[str]:
    """The families that described this one's kernels too before it had a name, finest first."""
    while family in _FINER:
        family = _FINER[family]
        yield family


# Where a family was not measured, one whose kernels do nearly the same.
_ALIKE = {
    "Sub": "Add", "Max": "Add", "Min": "Add", "Sum": "Add", "Mean": "Add", "Div": "Mul",
    "Swish": "QuickGelu", "Mish": "QuickGelu", "Softplus": "Exp", "Log": "Exp", "Selu": "Elu",
    "Celu": "Elu", "Softsign": "Reciprocal", "FastGelu": "Gelu", "BiasGelu": "Gelu",
    "Floor": "Neg", "Ceil": "Neg", "Round": "Neg", "Sign": "Neg", "ReduceMin": "ReduceMax",
    "LogSoftmax": "Softmax", "GroupNormalization": "InstanceNormalization",
    "RMSNormalization": "LayerNormalization", "SimplifiedLayerNormalization": "LayerNormalization",
    "SkipLayerNormalization": "LayerNormalization", "GlobalMaxPool": "GlobalAveragePool",
    "Upsample": "Resize", "Expand": "Tile", "Tile": "Concat", "DepthToSpace": "Transpose",
    "SpaceToDepth": "Transpose", "PRelu": "LeakyRelu", "Where": "Add", "Cast": "Neg",
    "RNN": "GRU", "ReduceSumSquare": "ReduceSum", "ReduceL2": "ReduceSum", "ReduceL1": "ReduceSum",
    "ReduceProd": "ReduceSum", "DynamicQuantizeLSTM": "LSTM", "QLinearConcat": "Concat",
    "ArgMax": "ReduceMax", "ArgMin": "ReduceMax", "OneHot": "Where",
}  # fmt: skip


def _fallbacks(family: str, node: Node, taps: float) -> tuple[str, ...]:
    """Families to try in turn: other forms of the operator, then one that is alike."""
    op, _, kind = family.partition("/")
    tried = [family]
    if family == f"Conv/{LINE}" and taps == 1.0:
        tried.append("Conv/pointwise")
    tried += usual_forms(family)
    if kind and op != "Conv":
        # next to the other operand a broadcast one is small
        tried += [f"{op}/scalar", op] if kind == "broadcast" else [op]
    if op in ("MatMul", "Gemm"):
        tried += ["MatMul/learned", "Gemm", "MatMul/activations"]
    alike = _ALIKE.get(op)
    while alike is not None:
        tried += [f"{alike}/{kind}"] if kind else []
        tried += [f"{alike}/scalar"] if kind == "broadcast" else []
        tried.append(alike)
        alike = _ALIKE.get(alike)
    if node.op.family == "elementwise":
        tried += ["Relu", "Add"]
    elif node.op.family == "moving data":
        tried += ["Transpose", "Concat", "Slice", "Relu", "Add"]
    return tuple(dict.fromkeys(tried[1:]))
