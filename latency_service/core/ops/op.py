"""What the cost model knows about an operator: one row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from latency_service.core.graph import Parameter
from latency_service.core.node import Node

if TYPE_CHECKING:
    from latency_service.core.channels import Tracker

ShapeRule = Callable[[Node], Sequence[tuple[Sequence[int], str]]]
ChannelRule = Callable[[Node, "Tracker"], None]
ValueRule = Callable[[Node], Sequence[npt.NDArray[Any]]]
ParameterRule = Callable[[Node], tuple[Parameter, ...]]


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
