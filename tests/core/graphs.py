"""Layer graphs in the wire format, put together from the building blocks of real networks.

`graphs()` is a Hypothesis strategy; `network([...])` builds a chosen chain of blocks. A block takes
a tensor and returns one of the same rank; what is left open (widths, variants) is asked of `pick`.
Every layer states its output's shape, so the shape rules are checked along the way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

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


# --- images (N, C, H, W) --------------------------------------------------------------------------


def conv(b: Builder, x: Tensor) -> Tensor:
    return b.conv(x, b.width(), b.pick((3, 1)), b.pick((1, 2)), b.pick((1, 2)))


def grouped_conv(b: Builder, x: Tensor) -> Tensor:
    group = b.pick((3, 2, 4))
    y = b.conv(x, group * b.pick((2, 1, 3)))
    if b.pick((True, False)):
        y = norm(b, y)
    return b.conv(y, group * b.pick((3, 2, 1)), 3, group=group)


def two_grouped_convs(b: Builder, x: Tensor) -> Tensor:
    """Six channels cut by twos and by threes."""
    y = b.conv(x, 12)
    y = b.conv(y, 12, 3, group=b.pick((6, 4)))
    return b.conv(y, 12, 3, group=b.pick((4, 3, 2)))


def depthwise(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(x, b.width() * b.pick((1, 2)))
    y = b.conv(y, y.channels * b.pick((2, 1, 3)), 3, b.pick((1, 2)), group=y.channels)
    return b.conv(norm(b, y), b.width())


def conv_transpose(b: Builder, x: Tensor) -> Tensor:
    group = b.pick((1, 2))
    y = b.conv(x, group * b.width())
    out = group * b.width()
    n, c, h, w = y.shape
    kernel, stride, pad = b.pick(((2, 2, 0), (3, 1, 1)))
    attributes = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [pad] * 4,
        "group": group,
    }
    weight = b.parameter("weight", c, out // group, kernel, kernel)
    parameters = b.pick(([weight, b.parameter("bias", out)], [weight], None))
    shape = (n, out, h * stride, w * stride)
    return b.layer("ConvTranspose", [y], shape, attributes, parameters)


def norm(b: Builder, x: Tensor) -> Tensor:
    kind = b.pick(("BatchNormalization", "InstanceNormalization", "GroupNormalization"))
    c = x.channels
    roles = ["gamma", "beta"]
    attributes: Json | None = None
    if kind == "BatchNormalization":
        roles += ["mean", "variance"]
    elif kind == "GroupNormalization":
        attributes = {"num_groups": b.pick([g for g in (c, 2, 3, 1) if c % g == 0])}
    parameters = b.pick((None, [b.parameter(role, c) for role in roles]))
    return b.layer(kind, [x], x.shape, attributes, parameters)


def activation(b: Builder, x: Tensor) -> Tensor:
    return b.activate(x)


def residual(b: Builder, x: Tensor) -> Tensor:
    y = norm(b, b.conv(x, b.width(), 3))
    y = norm(b, b.conv(b.activate(y), x.channels, b.pick((1, 3))))
    kind = b.pick(("Add", "reversed", "Sum", "Sub"))
    if kind == "Sum":
        return b.add("Sum", x, y, b.conv(x, x.channels))
    return b.add("Add", y, x) if kind == "reversed" else b.add(kind, x, y)


def projected_residual(b: Builder, x: Tensor) -> Tensor:
    out, stride = b.width(), b.pick((2, 1))
    y = b.conv(b.activate(b.conv(x, b.width(), 3, stride)), out)
    return b.activate(b.add("Add", y, b.conv(x, out, 1, stride)))


def squeeze_excite(b: Builder, x: Tensor) -> Tensor:
    n, c = x.shape[:2]
    gate = pooled(b, x)
    if b.pick((True, False)):
        gate = b.unary("Relu", b.conv(gate, b.width()))
        gate = b.conv(gate, c)
    else:
        gate = b.layer("Flatten", [gate], (n, c))
        gate = b.linear(b.unary("Relu", b.linear(gate, b.width())), c)
        gate = b.layer("Unsqueeze", [gate], (n, c, 1, 1), {"axes": [2, 3]})
    gate = b.unary("Sigmoid", gate)
    return b.add("Mul", *b.pick(((x, gate), (gate, x))))


def pooled(b: Builder, x: Tensor) -> Tensor:
    shape = (*x.shape[:2], 1, 1)
    if b.pick((True, False)):
        return b.layer("GlobalAveragePool", [x], shape)
    return b.layer("ReduceMean", [x], shape, {"axes": [2, 3], "keepdims": 1})


def dense_block(b: Builder, x: Tensor) -> Tensor:
    for _ in range(b.pick((2, 1, 3))):
        x = b.concat([x, b.activate(b.conv(x, b.width(), 3))])
    return b.conv(norm(b, x), b.width())


def concat_twice(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(x, b.width())
    parts = b.pick(([y, y], [y, b.activate(y)], [y, x, y]))
    return b.conv(b.concat(parts), b.width())


def concats_added(b: Builder, x: Tensor) -> Tensor:
    """Two concatenations that are cut at different places, added."""
    first, second = b.pick((((3, 5), (4, 4)), ((2, 3, 3), (5, 3)), ((4, 2), (4, 2))))
    left = b.concat([b.activate(b.conv(x, size)) for size in first])
    right = b.concat([b.conv(x, size) for size in second])
    return b.conv(b.activate(b.add("Add", left, right)), b.width())


def concat_residual(b: Builder, x: Tensor) -> Tensor:
    y = b.concat([b.conv(x, 1), b.conv(x, x.channels)])
    return b.add("Add", x, b.conv(y, x.channels))


def concat_spatial(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(x, x.channels)
    return b.concat([x, y], b.pick((2, 3)))


def split_branches(b: Builder, x: Tensor) -> Tensor:
    sizes = b.pick(((3, 3), (2, 3), (2, 2, 2), (4, 1, 2)))
    parts = b.split(b.activate(b.conv(x, sum(sizes))), sizes, 1)
    kind = b.pick(("conv", "res2net", "gate"))
    if kind == "gate" and sizes[0] == sizes[1]:
        return b.add("Mul", parts[0], b.unary("Sigmoid", parts[1]))
    if kind == "res2net":
        done = [parts[0]]
        for part in parts[1:]:
            below = b.conv(done[-1], part.channels)
            done.append(b.conv(b.add("Add", part, below), part.channels))
        return b.concat(done)
    parts[-1] = b.conv(parts[-1], b.width())
    return b.concat(parts[:: b.pick((1, -1))])


def sliced(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(x, 7)
    start, end, step = b.pick(((0, 3, 1), (2, 7, 1), (0, 7, 2), (1, 6, 3), (-1, -8, -1)))
    part = b.slice(y, 1, start, end, step)
    if b.pick((True, False)):
        part = b.concat([part, b.slice(y, 1, 2, 5)])
    return b.slice(part, 2, 1, part.shape[2]) if part.shape[2] > 2 else part


def shuffle(b: Builder, x: Tensor) -> Tensor:
    group = b.pick((2, 3))
    y = b.conv(x, 6, 1)
    if b.pick((True, False)):
        y = b.conv(y, 6, 1, group=group)
    n, c, h, w = y.shape
    y = b.reshape(y, n, group, c // group, h, w)
    y = b.reshape(b.transpose(y, 0, 2, 1, 3, 4), n, c, h, w)
    return b.conv(y, b.pick((6, 12)), 3, group=b.pick((group, c, 1)))


def pixel_shuffle(b: Builder, x: Tensor) -> Tensor:
    size, c = 2, b.pick((3, 2))
    y = b.conv(x, c * size**2)
    n, _, h, w = y.shape
    kind = b.pick(("DCR", "CRD", "reshape", "reshape DCR"))
    if kind in ("DCR", "CRD"):
        attributes = {"blocksize": size, "mode": kind}
        return b.layer("DepthToSpace", [y], (n, c, h * size, w * size), attributes)
    if kind == "reshape":
        y = b.transpose(b.reshape(y, n, c, size, size, h, w), 0, 1, 4, 2, 5, 3)
    else:
        y = b.transpose(b.reshape(y, n, size, size, c, h, w), 0, 3, 4, 1, 5, 2)
    return b.conv(b.reshape(y, n, c, h * size, w * size), b.width())


def space_to_depth(b: Builder, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    even = b.slice(b.slice(x, 2, 0, h - h % 2), 3, 0, w - w % 2)
    _, _, h, w = even.shape
    if b.pick((True, False)):
        y = b.layer("SpaceToDepth", [even], (n, 4 * c, h // 2, w // 2), {"blocksize": 2})
    else:
        y = b.transpose(b.reshape(even, n, c, h // 2, 2, w // 2, 2), 0, 1, 3, 5, 2, 4)
        y = b.reshape(y, n, 4 * c, h // 2, w // 2)
    return b.conv(y, b.width())


def padded(b: Builder, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    before, after = b.pick(((0, 0), (0, 2), (1, 1)))
    y = b.layer(
        "Pad",
        [x],
        (n, c + before + after, h + 1, w + 2),
        {"pads": [0, before, 0, 1, 0, after, 1, 1]},
    )
    if b.pick((True, False)):
        # the shortcut of a ResNet that widens without a convolution
        return b.add("Add", y, b.conv(y, y.channels, 3))
    return y


def resized(b: Builder, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    kind = b.pick(("scales", "sizes", "axes", "MaxPool", "AveragePool"))
    if kind in ("MaxPool", "AveragePool"):
        window: Json = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
        return b.layer(kind, [x], (n, c, -(-h // 2), -(-w // 2)), window)
    shape = (n, c, 2 * h, 2 * w)
    ways: dict[str, Json] = {
        "scales": {"scales": [1.0, 1.0, 2.0, 2.0]},
        "sizes": {"sizes": list(shape)},
        "axes": {"sizes": [2 * h, 2 * w], "axes": [2, 3]},
    }
    return b.layer("Resize", [x], shape, ways[kind] | {"mode": "nearest"})


def learned_vectors(b: Builder, x: Tensor) -> Tensor:
    c = x.channels
    shapes: list[Shape] = [(c, 1, 1), (1, c, 1, 1), (1,), (1, 1, 1, 1), x.shape[1:], x.shape[2:]]
    for op in b.pick((("Mul", "Add"), ("Mul",), ("Sub", "Div"))):
        x = b.with_vector(op, x, *b.pick(shapes))
    return x


def gathered(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(x, 5)
    indices = b.pick(([4, 2, 0, 1, 3], [0, 2, 3], [1, 1, 3, 0], [-1, 0]))
    shape = (y.shape[0], len(indices), *y.shape[2:])
    z = b.layer("Gather", [y], shape, {"indices": indices, "axis": 1})
    if z.channels == y.channels and b.pick((False, True)):
        return b.add("Add", y, z)
    return z


def channels_last(b: Builder, x: Tensor) -> Tensor:
    y = b.transpose(x, 0, 2, 3, 1)
    kind = b.pick(("vector", "dense", "norm", "softmax"))
    if kind == "vector":
        y = b.with_vector("Mul", y, x.channels)
    elif kind == "dense":
        y = b.linear(b.activate(b.linear(y, b.width())), x.channels)
        y = b.with_vector("Mul", y, x.channels)
        return b.add("Add", x, b.transpose(y, 0, 3, 1, 2))
    elif kind == "norm":
        y = b.unary("LayerNormalization", y)
    else:
        y = b.unary("Softmax", y, {"axis": -1})
    return b.transpose(y, 0, 3, 1, 2)


def shared_conv(b: Builder, x: Tensor) -> Tensor:
    """One kernel, used twice: in sequence, or on two branches."""
    key = f"shared{len(b.layers)}"
    if b.pick((True, False)):
        y = b.activate(b.conv(x, x.channels, 3, key=key))
        return b.conv(y, x.channels, 3, key=key)
    out, left = b.width(), b.activate(x)
    left, right = b.conv(left, out, key=key), b.conv(x, out, key=key)
    return b.concat([left, right]) if b.pick((True, False)) else b.add("Mul", left, right)


def centred(b: Builder, x: Tensor) -> Tensor:
    """The mean over positions is subtracted, or that over channels."""
    axes, shape = b.pick((([2, 3], (*x.shape[:2], 1, 1)), ([1], (x.shape[0], 1, *x.shape[2:]))))
    mean = b.layer("ReduceMean", [x], shape, {"axes": axes, "keepdims": 1})
    return b.add("Sub", x, mean)


def spatial_gate(b: Builder, x: Tensor) -> Tensor:
    mask = b.unary("Sigmoid", b.conv(x, 1, 3))
    return b.add("Mul", x, mask)


def expanded(b: Builder, x: Tensor) -> Tensor:
    """A pooled vector, repeated over all positions and joined on."""
    if b.pick((True, False)):
        y = b.layer("Expand", [pooled(b, x)], x.shape, {"shape": list(x.shape)})
    else:
        repeats = [1, 1, x.shape[2], x.shape[3]]
        y = b.layer("Tile", [pooled(b, x)], x.shape, {"repeats": repeats})
    return b.concat([x, y])


def tiled_channels(b: Builder, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = b.layer("Tile", [x], (n, 2 * c, h, w), {"repeats": [1, 2, 1, 1]})
    return b.conv(y, b.width())


def cosine_gate(b: Builder, x: Tensor) -> Tensor:
    """A non-local block: positions attend to each other through summed channels."""
    n, _, h, w = x.shape
    inner = b.width()
    flat = [b.reshape(b.conv(x, inner), n, inner, h * w) for _ in range(3)]
    scores = b.layer("MatMul", [b.transpose(flat[0], 0, 2, 1), flat[1]], (n, h * w, h * w))
    scores = b.unary("Softmax", scores, {"axis": -1})
    y = b.layer("MatMul", [scores, b.transpose(flat[2], 0, 2, 1)], (n, h * w, inner))
    y = b.reshape(b.transpose(y, 0, 2, 1), n, inner, h, w)
    return b.add("Add", x, b.conv(y, x.channels))


def one_dimensional(b: Builder, x: Tensor) -> Tensor:
    """Rows as one long signal."""
    n, c, h, w = x.shape
    y = b.reshape(x, n, c, h * w)
    y = b.activate(b.conv(y, b.width(), b.pick((3, 1)), 1, b.pick((1, 2))))
    return b.reshape(y, n, y.channels, h, w)


def learned_channel_norm(b: Builder, x: Tensor) -> Tensor:
    return norm(b, b.conv(x, 6))


def reduced_spatial(b: Builder, x: Tensor) -> Tensor:
    """A strip pooling: one axis is averaged away and comes back by broadcasting."""
    mean = b.layer("ReduceMean", [x], (*x.shape[:2], x.shape[3]), {"axes": [2], "keepdims": 0})
    row = b.layer("Unsqueeze", [mean], (*x.shape[:2], 1, x.shape[3]), {"axes": [2]})
    return b.add("Mul", x, b.unary("Sigmoid", row))


IMAGE: dict[str, Block] = {
    "conv": conv,
    "grouped conv": grouped_conv,
    "two grouped convs": two_grouped_convs,
    "depthwise": depthwise,
    "conv transpose": conv_transpose,
    "norm": learned_channel_norm,
    "activation": activation,
    "residual": residual,
    "projected residual": projected_residual,
    "squeeze-excite": squeeze_excite,
    "dense block": dense_block,
    "concat twice": concat_twice,
    "concats added": concats_added,
    "concat residual": concat_residual,
    "concat spatial": concat_spatial,
    "split": split_branches,
    "slice": sliced,
    "shuffle": shuffle,
    "pixel shuffle": pixel_shuffle,
    "space to depth": space_to_depth,
    "pad": padded,
    "resize": resized,
    "vectors": learned_vectors,
    "gather": gathered,
    "channels last": channels_last,
    "shared": shared_conv,
    "centred": centred,
    "spatial gate": spatial_gate,
    "expand": expanded,
    "tile": tiled_channels,
    "non-local": cosine_gate,
    "1-D": one_dimensional,
    "strip": reduced_spatial,
}


# --- sequences (B, S, C) --------------------------------------------------------------------------


def heads_of(b: Builder, x: Tensor, heads: int, keys: bool = False) -> Tensor:
    """(B, S, H D) to (B, H, S, D), or for keys to (B, H, D, S)."""
    n, s, c = x.shape
    y = b.reshape(x, n, s, heads, c // heads)
    if not keys:
        return b.transpose(y, 0, 2, 1, 3)
    if b.pick((True, False)):
        return b.transpose(y, 0, 2, 3, 1)
    return b.transpose(b.transpose(y, 0, 2, 1, 3), 0, 1, 3, 2)


def projections(b: Builder, x: Tensor, heads: int, depth: int) -> list[Tensor]:
    """Queries (B, H, S, D), keys (B, H, D, S), values (B, H, S, D)."""
    n, s, _ = x.shape
    inner = heads * depth
    kind = b.pick(("separate", "split", "gather", "split heads", "slice"))
    if kind == "separate":
        q, k, v = (b.linear(x, inner) for _ in range(3))
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    fused = b.linear(x, 3 * inner)
    if kind == "split":
        q, k, v = b.split(fused, [inner] * 3, 2)
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    if kind == "slice":
        q, k, v = (b.slice(fused, 2, i * inner, (i + 1) * inner) for i in range(3))
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    if kind == "gather":
        table = b.transpose(b.reshape(fused, n, s, 3, heads, depth), 2, 0, 3, 1, 4)
        q, k, v = (
            b.layer("Gather", [table], (n, heads, s, depth), {"indices": i, "axis": 0})
            for i in range(3)
        )
    else:
        # every head's query, key and value lie side by side
        table = b.transpose(b.reshape(fused, n, s, heads, 3 * depth), 0, 2, 1, 3)
        q, k, v = b.split(table, [depth] * 3, 3)
    return [q, b.transpose(k, 0, 1, 3, 2), v]


def head_norm(b: Builder, x: Tensor) -> Tensor:
    """Queries normalised over the dimension of their head."""
    if b.pick((True, False)):
        return b.unary("LayerNormalization", x)
    mean = b.layer("ReduceMean", [x], (*x.shape[:-1], 1), {"axes": [-1], "keepdims": 1})
    return b.with_vector("Mul", b.add("Sub", x, mean), x.shape[-1])


def attention(b: Builder, x: Tensor) -> Tensor:
    n, s, c = x.shape
    heads, depth = b.pick(((3, 2), (2, 3), (4, 1), (1, 3)))
    y = b.unary("LayerNormalization", x) if b.pick((True, False)) else x
    q, k, v = projections(b, y, heads, depth)
    if b.pick((True, False)):
        q = b.with_vector("Mul", q, *b.pick(((1,), (heads, 1, 1), (depth,))))
    if b.pick((False, True)):
        q = head_norm(b, q)
    if b.pick((True, False)):
        scores = b.layer("MatMul", [q, k], (n, heads, s, s))
        scores = b.with_vector("Mul", scores, *b.pick(((1,), (heads, s, s), (s, s))))
        scores = b.unary("Softmax", scores, {"axis": -1})
        y = b.layer("MatMul", [scores, v], (n, heads, s, depth))
    else:
        # heads stacked on the batch, as for a batched product of rank 3
        flat = [b.reshape(t, n * heads, *t.shape[2:]) for t in (q, k, v)]
        scores = b.layer("MatMul", flat[:2], (n * heads, s, s))
        scores = b.unary("Softmax", scores, {"axis": -1})
        y = b.layer("MatMul", [scores, flat[2]], (n * heads, s, depth))
        y = b.reshape(y, n, heads, s, depth)
    y = b.reshape(b.transpose(y, 0, 2, 1, 3), n, s, heads * depth)
    return b.add("Add", x, b.linear(y, c))


def mlp(b: Builder, x: Tensor) -> Tensor:
    y = b.unary("LayerNormalization", x) if b.pick((True, False)) else x
    y = b.linear(b.activate(b.linear(y, b.width())), x.shape[-1])
    return b.add("Add", x, y)


def gated_mlp(b: Builder, x: Tensor) -> Tensor:
    inner = b.width()
    if b.pick((True, False)):
        left, right = b.split(b.linear(x, 2 * inner), [inner, inner], 2)
    else:
        left, right = b.linear(x, inner), b.linear(x, inner)
    y = b.add("Mul", b.activate(left), right)
    return b.linear(y, x.shape[-1])


def lstm(b: Builder, x: Tensor) -> Tensor:
    n, s, _ = x.shape
    y = b.transpose(b.linear(x, b.width()), 1, 0, 2)
    hidden, directions = b.width(), b.pick((1, 2))
    attributes = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    state = (directions, n, hidden)
    found = b.layers_of("LSTM", [y], [(s, directions, n, hidden), state, state], attributes)
    y = b.transpose(found[0], 2, 0, 1, 3)
    return b.linear(b.reshape(y, n, s, directions * hidden), b.width())


def temporal_conv(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(b.transpose(x, 0, 2, 1), b.width(), 3, 1, b.pick((1, 2)))
    return b.transpose(b.activate(y), 0, 2, 1)


def class_token(b: Builder, x: Tensor) -> Tensor:
    """The first position, put in front again; positions are cut, channels are not."""
    first = b.slice(x, 1, 0, 1)
    return b.concat([first, x], 1)


def sequence_vectors(b: Builder, x: Tensor) -> Tensor:
    _, s, c = x.shape
    return b.with_vector("Add", x, *b.pick(((1, s, c), (s, c), (c,), (s, 1))))


def dense(b: Builder, x: Tensor) -> Tensor:
    return b.activate(b.linear(x, b.width()))


def token_mixing(b: Builder, x: Tensor) -> Tensor:
    """An MLP over positions: channels pass through the product."""
    s = x.shape[1]
    y = b.transpose(x, 0, 2, 1)
    y = b.linear(b.activate(b.linear(y, b.width())), s)
    return b.add("Add", x, b.transpose(y, 0, 2, 1))


SEQUENCE: dict[str, Block] = {
    "attention": attention,
    "mlp": mlp,
    "gated mlp": gated_mlp,
    "lstm": lstm,
    "temporal conv": temporal_conv,
    "class token": class_token,
    "sequence vectors": sequence_vectors,
    "dense": dense,
    "token mixing": token_mixing,
}


# --- beginnings and ends --------------------------------------------------------------------------


def as_sequence(b: Builder, x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    n, c, h, w = x.shape
    if b.pick((True, False)):
        return b.transpose(b.reshape(x, n, c, h * w), 0, 2, 1)
    return b.reshape(b.transpose(x, 0, 2, 3, 1), n, h * w, c)


def image_end(b: Builder, x: Tensor) -> None:
    n, c = x.shape[:2]
    kind = b.pick(("pool", "flatten", "mean", "image", "pool and image"))
    if kind in ("image", "pool and image"):
        b.outputs.append(x.name)
    if kind == "image":
        return
    if kind == "flatten":
        y = b.layer("Flatten", [x], (n, math.prod(x.shape[1:])), {"axis": 1})
    elif kind == "mean":
        y = b.layer("ReduceMean", [x], (n, c), {"axes": [2, 3], "keepdims": 0})
    else:
        y = b.reshape(pooled(b, x), n, c)
    b.outputs.append(b.linear(b.unary("Relu", b.linear(y, b.width())), 2).name)


def sequence_end(b: Builder, x: Tensor, key: str | None) -> None:
    n, _, c = x.shape
    if key is not None:
        # the embedding's table once more, as the last dense layer
        y = b.linear(x, 6)
        weight = b.parameter("weight", 11, 6, key=key)
        b.outputs.append(b.layer("Gemm", [y], (*x.shape[:2], 11), None, [weight]).name)
        return
    if b.pick((True, False)):
        x = b.layer("ReduceMean", [x], (n, c), {"axes": [1], "keepdims": 0})
    b.outputs.append(b.linear(x, 2).name)


def network(
    blocks: Sequence[str], pick: Pick | None = None, tokens: bool = False, batch: int = 2
) -> Json:
    """A network of blocks: first those of images, then those of sequences.

    Args:
        pick: decides what the blocks leave open; by default the first option.
        tokens: begin with an embedding rather than an image; then only sequence blocks follow.
    """
    b = Builder(pick or _first)
    key: str | None = None
    if tokens:
        key = "embedding" if b.pick((True, False)) else None
        ids = b.input((batch, 4), "int64")
        table = b.parameter("weight", 11, 6, key=key)
        x = b.layer("Gather", [ids], (batch, 4, 6), {"axis": 0}, [table])
        if b.pick((True, False)):
            x = sequence_vectors(b, x)
    else:
        x = b.conv(b.input((batch, 3, *b.pick(((5, 4), (6, 7))))), b.width(), 3)
    for name in blocks:
        if name in IMAGE:
            # nothing shrinks to nothing, nothing grows without bound
            if min(x.shape[2:]) < 3 or max(x.shape[2:]) > 12:
                x = b.layer("Resize", [x], (*x.shape[:2], 5, 4), {"sizes": [5, 4], "axes": [2, 3]})
            if x.channels > 14:
                x = b.conv(x, b.width())
            x = IMAGE[name](b, x)
        else:
            x = SEQUENCE[name](b, as_sequence(b, x) if len(x.shape) == 4 else x)
    if len(x.shape) == 4:
        image_end(b, x)
    else:
        sequence_end(b, x, key)
    return b.document()


def _first(options: Sequence[T]) -> T:
    return options[0]


def choosing(seed: int) -> Pick:
    """Decides by a seeded generator."""
    chance = random.Random(seed)

    def pick(options: Sequence[T]) -> T:
        return chance.choice(options)

    return pick


@st.composite
def graphs(draw: st.DrawFn) -> Json:
    """Layer graphs of one to four blocks."""

    def pick(options: Sequence[T]) -> T:
        return options[draw(st.integers(0, len(options) - 1))]

    names = draw(st.lists(st.sampled_from(sorted(IMAGE)), max_size=4))
    tokens = not names and draw(st.booleans())
    least = 0 if names else 1
    names += draw(st.lists(st.sampled_from(sorted(SEQUENCE)), min_size=least, max_size=2))
    return network(names, pick, tokens, draw(st.integers(1, 2)))
