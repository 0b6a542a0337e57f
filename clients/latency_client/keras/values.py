"""A tensor of the model while its graph is written.

Keras puts channels last, ONNX puts them second. No transpose is invented for that: a value carries
the name of its tensor with channels last (`plain`, the order of Keras), with channels second
(`moved`), or both, and an operator asks for the order it needs. Only where a model mixes both is a
Transpose written, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from latency_client.graph import GraphBuilder
from latency_client.keras.views import IntArray

Shape = tuple[int, ...]


@dataclass(eq=False)
class Value:
    """A tensor, in one order of axes or in both.

    Attributes:
        shape: in the order of Keras, batch included.
        plain: name of the tensor of that shape; None: not written yet.
        moved: name of the same with the last axis second.
        order: of a rank-2 tensor: position in Keras of each feature of the graph's tensor; None:
            the same order.
        input: name of the model's input that it is, not declared before its order is known.
    """

    shape: Shape
    plain: str | None = None
    moved: str | None = None
    dtype: str | None = None
    order: IntArray | None = None
    input: str | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def channels_second(self) -> bool:
        """Whether it stands in the graph with its last axis second, and only so."""
        return self.rank > 2 and self.plain is None and self.moved is not None


def dtype_name(dtype: Any) -> str | None:
    """The dtype of a tensor in the graph; None for floats: the request's."""
    name = keras.backend.standardize_dtype(dtype)
    return None if "float" in name else name


def moved_shape(shape: Sequence[int]) -> Shape:
    """(batch, ..., channels) as (batch, channels, ...)."""
    return (shape[0], shape[-1], *shape[1:-1]) if len(shape) > 2 else tuple(shape)


def moved_axis(axis: int, rank: int) -> int:
    """Where an axis of Keras is after the last one has come second."""
    axis = axis + rank if axis < 0 else axis
    if rank < 3 or axis == 0:
        return axis
    return 1 if axis == rank - 1 else axis + 1


class Tensors:
    """Names of values in the order that an operator needs."""

    def __init__(self, builder: GraphBuilder) -> None:
        """Write what is missing into a builder."""
        self.builder = builder

    def plain(self, value: Value) -> str:
        """The tensor in the order of Keras."""
        if value.order is not None:
            assert value.plain is not None
            back = np.argsort(value.order).tolist()
            (value.plain,) = self.builder.add(
                f"{value.plain}/reorder", "Gather", [value.plain], [value.shape],
                {"axis": 1, "indices": back},
            )  # fmt: skip
            value.order = None
        if value.plain is None and value.moved is None:
            self._declare(value, value.shape)
            value.plain = value.input
        if value.plain is None:
            assert value.moved is not None
            axes = (0, *range(2, value.rank), 1)
            value.plain = self._transpose(value.moved, axes, value.shape)
        return value.plain

    def moved(self, value: Value) -> str:
        """The tensor with its last axis second."""
        if value.rank < 3:
            return self.plain(value)
        if value.plain is None and value.moved is None:
            self._declare(value, moved_shape(value.shape))
            value.moved = value.input
        if value.moved is None:
            assert value.plain is not None
            axes = (0, value.rank - 1, *range(1, value.rank - 1))
            value.moved = self._transpose(value.plain, axes, moved_shape(value.shape))
        return value.moved

    def features(self, value: Value) -> str:
        """The tensor in whatever order its features are; the caller minds `order`."""
        if value.order is not None and value.plain is not None:
            return value.plain
        return self.plain(value)

    def _declare(self, value: Value, shape: Shape) -> None:
        assert value.input is not None
        value.input = self.builder.input(value.input, shape, value.dtype)

    def _transpose(self, name: str, axes: Shape, shape: Shape) -> str:
        kept = [axis for axis in axes if self.builder.shape(name)[axis] > 1]
        if kept == sorted(kept):
            # only axes of size 1 change places: another view of the same memory
            return self.reshape(f"{name}/view", name, shape)
        (made,) = self.builder.add(
            f"{name}/transpose", "Transpose", [name], [shape], {"perm": list(axes)}
        )
        return made

    def reshape(self, name: str, tensor: str, shape: Shape) -> str:
        """Another shape, the batch copied."""
        target = [0, *shape[1:]] if self.builder.shape(tensor)[0] == shape[0] else list(shape)
        (made,) = self.builder.add(name, "Reshape", [tensor], [shape], {"shape": target})
        return made


def same_layout(like: Value, name: str, shape: Shape, **fields: Any) -> Value:
    """A value in the order of axes that another one stands in."""
    if like.channels_second and len(shape) > 2:
        return Value(shape, moved=name, **fields)
    return Value(shape, plain=name, **fields)
