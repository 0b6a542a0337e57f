"""Which operators a runtime merges, and which layer then carries their bytes.

Folding (BatchNormalization, or a constant Mul or Add, into a contraction) removes an operator.
Fusing (an activation, an addition) hides the traffic between two operators: a chain costs the bytes
of its ends. FLOPs, weights and parameters stay on their own rows, so sums do not change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latency_service.core.node import IdArray, Node, Tensor
from latency_service.core.profile import FusionRules


@dataclass(slots=True)
class Chain:
    """Operators that run as one.

    Attributes:
        members: positions of the layers, in order; the host is among them.
        host: the contraction, else the first; it carries bytes, overhead and seconds.
        end: the tensor that the chain writes.
        extras: activations that later members read besides the chain itself.
    """

    members: list[int]
    host: int
    end: Tensor
    extras: list[tuple[IdArray | None, float]] = field(default_factory=list)


SameChannels = Callable[[IdArray | None, IdArray | None], bool]


def chains(
    nodes: Sequence[Node], outputs: Sequence[Tensor], rules: FusionRules, same: SameChannels
) -> list[Chain]:
    """Find what the rules merge.

    Args:
        same: whether two tensors' channels are the same groups in the same proportion, so that
            both are functions of the host's live output channels.

    An intermediate is only hidden if one layer alone reads it and the network does not return it.
    """
    readers: Counter[int] = Counter()
    for node in nodes:
        for tensor in node.inputs:
            if tensor is not None:
                readers[id(tensor)] += 1
    returned = {id(tensor) for tensor in outputs}
    chain_of: dict[int, Chain] = {}
    ends: dict[int, Chain] = {}
    merged: dict[int, list[Chain]] = defaultdict(list)
    for index, node in enumerate(nodes):
        if node.frozen or not node.outputs:
            continue
        chain = _joins(node, index, rules, ends, readers, returned, same, nodes)
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
        chain_of[index] = chain
        ends[id(chain.end)] = chain
    return [chain for found in merged.values() for chain in found if len(chain.members) > 1]


def _joins(
    node: Node,
    index: int,
    rules: FusionRules,
    ends: dict[int, Chain],
    readers: Counter[int],
    returned: set[int],
    same: SameChannels,
    nodes: Sequence[Node],
) -> Chain | None:
    """The chain that a layer continues, if the rules let it."""
    op = node.layer.op
    candidates = [
        chain
        for tensor in node.inputs
        if tensor is not None
        and readers[id(tensor)] == 1
        and id(tensor) not in returned
        and (chain := ends.get(id(tensor))) is not None
    ]
    if not candidates or len(node.outputs) != 1:
        return None
    # the operand that is ready last is the one that can still be merged
    chain = max(candidates, key=lambda found: found.members[-1])
    host = nodes[chain.host]
    activations = [tensor for tensor in node.inputs if tensor is not None]
    folds = (
        op in rules.fold
        and len(activations) == 1
        and host.op.contraction
        and all(nodes[member].layer.op in rules.fold for member in chain.members[1:])
    )
    if not folds and op not in rules.fuse:
        return None
    held = [host.outputs[0].ids, node.outputs[0].ids]
    held += [
        node.in_ids[position]
        for position, tensor in enumerate(node.inputs)
        if tensor is not None and node.in_ids[position] is not None
    ]
    return chain if all(same(held[0], ids) for ids in held[1:]) else None
