"""Which operators a runtime merges, and which layer then carries their bytes.

Folding (BatchNormalization, or a constant Mul or Add, into a contraction) removes an operator.
Fusing (an activation, an addition) hides the traffic between two operators: a chain costs the bytes
of its ends. FLOPs, weights and parameters stay on their own rows, so sums do not change.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latency_service.core.efficiency import Layout
from latency_service.core.layout import Placing
from latency_service.core.node import IdArray, Node, Tensor
from latency_service.core.patterns import PATTERNS
from latency_service.core.profile import FusionRules
from latency_service.core.wiring import Wiring


@dataclass(slots=True)
class Chain:
    """Operators that run as one.

    Attributes:
        members: positions of the layers, in order; the host is among them.
        host: the contraction, else the first; it carries bytes, overhead and seconds.
        end: the tensor that the chain writes.
        extras: activations that later members read besides the chain itself.
        runs_as: the operator that takes the members' place; None: the host's own; "": nothing.
        others: further tensors that it writes.
    """

    members: list[int]
    host: int
    end: Tensor
    extras: list[tuple[IdArray | None, float]] = field(default_factory=list)
    runs_as: str | None = None
    others: tuple[Tensor, ...] = ()


SameChannels = Callable[[IdArray | None, IdArray | None], bool]


def chains(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    rules: FusionRules,
    same: SameChannels,
    layout: Layout | None = None,
) -> list[Chain]:
    """Find what the rules merge.

    Args:
        layout: how the runtime stores images; None where it keeps one layout. A convolution on
            blocks of channels merges an addition only of what lies in blocks, too.
        same: whether two tensors' channels are the same groups in the same proportion, so that
            both are functions of the host's live output channels. Inside an If, Loop or Scan
            nothing is pruned, and nobody is asked.

    An intermediate is only hidden if one layer alone reads it and the network does not return it.
    """
    readers: Counter[int] = Counter()
    for node in nodes:
        for tensor in node.inputs:
            if tensor is not None:
                readers[id(tensor)] += 1
    returned = {id(tensor) for tensor in outputs}
    ends: dict[int, Chain] = {}
    merged: dict[int, list[Chain]] = defaultdict(list)
    taken = _patterned(nodes, outputs, rules, same, merged)
    steps = _steps(rules)
    placing = None if layout is None else Placing(layout)
    for index, node in enumerate(nodes):
        if not node.outputs or index in taken:
            if placing is not None:
                host, op = taken.get(index, (index, node.layer.op))
                placing.place(node, None if host == index else host, op)
            continue
        chain = _joins(node, rules, steps, ends, readers, returned, same, nodes, placing)
        if placing is not None:
            placing.place(node, None if chain is None else chain.host, node.layer.op)
        if chain is None:
            starts = node.op.contraction or node.layer.op in rules.fuse
            if not starts:
                continue
            chain = Chain([index], index, node.outputs[0])
            merged[index].append(chain)
        else:
            del ends[id(chain.end)]
            inside = chain.end
            for position, tensor in enumerate(node.inputs):
                if tensor is not None and tensor is not inside and tensor.value is None:
                    chain.extras.append((node.in_ids[position], tensor.bytes))
            chain.members.append(index)
            chain.end = node.outputs[0]
        ends[id(chain.end)] = chain
    return [chain for found in merged.values() for chain in found if len(chain.members) > 1]


def _patterned(
    nodes: Sequence[Node],
    outputs: Sequence[Tensor],
    rules: FusionRules,
    same: SameChannels,
    merged: dict[int, list[Chain]],
) -> dict[int, tuple[int, str]]:
    """Add the chains that the rules' patterns find; of the layers in them (host, what is run)."""
    taken: dict[int, tuple[int, str]] = {}
    if not rules.patterns:
        return taken
    wiring = Wiring(nodes, outputs, frozenset(rules.patterns))
    for name, find in PATTERNS.items():
        if name not in rules.patterns:
            continue
        for match in find(wiring):
            members = [nodes[index] for index in match.members]
            host = nodes[match.host]
            held = [
                m.outputs[0].ids
                for m in members
                if m.op.name not in _OTHER_CHANNELS and m.outputs[0].size > 1
            ]
            if (
                not taken.keys().isdisjoint(match.members)
                or not _knows_sizes(name, match.end, rules)
                or any(member.frozen is not host.frozen for member in members)
                or not (
                    host.frozen
                    or match.others
                    or all(same(host.outputs[0].ids, ids) for ids in held)
                )
            ):
                continue
            runs_as = host.layer.op if match.runs_as is None else match.runs_as
            taken.update(dict.fromkeys(match.members, (match.host, runs_as)))
            chain = Chain(
                list(match.members), match.host, match.end, [], match.runs_as, match.others
            )
            merged[match.host].append(chain)
    return taken


