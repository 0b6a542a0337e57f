"""Constant tensors of an ONNX graph: weights, settings, and what follows from them alone.

Only shape and dtype of a weight matter. Elements are read where a tensor is small and somebody
asks: they may be the target of a Reshape, the axes of a Squeeze.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from latency_service.core.errors import GraphError, ModelFileError
from latency_service.core.graph import Layer, made
from latency_service.core.node import MOST_VALUES, Node, Symbolic, Tensor
from latency_service.core.ops.op import Op
from latency_service.core.ops.shapes import DTYPE_CODES

Array = npt.NDArray[Any]

# Beyond this an extent is a mistake or an attack, not a network.
LARGEST_EXTENT = 2**31 - 1

_EXTERNAL = onnx.TensorProto.EXTERNAL
# As their bytes stand in a file.
_NUMPY = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32",
        "uint16", "uint8", "bool",
    )
}  # fmt: skip

# Operators whose output is their first input in another layout or dtype: still the same weight.
_VIEWS = frozenset(
    {
        "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast",
        "DequantizeLinear", "QuantizeLinear", "Dropout",
    }
)  # fmt: skip


# Operators in a row that a mask is followed through.
_DEEPEST = 32


@dataclass(slots=True, eq=False)
class Effort:
    """What may be spent on masks of one file: they are worth milliseconds.

    Attributes:
        elements: that may still be computed or looked at.
        deep: operators in a row that are being followed.
    """

    elements: int = 1 << 24
    deep: int = 0

    def spend(self, elements: int) -> bool:
        """Whether so many more are still worth it."""
        self.elements -= elements
        return self.elements >= 0 and self.deep < _DEEPEST


class Constant(NamedTuple):
    """A tensor that does not depend on what is fed to the network.

    Attributes:
        id: the initializer, or the output of the Constant node, that it is.
        shape: as its reader sees it.
        dtype: as its reader sees it; stored: as it stands in the file.
        initializer: whether it comes from an initializer rather than a Constant node.
        source: where its elements are; None: they are not known.
    """

    id: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    initializer: bool
    source: onnx.TensorProto | Callable[[int, Effort | None], Array | None] | None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def value(self) -> Array | None:
        """Its elements, where there are few of them and they are known."""
        # asked of every operand of a file: nothing is looked up that need not be
        if self.source is None or self.size > MOST_VALUES:
            return None
        return self.elements(MOST_VALUES)

    def elements(self, most: int, effort: Effort | None = None) -> Array | None:
        """Its elements, where there are no more than so many and they are known.

        Args:
            effort: that is worth it; then with zeros for what a sum adds to them of unknown
                numbers, which are weights.
        """
        source = self.source
        if source is None or self.size > most:
            return None
        if isinstance(source, onnx.TensorProto):
            return _elements(source, self.id, self.dtype)
        return source(most, effort)

    @property
    def is_setting(self) -> bool:
        """Whether it was chosen rather than learned: a single number, or no floating point."""
        return self.size <= 1 or not ("float" in self.dtype or "complex" in self.dtype)


def dtype_name(code: int, what: str) -> str:
    """The dtype of an ONNX element type.

    Raises:
        ModelFileError: for a type without a name here.
    """
    name = DTYPE_CODES.get(code)
    if name is None:
        raise ModelFileError(
            f"{what} has element type {code}, which this service does not know; known: "
            f"{', '.join(dict.fromkeys(DTYPE_CODES.values()))}"
        )
    return name


def from_tensor(tensor: onnx.TensorProto, name: str, initializer: bool) -> Constant:
    """A tensor of the file.

    Raises:
        ModelFileError: if its elements stand in another file, or its header makes no sense.
    """
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        raise ModelFileError(
            f"tensor {name!r} keeps its elements in another file, and no path is followed. Save "
            "the model as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)"
        )
    code = tensor.data_type
    dtype = DTYPE_CODES.get(code) or dtype_name(code, f"tensor {name!r}")
    # a slice is read at once, an iterator number by number
    shape = tuple(tensor.dims[:])
    if shape and not 0 <= min(shape) <= max(shape) <= LARGEST_EXTENT:
        raise ModelFileError(f"tensor {name!r} has the impossible shape {list(shape)}")
    return made(Constant, (name, shape, dtype, dtype, initializer, tensor))


def _elements(tensor: onnx.TensorProto, name: str, dtype: str) -> Array | None:
    kind = _NUMPY.get(dtype)
    if kind is None:
        return None
    shape = tuple(tensor.dims[:])
    raw = tensor.raw_data
    found: Array
    if raw:
        if len(raw) != math.prod(shape) * kind.itemsize:
            raise ModelFileError(
                f"tensor {name!r} is {dtype} {list(shape)}, but holds {len(raw)} bytes"
            )
        found = np.frombuffer(raw, kind)
    elif dtype == "float16":
        found = np.array(tensor.int32_data, np.uint16).view(np.float16)
    else:
        listed = {
            "float32": tensor.float_data, "float64": tensor.double_data,
            "int64": tensor.int64_data, "uint64": tensor.uint64_data, "uint32": tensor.uint64_data,
        }.get(dtype, tensor.int32_data)  # fmt: skip
        found = np.array(listed, np.int64 if "int" in dtype else kind).astype(kind)
    # without a payload: cut out because it was large
    return found.reshape(shape) if found.size == math.prod(shape) else None


def fold(
    op: Op, layer: Layer, operands: list[Constant | None], cast_to: str | None
) -> list[Constant] | None:
    """What an operator makes of constants; None where its shapes do not follow from theirs.

    Args:
        op: the operator.
        layer: with all operands as inputs.
        operands: the layer's inputs; None where one is left out.
        cast_to: the dtype of its outputs where that is not the rule's.
    """
    tensors = [
        None if c is None else Tensor(c.id, c.shape, c.dtype, c.value if i or c.size < 64 else None)
        for i, c in enumerate(operands)
    ]
    node = Node(layer, op, tensors, "float32", layer.name)
    try:
        found = [(tuple(int(d) for d in dims), dtype) for dims, dtype in op.shape(node)]
        node.outputs = [Tensor(layer.name, dims, cast_to or dtype) for dims, dtype in found]
    except (Symbolic, GraphError, ArithmeticError, ValueError, TypeError, LookupError):
        return None
    if any(dim > LARGEST_EXTENT for dims, _ in found for dim in dims):
        return None
    first = operands[0] if operands else None
    view = first if layer.op in _VIEWS else None
    made = []
    for index, (output, tensor) in enumerate(zip(layer.outputs, node.outputs, strict=False)):
        made.append(
            Constant(
                view.id if view else output.name,
                tensor.shape,
                tensor.dtype,
                view.stored if view else tensor.dtype,
                all(c is None or c.initializer for c in operands)
                or bool(view and view.initializer),
                _later(op, node, operands, index, tensor.dtype),
            )
        )
    return made


def _later(
    op: Op, node: Node, operands: list[Constant | None], index: int, dtype: str
) -> Callable[[int, Effort | None], Array | None]:
    """The elements of one output, computed when they are first asked for."""

    @cache
    def elements(most: int, effort: Effort | None) -> Array | None:
        kind = _NUMPY.get(dtype)
        if op.value is None or kind is None:
            return None
        pairs = [(t, c) for t, c in zip(node.inputs, operands, strict=True) if t and c]
        if effort is not None:
            if not effort.spend(node.outputs[index].size):
                return None
            effort.deep += 1
        for tensor, constant in pairs:
            tensor.value = constant.elements(most, effort)
        if effort is not None:
            effort.deep -= 1
            if op.name == "Add" and any(tensor.value is not None for tensor, _ in pairs):
                for tensor, constant in pairs:
                    if tensor.value is None and constant.size <= most:
                        tensor.value = np.zeros(constant.shape, kind)
        if any(tensor.value is None for tensor, _ in pairs):
            return None
        try:
            with np.errstate(all="ignore"):
                values = op.value(node)
        except (Symbolic, GraphError, ArithmeticError, ValueError, TypeError, LookupError):
            return None
        return np.asarray(values[index]).astype(kind) if index < len(values) else None

    return elements


def as_setting(value: Array) -> Any:
    """A number or a list, as an attribute holds it; None where JSON has no such number."""
    setting = value.tolist()
    if isinstance(setting, float):
        return setting if math.isfinite(setting) else None
    return None if value.dtype.kind == "f" and not np.isfinite(value).all() else setting
