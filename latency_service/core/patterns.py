"""Groups of operators that runtimes recognise and run as one.

Exporters take activations and attention apart: GELU arrives as Div, Erf, Add, Mul, Mul. Each
pattern here finds such a group by its shape; which of them a runtime replaces is part of the
profile, found by the calibration from the runtime's own optimised graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from latency_service.core.node import Node, Tensor


class Match(NamedTuple):
    """A group of layers that runs as one.

    Attributes:
        members: positions, ascending.
        host: position of the contraction, else of the first.
        runs_as: the operator that takes their place.
        end: what it writes.
    """

    members: tuple[int, ...]
    host: int
    runs_as: str
    end: Tensor


class Wiring:
    """Who writes and who reads each tensor."""

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[Tensor]) -> None:
        self.nodes = nodes
        self.writer: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        self.returned = {id(tensor) for tensor in outputs}
        for index, node in enumerate(nodes):
            for written in node.outputs:
                self.writer[id(written)] = index
            for read in node.inputs:
                if read is not None:
                    self.readers.setdefault(id(read), []).append(index)

    def only_reader(self, tensor: Tensor, *ops: str) -> int | None:
        """The one layer that reads a tensor, if its operator is one of those."""
        readers = self.readers.get(id(tensor), [])
        if len(readers) != 1 or id(tensor) in self.returned:
            return None
        return readers[0] if self.nodes[readers[0]].layer.op in ops else None

    def reader(self, tensor: Tensor, *ops: str) -> Iterator[int]:
        """Layers that read a tensor and have one of the operators."""
        return (i for i in self.readers.get(id(tensor), []) if self.nodes[i].layer.op in ops)

    def source(self, tensor: Tensor | None, *ops: str) -> int | None:
        """The layer that writes a tensor, if its operator is one of those and nobody else reads."""
        if tensor is None or id(tensor) in self.returned:
            return None
        index = self.writer.get(id(tensor))
        if index is None or len(self.readers.get(id(tensor), [])) != 1:
            return None
        return index if self.nodes[index].layer.op in ops else None


def _is_scalar_step(node: Node) -> bool:
    """Whether all operands but one are learned or known."""
    return len(_activations(node)) == 1 and all(
        _size(parameter.shape) == 1 for parameter in node.parameters
    )


def _size(shape: Sequence[int]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total


def _activations(node: Node) -> list[Tensor]:
    return [t for t in node.inputs if t is not None and t.value is None]


def _erf_of(wiring: Wiring, index: int) -> tuple[list[int], Tensor, int] | None:
    """(layers, x, the last of them) of Erf(x / sqrt(2)) + 1 around an Erf."""
    nodes = wiring.nodes
    scaled = wiring.source(nodes[index].inputs[0], "Div", "Mul")
    plus = wiring.only_reader(nodes[index].outputs[0], "Add")
    if scaled is None or plus is None or not _is_scalar_step(nodes[scaled]):
        return None
    return [scaled, index, plus], _activations(nodes[scaled])[0], plus


def _gelu(wiring: Wiring) -> Iterator[Match]:
    """(Erf(x / sqrt(2)) + 1) times x, times 1/2; or times x/2."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        found = _erf_of(wiring, index) if node.layer.op == "Erf" else None
        if found is None:
            continue
        members, x, plus = found
        product = wiring.only_reader(nodes[plus].outputs[0], "Mul")
        other = [] if product is None else _activations(nodes[product])
        other = [t for t in other if t is not nodes[plus].outputs[0]]
        if product is None or len(other) != 1:
            continue
        end = product
        if other[0] is x:
            half = end = wiring.only_reader(nodes[product].outputs[0], "Mul") or -1
        else:
            half = wiring.source(other[0], "Mul") or -1
            if half >= 0 and x not in _activations(nodes[half]):
                continue
        if half >= 0:
            members = sorted([*members, product, half])
            yield Match(tuple(members), members[0], "Gelu", nodes[end].outputs[0])


def _gelu_halved(wiring: Wiring) -> Iterator[Match]:
    """(Erf(x / sqrt(2)) + 1) times 1/2, times x."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        found = _erf_of(wiring, index) if node.layer.op == "Erf" else None
        if found is None:
            continue
        members, x, plus = found
        half = wiring.only_reader(nodes[plus].outputs[0], "Mul")
        if half is None or not _is_scalar_step(nodes[half]):
            continue
        product = wiring.only_reader(nodes[half].outputs[0], "Mul")
        if product is not None and x in _activations(nodes[product]):
            members = sorted([*members, half, product])
            yield Match(tuple(members), members[0], "Gelu", nodes[product].outputs[0])


def _swish(wiring: Wiring) -> Iterator[Match]:
    """Sigmoid(x) times x."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "Sigmoid":
            continue
        product = wiring.only_reader(node.outputs[0], "Mul")
        if product is not None and node.inputs[0] in _activations(nodes[product]):
            yield Match((index, product), index, "QuickGelu", nodes[product].outputs[0])


