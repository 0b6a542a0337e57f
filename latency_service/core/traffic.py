"""Bytes that an operator moves: activations read and written, plus kernels.

Biases and vectors with one entry per channel are parameters, but not traffic.
"""

from __future__ import annotations

import math

from latency_service.core.channels import Tracker
from latency_service.core.forms import ZERO, BilinearForm
from latency_service.core.graph import Parameter
from latency_service.core.node import Dims, IdArray, Node
from latency_service.core.ops import Traffic
from latency_service.core.ops.layouts import follows
from latency_service.core.units import BYTES_PER_ELEMENT


def is_free(node: Node) -> bool:
    """Whether a node costs nothing: a view, or arithmetic on shapes that has been folded."""
    if node.op.traffic is Traffic.FREE or _keeps_dtype(node):
        return True
    if node.op.value is None or not node.outputs:
        return False
    return all(tensor.value is not None for tensor in node.outputs)


def _keeps_dtype(node: Node) -> bool:
    """Whether it is a Cast to what its input is already; frameworks and runtimes drop it."""
    if node.layer.op not in ("Cast", "CastLike") or not node.outputs:
        return False
    data = node.inputs[0]
    return data is not None and data.dtype == node.outputs[0].dtype


Side = list[tuple[IdArray | None, float]]


def reads(node: Node) -> Side:
    """(channel ids, bytes) of every activation that is read."""
    if node.op.traffic is Traffic.TOUCH:
        return [(output.ids, output.bytes) for output in node.outputs]
    settings, operands = node.op.constants, node.op.operands
    if len(node.inputs) == 1:
        only = node.inputs[0]
        return [] if only is None or only.value is not None else [(node.in_ids[0], only.bytes)]
    return [
        (node.in_ids[position], tensor.bytes)
        for position, tensor in enumerate(node.inputs)
        if tensor is not None
        and tensor.value is None
        and not (settings and position < len(operands) and operands[position] in settings)
    ]


def writes(node: Node) -> Side:
    """(channel ids, bytes) of every activation that is written."""
    if len(node.outputs) == 1:
        only = node.outputs[0]
        return [(only.ids, only.bytes)] if only.name else []
    return [(tensor.ids, tensor.bytes) for tensor in node.outputs if tensor.name]


def parameter_bytes(node: Node, parameter: Parameter) -> float:
    """Bytes of one element of a parameter, as stored."""
    return BYTES_PER_ELEMENT[node.stored(parameter.dtype or node.dtype)]


def kernels(node: Node) -> BilinearForm:
    """Bytes of the kernels that one run reads.

    An elementwise operand that is learned counts too, unless it is one number per channel.
    """
    if node.op.contraction:
        weight = node.parameter("weight")
        if weight is None:
            return ZERO
        return node.weights.scaled(parameter_bytes(node, weight))
    constant = per_out = 0.0
    ids = node.outputs[0].ids if node.outputs else None
    for parameter in node.parameters:
        if parameter.role != "weight" or node.op.traffic is Traffic.TOUCH:
            continue
        if _is_vector(parameter.shape, ids):
            continue
        total = math.prod(parameter.shape) * parameter_bytes(node, parameter)
        if ids is not None and follows(parameter.shape, ids):
            per_out += total / ids.size
        else:
            constant += total
    return BilinearForm(constant=constant, per_out=per_out) if constant or per_out else ZERO


def _is_vector(shape: Dims, ids: IdArray | None) -> bool:
    """Whether a learned operand has no more than one number per channel.

    One along the channels is told from a map of one channel by the other axes being 1.
    """
    if ids is None or len(shape) == 1:
        return math.prod(shape) == max(shape, default=1)
    offset = ids.ndim - len(shape)
    return all(ids.shape[axis + offset] > 1 for axis, extent in enumerate(shape) if extent > 1)


def standalone(nodes: list[Node]) -> None:
    """Cost the layers of an inner graph on their own: constants, at full width."""
    tracker = Tracker()
    for node in nodes:
        if node.frozen and node.in_ids:
            continue
        node.in_ids = [None if t is None else t.ids for t in node.inputs]
        node.op.channels(node, tracker)
        n_in = next((ids.size for ids in node.in_ids if ids is not None), 0)
        n_out = next((t.ids.size for t in node.outputs if t.ids is not None), 0)
        free = is_free(node)
        moved = 0.0
        if not free:
            moved = sum(b for _, b in reads(node)) + sum(b for _, b in writes(node))
            moved += kernels(node).at(n_in, n_out)
        node.moved_bytes = moved
        node.flops = BilinearForm(node.flops.at(n_in, n_out))
        node.weights = BilinearForm(node.weights.at(n_in, n_out))
        node.learned = BilinearForm(node.learned.at(n_in, n_out))
