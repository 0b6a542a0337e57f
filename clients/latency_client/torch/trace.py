"""Running a model once, and seeing every operation by the module that it happens in.

In inference mode operations reach a dispatch mode whole (`aten::linear`, not a view, a transpose
and an `addmm`), which is what a layer is. Operations that are not known whole are taken apart by
PyTorch itself; what is then still not known is refused by name, or frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latency_client.graph import GraphBuilder, Parameter
from latency_client.torch.gates import Gate
from latency_client.torch.reshapes import Named, Recorder
from latency_client.torch.values import Activation, Constant, Piece, Value

Translation = Callable[["Call"], "Sequence[Value]"]

_DTYPES = {
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8",
    torch.uint8: "uint8", torch.bool: "bool",
}  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str | None:
    """ONNX's name of a dtype; None for floating ones, which follow the request."""
    return None if dtype.is_floating_point else _DTYPES.get(dtype, "int64")


@dataclass(slots=True)
class Place:
    """A call of a module: where the operations in it get their names."""

    path: str
    is_layer: bool


@dataclass
class Call:
    """One operation, its arguments by name, and what it has returned."""

    trace: Trace
    key: str
    arguments: dict[str, Any]
    outputs: list[Tensor]
    _first: str | None = None

    def __getitem__(self, name: str) -> Any:
        """An argument, or its default."""
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or something else where the overload does not have it."""
        return self.arguments.get(name, default)

    def value(self, argument: str | Tensor) -> Value:
        """What a tensor argument is."""
        tensor = self.arguments[argument] if isinstance(argument, str) else argument
        return self.trace.value(tensor)

    def shape(self, argument: str) -> tuple[int, ...]:
        """Shape of a tensor argument."""
        return tuple(self.arguments[argument].shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return tuple(self.outputs[0].shape)

    def tensor(self, argument: str | Tensor) -> str:
        """Name of an activation; something learned or constant becomes one."""
        value = self.value(argument)
        if isinstance(value, Activation):
            return value.name
        tensor = self.arguments[argument] if isinstance(argument, str) else argument
        return self.trace.constant(tensor, value)

    def layer(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: dict[str, Any] | None = None,
        learned: Sequence[tuple[str, Tensor | Piece | None]] = (),
        shapes: Sequence[Sequence[int]] | None = None,
        name: str | None = None,
    ) -> tuple[Activation, ...]:
        """Add a layer.

        Args:
            learned: (role, tensor) of what it has learned; None leaves one out.
            shapes: of what it writes; default: of what the operation has returned.
            name: the last part of its name, for all but the first layer of an operation.
        """
        pieces = [
            (role, self.trace.piece(tensor)) for role, tensor in learned if tensor is not None
        ]
        dtypes = None
        if shapes is None:
            shapes = [tuple(tensor.shape) for tensor in self.outputs]
            dtypes = [dtype_name(tensor.dtype) for tensor in self.outputs]
        wanted = self.trace.name(name or self.key.partition("::")[2].strip("_"), pieces, name)
        return self.trace.add(wanted, op, inputs, shapes, attributes, pieces, dtypes)

    def stacked(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: dict[str, Any],
        learned: Sequence[tuple[str, Sequence[Tensor]]],
        shapes: Sequence[Sequence[int]],
    ) -> tuple[Activation, ...]:
        """Add a layer whose parameters are several of the model's, one a direction.

        Args:
            learned: (role, tensors); they lie behind each other on a new first axis.
        """
        pieces: list[tuple[str, Piece | Constant]] = []
        parameters = []
        for role, tensors in learned:
            own = [self.trace.piece(tensor) for tensor in tensors]
            pieces += [
                (role, piece.reshaped((1, *piece.shape)))
                for piece in own
                if isinstance(piece, Piece)
            ]
            whole = (len(own), *own[0].shape)
            if role == "bias":
                # both bias vectors of a direction make one row
                directions = shapes[0][1]
                whole = (directions, sum(piece.shape[0] for piece in own) // directions)
            ids = [piece.id for piece in own if isinstance(piece, Piece)]
            parameters.append(Parameter(role, whole, "+".join(ids) or None))
        wanted = self.trace.name(self.key.partition("::")[2], pieces, None)
        return self.trace.write(wanted, op, inputs, shapes, attributes, parameters, pieces, None)


@dataclass
class Trace:
    """What has been seen of a model so far.

    Attributes:
        pieces: per layer and role, what of the model it has learned.
        owners: per layer the path of the module that it happens in.
        unknown: (operation, path) that have no translation.
        named: per module, the calls of its code that name extents.
    """

    builder: GraphBuilder
    freeze_unknown: bool = False
    pieces: dict[tuple[str, str], tuple[Piece, ...]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    named: dict[str, list[Named]] = field(default_factory=dict)
    # tensors are kept: the id of one that is gone would name another
    _values: dict[int, tuple[Tensor, Value]] = field(default_factory=dict)
    _views: dict[int, Tensor] = field(default_factory=dict)
    stack: list[Place] = field(default_factory=list)

    def value(self, tensor: Tensor) -> Value:
        """What a tensor is; one that was never seen is a constant."""
        found = self._values.get(id(tensor))
        return Constant(tuple(tensor.shape)) if found is None else found[1]

    def set(self, tensor: Tensor, value: Value) -> None:
        """Say what a tensor is."""
        self._values[id(tensor)] = (tensor, value)

    def piece(self, tensor: Tensor | Piece) -> Piece | Constant:
        """What a learned operand is."""
        if isinstance(tensor, Piece):
            return tensor
        value = self.value(tensor)
        assert not isinstance(value, Activation)
        return value

    def layer_of(self, result: Any) -> str:
        """The layer that has written a result, or the first of several; "" if none has."""
        first = result[0] if isinstance(result, list | tuple) and result else result
        value = self.value(first) if isinstance(first, Tensor) else None
        return value.name.partition(":")[0] if isinstance(value, Activation) else ""

    @property
    def path(self) -> str:
        """Of the module that is running."""
        return self.stack[-1].path if self.stack else ""

    def name(
        self, operation: str, pieces: Sequence[tuple[str, Piece | Constant]], part: str | None
    ) -> str:
        """A layer's name: its module's, or its module's and the operation's."""
        if part is None:
            if self.stack and self.stack[-1].is_layer and self.path:
                return self.path
            for role, piece in pieces:
                # a functional call with the weight of some module counts as that module's
                if role in ("weight", "gamma") and isinstance(piece, Piece) and piece.learned:
                    owner, _, last = piece.name.rpartition(".")
                    if last == "weight" and owner.startswith(self.path) and owner:
                        return owner
        return f"{self.path}.{operation}" if self.path else operation

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[Sequence[int]],
        attributes: dict[str, Any] | None,
        pieces: Sequence[tuple[str, Piece | Constant]],
        dtypes: Sequence[str | None] | None = None,
    ) -> tuple[Activation, ...]:
        """Add a layer and remember what it has learned."""
        parameters = [_parameter(op, role, piece) for role, piece in pieces]
        return self.write(name, op, inputs, shapes, attributes, parameters, pieces, dtypes)

    def write(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[Sequence[int]],
        attributes: dict[str, Any] | None,
        parameters: Sequence[Parameter],
        pieces: Sequence[tuple[str, Piece | Constant]],
        dtypes: Sequence[str | None] | None,
    ) -> tuple[Activation, ...]:
        """Add a layer whose parameters are spelled out already."""
        written = self.builder.add(name, op, inputs, shapes, attributes, parameters, dtypes)
        layer = written[0]
        self.owners[layer] = self.path
        for role, piece in pieces:
            if isinstance(piece, Piece):
                self.pieces[layer, role] = (*self.pieces.get((layer, role), ()), piece)
        return tuple(map(Activation, written))

    def constant(self, tensor: Tensor, value: Value) -> str:
        """A tensor that is no activation, made one: channels that meet it are frozen."""
        assert not isinstance(value, Activation)
        wanted = value.name if isinstance(value, Piece) else f"{self.path}.constant".lstrip(".")
        shape = tuple(tensor.shape)
        return self.builder.input(wanted, shape, dtype_name(tensor.dtype), batch_axis=None)

    def see(self, func: Any, call: Call, translation: Translation | None) -> None:
        """Translate one operation, or note that nobody knows it."""
        given = [t for t in tree_leaves(call.arguments) if isinstance(t, Tensor)]
        values = [self.value(t) for t in given]
        if not any(isinstance(value, Activation) for value in values):
            self._from_learned(call, given, values)
            return
        if translation is None:
            self._opaque(func, call, given, values)
            return
        for tensor, value in zip(call.outputs, translation(call), strict=False):
            self.set(tensor, value)
            self._note_view(tensor, given)

    def _note_view(self, tensor: Tensor, given: Sequence[Tensor]) -> None:
        """Remember whose storage a tensor shares, for when it is written to."""
        if any(tensor is other for other in given):
            self._write_through(tensor)
            return
        storage = tensor.untyped_storage().data_ptr()
        for other in given:
            if storage and other.untyped_storage().data_ptr() == storage:
                self._views[id(tensor)] = self._views.get(id(other), other)
                return

    def _write_through(self, view: Tensor) -> None:
        """A view was written to: so was the tensor that it shows, and its channels freeze."""
        base = self._views.get(id(view))
        if base is None or base is view:
            return
        value = self.value(base)
        inputs = [
            v.name if isinstance(v, Activation) else self.constant(t, v)
            for t, v in ((base, value), (view, self.value(view)))
        ]
        name = self.name("write", (), "write")
        (written,) = self.add(name, "ScatterND", inputs, [tuple(base.shape)], None, ())
        self.set(base, written)

    def _from_learned(self, call: Call, given: Sequence[Tensor], values: Sequence[Value]) -> None:
        """Views of a parameter stay views of it; what is computed from it is marked so."""
        pieces = [value for value in values if isinstance(value, Piece)]
        rule = LEARNED_VIEWS.get(call.key)
        source = pieces[0] if pieces else None
        made = rule(call, source) if rule and source and len(given) == 1 else None
        for place, tensor in enumerate(call.outputs):
            if any(tensor is t for t in given):
                continue
            shape = tuple(tensor.shape)
            value: Value = Constant(shape)
            if made is not None:
                value = made[place]
            elif source is not None:
                same = [piece for piece in pieces if piece.shape == shape]
                value = (same or pieces)[0].computed(shape)
            self.set(tensor, value)

    def _opaque(
        self, func: Any, call: Call, given: Sequence[Tensor], values: Sequence[Value]
    ) -> None:
        self.unknown.append((str(func), self.path))
        inputs = [value.name for value in values if isinstance(value, Activation)]
        written = call.layer(
            f"torch.{str(func).removesuffix('.default')}", list(dict.fromkeys(inputs))
        )
        for tensor, value in zip(call.outputs, written, strict=True):
            self.set(tensor, value)


# Operators that need their weight under this name, wherever it comes from.
_CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Gather"})


def _parameter(op: str, role: str, piece: Piece | Constant) -> Parameter:
    whole = isinstance(piece, Piece) and (piece.exact or math.prod(piece.shape) == piece.size)
    if not whole:
        # computed on the way: not the model's own numbers, and not to be counted as such
        return Parameter(role if op in _CONTRACTIONS else "state", piece.shape)
    assert isinstance(piece, Piece)
    if not piece.learned and role not in ("mean", "variance"):
        role = "state"
    return Parameter(role, piece.shape, piece.id)


LEARNED_VIEWS: dict[str, Callable[[Call, Piece], list[Value] | None]] = {}
OPERATORS: dict[str, Translation] = {}


class _Mode(TorchDispatchMode):
    """Shows every operation to a trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        key = func._schema.name
        if key.endswith("_") and not key.endswith("__"):
            key = key[:-1]  # in place
        translation = OPERATORS.get(key)
        if translation is None and key not in LEARNED_VIEWS:
            with self:
                taken_apart = func.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        result = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if outputs:
            arguments = {
                argument.name: args[place]
                if place < len(args)
                else kwargs.get(argument.name, argument.default_value)
                for place, argument in enumerate(func._schema.arguments)
            }
            self.trace.see(func, Call(self.trace, key, arguments, outputs), translation)
        return result


@contextmanager
def module_names(model: nn.Module, trace: Trace) -> Iterator[None]:
    """Keep the trace informed about which module is running."""
    handles = []
    for path, module in model.named_modules():
        inner = [child for child in module.children() if not isinstance(child, Gate)]
        is_layer = type(module).__module__.startswith("torch.nn.") and not inner
        place = Place(path, is_layer)

        def enter(_module: nn.Module, _args: Any, *, place: Place = place) -> None:
            trace.stack.append(place)

        def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
            trace.stack.pop()

        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model: nn.Module, trace: Trace, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a model once under a trace; returns what it returns."""
    for name, parameter in model.named_parameters():
        trace.set(parameter, Piece.whole(name, tuple(parameter.shape), learned=True))
    for name, buffer in model.named_buffers():
        trace.set(buffer, Piece.whole(name, tuple(buffer.shape), learned=False))
    recorder = Recorder(lambda: trace.path, trace.layer_of)
    trace.named = recorder.calls
    with torch.inference_mode(), module_names(model, trace), _Mode(trace), recorder:
        return model(*args, **kwargs)