def _scaled_product(wiring: Wiring) -> Iterator[Match]:
    """A product of activations with transposed or scaled operands and a scaled result."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "MatMul" or node.parameter("weight") is not None:
            continue
        members, end = [index], index
        for tensor in node.inputs:
            step = wiring.source(tensor, "Mul", "Div", "Transpose")
            while step is not None and _absorbed(nodes[step]):
                members.append(step)
                step = wiring.source(_activations(nodes[step])[0], "Mul", "Div", "Transpose")
        after = wiring.only_reader(node.outputs[0], "Mul", "Div")
        if after is not None and _is_scalar_step(nodes[after]):
            members.append(after)
            end = after
        if len(members) > 1:
            yield Match(tuple(sorted(members)), index, "MatMul", nodes[end].outputs[0])


def _absorbed(node: Node) -> bool:
    if node.layer.op != "Transpose":
        return _is_scalar_step(node)
    rank = len(node.x.shape)
    order = node.integers("perm") or list(range(rank))[::-1]
    return rank > 1 and order == [*range(rank - 2), rank - 1, rank - 2]


def _transposed_product(wiring: Wiring) -> Iterator[Match]:
    """A product of activations whose operands have their last two axes swapped before."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "MatMul" or node.parameter("weight") is not None:
            continue
        steps = [wiring.source(tensor, "Transpose") for tensor in node.inputs]
        swaps = [step for step in steps if step is not None and _absorbed(nodes[step])]
        if swaps:
            yield Match(tuple(sorted({*swaps, index})), index, "MatMul", node.outputs[0])


def _linear(wiring: Wiring) -> Iterator[Match]:
    """A product with a learned matrix, and the addition of its bias."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "MatMul" or node.parameter("weight") is None:
            continue
        plus = wiring.only_reader(node.outputs[0], "Add")
        if plus is None or len(_activations(nodes[plus])) != 1:
            continue
        cols = node.outputs[0].shape[-1:]
        if all(tuple(p.shape) == tuple(cols) for p in nodes[plus].parameters):
            yield Match((index, plus), index, "Gemm", nodes[plus].outputs[0])


def _skip_normalisation(wiring: Wiring) -> Iterator[Match]:
    """An addition that only a LayerNormalization reads."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "LayerNormalization":
            continue
        added = wiring.source(node.inputs[0], "Add")
        if added is not None and len(_activations(nodes[added])) == 2:
            yield Match((added, index), added, "SkipLayerNormalization", node.outputs[0])


def _layer_normalisation(wiring: Wiring) -> Iterator[Match]:
    """ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, and a learned Mul and Add."""
    nodes = wiring.nodes
    for index, node in enumerate(nodes):
        if node.layer.op != "Sqrt":
            continue
        epsilon = wiring.source(node.inputs[0], "Add")
        variance = None if epsilon is None else wiring.source(nodes[epsilon].x, "ReduceMean")
        power = None if variance is None else wiring.source(nodes[variance].x, "Pow", "Mul")
        if epsilon is None or variance is None or power is None:
            continue
        centred = wiring.writer.get(id(nodes[power].x))
        divided = wiring.only_reader(node.outputs[0], "Div")
        if centred is None or divided is None or nodes[centred].layer.op != "Sub":
            continue
        mean = wiring.source(nodes[centred].inputs[-1], "ReduceMean")
        if mean is None or nodes[divided].x is not nodes[centred].outputs[0]:
            continue
        members = [mean, centred, power, variance, epsilon, index, divided]
        end = divided
        for op in ("Mul", "Add"):
            following = wiring.only_reader(nodes[end].outputs[0], op)
            if following is None or len(_activations(nodes[following])) != 1:
                break
            members.append(following)
            end = following
        members.sort()
        yield Match(tuple(members), members[0], "LayerNormalization", nodes[end].outputs[0])


PATTERNS: dict[str, Callable[[Wiring], Iterator[Match]]] = {
    "layer-normalisation": _layer_normalisation,
    "gelu": _gelu,
    "gelu-halved": _gelu_halved,
    "swish": _swish,
    "scaled-product": _scaled_product,
    "transposed-product": _transposed_product,
    "linear": _linear,
    "skip-layer-normalisation": _skip_normalisation,
}
