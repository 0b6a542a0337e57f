"""Six well-known networks as layer graphs, and the builder that writes them.

`python -m examples.networks` rewrites the JSON files beside this one. They are what
`POST /v1/graphs` takes: operators, attributes and shape order are ONNX's (docs/api.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """The same number for height and width, unless two are given."""
    return (value, value) if isinstance(value, int) else value


def same_padding(size: Sequence[int], kernel: Pair, stride: Pair) -> tuple[int, int, int, int]:
    """TensorFlow's SAME as explicit pads (top, left, bottom, right).

    As many output positions as strides begin in the image; where the padding is odd, the extra row
    or column goes to the bottom or the right.
    """
    totals = []
    for extent, window, step in zip(size, kernel, stride, strict=True):
        positions = math.ceil(extent / step)
        totals.append(max((positions - 1) * step + window - extent, 0))
    top, left = (total // 2 for total in totals)
    return top, left, totals[0] - top, totals[1] - left


class Network:
    """A layer graph in the making.

    Every method adds a layer and returns the name of the tensor it writes, which is the layer's own
    name. All tensors have a leading batch dimension "N"; `shapes` leaves it out.
    """

    def __init__(self, name: str, image: Shape = (3, 224, 224), input_name: str = "image") -> None:
        self.name = name
        self.input = input_name
        self.shapes: dict[str, Shape] = {input_name: image}
        self.layers: list[dict[str, Any]] = []

    def document(self, *outputs: str) -> dict[str, Any]:
        """The finished graph as JSON values."""
        return {
            "name": self.name,
            "inputs": [{"name": self.input, "shape": ["N", *self.shapes[self.input]]}],
            "layers": self.layers,
            "outputs": list(outputs),
        }

    def layer(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        shape: Shape,
        attributes: dict[str, Any] | None = None,
        parameters: dict[str, Shape] | None = None,
    ) -> str:
        """Any operator.

        `shape` is that of the tensor it writes, without the batch dimension. `parameters` gives a
        shape for every role; their ids are `name.role`.
        """
        if name in self.shapes:
            raise ValueError(f"there already is a tensor {name!r} in {self.name}")
        self.shapes[name] = shape
        row: dict[str, Any] = {
            "name": name,
            "op": op,
            "inputs": list(inputs),
            "outputs": [{"name": name, "shape": ["N", *shape]}],
        }
        if attributes:
            row["attributes"] = attributes
        if parameters:
            row["parameters"] = [
                {"role": role, "shape": list(dims), "id": f"{name}.{role}"}
                for role, dims in parameters.items()
            ]
        self.layers.append(row)
        return name

    # --- windows -------------------------------------------------------------------------------

    def _window(
        self, x: str, kernel: int | Pair, stride: int | Pair, padding: int | Pair | str
    ) -> tuple[dict[str, Any], Pair]:
        """ONNX attributes of a sliding window, and the size of what it writes."""
        size, window, step = self.shapes[x][1:], pair(kernel), pair(stride)
        if padding == "same":
            top, left, bottom, right = same_padding(size, window, step)
        elif isinstance(padding, str):
            raise ValueError(f'padding is "same" or a number of rows and columns, not {padding!r}')
        else:
            top, left = bottom, right = pair(padding)
        height = (size[0] + top + bottom - window[0]) // step[0] + 1
        width = (size[1] + left + right - window[1]) // step[1] + 1
        attributes = {
            "kernel_shape": list(window),
            "strides": list(step),
            "pads": [top, left, bottom, right],
        }
        return attributes, (height, width)

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
        group: int = 1,
        bias: bool = False,
    ) -> str:
        """A convolution to `channels` output channels."""
        attributes, size = self._window(x, kernel, stride, padding)
        parameters: dict[str, Shape] = {
            "weight": (channels, self.shapes[x][0] // group, *pair(kernel))
        }
        if bias:
            parameters["bias"] = (channels,)
        attributes["group"] = group
        return self.layer(name, "Conv", [x], (channels, *size), attributes, parameters)

    def depthwise(
        self,
        name: str,
        x: str,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
        multiplier: int = 1,
    ) -> str:
        """A convolution that makes `multiplier` output channels of every input channel."""
        channels = self.shapes[x][0]
        return self.conv(name, x, channels * multiplier, kernel, stride, padding, group=channels)

    def max_pool(
        self,
        name: str,
        x: str,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
    ) -> str:
        """The largest value of every window."""
        attributes, size = self._window(x, kernel, stride, padding)
        return self.layer(name, "MaxPool", [x], (self.shapes[x][0], *size), attributes)

    def average_pool(
        self,
        name: str,
        x: str,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
    ) -> str:
        """The mean of every window, padding left out (as in TensorFlow)."""
        attributes, size = self._window(x, kernel, stride, padding)
        attributes["count_include_pad"] = 0
        return self.layer(name, "AveragePool", [x], (self.shapes[x][0], *size), attributes)

    def global_average_pool(self, name: str, x: str) -> str:
        """The mean of every channel; height and width stay, as 1."""
        return self.layer(name, "GlobalAveragePool", [x], (self.shapes[x][0], 1, 1))

    # --- one value at a time -------------------------------------------------------------------

    def batch_norm(self, name: str, x: str) -> str:
        """Scale, shift, mean and variance: one of each per channel."""
        roles = ("gamma", "beta", "mean", "variance")
        parameters: dict[str, Shape] = {role: self.shapes[x][:1] for role in roles}
        return self.layer(name, "BatchNormalization", [x], self.shapes[x], None, parameters)

    def relu(self, name: str, x: str) -> str:
        """The positive part."""
        return self.layer(name, "Relu", [x], self.shapes[x])

    def relu6(self, name: str, x: str) -> str:
        """The positive part, 6 at the most."""
        return self.layer(name, "Clip", [x], self.shapes[x], {"min": 0.0, "max": 6.0})

    def gelu(self, name: str, x: str) -> str:
        """The Gaussian error linear unit."""
        return self.layer(name, "Gelu", [x], self.shapes[x])

    def add(self, name: str, x: str, y: str) -> str:
        """The sum of two tensors of one shape."""
        if self.shapes[x] != self.shapes[y]:
            raise ValueError(f"{name}: {x} is {self.shapes[x]} and {y} is {self.shapes[y]}")
        return self.layer(name, "Add", [x, y], self.shapes[x])

    def add_learned(self, name: str, x: str, shape: Shape) -> str:
        """The sum with something learned: a bias, position embeddings."""
        return self.layer(name, "Add", [x], self.shapes[x], None, {"weight": shape})

    def scale(self, name: str, x: str) -> str:
        """The product with a constant number."""
        return self.layer(name, "Mul", [x], self.shapes[x], None, {"weight": ()})

    def layer_norm(self, name: str, x: str) -> str:
        """Normalisation over the last axis."""
        parameters = {"gamma": self.shapes[x][-1:], "beta": self.shapes[x][-1:]}
        return self.layer(name, "LayerNormalization", [x], self.shapes[x], {"axis": -1}, parameters)

    def softmax(self, name: str, x: str) -> str:
        """Softmax over the last axis."""
        return self.layer(name, "Softmax", [x], self.shapes[x], {"axis": -1})

    # --- matrices ------------------------------------------------------------------------------

    def gemm(self, name: str, x: str, features: int, bias: bool = True) -> str:
        """A fully connected layer on a row of features a sample."""
        (width,) = self.shapes[x]
        parameters: dict[str, Shape] = {"weight": (features, width)}
        if bias:
            parameters["bias"] = (features,)
        return self.layer(name, "Gemm", [x], (features,), {"transB": 1}, parameters)

    def linear(self, name: str, x: str, features: int) -> str:
        """A fully connected layer on many rows a sample: exporters write MatMul and Add."""
        *rows, width = self.shapes[x]
        parameters: dict[str, Shape] = {"weight": (width, features)}
        product = self.layer(f"{name}/MatMul", "MatMul", [x], (*rows, features), None, parameters)
        return self.add_learned(f"{name}/Add", product, (features,))

    def matmul(self, name: str, x: str, y: str) -> str:
        """The product of two stacks of matrices."""
        *rows, inner = self.shapes[x]
        *stack, wanted, features = self.shapes[y]
        if inner != wanted or rows[:-1] != stack:
            raise ValueError(f"{name}: {self.shapes[x]} times {self.shapes[y]}")
        return self.layer(name, "MatMul", [x, y], (*rows, features))

    # --- moving data ---------------------------------------------------------------------------

    def concat(self, name: str, *pieces: str) -> str:
        """Tensors side by side along the channel axis."""
        rest = {self.shapes[piece][1:] for piece in pieces}
        if len(rest) > 1:
            raise ValueError(f"{name}: pieces of different sizes, {sorted(rest)}")
        channels = sum(self.shapes[piece][0] for piece in pieces)
        return self.layer(name, "Concat", pieces, (channels, *rest.pop()), {"axis": 1})

    def flatten(self, name: str, x: str) -> str:
        """One row of features a sample."""
        return self.layer(name, "Flatten", [x], (math.prod(self.shapes[x]),), {"axis": 1})

    def reshape(self, name: str, x: str, *shape: int) -> str:
        """The same values in another shape (without the batch dimension)."""
        if math.prod(shape) != math.prod(self.shapes[x]):
            raise ValueError(f"{name}: {self.shapes[x]} cannot be reshaped to {shape}")
        return self.layer(name, "Reshape", [x], shape, {"shape": [0, *shape]})

    def transpose(self, name: str, x: str, *perm: int) -> str:
        """Axes in another order; `perm` counts the batch as axis 0 and leaves it there."""
        shape = tuple(self.shapes[x][axis - 1] for axis in perm[1:])
        return self.layer(name, "Transpose", [x], shape, {"perm": list(perm)})

    def reduce_mean(self, name: str, x: str, *axes: int) -> str:
        """The mean over axes, which vanish; the batch is axis 0."""
        shape = tuple(n for axis, n in enumerate(self.shapes[x], start=1) if axis not in axes)
        attributes = {"axes": list(axes), "keepdims": 0}
        return self.layer(name, "ReduceMean", [x], shape, attributes)

    def classifier(self, x: str, classes: int) -> str:
        """Global average pool, flatten and a fully connected layer."""
        return self.gemm(
            "logits", self.flatten("flatten", self.global_average_pool("global_pool", x)), classes
        )


# --- Inception V2 --------------------------------------------------------------------------------

# Widths of the branches: 1x1 | 1x1, 3x3 | 1x1, 3x3, 3x3 | pool, 1x1.
_MIXED = {
    "Mixed_3b": (64, (64, 64), (64, 96, 96), 32),
    "Mixed_3c": (64, (64, 96), (64, 96, 96), 64),
    "Mixed_4b": (224, (64, 96), (96, 128, 128), 128),
    "Mixed_4c": (192, (96, 128), (96, 128, 128), 128),
    "Mixed_4d": (160, (128, 160), (128, 160, 160), 96),
    "Mixed_4e": (96, (128, 192), (160, 192, 192), 96),
    "Mixed_5b": (352, (192, 320), (160, 224, 224), 128),
    "Mixed_5c": (352, (192, 320), (192, 224, 224), 128),
}
# The same where the image shrinks: 1x1, 3x3/2 | 1x1, 3x3, 3x3/2 | pool/2.
_REDUCE = {"Mixed_4a": ((128, 160), (64, 96, 96)), "Mixed_5a": ((128, 192), (192, 256, 256))}


def inception_v2() -> dict[str, Any]:
    """Inception V2 (BN-Inception; Ioffe and Szegedy, 2015) in tf-slim's layout, 1001 classes.

    The first convolution is separable: depthwise 7x7 with multiplier 8, then 1x1.
    """
    net = Network("inception_v2")

    def unit(name: str, x: str, channels: int, kernel: int, stride: int = 1) -> str:
        x = net.conv(name, x, channels, kernel, stride)
        return net.relu(f"{name}/Relu", net.batch_norm(f"{name}/BatchNorm", x))

    def mixed(name: str, x: str) -> str:
        one, three, double, projection = _MIXED[name]
        a = unit(f"{name}/Branch_0/Conv2d_0a_1x1", x, one, 1)
        b = unit(f"{name}/Branch_1/Conv2d_0a_1x1", x, three[0], 1)
        b = unit(f"{name}/Branch_1/Conv2d_0b_3x3", b, three[1], 3)
        c = unit(f"{name}/Branch_2/Conv2d_0a_1x1", x, double[0], 1)
        c = unit(f"{name}/Branch_2/Conv2d_0b_3x3", c, double[1], 3)
        c = unit(f"{name}/Branch_2/Conv2d_0c_3x3", c, double[2], 3)
        if name == "Mixed_5c":
            d = net.max_pool(f"{name}/Branch_3/MaxPool_0a_3x3", x, 3)
        else:
            d = net.average_pool(f"{name}/Branch_3/AvgPool_0a_3x3", x, 3)
        d = unit(f"{name}/Branch_3/Conv2d_0b_1x1", d, projection, 1)
        return net.concat(f"{name}/concat", a, b, c, d)

    def reduce(name: str, x: str) -> str:
        three, double = _REDUCE[name]
        a = unit(f"{name}/Branch_0/Conv2d_0a_1x1", x, three[0], 1)
        a = unit(f"{name}/Branch_0/Conv2d_1a_3x3", a, three[1], 3, stride=2)
        b = unit(f"{name}/Branch_1/Conv2d_0a_1x1", x, double[0], 1)
        b = unit(f"{name}/Branch_1/Conv2d_0b_3x3", b, double[1], 3)
        b = unit(f"{name}/Branch_1/Conv2d_1a_3x3", b, double[2], 3, stride=2)
        c = net.max_pool(f"{name}/Branch_2/MaxPool_1a_3x3", x, 3, stride=2)
        return net.concat(f"{name}/concat", a, b, c)

    x = net.depthwise("Conv2d_1a_7x7/depthwise", net.input, 7, stride=2, multiplier=8)
    x = unit("Conv2d_1a_7x7", x, 64, 1)
    x = net.max_pool("MaxPool_2a_3x3", x, 3, stride=2)
    x = unit("Conv2d_2b_1x1", x, 64, 1)
    x = unit("Conv2d_2c_3x3", x, 192, 3)
    x = net.max_pool("MaxPool_3a_3x3", x, 3, stride=2)
    for name in sorted(_MIXED | _REDUCE):
        x = mixed(name, x) if name in _MIXED else reduce(name, x)
    return net.document(net.classifier(x, 1001))


# --- MobileNets ----------------------------------------------------------------------------------

# Channels and stride of the 13 blocks.
_MOBILENET_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _bounded(net: Network, name: str, x: str) -> str:
    """BatchNorm and Relu6 of the convolution `name`, which writes `x`."""
    return net.relu6(f"{name}/Relu6", net.batch_norm(f"{name}/BatchNorm", x))


def mobilenet_v1() -> dict[str, Any]:
    """MobileNet (Howard et al., 2017), width 1.0: 569 M multiply-adds, 4.2 M parameters."""
    net = Network("mobilenet_v1")
    x = _bounded(net, "Conv2d_0", net.conv("Conv2d_0", net.input, 32, 3, stride=2))
    for block, (channels, stride) in enumerate(_MOBILENET_V1, start=1):
        name = f"Conv2d_{block}_depthwise"
        x = _bounded(net, name, net.depthwise(name, x, 3, stride))
        name = f"Conv2d_{block}_pointwise"
        x = _bounded(net, name, net.conv(name, x, channels, 1))
    return net.document(net.classifier(x, 1000))


def mobilenet_v1_full_conv() -> dict[str, Any]:
    """MobileNet with a full 3x3 convolution for every depthwise separable block.

    The twin of Howard et al. (2017), table 4: 4867 M multiply-adds, 29.3 M parameters.
    """
    net = Network("mobilenet_v1_full_conv")
    x = net.input
    for block, (channels, stride) in enumerate(((32, 2), *_MOBILENET_V1)):
        name = f"Conv2d_{block}"
        x = _bounded(net, name, net.conv(name, x, channels, 3, stride))
    return net.document(net.classifier(x, 1000))


# Expansion, channels, repeats and stride of the first.
_MOBILENET_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def mobilenet_v2() -> dict[str, Any]:
    """MobileNet V2 (Sandler et al., 2018), width 1.0: 300 M multiply-adds, 3.5 M parameters."""
    net = Network("mobilenet_v2")
    x = _bounded(net, "Conv", net.conv("Conv", net.input, 32, 3, stride=2))
    block = 0
    for expansion, channels, repeats, first_stride in _MOBILENET_V2:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            entry, name = x, f"expanded_conv_{block}"
            if expansion > 1:
                width = net.shapes[x][0] * expansion
                x = _bounded(net, f"{name}/expand", net.conv(f"{name}/expand", x, width, 1))
            x = _bounded(net, f"{name}/depthwise", net.depthwise(f"{name}/depthwise", x, 3, stride))
            x = net.conv(f"{name}/project", x, channels, 1)
            x = net.batch_norm(f"{name}/project/BatchNorm", x)
            if net.shapes[x] == net.shapes[entry]:
                x = net.add(f"{name}/add", entry, x)
            block += 1
    x = _bounded(net, "Conv_1", net.conv("Conv_1", x, 1280, 1))
    return net.document(net.classifier(x, 1000))


# --- ResNet-50 -----------------------------------------------------------------------------------


def resnet50() -> dict[str, Any]:
    """ResNet-50 (He et al., 2016) as torchvision has it: the stride is on the 3x3 convolution."""
    net = Network("resnet50")

    def bottleneck(name: str, entry: str, width: int, stride: int) -> str:
        x = net.conv(f"{name}.conv1", entry, width, 1)
        x = net.relu(f"{name}.relu1", net.batch_norm(f"{name}.bn1", x))
        x = net.conv(f"{name}.conv2", x, width, 3, stride, padding=1)
        x = net.relu(f"{name}.relu2", net.batch_norm(f"{name}.bn2", x))
        x = net.batch_norm(f"{name}.bn3", net.conv(f"{name}.conv3", x, 4 * width, 1))
        if net.shapes[x] != net.shapes[entry]:
            entry = net.conv(f"{name}.downsample.conv", entry, 4 * width, 1, stride, padding=0)
            entry = net.batch_norm(f"{name}.downsample.bn", entry)
        return net.relu(f"{name}.relu3", net.add(f"{name}.add", x, entry))

    x = net.conv("conv1", net.input, 64, 7, stride=2, padding=3)
    x = net.relu("relu1", net.batch_norm("bn1", x))
    x = net.max_pool("maxpool", x, 3, stride=2, padding=1)
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = bottleneck(f"layer{stage}.{block}", x, width, stride)
    return net.document(net.classifier(x, 1000))


# --- Vision transformer --------------------------------------------------------------------------


def vit_small(patch: int = 16, dim: int = 384, depth: int = 12, heads: int = 6) -> dict[str, Any]:
    """ViT-S/16 (Touvron et al., 2021): 22 M parameters, attention spelled out as exporters do.

    Without class token; the tokens' mean goes to the classifier (Beyer et al., 2022).
    """
    net = Network("vit_small")
    head = dim // heads

    def attention(name: str, x: str) -> str:
        def project(part: str, *perm: int) -> str:
            y = net.linear(f"{name}/{part}", x, dim)
            y = net.reshape(f"{name}/{part}/Reshape", y, tokens, heads, head)
            return net.transpose(f"{name}/{part}/Transpose", y, *perm)

        query = project("query", 0, 2, 1, 3)
        key = project("key", 0, 2, 3, 1)
        value = project("value", 0, 2, 1, 3)
        x = net.scale(f"{name}/Mul", net.matmul(f"{name}/MatMul", query, key))
        x = net.matmul(f"{name}/MatMul_1", net.softmax(f"{name}/Softmax", x), value)
        x = net.transpose(f"{name}/Transpose", x, 0, 2, 1, 3)
        return net.linear(f"{name}/out", net.reshape(f"{name}/Reshape", x, tokens, dim), dim)

    x = net.conv("patch_embedding", net.input, dim, patch, patch, padding=0, bias=True)
    _, rows, columns = net.shapes[x]
    tokens = rows * columns
    x = net.reshape("patch_embedding/Reshape", x, dim, tokens)
    x = net.transpose("patch_embedding/Transpose", x, 0, 2, 1)
    x = net.add_learned("position_embedding", x, (1, tokens, dim))
    for block in range(depth):
        name = f"block{block}"
        y = attention(f"{name}/attention", net.layer_norm(f"{name}/norm1", x))
        x = net.add(f"{name}/add1", x, y)
        y = net.linear(f"{name}/mlp/fc1", net.layer_norm(f"{name}/norm2", x), 4 * dim)
        y = net.linear(f"{name}/mlp/fc2", net.gelu(f"{name}/mlp/Gelu", y), dim)
        x = net.add(f"{name}/add2", x, y)
    x = net.reduce_mean("mean", net.layer_norm("norm", x), 1)
    return net.document(net.gemm("logits", x, 1000))


# --- Files ---------------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[], dict[str, Any]]] = {
    "inception_v2": inception_v2,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_full_conv": mobilenet_v1_full_conv,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "vit_small": vit_small,
}


def to_text(document: dict[str, Any]) -> str:
    """A layer graph as JSON, one layer a line."""
    fields = []
    for key, value in document.items():
        text = json.dumps(value)
        if key == "layers":
            text = "[\n" + ",\n".join(f"    {json.dumps(layer)}" for layer in value) + "\n  ]"
        fields.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def path_of(name: str) -> Path:
    """Where a network's file lies."""
    return Path(__file__).parent / f"{name}.json"


def main() -> None:
    """Write every network's file."""
    for name, build in NETWORKS.items():
        document = build()
        path_of(name).write_text(to_text(document), encoding="utf-8")
        print(f"{path_of(name).name}: {len(document['layers'])} layers")


if __name__ == "__main__":
    main()
