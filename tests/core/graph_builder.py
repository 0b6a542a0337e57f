"""Puts layer graphs in the wire format together, layer by layer.

Every layer states its output's shape, so that the shape rules are checked along the way. What is
left open (widths, variants) is asked of `pick`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Shape = tuple[int, ...]
Json = dict[str, Any]


class Pick(Protocol):
    """Chooses one of several options."""

    def __call__(self, options: Sequence[T]) -> T: ...


@dataclass(frozen=True)
class Tensor:
    """A name in the graph and its shape."""

    name: str
    shape: Shape

    @property
    def channels(self) -> int:
        """Extent of axis 1, where images and signals have their channels."""
        return self.shape[1]


class Builder:
    """Collects the layers of a graph."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.inputs: list[Json] = []
        self.layers: list[Json] = []
        self.outputs: list[str] = []

    def document(self) -> Json:
        return {"inputs": self.inputs, "layers": self.layers, "outputs": self.outputs}

    def input(self, shape: Shape, dtype: str = "float32") -> Tensor:
        name = f"input{len(self.inputs)}"
        self.inputs.append({"name": name, "shape": list(shape), "dtype": dtype})
        return Tensor(name, shape)

    def layers_of(
        self,
        op: str,
        inputs: Sequence[Tensor],
        shapes: Sequence[Shape],
        attributes: Json | None = None,
        parameters: list[Json] | None = None,
    ) -> list[Tensor]:
        """Add a layer with several outputs."""
        name = f"{len(self.layers):02d} {op}"
        tensors = [Tensor(f"{name}:{i}", shape) for i, shape in enumerate(shapes)]
        row: Json = {
            "name": name,
            "op": op,
            "inputs": [tensor.name for tensor in inputs],
            "outputs": [{"name": t.name, "shape": list(t.shape)} for t in tensors],
        }
        if attributes:
            row["attributes"] = attributes
        if parameters is not None:
            row["parameters"] = parameters
        self.layers.append(row)
        return tensors

    def layer(
        self,
        op: str,
        inputs: Sequence[Tensor],
        shape: Shape,
        attributes: Json | None = None,
        parameters: list[Json] | None = None,
    ) -> Tensor:
        """Add a layer with one output."""
        return self.layers_of(op, inputs, [shape], attributes, parameters)[0]

    # --- single operators ----------------------------------------------------------------------

    def width(self) -> int:
        return self.pick((5, 3, 4, 6, 7))

    def parameter(self, role: str, *shape: int, key: str | None = None) -> Json:
        return {"role": role, "shape": list(shape)} | ({"id": key} if key else {})

    def conv(
        self,
        x: Tensor,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
        key: str | None = None,
    ) -> Tensor:
        """A convolution over all axes behind the channels; odd kernels, "same" padding."""
        size = x.shape[2:]
        rank, pad = len(size), dilation * (kernel - 1) // 2
        attributes: Json = {
            "kernel_shape": [kernel] * rank,
            "strides": [stride] * rank,
            "dilations": [dilation] * rank,
            "pads": [pad] * (2 * rank),
            "group": group,
        }
        shape = (x.shape[0], out, *((extent - 1) // stride + 1 for extent in size))
        taps = [kernel] * rank
        weight = self.parameter("weight", out, x.channels // group, *taps, key=key)
        parameters = self.pick(
            ([weight, self.parameter("bias", out, key=key and f"{key}.b")], [weight], None)
        )
        if key is not None and parameters is None:
            parameters = [weight]
        return self.layer("Conv", [x], shape, attributes, parameters)

    def unary(self, op: str, x: Tensor, attributes: Json | None = None) -> Tensor:
        return self.layer(op, [x], x.shape, attributes)

    def add(self, op: str, *operands: Tensor) -> Tensor:
        """An elementwise operator; shapes broadcast."""
        rank = max(len(t.shape) for t in operands)
        padded = [(1,) * (rank - len(t.shape)) + t.shape for t in operands]
        return self.layer(op, operands, tuple(map(max, zip(*padded, strict=True))))

    def with_vector(self, op: str, x: Tensor, *shape: int, key: str | None = None) -> Tensor:
        """An elementwise operator with a learned operand."""
        return self.layer(op, [x], x.shape, None, [self.parameter("weight", *shape, key=key)])

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """Reshape; leading axes that stay may be written 0, and one axis -1."""
        target = list(shape)
        if self.pick((False, True)):
            if target[0] == x.shape[0]:
                target[0] = 0
            if self.pick((False, True)):
                target[-1] = -1
        return self.layer("Reshape", [x], shape, {"shape": target})

    def transpose(self, x: Tensor, *perm: int) -> Tensor:
        return self.layer("Transpose", [x], tuple(x.shape[a] for a in perm), {"perm": list(perm)})

    def concat(self, tensors: Sequence[Tensor], axis: int = 1) -> Tensor:
        shape = list(tensors[0].shape)
        shape[axis] = sum(t.shape[axis] for t in tensors)
        return self.layer("Concat", tensors, tuple(shape), {"axis": axis})

    def split(self, x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        shapes = [(*x.shape[:axis], s, *x.shape[axis + 1 :]) for s in sizes]
        attributes: Json = {"axis": axis}
        if len(set(sizes)) > 1 or self.pick((False, True)):
            attributes["split"] = list(sizes)
        else:
            attributes["num_outputs"] = len(sizes)
        return self.layers_of("Split", [x], shapes, attributes)

    def slice(self, x: Tensor, axis: int, start: int, end: int, step: int = 1) -> Tensor:
        extent = len(range(x.shape[axis])[start:end:step])
        shape = (*x.shape[:axis], extent, *x.shape[axis + 1 :])
        attributes = {"starts": [start], "ends": [end], "axes": [axis], "steps": [step]}
        return self.layer("Slice", [x], shape, attributes)

    def linear(self, x: Tensor, out: int, key: str | None = None) -> Tensor:
        """A dense layer over the last axis, as Gemm, MatMul, or MatMul and Add."""
        features, shape = x.shape[-1], (*x.shape[:-1], out)
        kind = self.pick(("Gemm", "MatMul", "MatMul+Add"))
        if kind == "Gemm":
            bias = [self.parameter("bias", out)] if self.pick((True, False)) else []
            weight = self.parameter("weight", out, features, key=key)
            return self.layer("Gemm", [x], shape, None, [weight, *bias])
        weight = self.parameter("weight", features, out, key=key and f"{key}.T")
        y = self.layer("MatMul", [x], shape, None, [weight])
        return self.with_vector("Add", y, out) if kind == "MatMul+Add" else y

    def activate(self, x: Tensor) -> Tensor:
        op = self.pick(
            ("Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Clip", "PRelu", "Softplus", "Gelu")
        )
        if op == "PRelu":
            slopes = [(1,) * (len(x.shape) - 1)]
            if len(x.shape) > 2:
                slopes.insert(0, (x.channels, *(1,) * (len(x.shape) - 2)))
            return self.with_vector("PRelu", x, *self.pick(slopes))
        return self.unary(op, x, {"min": 0.0, "max": 6.0} if op == "Clip" else None)


Block = Callable[[Builder, Tensor], Tensor]
