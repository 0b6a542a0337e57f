"""The networks that MorphNet was run on, as layer graphs of ours.

data/morphnet_expected.json.gz says what MorphNet computed (data/README.md: for what, and how).
Layers keep MorphNet's names: `conv1/Conv2D` here is `conv1/Conv2D` there. A BiasAdd becomes the
bias of the layer before it; everything else is one to one.
"""

import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.networks import Network

FloatArray = npt.NDArray[np.float32]

EXPECTED = Path(__file__).parent / "data" / "morphnet_expected.json.gz"

# Of an image tensor: N, H, W, C in TensorFlow, N, C, H, W in ONNX.
_CHANNEL_AXIS = 3


@functools.cache
def expected() -> dict[str, Any]:
    """Everything that MorphNet computed: `meta`, `networks`, `unit_facts` and published layers."""
    with gzip.open(EXPECTED, "rt", encoding="utf-8") as file:
        document: dict[str, Any] = json.load(file)
    return document


def networks() -> dict[str, dict[str, Any]]:
    """MorphNet's networks by name."""
    found: dict[str, dict[str, Any]] = expected()["networks"]
    return found


def to_layer_graph(network: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """A network of MorphNet's as a layer graph: ONNX operators, NCHW, O,I,k kernels.

    Raises:
        ValueError: if an operator is new, or a tensor comes out in another shape than MorphNet has.
    """
    layers = network["layers"]
    biases = {layer["inputs"][0]: layer["name"] for layer in layers if layer["op"] == "BiasAdd"}
    (image,) = (layer for layer in layers if layer["op"] in ("Fill", "Const", "Placeholder"))
    net = Network(name, _channels_first(image["out_shape"]), image["name"])
    tensors = {image["name"]: image["name"]}
    for layer in layers:
        if layer is image:
            continue
        inputs = [tensors[source] for source in layer["inputs"]]
        if layer["op"] == "BiasAdd":
            tensors[layer["name"]] = inputs[0]
            continue
        tensors[layer["name"]] = tensor = _add(net, layer, inputs, layer["name"] in biases)
        if net.shapes[tensor] != _channels_first(layer["out_shape"]):
            raise ValueError(
                f"{layer['name']}: {net.shapes[tensor]} here, NHWC {layer['out_shape']} there"
            )
    return net.document(*(tensors[output] for output in network["output_boundary"]))


def _add(net: Network, layer: Mapping[str, Any], inputs: Sequence[str], bias: bool) -> str:
    name, op, x = layer["name"], layer["op"], inputs[0]
    if op in ("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"):
        kernel, stride = tuple(layer["kernel"]), tuple(layer["stride"])
        padding = "same" if layer["padding"] == "SAME" else 0
        if op == "MaxPool":
            return net.max_pool(name, x, kernel, stride, padding)
        if op == "AvgPool":
            return net.average_pool(name, x, kernel, stride, padding)
        # TensorFlow's depthwise kernel is H,W,I,multiplier: as many groups as input channels
        group = net.shapes[x][0] if op == "DepthwiseConv2dNative" else layer["groups"]
        return net.conv(name, x, layer["cout"], kernel, stride, padding, group, bias)
    match op:
        case "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3":
            return net.batch_norm(name, x)
        case "Relu":
            return net.relu(name, x)
        case "Relu6":
            return net.relu6(name, x)
        case "Add" | "AddV2":
            return net.add(name, *inputs)
        case "ConcatV2" if layer["axis"] == _CHANNEL_AXIS:
            return net.concat(name, *inputs)
        case "Mean":
            return net.reduce_mean(name, x, 2, 3)
        case "MatMul":
            return net.gemm(name, x, layer["cout"], bias)
    raise ValueError(f"{name}: no layer of ours is known for {op} {layer}")


def _channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    """(batch, ..., channels) as (channels, ...)."""
    return (shape[-1], *shape[1:-1])


def gammas(network: Mapping[str, Any], pattern: str) -> dict[str, FloatArray]:
    """The BatchNorm scales of a pattern ("ones", "P0", "P1" or "T"), by BatchNorm layer.

    "T" are those of MorphNet's own tests; only its own test network has them.
    """
    if pattern == "T":
        return {
            layer: np.concatenate([np.full(count, gamma, np.float32) for gamma, count in runs])
            for layer, runs in network["test_gammas"]["gammas"].items()
        }
    channels = {layer["name"]: layer["out_shape"][-1] for layer in network["layers"]}
    found = {}
    for j, layer in enumerate(network["bn_creation_order"]):
        k = np.arange(channels[layer])
        if pattern == "ones":
            gamma = np.ones(k.size)
        elif pattern == "P0":
            gamma = 0.002 * (k % 7)
        elif pattern == "P1":
            gamma = np.where(k % 2, -0.0007, 0.0007) * ((k + 2 * j) % 7)
        else:
            raise ValueError(f"pattern {pattern!r} is none of ones, P0, P1, T")
        found[layer] = gamma.astype(np.float32)
    return found


def group_lasso_weights(network: Mapping[str, Any]) -> dict[str, FloatArray]:
    """The kernels of pattern "W" by layer: Conv (O, I, kh, kw), Gemm (O, I).

    In TensorFlow's layout (kh, kw, I, O), element n in C order, output channel o, is
    0.02 cos(0.37 n) (1 + o mod 5) / 5.
    """
    found = {}
    for layer in network["layers"]:
        if layer["op"] not in ("Conv2D", "MatMul"):
            continue
        shape = layer["weight_shape"]
        n = np.arange(np.prod(shape)).reshape(shape)
        kernel = 0.02 * np.cos(0.37 * n) * (1 + np.arange(shape[-1]) % 5) / 5
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
        found[layer["name"]] = np.ascontiguousarray(kernel, np.float32)
    return found
