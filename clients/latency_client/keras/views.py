"""How a variable of Keras looks in the layout of ONNX.

Keras keeps a convolution's kernel as (k, I, O), a dense one as (I, O); the graph has them as
(O, I, k) and (O, I). A `View` is the way from the one to the other; everything that speaks of
positions on an axis (norms, members of groups, pruning) goes through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """Reshape, permute, reshape, reorder: each left out where it is None.

    Attributes:
        split: shape of the variable that `axes` permutes; None: its own.
        merged: shape after the permutation; None: as it comes out.
        order: (axis, positions) by which the result is taken at last: after a Flatten the graph has
            features in another order than Keras.
    """

    axes: tuple[int, ...]
    split: tuple[int, ...] | None = None
    merged: tuple[int, ...] | None = None
    order: tuple[int, IntArray] | None = None

    def array(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The view of an array."""
        value = value if self.split is None else value.reshape(self.split)
        value = value.transpose(self.axes)
        value = value if self.merged is None else value.reshape(self.merged)
        return value if self.order is None else np.take(value, self.order[1], self.order[0])

    def tensor(self, value: Any) -> Any:
        """The view of a tensor of the backend, differentiable."""
        value = value if self.split is None else keras.ops.reshape(value, self.split)
        if self.axes != tuple(range(len(self.axes))):
            value = keras.ops.transpose(value, self.axes)
        value = value if self.merged is None else keras.ops.reshape(value, self.merged)
        if self.order is None:
            return value
        return keras.ops.take(value, self.order[1].astype("int32"), axis=self.order[0])

    def shape(self, source: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the graph of a variable of a shape."""
        if self.merged is not None:
            return self.merged
        dims = source if self.split is None else self.split
        return tuple(dims[axis] for axis in self.axes)

    def survivors(self, source: tuple[int, ...], kept: dict[int, IntArray]) -> IntArray:
        """Flat positions of the elements that are left after a cut, ascending.

        Ascending in C order they fill the smaller variable, whatever the view does: what is left is
        a product of positions per axis.

        Args:
            source: shape of the variable.
            kept: per axis of the view the positions that are kept.
        """
        positions = self.array(np.arange(math.prod(source), dtype=np.int64).reshape(source))
        for axis, indices in kept.items():
            positions = np.take(positions, indices, axis)
        return np.sort(positions, axis=None)


@dataclass(frozen=True, eq=False)
class Binding:
    """Which variable of the model is a parameter of the graph, and how it looks there.

    Attributes:
        scale: whether a BatchNorm's gamma is one indeed; where scale=False another of its vectors
            stands in for it, so that the group knows where its channels sit.
    """

    variable: Any
    view: View
    scale: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the graph."""
        return self.view.shape(tuple(self.variable.shape))


def straight(rank: int) -> View:
    """The variable as it is."""
    return View(tuple(range(rank)))


def kernel_view(rank: int) -> View:
    """A convolution's (k, I, O) as (O, I, k); a transposed one's (k, O, I) as (I, O, k)."""
    return View((rank - 1, rank - 2, *range(rank - 2)))


def numbers(variable: Any) -> npt.NDArray[Any]:
    """A copy of what a variable holds."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.copy(variable)))
