"""What a request says about sizes, and what that makes of a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from latency_service.core.errors import GraphError, OptionError, Problem, UnboundDimensionError
from latency_service.core.graph import GraphInput, LayerGraph
from latency_service.core.node import Dims


@dataclass(frozen=True, slots=True)
class Binding:
    """What a request says about sizes.

    Attributes:
        batch_size: replaces every input's batch axis.
        dims: value of each named dimension.
        shapes: whole shapes of inputs, by name.
        dtype: dtype of all floating tensors; None leaves those that the graph states.
        unknown_ops: "refuse", or "freeze" to charge unknown operators their bytes.
    """

    batch_size: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str | None = None
    unknown_ops: str = "refuse"


def bound_symbols(graph: LayerGraph, binding: Binding) -> tuple[dict[str, int], bool]:
    """Values of the named dimensions, and whether the request changes what the graph states.

    Raises:
        OptionError: for sizes that are impossible, contradict each other, or fit no input.
        UnboundDimensionError: naming each dimension that has no value.
        GraphError: if an input's batch axis is none of its axes.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    unknown = sorted(set(binding.shapes) - set(inputs))
    if unknown:
        raise OptionError(
            f"shapes names {unknown[0]!r}, which is no input; inputs: {', '.join(inputs)}"
        )
    symbols = dict(binding.dims)
    for name, value in symbols.items():
        if value < 1:
            raise OptionError(f"dims binds {name!r} to {value}; a dimension is at least 1")
    unused = sorted(set(symbols) - graph.symbols)
    if unused:
        known = ", ".join(sorted(graph.symbols)) or "none"
        raise OptionError(f"dims binds {unused[0]!r}; the graph's named dimensions: {known}")
    if binding.batch_size is not None and binding.batch_size < 1:
        raise OptionError(f"batch_size is {binding.batch_size}; it must be at least 1")
    changed = False
    for name, shape in binding.shapes.items():
        declared = inputs[name].shape
        if len(shape) != len(declared):
            raise OptionError(
                f"shapes gives {name!r} {len(shape)} axes; the graph has {len(declared)}: "
                f"{list(declared)}"
            )
        for dim, given in zip(declared, shape, strict=True):
            if given < 1:
                raise OptionError(f"shapes gives {name!r} an axis of {given}")
            if isinstance(dim, str):
                if symbols.setdefault(dim, given) != given:
                    raise OptionError(
                        f"dimension {dim!r} is bound to both {symbols[dim]} and {given}"
                    )
            elif dim != given:
                changed = True
    for tensor in graph.inputs:
        axis = tensor.batch_axis
        if axis is None or not tensor.shape:
            continue
        if not -len(tensor.shape) <= axis < len(tensor.shape):
            raise GraphError(
                Problem(None, f"inputs.{tensor.name}.batch_axis", f"there is no axis {axis}")
            )
        dim = tensor.shape[axis]
        if isinstance(dim, str):
            size = symbols.setdefault(dim, binding.batch_size or 1)
            if binding.batch_size is not None and size != binding.batch_size:
                raise OptionError(
                    f"batch_size is {binding.batch_size}, but {dim!r} is bound to {size}"
                )
        elif binding.batch_size is not None and dim != binding.batch_size:
            changed = True
    missing = sorted(graph.symbols - set(symbols))
    if missing:
        raise UnboundDimensionError(missing)
    return symbols, changed


def input_shape(declared: GraphInput, binding: Binding, symbols: Mapping[str, int]) -> Dims:
    """The concrete shape of an input.

    Raises:
        OptionError: if the binding gives its batch axis two sizes.
    """
    if declared.name in binding.shapes:
        shape = list(binding.shapes[declared.name])
    else:
        shape = [symbols[dim] if isinstance(dim, str) else dim for dim in declared.shape]
    if binding.batch_size is not None and declared.batch_axis is not None and shape:
        if declared.name in binding.shapes and shape[declared.batch_axis] != binding.batch_size:
            raise OptionError(
                f"batch_size is {binding.batch_size}, but shapes gives {declared.name!r} "
                f"{shape[declared.batch_axis]}"
            )
        shape[declared.batch_axis] = binding.batch_size
    return tuple(shape)
