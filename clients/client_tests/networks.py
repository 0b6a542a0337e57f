"""Small layer graphs for the neutral tests, their extents distinct primes."""

from __future__ import annotations

from latency_client.graph import GraphBuilder, LayerGraph, Parameter


def conv_bn_relu(
    net: GraphBuilder, name: str, x: str, n_out: int, kernel: int = 3, bn: bool = True
) -> str:
    """Convolution that keeps the size, BatchNormalization, Relu."""
    batch, n_in, height, width = net.shape(x)
    shape = (batch, n_out, height, width)
    (x,) = net.add(
        name,
        "Conv",
        [x],
        [shape],
        {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4, "group": 1},
        [Parameter("weight", (n_out, n_in, kernel, kernel), f"{name}.weight")],
    )
    if bn:
        vectors = ("gamma", "beta", "mean", "variance")
        (x,) = net.add(
            f"{name}.bn",
            "BatchNormalization",
            [x],
            [shape],
            None,
            [Parameter(role, (n_out,), f"{name}.bn.{role}") for role in vectors],
        )
    return net.add(f"{name}.relu", "Relu", [x], [shape])[0]


def two_layers(first: int = 13, second: int = 17) -> LayerGraph:
    """An image of 3 x 7 x 11, two convolutions, classes from their mean."""
    net = GraphBuilder("two-layers")
    x = net.input("image", (1, 3, 7, 11))
    x = conv_bn_relu(net, "a", x, first, kernel=5)
    x = conv_bn_relu(net, "b", x, second)
    (x,) = net.add("pool", "GlobalAveragePool", [x], [(1, second, 1, 1)])
    (x,) = net.add("flat", "Flatten", [x], [(1, second)])
    weight = Parameter("weight", (5, second), "fc.weight")
    (x,) = net.add("fc", "Gemm", [x], [(1, 5)], {}, [weight, Parameter("bias", (5,), "fc.bias")])
    return net.finish([x])


def residual_concat() -> LayerGraph:
    """A residual addition ties two layers, a concat joins them with a third."""
    net = GraphBuilder("residual-concat")
    x = net.input("image", (1, 3, 7, 11))
    a = conv_bn_relu(net, "a", x, 13)
    b = conv_bn_relu(net, "b", a, 13)
    (added,) = net.add("add", "Add", [a, b], [net.shape(a)])
    c = conv_bn_relu(net, "c", added, 17, kernel=1)
    (joined,) = net.add("cat", "Concat", [added, c], [(1, 13 + 17, 7, 11)], {"axis": 1})
    d = conv_bn_relu(net, "d", joined, 19)
    e = conv_bn_relu(net, "e", d, 5, bn=False)
    return net.finish([e])
