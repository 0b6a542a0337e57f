"""What a tensor is in a traced model: an activation, something learned, or a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor of the layer graph, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter or a buffer of the model, whole or as a view of it.

    Attributes:
        name: as `named_parameters` and `named_buffers` give it.
        shape: of the view.
        axes: per axis of the view, the axis of the tensor that it runs along; -1 for one of size 1
            that the tensor does not have.
        starts: per axis of the view, the position on that axis that it begins at.
        learned: whether it is a parameter; buffers are not.
        size: numbers in the whole tensor.
        exact: whether the view holds the tensor's own numbers; False for what is computed from it
            (normalised weights), which cannot be cut by cutting the tensor.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    starts: tuple[int, ...]
    size: int
    learned: bool = True
    exact: bool = True

    @classmethod
    def whole(cls, name: str, shape: tuple[int, ...], learned: bool) -> Piece:
        """A tensor as it is."""
        return cls(
            name, shape, tuple(range(len(shape))), (0,) * len(shape), math.prod(shape), learned
        )

    @property
    def id(self) -> str:
        """The same for two uses of the same numbers, in whichever order of axes."""
        begun = [f"{axis}+{start}" for axis, start in zip(self.axes, self.starts, strict=True)
                 if start]  # fmt: skip
        size = math.prod(self.shape)
        return f"{self.name}[{','.join(begun)}:{size}]" if begun else self.name

    def permuted(self, order: tuple[int, ...]) -> Piece:
        """With its axes in another order."""
        return replace(
            self,
            shape=tuple(self.shape[a] for a in order),
            axes=tuple(self.axes[a] for a in order),
            starts=tuple(self.starts[a] for a in order),
        )

    def sliced(self, axis: int, start: int, extent: int) -> Piece:
        """A run of positions of one axis."""
        return replace(
            self,
            shape=_put(self.shape, axis, extent),
            starts=_put(self.starts, axis, self.starts[axis] + start),
        )

    def reshaped(self, shape: tuple[int, ...]) -> Piece:
        """With axes of size 1 taken away or put in; another reshape is no longer exact."""
        mine = [a for a, extent in enumerate(self.shape) if extent > 1]
        theirs = [a for a, extent in enumerate(shape) if extent > 1]
        if [self.shape[a] for a in mine] != [shape[a] for a in theirs]:
            return self.computed(shape)
        source = dict(zip(theirs, mine, strict=True))
        return replace(
            self,
            shape=shape,
            axes=tuple(self.axes[source[a]] if a in source else -1 for a in range(len(shape))),
            starts=tuple(self.starts[source[a]] if a in source else 0 for a in range(len(shape))),
        )

    def computed(self, shape: tuple[int, ...]) -> Piece:
        """Something that is computed from it."""
        nowhere, zeros = (-1,) * len(shape), (0,) * len(shape)
        return Piece(self.name, shape, nowhere, zeros, self.size, self.learned, exact=False)


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that depends neither on the inputs nor on anything the model owns."""

    shape: tuple[int, ...]


Value = Activation | Piece | Constant
