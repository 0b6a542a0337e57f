"""What the cost model knows about an operator: one row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import numpy.typing as npt

from latency_service.core.graph import Parameter
from latency_service.core.node import Node, Symbol, Symbolic
from latency_service.core.units import BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from latency_service.core.channels import Tracker

ShapeRule = Callable[[Node], Sequence[tuple[Sequence[int], str]]]
ChannelRule = Callable[[Node, "Tracker"], None]
ValueRule = Callable[[Node], Sequence[npt.NDArray[Any]]]
ParameterRule = Callable[[Node], tuple[Parameter, ...]]


# What a rule runs into where attributes and shapes do not fit each other in a way it does not check.
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)

# Counts up to here are exact in float64.
MOST_ELEMENTS = 1 << 53


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


def checked(rule: ShapeRule) -> ShapeRule:
    """A shape rule that refuses what it cannot read and shapes that no tensor has."""

    def check(node: Node) -> Sequence[tuple[Sequence[int], str]]:
        if not node.layer.outputs:
            node.fail("outputs", f"{node.layer.op} needs a name for what it writes")
        try:
            found = rule(node)
        except _UNREADABLE as error:
            _refuse(node, error)
        for parameter in node.parameters:
            if min(parameter.shape, default=0) < 0 or math.prod(parameter.shape) > MOST_ELEMENTS:
                node.fail("parameters", f"no {parameter.role} has shape {list(parameter.shape)}")
        for dims, dtype in found:
            elements = 1
            for dim in dims:
                if not isinstance(dim, Symbol):
                    elements *= dim if dim >= 0 else MOST_ELEMENTS + 1
            if elements > MOST_ELEMENTS or dtype not in BYTES_PER_ELEMENT:
                node.fail("attributes", f"{node.layer.op} would write {dtype} {list(dims)}")
        return found

    return check


def guarded(rule: ChannelRule) -> ChannelRule:
    """A channel rule that refuses what it cannot read and freezes where a setting is data."""

    def guard(node: Node, tracker: Tracker) -> None:
        try:
            rule(node, tracker)
        except Symbolic:
            tracker.opaque(node)
            for tensor in node.outputs:
                tensor.ids = None
        except _UNREADABLE as error:
            _refuse(node, error)
        for tensor in node.outputs:
            if tensor.ids is not None and not tensor.ids.size:
                tensor.ids = None  # an empty tensor has no channels

    return guard


def _refuse(node: Node, error: Exception) -> NoReturn:
    node.fail(
        "attributes", f"{node.layer.op} cannot be read with these inputs and attributes ({error})"
    )
