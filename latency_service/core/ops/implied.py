"""Parameters that a hand-written graph may leave out.

A convolution then has one kernel and no bias, a normalisation its vectors, a Gemm one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from latency_service.core.graph import Parameter
from latency_service.core.node import Node

Parameters = tuple[Parameter, ...]


def _written(node: Node, axis: int) -> int:
    """Extent of the declared output along an axis."""
    shape = node.layer.outputs[0].shape if node.layer.outputs else None
    extent = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if not isinstance(extent, int):
        node.fail(
            "parameters",
            f"{node.layer.op} without parameters needs the output's channel count: give the "
            "weight's shape or the output's",
        )
    return extent


def conv(node: Node) -> Parameters:
    """One kernel (O, I/group, k...), no bias."""
    if len(node.inputs) > 1:
        return ()
    kernel = node.integers("kernel_shape")
    if kernel is None:
        node.fail("attributes.kernel_shape", "is needed where the weight is left out")
    group = node.integer("group", 1)
    channels = node.x.shape[1] if len(node.x.shape) > 2 else 0
    if group < 1 or channels % group:
        node.fail("attributes.group", f"{group} groups do not divide {channels} input channels")
    return (Parameter("weight", (_written(node, 1), channels // group, *kernel)),)


def conv_transpose(node: Node) -> Parameters:
    """One kernel (I, O/group, k...), no bias."""
    if len(node.inputs) > 1:
        return ()
    kernel = node.integers("kernel_shape")
    if kernel is None:
        node.fail("attributes.kernel_shape", "is needed where the weight is left out")
    group = node.integer("group", 1)
    out = _written(node, 1)
    if group < 1 or out % group:
        node.fail("attributes.group", f"{group} groups do not divide {out} output channels")
    return (Parameter("weight", (node.x.shape[1], out // group, *kernel)),)


def gemm(node: Node) -> Parameters:
    """One matrix (O, I), no bias."""
    if len(node.inputs) > 1:
        return ()
    features = node.x.shape[0 if node.integer("transA", 0) else -1]
    return (Parameter("weight", (_written(node, -1), features)),)


def matmul(node: Node) -> Parameters:
    """One matrix (I, O), where there is a single activation."""
    if len(node.inputs) > 1:
        return ()
    shape = (node.x.shape[-1], _written(node, -1))
    return (Parameter("weight", shape[::-1] if node.integer("transB", 0) else shape),)


def batch_norm(node: Node) -> Parameters:
    """Scale, shift, mean and variance: one of each per channel."""
    return _vectors(("gamma", "beta", "mean", "variance"), _channels(node))


def channel_norm(node: Node) -> Parameters:
    """Scale and shift per channel."""
    return _vectors(("gamma", "beta"), _channels(node))


def _channels(node: Node) -> int:
    return node.x.shape[1] if len(node.x.shape) > 1 else 1


@lru_cache(maxsize=4096)
def _vectors(roles: tuple[str, ...], channels: int) -> Parameters:
    return tuple(Parameter(role, (channels,)) for role in roles)


def last_norm(node: Node) -> Parameters:
    """Scale and shift over the normalised axes."""
    axis = node.axis(default=-1)
    return tuple(Parameter(role, tuple(node.x.shape[axis:])) for role in ("gamma", "beta"))


def scale_norm(node: Node) -> Parameters:
    """Scale over the normalised axes."""
    axis = node.axis(default=-1)
    return (Parameter("gamma", tuple(node.x.shape[axis:])),)


def recurrent(gates: int, vectors: int) -> Callable[[Node], Parameters]:
    """Input and recurrent weights and biases of LSTM, GRU, RNN."""

    def rule(node: Node) -> Parameters:
        if len(node.inputs) > 1:
            return ()
        hidden = node.attributes.get("hidden_size")
        if not isinstance(hidden, int):
            node.fail("attributes.hidden_size", "is needed where the weights are left out")
        directions = 2 if node.text("direction", "forward") == "bidirectional" else 1
        return (
            Parameter("weight", (directions, gates * hidden, node.x.shape[-1])),
            Parameter("recurrence", (directions, gates * hidden, hidden)),
            Parameter("bias", (directions, vectors * gates * hidden)),
        )

    return rule
