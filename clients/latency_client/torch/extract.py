"""From a PyTorch model to its layer graph, layers named after the user's own modules.

The model is run once on example inputs, in eval mode and without gradients, and is afterwards as it
was before: training modes, statistics, buffers and attributes are put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latency_client.errors import (
    GraphError,
    LatencyClientError,
    OptionError,
    UnsupportedOperatorError,
)
from latency_client.graph import GraphBuilder, LayerGraph
from latency_client.torch import operators
from latency_client.torch.gates import bypassed
from latency_client.torch.reshapes import Named
from latency_client.torch.trace import Trace, dtype_name, run
from latency_client.torch.values import Activation, Piece


@dataclass(frozen=True)
class Extraction:
    """A model as a layer graph, and where in the model its parameters are.

    Attributes:
        pieces: per layer and role, the parameters and buffers of the model that it uses.
        owners: per layer, the path of the module that it happens in.
        named: per module, the calls of its code that name extents, in order.
        batch_size: to ask the service for; None: the graph has it already.
    """

    graph: LayerGraph
    pieces: Mapping[tuple[str, str], tuple[Piece, ...]]
    owners: Mapping[str, str]
    named: Mapping[str, Sequence[Named]]
    batch_size: int | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def extract(
    model: nn.Module,
    example_inputs: Any,
    *,
    batch_size: int | None = 1,
    batch_axis: int | None = 0,
    most_rows: int | None = 2,
    unknown_ops: str = "refuse",
) -> Extraction:
    """Write a model as a layer graph.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of keyword
            arguments; only their shapes and dtypes matter.
        batch_size: rows to cost; None: as many as the example has.
        batch_axis: of the inputs; None: they have none.
        most_rows: that the model is run on; beyond, the service scales the graph. None: all rows,
            for models that fix their batch in their code.
        unknown_ops: "freeze" charges unknown operations their bytes and keeps their channels.

    Raises:
        UnsupportedOperatorError: naming each unknown operation and the module that calls it.
        GraphError: if the model cannot be run, or returns nothing that depends on its inputs.
    """
    if unknown_ops not in ("refuse", "freeze"):
        raise OptionError(f'unknown_ops={unknown_ops!r} is neither "refuse" nor "freeze"')
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise GraphError("a scripted model hides its modules; pass the model before torch.jit")
    args, kwargs = _arguments(example_inputs)
    scaled = None
    if batch_size is not None and batch_axis is not None:
        rows = batch_size if most_rows is None else min(batch_size, most_rows)
        args, kwargs = _with_rows(args, kwargs, rows, batch_axis)
        scaled = None if rows == batch_size else batch_size
    trace = Trace(GraphBuilder(type(model).__name__), unknown_ops == "freeze")
    _declare(trace, model, args, kwargs, batch_axis)
    with _restored(model), bypassed(model):
        try:
            result = run(model, trace, args, kwargs)
        except LatencyClientError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise GraphError(_does_not_run(model, trace.path, (args, kwargs), error)) from error
    if trace.unknown and not trace.freeze_unknown:
        raise UnsupportedOperatorError(_unknown(trace.unknown), tuple(dict.fromkeys(trace.unknown)))
    outputs = []
    for tensor in tensors_in(result):
        value = trace.value(tensor)
        if isinstance(value, Activation):
            outputs.append(value.name)
    graph = trace.builder.finish(outputs)
    kept = graph.by_name
    return Extraction(
        graph,
        {key: pieces for key, pieces in trace.pieces.items() if key[0] in kept},
        {layer: path for layer, path in trace.owners.items() if layer in kept},
        trace.named,
        scaled,
    )


def _does_not_run(model: nn.Module, path: str, inputs: Any, error: Exception) -> str:
    shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors_in(inputs)) or "no tensors"
    where = f"in module {path!r}" if path else "in its own forward"
    return (
        f"{type(model).__name__} cannot be run on the example inputs ({shapes}): {where}, "
        f"{type(error).__name__}: {error}. Pass example_inputs of the shapes that the model takes; "
        "batch_axis says which axis of theirs is the batch"
    )


def _unknown(found: Sequence[tuple[str, str]]) -> str:
    named = [
        f"{operation} in module {path!r}" if path else f"{operation} in the model's own forward"
        for operation, path in dict.fromkeys(found)
    ]
    shown = "; ".join(named[:10]) + (f"; and {len(named) - 10} more" if len(named) > 10 else "")
    first = found[0][0].removesuffix(".default").replace(".", "::", 1).partition(".")[0]
    return (
        f"the model calls operations that have no counterpart in ONNX's terms: {shown}. Pass "
        'unknown_ops="freeze" to charge them their bytes and keep their channels, or say how they '
        f"are written as layers with latency_client.torch.register_operator({first!r}, ...)"
    )


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    return (example_inputs,), {}


def _with_rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: int, axis: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs with as many rows as are wanted, repeated or cut off."""
    tensors = [t for t in tensors_in((args, kwargs)) if t.ndim > axis]
    if not tensors:
        return args, kwargs
    batch = tensors[0].shape[axis]

    def fit(value: Any) -> Any:
        if isinstance(value, Tensor):
            # what has another length is no batch: a mask over positions, say
            if value.ndim <= axis or value.shape[axis] != batch or batch == rows:
                return value
            picked = torch.arange(rows, device=value.device) % batch
            return value.index_select(axis, picked)
        if isinstance(value, Mapping):
            return {key: fit(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [fit(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    with torch.no_grad():
        return tuple(fit(value) for value in args), {k: fit(v) for k, v in kwargs.items()}


def _declare(
    trace: Trace,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_axis: int | None,
) -> None:
    """Declare every tensor among the inputs, under the name of its argument."""
    code = getattr(type(model).forward, "__code__", None)
    names = list(code.co_varnames[1 : code.co_argcount]) if code else []
    named = [(names[i] if i < len(names) else f"input_{i}", value) for i, value in enumerate(args)]
    batch = None
    for name, value in (*named, *kwargs.items()):
        for tensor in tensors_in(value):
            if batch is None and batch_axis is not None and tensor.ndim > batch_axis:
                batch = tensor.shape[batch_axis]
            has_batch = (
                batch_axis is not None
                and tensor.ndim > batch_axis
                and tensor.shape[batch_axis] == batch
            )
            declared = trace.builder.input(
                name,
                tuple(tensor.shape),
                dtype_name(tensor.dtype),
                batch_axis if has_batch else None,
            )
            trace.set(tensor, Activation(declared))


def with_rows(
    example_inputs: Any, rows: int, axis: int | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as arguments, with as many rows as are wanted."""
    args, kwargs = _arguments(example_inputs)
    return (args, kwargs) if axis is None else _with_rows(args, kwargs, rows, axis)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from tensors_in(getattr(value, entry.name))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards modes, buffers and attributes are what they were."""
    before = [
        (m, m.training, dict(m.__dict__), dict(m._buffers), dict(m._parameters))
        for m in model.modules()
    ]
    contents = [(b, b._version, b.clone()) for b in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, version, content in contents:
                if buffer._version != version:
                    buffer.copy_(content)
        for module, training, attributes, buffers, parameters in before:
            # what a forward caches was made in inference mode: training could not use it
            for key in set(module.__dict__) - set(attributes):
                del module.__dict__[key]
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
            module.training = training


__all__ = ["Extraction", "extract", "operators", "tensors_in", "unwrapped", "with_rows"]
