"""A layer graph in the making, and one call of a layer or operation in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from latency_client.errors import GraphError, UnsupportedOperatorError
from latency_client.graph import GraphBuilder, Parameter
from latency_client.keras.values import Shape, Tensors, Value
from latency_client.keras.views import Binding


@dataclass
class Call:
    """One use of a layer or operation.

    Attributes:
        op: the layer or operation of Keras.
        name: of the layer in the graph; its parts are `name/part`.
        args, kwargs: as in the call, with a `Value` for every tensor.
        shapes, dtypes: of what it returns, flat.
    """

    trace: Trace
    op: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: list[Shape]
    dtypes: list[str]

    @property
    def x(self) -> Value:
        """The first tensor that it reads."""
        found = next(iter(self.values), None)
        if found is None:
            raise GraphError(f"layer {self.name!r} ({type(self.op).__name__}) reads no tensor")
        return found

    @property
    def values(self) -> list[Value]:
        """All tensors that it reads, in order."""
        return [v for v in keras.tree.flatten((self.args, self.kwargs)) if isinstance(v, Value)]

    @property
    def shape(self) -> Shape:
        """Of the first tensor that it returns."""
        return self.shapes[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the call, by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def refuse(self, why: str, remedy: str) -> UnsupportedOperatorError:
        """An error that names this layer."""
        kind = type(self.op).__name__
        return UnsupportedOperatorError(
            f"layer {self.name!r} ({kind}) {why}; {remedy}", [(kind, self.name)]
        )


class Trace:
    """The graph in the making."""

    def __init__(self, name: str, freeze_unknown: bool = False) -> None:
        """Start with an empty graph."""
        self.freeze_unknown = freeze_unknown
        self.builder = GraphBuilder(name)
        self.tensors = Tensors(self.builder)
        self.bindings: dict[tuple[str, str], Binding] = {}
        self.owners: dict[str, Any] = {}
        self.gates: dict[str, Any] = {}
        self._writers: dict[str, tuple[str, str, Sequence[str]]] = {}
        self._ids: dict[int, str] = {}
        self._taken: set[str] = set()
        self._variables: list[Any] = []

    def add(
        self,
        call: Call,
        name: str,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[Sequence[int]],
        attributes: Mapping[str, Any] | None = None,
        bindings: Mapping[str, Binding] | None = None,
        dtypes: Sequence[str | None] | None = None,
        constants: Sequence[Parameter] = (),
    ) -> tuple[str, ...]:
        """Add a layer and remember where its parameters are."""
        bound = dict(bindings or {})
        parameters = [
            Parameter(role, binding.shape, self._id(binding.variable))
            for role, binding in bound.items()
        ]
        made = self.builder.add(
            name, op, inputs, shapes, attributes, [*parameters, *constants], dtypes
        )
        layer_name = made[0]
        self.owners[layer_name] = call.op
        for tensor in made:
            self._writers[tensor] = layer_name, op, inputs
        for role, binding in bound.items():
            self.bindings[layer_name, role] = binding
        return made

    def source_of(self, tensor: str) -> str | None:
        """The layer that has made a tensor's channels: a normalisation, else what has a weight."""
        while tensor in self._writers:
            name, op, inputs = self._writers[tensor]
            if (name, "gamma") in self.bindings or (name, "weight") in self.bindings:
                return name
            if len(inputs) != 1 or op in ("Reshape", "Flatten", "Transpose", "Concat", "Slice"):
                return None
            (tensor,) = inputs
        return None

    def _id(self, variable: Any) -> str:
        known = self._ids.get(id(variable))
        if known is None:
            known, count = str(variable.path), 0
            while known in self._taken:
                count += 1
                known = f"{variable.path}#{count}"
            self._taken.add(known)
            self._ids[id(variable)] = known
            self._variables.append(variable)  # alive as long as its id is used
        return known
