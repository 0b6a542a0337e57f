"""Numbers of channels and heads in a user's code, replaced where they are used.

`x.view(n, length, 12, 64)` says 12 heads whatever the weights say. While a model is traced, every
such call is noted with the module whose code makes it; in the pruned copy that module runs its own
code, and its calls get the numbers that are left. Nothing is changed in models whose code reads its
numbers from its tensors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Calls that name extents, by what they are called in a record.
_NAMED: dict[Any, str] = {
    Tensor.view: "view",
    Tensor.reshape: "reshape",
    torch.reshape: "reshape",
    Tensor.unflatten: "unflatten",
    torch.unflatten: "unflatten",
    Tensor.split: "split",
    torch.split: "split",
}


@dataclass(frozen=True, slots=True)
class Named:
    """A call that names extents: how, and the layer that it became; "" if it became none."""

    kind: str
    layer: str


class Recorder(TorchFunctionMode):
    """Notes calls that name extents while a model is traced."""

    def __init__(self, path: Callable[[], str], layer: Callable[[Any], str]) -> None:
        """Take functions that tell the running module and the layer of a result."""
        super().__init__()
        self.path = path
        self.layer = layer
        self.calls: dict[str, list[Named]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and note it."""
        result = func(*args, **(kwargs or {}))
        kind = _NAMED.get(func)
        if kind is not None:
            self.calls.setdefault(self.path(), []).append(Named(kind, self.layer(result)))
        return result


@dataclass(frozen=True, slots=True)
class Change:
    """What a call has to name instead.

    Attributes:
        kind: of the call.
        shape: before pruning, on the example inputs.
        extents: per axis, what is left of it.
        sizes: of a split, every piece.
    """

    kind: str
    shape: tuple[int, ...] = ()
    extents: Mapping[int, int] | None = None
    sizes: tuple[int, ...] | None = None


class AdjustedForward:
    """A module's own forward, whose calls name what is left.

    Attributes:
        changes: by the position of the call among those that the module's own code makes.
        depth: how many of its submodules are running; their calls are theirs.
    """

    def __init__(self, module: nn.Module, changes: Mapping[int, Change]) -> None:
        """Take the place of the module's forward."""
        self.module = module
        self.changes = dict(changes)
        self.depth = 0
        # exporters ask for the names of arguments
        self.__signature__ = inspect.signature(module.forward)
        for child in module.children():
            child.register_forward_pre_hook(Step(self, +1))
            child.register_forward_hook(Step(self, -1), always_call=True)

    def adjust(self, changes: Mapping[int, Change]) -> None:
        """Let calls name still less: the model is pruned once more."""
        for place, change in changes.items():
            before = self.changes.get(place)
            if before is not None and before.extents is not None:
                extents = {**before.extents, **(change.extents or {})}
                change = replace(change, extents=extents)
            self.changes[place] = change

    @property
    def __code__(self) -> Any:
        """Of the module's own forward: exporters name it."""
        return type(self.module).forward.__code__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's code."""
        with _Adjuster(self):
            return type(self.module).forward(self.module, *args, **kwargs)


class Step:
    """A hook that counts a submodule in or out."""

    def __init__(self, owner: AdjustedForward, step: int) -> None:
        """`step` is +1 on the way in, -1 on the way out."""
        self.owner = owner
        self.step = step

    def __call__(self, *_: Any) -> None:
        """Count."""
        self.owner.depth += self.step


class _Adjuster(TorchFunctionMode):
    def __init__(self, owner: AdjustedForward) -> None:
        super().__init__()
        self.owner = owner
        self.position = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = _NAMED.get(func)
        if kind is not None and not self.owner.depth:
            change = self.owner.changes.get(self.position)
            self.position += 1
            if change is not None and change.kind == kind:
                args = _adjusted(change, args, kwargs)
        return func(*args, **kwargs)


def _adjusted(change: Change, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    x = args[0]
    if change.kind == "split":
        kwargs.pop("split_size_or_sections", kwargs.pop("split_size", None))
        return (x, list(change.sizes or ()), *args[2:])
    if change.kind == "unflatten":
        axis = int(args[1] if len(args) > 1 else kwargs.pop("dim")) % x.ndim
        sizes = list(args[2] if len(args) > 2 else kwargs.pop("sizes"))
        own = {a - axis: extent for a, extent in (change.extents or {}).items()}
        recorded = change.shape[axis : axis + len(sizes)]
        return (x, axis, _fitted(sizes, own, recorded, x.shape[axis]))
    given = args[1:] if len(args) > 1 else kwargs.pop("shape", ())
    if len(given) == 1 and isinstance(given[0], Sequence):
        given = given[0]
    if any(isinstance(extent, torch.dtype) for extent in given):
        return args
    return (x, _fitted(list(given), change.extents or {}, change.shape, x.numel()))


def _fitted(
    target: list[Any], extents: Mapping[int, int], recorded: Sequence[int], volume: int
) -> list[Any]:
    """A target with what is left on its axes.

    Where it still does not fit, a number was worked out from one that has changed (channels divided
    by groups): it is what it was on the example inputs.
    """
    for axis, extent in extents.items():
        if 0 <= axis < len(target) and int(target[axis]) != -1:
            target[axis] = extent
    if any(int(extent) == -1 for extent in target) or math.prod(map(int, target)) == volume:
        return target
    for axis in range(len(target)):
        if axis not in extents and axis < len(recorded):
            other = [*target[:axis], recorded[axis], *target[axis + 1 :]]
            if math.prod(map(int, other)) == volume:
                return other
    return target