# What these write has the channels of what they read, which need not be the host's.
_OTHER_CHANNELS = frozenset({"Transpose", "DynamicQuantizeLinear"})

Steps = dict[str, frozenset[str]]


def _steps(rules: FusionRules) -> Steps:
    """By what a chain holds already, the operators that it may merge next."""
    found: dict[str, set[str]] = defaultdict(set)
    for sequence in rules.sequences:
        held, _, last = sequence.rpartition(" ")
        found[held].add(last)
    return {held: frozenset(last) for held, last in found.items()}


_ALIASES = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}


def step_name(node: Node) -> str:
    """A layer as sequences call it: "Add", "Add/learned" and "Add/number" by the other operand."""
    op = _ALIASES.get(node.layer.op, node.layer.op)
    if node.op.contraction:
        return op
    if any(p.role == "weight" and math.prod(p.shape) > 1 for p in node.parameters):
        return f"{op}/learned"
    alone = op in _OPERANDS and sum(t is not None and t.value is None for t in node.inputs) < 2
    return f"{op}/number" if alone else op


# With a learned operand these fold into a convolution's bias or weights.
_OPERANDS = frozenset({"Add", "Mul"})


def _per_filter(node: Node, host: Node) -> bool:
    """Whether a learned operand holds one number for each of a convolution's filters.

    A single number folds as a factor only, as runtimes have it.
    """
    rank = len(node.outputs[0].shape)
    if host.layer.op not in ("Conv", "FusedConv") or len(node.parameters) != 1:
        return False
    shape = tuple(node.parameters[0].shape)
    if not shape:
        return node.layer.op == "Mul"
    filters = node.outputs[0].shape[1]
    return shape in ((filters, *[1] * (rank - 2)), (1, filters, *[1] * (rank - 2)))


def _knows_sizes(rule: str, end: Tensor, rules: FusionRules) -> bool:
    """Whether the model states as many dimensions as the runtime needs to merge.

    A matrix of any number of rows is one product; only beyond two axes do the sizes matter.
    """
    if not end.named or len(end.shape) < 3:
        return True
    return rule not in rules.static and (end.named < 2 or rule not in rules.sized)


def _joins(
    node: Node,
    rules: FusionRules,
    steps: Steps,
    ends: dict[int, Chain],
    readers: Counter[int],
    returned: set[int],
    same: SameChannels,
    nodes: Sequence[Node],
    placing: Placing | None,
) -> Chain | None:
    """The chain that a layer continues, if the rules let it.

    Of several it is the one that is ready last, and may be merged into.
    """
    candidates = [
        chain
        for tensor in node.inputs
        if tensor is not None
        and readers[id(tensor)] == 1
        and id(tensor) not in returned
        and (chain := ends.get(id(tensor))) is not None
        and (placing is None or placing.merges(node, chain.host))
    ]
    if not candidates or len(node.outputs) != 1:
        return None
    candidates.sort(key=lambda found: -found.members[-1])
    return next((c for c in candidates if _continues(node, c, rules, steps, same, nodes)), None)


def _continues(
    node: Node,
    chain: Chain,
    rules: FusionRules,
    steps: Steps,
    same: SameChannels,
    nodes: Sequence[Node],
) -> bool:
    """Whether the rules let a layer continue a chain whose end it reads."""
    op, host = node.layer.op, nodes[chain.host]
    if host.frozen is not node.frozen:
        return False
    activations = [tensor for tensor in node.inputs if tensor is not None]
    folds = (
        op in rules.fold
        and len(activations) == 1
        and host.op.contraction
        and (op not in _OPERANDS or _per_filter(node, host))
        and all(nodes[member].layer.op in rules.fold for member in chain.members[1:])
    )
    if not folds and op not in rules.fuse:
        held = " ".join(
            step_name(nodes[member])
            for member in chain.members
            if member == chain.host or nodes[member].layer.op not in rules.fold
        )
        step = step_name(node)
        if not host.op.contraction or step not in steps.get(held, ()):
            return False
        if not _knows_sizes(f"{held} {step}", node.outputs[0], rules):
            return False
    if host.frozen:
        return True
    channels = [node.outputs[0].ids]
    channels += [
        node.in_ids[position]
        for position, tensor in enumerate(node.inputs)
        if tensor is not None and node.in_ids[position] is not None
    ]
    return all(same(host.outputs[0].ids, ids) for ids in channels)
