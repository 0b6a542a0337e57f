"""Which part of a network is regularised: boundaries, and what must not be pruned."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from latency_client.errors import OptionError
from latency_client.graph import LayerGraph

# Operators that make channels of their own: to keep those of a layer outside it is enough to
# exclude these, whatever their output is tied to.
_WRITERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN"})


def patterns(value: str | Iterable[str] | None, option: str) -> list[str]:
    """Regular expressions from an argument.

    Raises:
        OptionError: for anything but texts, or an expression that cannot be compiled.
    """
    if value is None:
        return []
    found = [value] if isinstance(value, str) else list(value)
    for pattern in found:
        if not isinstance(pattern, str):
            raise OptionError(f"{option}: {pattern!r} is no regular expression over layer names")
        try:
            re.compile(pattern)
        except re.error as error:
            raise OptionError(f"{option}: {pattern!r} is no regular expression ({error})") from None
    return found


def exactly(names: Collection[str]) -> list[str]:
    """A regular expression that matches these names and no other; none for no name."""
    if not names:
        return []
    return ["^(?:" + "|".join(re.escape(name) for name in sorted(names)) + ")$"]


def _matching(graph: LayerGraph, expressions: Sequence[str], option: str) -> set[str]:
    found: set[str] = set()
    for pattern in expressions:
        compiled = re.compile(pattern)
        own = {layer.name for layer in graph.layers if compiled.search(layer.name)}
        if not own:
            raise OptionError(
                f"{option}: {pattern!r} matches no layer; names look like "
                + ", ".join(repr(layer.name) for layer in graph.layers[:5])
            )
        found |= own
    return found


def inside(
    graph: LayerGraph, input_boundary: Sequence[str], output_boundary: Sequence[str]
) -> set[str] | None:
    """Names of the layers between two boundaries; None where there are none.

    The walk goes back from the layers of the output boundary (default: the network's outputs). It
    stops at those of the input boundary: they, and what is reached only through them, are outside.

    Raises:
        OptionError: for an expression that matches no layer, or boundaries with nothing between.
    """
    if not input_boundary and not output_boundary:
        return None
    stops = _matching(graph, input_boundary, "input_boundary")
    if output_boundary:
        waiting = list(_matching(graph, output_boundary, "output_boundary"))
    else:
        waiting = [graph.writer[t].name for t in graph.outputs if t in graph.writer]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name in stops:
            continue
        found.add(name)
        waiting += [
            graph.writer[tensor].name
            for tensor in graph.by_name[name].inputs
            if tensor in graph.writer
        ]
    if not found:
        raise OptionError("there is no layer between input_boundary and output_boundary")
    return found


def kept_outside(graph: LayerGraph, chosen: Collection[str]) -> set[str]:
    """Names of the layers whose channels have to stay for a boundary to hold.

    Above the chosen layers everything stays; below them only what makes channels of its own.
    """
    below: set[str] = set()
    for layer in graph.layers:
        sources = {graph.writer[t].name for t in layer.inputs if t in graph.writer}
        if layer.name not in chosen and (sources & below or sources & set(chosen)):
            below.add(layer.name)
    return {
        layer.name
        for layer in graph.layers
        if layer.name not in chosen and (layer.name not in below or layer.op in _WRITERS)
    }
