"""What Keras's layers and operations mean in ONNX's terms: tables of handlers, by class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from latency_client.keras.trace import Call

Handler = Callable[[Call], Any]

# By the name of the class, of those that Keras defines itself: layers, and operations (`keras.ops`,
# whose classes Keras does not export).
LAYERS: dict[str, Handler] = {}
OPERATIONS: dict[str, Handler] = {}
# Handlers of classes that are not of Keras.
_OWN: set[Handler] = set()


def layer(*names: str) -> Callable[[Handler], Handler]:
    """Register what Keras's layers of some names mean."""
    return _register(LAYERS, names)


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Register what operations of `keras.ops` mean."""
    return _register(OPERATIONS, names)


def _register(table: dict[str, Handler], names: Iterable[str]) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        for name in names:
            if name in table:
                raise RuntimeError(f"{name} is registered twice")
            table[name] = handler
        return handler

    return keep


def register_layer(kind: type, handler: Handler) -> None:
    """Teach the extraction a layer of one's own.

    Args:
        kind: the class.
        handler: takes a `Call`, adds layers to `call.trace` and returns a `Value` per tensor.
    """
    LAYERS[kind.__name__] = handler
    _OWN.add(handler)


def handler_of(table: Mapping[str, Handler], op: Any) -> Handler | None:
    """What is registered for an operation, unless a subclass computes something else."""
    for kind in type(op).__mro__:
        if kind.__name__ in table and (
            kind.__module__.startswith("keras.") or table[kind.__name__] in _OWN
        ):
            same = getattr(type(op), "call", None) is getattr(kind, "call", None)
            return table[kind.__name__] if same else None
    return None
