"""Groups of operators that runtimes recognise and run as one.

Exporters take activations and attention apart: GELU arrives as Div, Erf, Add, Mul, Mul. Each
pattern here finds such a group by its shape; which of them a runtime replaces is part of the
profile, found by the calibration from the runtime's own optimised graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from latency_service.core.node import Node, Tensor
from latency_service.core.quantised_patterns import dynamic_product, quantised
from latency_service.core.wiring import Match, Wiring, activations


def _is_scalar_step(node: Node) -> bool:
    """Whether all operands but one are learned or known."""
    return len(activations(node)) == 1 and all(
        math.prod(parameter.shape) == 1 for parameter in node.parameters
    )


def _shifted_erfs(
    wiring: Wiring, scales: tuple[str, ...] = ("Div", "Mul")
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(layers, x, what the last of them writes) of every Erf(x / sqrt(2)) + 1.

    Args:
        scales: how x comes to be divided.
    """
    nodes = wiring.nodes
    for index, node in wiring.each("Erf"):
        scaled = wiring.source(node.inputs[0], *scales)
        plus = wiring.only_reader(node.outputs[0], "Add")
        if scaled is not None and plus is not None and _is_scalar_step(nodes[scaled]):
            yield [scaled, index, plus], activations(nodes[scaled])[0], nodes[plus].outputs[0]


def _gelu(wiring: Wiring) -> Iterator[Match]:
    """(Erf(x / sqrt(2)) + 1) times x, times 1/2; or times x/2."""
    return _gelus(wiring, "Div", "Mul")


def _gelu_divided(wiring: Wiring) -> Iterator[Match]:
    """The same where x is divided by sqrt(2), not multiplied by its inverse."""
    return _gelus(wiring, "Div")


def _gelus(wiring: Wiring, *scales: str) -> Iterator[Match]:
    nodes = wiring.nodes
    for members, x, shifted in _shifted_erfs(wiring, scales):
        product = wiring.only_reader(shifted, "Mul")
        if product is None:
            continue
        other = [t for t in activations(nodes[product]) if t is not shifted]
        if len(other) != 1:
            continue
        if other[0] is x:
            half = end = wiring.only_reader(nodes[product].outputs[0], "Mul")
        else:
            half, end = wiring.source(other[0], "Mul"), product
            if half is not None and x not in activations(nodes[half]):
                continue
        if half is not None and end is not None:
            yield _gelu_of([*members, product, half], nodes[end])


def _gelu_halved(wiring: Wiring) -> Iterator[Match]:
    """(Erf(x / sqrt(2)) + 1) times 1/2, times x."""
    nodes = wiring.nodes
    for members, x, shifted in _shifted_erfs(wiring):
        half = wiring.only_reader(shifted, "Mul")
        if half is None or not _is_scalar_step(nodes[half]):
            continue
        product = wiring.only_reader(nodes[half].outputs[0], "Mul")
        if product is not None and x in activations(nodes[product]):
            yield _gelu_of([*members, half, product], nodes[product])


def _gelu_of(members: Sequence[int], end: Node) -> Match:
    return Match(tuple(sorted(members)), min(members), "Gelu", end.outputs[0])


def _swish(wiring: Wiring) -> Iterator[Match]:
    """Sigmoid(x) times x, or Sigmoid(a number times x) times x."""
    nodes = wiring.nodes
    for index, node in wiring.each("Sigmoid"):
        product = wiring.only_reader(node.outputs[0], "Mul")
        if product is None:
            continue
        factors, end = activations(nodes[product]), nodes[product].outputs[0]
        scale = wiring.source(node.inputs[0], "Mul")
        if node.inputs[0] in factors:
            yield Match((index, product), index, "QuickGelu", end)
            continue
        scaled = [] if scale is None else activations(nodes[scale])
        if scale is not None and _is_scalar_step(nodes[scale]) and scaled[0] in factors:
            yield Match((scale, index, product), scale, "QuickGelu", end)


def _scaled_product(wiring: Wiring) -> Iterator[Match]:
    """A product of activations with transposed or scaled operands and a scaled result."""
    nodes = wiring.nodes
    for index, node in wiring.each("MatMul"):
        if node.parameter("weight") is not None:
            continue
        members, end = [index], index
        for tensor in node.inputs:
            step = wiring.source(tensor, "Mul", "Div", "Transpose")
            while step is not None and _absorbed(nodes[step]):
                members.append(step)
                step = wiring.source(activations(nodes[step])[0], "Mul", "Div", "Transpose")
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
        if plus is None or len(activations(nodes[plus])) != 1:
            continue
        cols = node.outputs[0].shape[-1:]
        if all(tuple(p.shape) == tuple(cols) for p in nodes[plus].parameters):
            yield Match((index, plus), index, "Gemm", nodes[plus].outputs[0])


def _skip_normalisation(wiring: Wiring) -> Iterator[Match]:
    """An addition of two tensors, one perhaps learned, that only a LayerNormalization reads."""
    nodes = wiring.nodes
    for index, node in wiring.each("LayerNormalization"):
        added = wiring.source(node.inputs[0], "Add")
        if added is None:
            continue
        whole = tuple(nodes[added].outputs[0].shape)
        shapes = [tuple(nodes[added].x.shape), *(tuple(p.shape) for p in nodes[added].parameters)]
        alike = shapes == [whole, whole]
        if alike or len(activations(nodes[added])) == 2:
            yield Match((added, index), added, "SkipLayerNormalization", node.outputs[0])


def _layer_normalisation(wiring: Wiring) -> Iterator[Match]:
    """ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, and a learned Mul and Add."""
    nodes = wiring.nodes
    for index, node in wiring.each("Sqrt"):
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
            if following is None or len(activations(nodes[following])) != 1:
                break
            members.append(following)
            end = following
        members.sort()
        yield Match(tuple(members), members[0], "LayerNormalization", nodes[end].outputs[0])


PATTERNS: dict[str, Callable[[Wiring], Iterator[Match]]] = {
    "quantised": quantised,
    "dynamic-product": dynamic_product,
    "layer-normalisation": _layer_normalisation,
    "gelu": _gelu,
    "gelu-divided": _gelu_divided,
    "gelu-halved": _gelu_halved,
    "swish": _swish,
    "scaled-product": _scaled_product,
    "transposed-product": _transposed_product,
    "linear": _linear,
    "skip-layer-normalisation": _skip_normalisation,
}
