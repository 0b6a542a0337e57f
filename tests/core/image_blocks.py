"""Building blocks of real networks for images (N, C, H, W).

A block takes a tensor and returns one of the same rank.
"""

from __future__ import annotations

from tests.core.graph_builder import Block, Builder, Json, Shape, Tensor


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
