"""What an operator's rules see of a layer: its tensors with concrete shapes, and its attributes.

Nodes are built anew for every request (`latency_service/core/bind.py`), filled in by the rules of
`latency_service/core/ops` and `latency_service/core/channels.py`, and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from latency_service.core.errors import GraphError, Problem
from latency_service.core.forms import ZERO, BilinearForm
from latency_service.core.graph import Layer, Parameter
from latency_service.core.units import BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from latency_service.core.ops.op import Op

IdArray = npt.NDArray[np.int64]
Dims = tuple[int, ...]

# Values are followed through shape arithmetic only: tensors larger than this are data.
MOST_VALUES = 4096


# Counts up to here are exact in float64.
MOST_ELEMENTS = 1 << 53


class Symbolic(Exception):
    """Arithmetic on a dimension that is still a name."""


class Symbol(str):
    """A named dimension: it can be passed on and compared, but not calculated with."""

    __slots__ = ()

    def _refuse(self, *_: Any) -> NoReturn:
        raise Symbolic(str(self))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __neg__ = _refuse
    __mod__ = __rmod__ = __lt__ = __gt__ = __le__ = __ge__ = __int__ = __index__ = _refuse


def volume(dims: Sequence[int]) -> int:
    """Product of the dimensions; one alone may be symbolic."""
    return dims[0] if len(dims) == 1 else math.prod(dims)


class Tensor:
    """An array of the network.

    Attributes:
        shape: concrete dimensions.
        dtype: concrete dtype.
        value: what it holds, where that follows from shapes and constants alone.
        named: whether the model names its dimensions instead of stating them: 0, none of them; 1,
            the first at most; 2, others. Runtimes merge less where they do not know the sizes.
        ids: channel ids, of the tensor's rank: full size along the axes that hold channels, 1
            along the others; None: its channels are nobody's to prune.

    Raises:
        ValueError: for a shape that no tensor has, and an unknown dtype.
    """

    __slots__ = ("_size", "dtype", "ids", "name", "named", "shape", "value")

    def __init__(
        self,
        name: str,
        shape: Dims,
        dtype: str,
        value: npt.NDArray[Any] | None = None,
        named: int = 0,
    ) -> None:
        # a name as the first dimension, the usual one: no need to run into it
        numbers = shape[1:] if shape and isinstance(shape[0], Symbol) else shape
        self._size: int | None
        try:
            elements = math.prod(numbers)
            lowest = min(numbers, default=0)
            self._size = elements if numbers is shape else None
        except Symbolic:
            numbers = tuple(dim for dim in shape if not isinstance(dim, Symbol))
            elements, lowest = math.prod(numbers), min(numbers, default=0)
            self._size = None
        if lowest < 0 or elements > MOST_ELEMENTS or dtype not in BYTES_PER_ELEMENT:
            raise ValueError(f"no tensor {name!r} can be {dtype} {list(shape)}")
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.value = value
        self.named = named
        self.ids: IdArray | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape) if self._size is None else self._size

    @property
    def bytes(self) -> float:
        """Size in bytes."""
        return self.size * BYTES_PER_ELEMENT[self.dtype]


def named_dims(shape: Sequence[int | str]) -> int:
    """What `Tensor.named` says of a shape that a model states."""
    # by type, not by isinstance: this is asked of every tensor of a request
    if str not in map(type, shape):
        return 0
    return 2 if str in map(type, shape[1:]) else 1


_INT = {int}


def _as_stated(dtype: str) -> str:
    return dtype


class Node:
    """A layer with concrete tensors.

    Attributes:
        inputs: one per input; None where an optional one is left out.
        parameters: what it has learned, implied ones included; dtypes still as in the graph.
        times: how often it runs (in a Loop: the trip count).
        frozen: whether it stands in an inner graph, where nothing is prunable.
        in_ids: per input, the channel ids as this operator sees them.
        flops: FLOPs of one run.
        weights: kernel elements.
        learned: further parameters, kernels excluded.
        moved_bytes: bytes that one run moves, at full width (inner graphs only).
        shared: roles of parameters that another layer counts already.
        stored: the dtype in which a tensor of a stated dtype is kept.
    """

    __slots__ = (
        "attributes", "dtype", "flops", "frozen", "in_ids", "inputs", "layer", "learned",
        "moved_bytes", "name", "op", "outputs", "parameters", "shared", "stored", "times",
        "weights",
    )  # fmt: skip

    def __init__(
        self,
        layer: Layer,
        op: Op,
        inputs: list[Tensor | None],
        dtype: str,
        name: str,
        times: float = 1.0,
        frozen: bool = False,
    ) -> None:
        self.layer = layer
        self.op = op
        self.name = name
        self.inputs = inputs
        self.dtype = dtype
        self.attributes = layer.attributes
        self.parameters: tuple[Parameter, ...] = layer.parameters or ()
        self.outputs: list[Tensor] = []
        self.times = times
        self.frozen = frozen
        self.in_ids: list[IdArray | None] = []
        self.flops: BilinearForm = ZERO
        self.weights: BilinearForm = ZERO
        self.learned: BilinearForm = ZERO
        self.moved_bytes: float = 0.0
        self.shared: frozenset[str] = frozenset()
        self.stored: Callable[[str], str] = _as_stated

    # --- tensors -------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:
        """The first input."""
        inputs = self.inputs
        return (inputs[0] if inputs else None) or self.input(0)

    def input(self, position: int) -> Tensor:
        """The input at a position that must be there."""
        tensor = self.inputs[position] if position < len(self.inputs) else None
        if tensor is None:
            self.fail("inputs", f"{self.layer.op} needs an activation as input {position}")
        return tensor

    def has_input(self, position: int) -> bool:
        """Whether the optional input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def parameter(self, role: str) -> Parameter | None:
        """What it has learned in this role, if anything."""
        for parameter in self.parameters:
            if parameter.role == role:
                return parameter
        return None

    def fail(self, field: str, detail: str) -> NoReturn:
        """Refuse the layer.

        Raises:
            GraphError: always.
        """
        raise GraphError(Problem(self.name, field, detail))

    # --- attributes ----------------------------------------------------------------------------

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer attribute."""
        value = self.attributes.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"attributes.{key}", f"must be an integer; it is {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number attribute."""
        value = self.attributes.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"attributes.{key}", f"must be a number; it is {value!r}")
        return value

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int] | None:
        """An attribute that is a list of integers."""
        value = self.attributes.get(key, default)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not set(map(type, value)) <= _INT:
            self.fail(f"attributes.{key}", f"must be a list of integers; it is {value!r}")
        return list(value)

    def text(self, key: str, default: str) -> str:
        """A text attribute."""
        value = self.attributes.get(key, default)
        if not isinstance(value, str):
            self.fail(f"attributes.{key}", f"must be a text; it is {value!r}")
        return value

    def axis(self, key: str = "axis", default: int | None = None, rank: int | None = None) -> int:
        """An axis attribute, counted from the front."""
        rank = len(self.x.shape) if rank is None else rank
        axis = self.integer(key, default)
        if not -rank <= axis < rank:
            self.fail(f"attributes.{key}", f"axis {axis} of a tensor of rank {rank}")
        return axis % rank

    def operand(self, key: str) -> npt.NDArray[Any] | None:
        """A constant operand: the attribute, or the value of the input at ONNX's position.

        None where it is left out; `Unknown` is raised where it depends on data.
        """
        if key in self.attributes:
            try:
                value = np.asarray(self.attributes[key])
            except ValueError:
                value = np.asarray(None)
            if value.dtype.kind not in "biuf":
                self.fail(f"attributes.{key}", "must be a number or a list of numbers")
            return value
        if key not in self.op.operands:
            return None
        position = self.op.operands.index(key)
        tensor = self.inputs[position] if position < len(self.inputs) else None
        if tensor is None:
            return None
        if tensor.value is None:
            raise Symbolic(f"{key} of layer {self.name!r} depends on data")
        return tensor.value

    def integer_list(self, key: str) -> list[int] | None:
        """A constant operand as a list of integers."""
        value = self.operand(key)
        if value is None:
            return None
        if value.size and not np.issubdtype(value.dtype, np.integer):
            if not np.isfinite(value).all() or (value != np.round(value)).any():
                self.fail(f"attributes.{key}", f"must hold integers; it is {value.tolist()!r}")
            value = value.astype(np.int64)
        return [int(v) for v in value.reshape(-1)]
