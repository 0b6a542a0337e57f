"""What the cost model knows about an operator: one row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from latency_service.core.graph import Parameter
from latency_service.core.node import MOST_ELEMENTS, Node, Symbolic

if TYPE_CHECKING:
    from latency_service.core.channels import Tracker

ShapeRule = Callable[[Node], Sequence[tuple[Sequence[int], str]]]
ChannelRule = Callable[[Node, "Tracker"], None]
ValueRule = Callable[[Node], Sequence[npt.NDArray[Any]]]
ParameterRule = Callable[[Node], tuple[Parameter, ...]]

# What a rule runs into where attributes and shapes do not fit in a way that it does not check.
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)


class Traffic(Enum):
    """Which bytes an operator moves."""

    FREE = "none: a view, or arithmetic on shapes"
    READ_WRITE = "reads its inputs and kernels, writes its outputs"
    TOUCH = "reads what it writes"


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.

    Attributes:
        shape: shapes and dtypes of the outputs.
        channels: the channel ids of the outputs, and what its channels tie or freeze.
        traffic: which bytes it moves.
        operands: ONNX's names of its inputs, by position.
        constants: the operands that are settings rather than data: attributes where constant.
        roles: the operands that are learned where constant, each with the parameter's role.
        implied: its parameters where the graph leaves them out; None: it has none.
        value: computes its outputs where all inputs are known; None: never.
        of_shapes: whether `value` needs no more than the inputs' shapes.
        contraction: whether it multiplies and accumulates (it can host a fused chain).
        expanded: whether it is taken apart into the layers of its inner graphs.
        family: heading in the documentation.
    """

    name: str
    family: str
    shape: ShapeRule
    channels: ChannelRule
    traffic: Traffic = Traffic.READ_WRITE
    operands: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    implied: ParameterRule | None = None
    value: ValueRule | None = None
    of_shapes: bool = False
    contraction: bool = False
    expanded: bool = False


def guarded(rule: ChannelRule) -> ChannelRule:
    """A channel rule that refuses what it cannot read and freezes where a setting is data."""

    def guard(node: Node, tracker: Tracker) -> None:
        # the row of an If, Loop or Scan writes nothing: its inner layers do
        if not node.outputs and not node.op.expanded:
            node.fail("outputs", f"{node.layer.op} needs a name for what it writes")
        for parameter in node.parameters:
            shape = parameter.shape
            if len(shape) > 1 and not 0 <= math.prod(shape) <= MOST_ELEMENTS:
                node.fail("parameters", f"no {parameter.role} has shape {list(parameter.shape)}")
        try:
            rule(node, tracker)
        except Symbolic:
            tracker.opaque(node)
            for tensor in node.outputs:
                tensor.ids = None
        except _UNREADABLE as error:
            detail = f"{node.layer.op} cannot be read with these inputs and attributes ({error})"
            node.fail("attributes", detail)
        for tensor in node.outputs:
            if tensor.ids is not None and not tensor.ids.size:
                tensor.ids = None  # an empty tensor has no channels

    return guard
