"""The networks that MorphNet was run on, rebuilt in PyTorch under MorphNet's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity.morphnet_networks import gammas, group_lasso_weights


class MorphNetModel(nn.Module):
    """A network from its list of layers; modules have the names of MorphNet's operators."""

    def __init__(self, network: Mapping[str, Any]) -> None:
        super().__init__()
        self.plan = network["layers"]
        self.outputs = network["output_boundary"]
        biased = {layer["inputs"][0] for layer in self.plan if layer["op"] == "BiasAdd"}
        shapes = {layer["name"]: layer["out_shape"] for layer in self.plan}
        for layer in self.plan:
            module = make(layer, shapes, layer["name"] in biased)
            if module is not None:
                self.add_module(layer["name"], module)

    def forward(self, image: Tensor) -> Any:
        tensors: dict[str, Tensor] = {}
        for layer in self.plan:
            name, op = layer["name"], layer["op"]
            x = [tensors[source] for source in layer["inputs"]]
            if op in ("Fill", "Const", "Placeholder"):
                tensors[name] = image
            elif name in self._modules:
                tensors[name] = self.get_submodule(name)(x[0])
            elif op in ("Add", "AddV2"):
                tensors[name] = x[0] + x[1]
            elif op == "ConcatV2":
                tensors[name] = torch.cat(x, 1)
            elif op == "Mean":
                tensors[name] = x[0].mean((2, 3), keepdim=layer["out_shape"][1:3] == [1, 1])
            elif op == "BiasAdd":
                tensors[name] = x[0]
            else:
                raise ValueError(f"{name}: {op}")
        return tuple(tensors[name] for name in self.outputs)


def same(layer: Mapping[str, Any], size: list[int]) -> tuple[int, int]:
    """TensorFlow's SAME with as much on either side; the size that comes out is the same."""
    if layer["padding"] != "SAME":
        return (0, 0)
    totals = [
        max((math.ceil(extent / stride) - 1) * stride + kernel - extent, 0)
        for extent, kernel, stride in zip(size, layer["kernel"], layer["stride"], strict=True)
    ]
    height, width = (math.ceil(total / 2) for total in totals)
    return height, width


def make(layer: Mapping[str, Any], shapes: Mapping[str, Any], bias: bool) -> Any:
    op, out = layer["op"], layer["out_shape"]
    if op in ("Conv2D", "DepthwiseConv2dNative"):
        source = shapes[layer["inputs"][0]]
        groups = source[-1] if op == "DepthwiseConv2dNative" else layer["groups"]
        return nn.Conv2d(
            source[-1],
            layer["cout"],
            tuple(layer["kernel"]),
            tuple(layer["stride"]),
            same(layer, source[1:3]),
            groups=groups,
            bias=bias,
        )
    if op.startswith("FusedBatchNorm"):
        return nn.BatchNorm2d(out[-1])
    if op == "Relu":
        return nn.ReLU()
    if op == "Relu6":
        return nn.ReLU6()
    if op == "MatMul":
        return nn.Sequential(nn.Flatten(), nn.Linear(shapes[layer["inputs"][0]][-1], out[-1], bias))
    if op in ("MaxPool", "AvgPool"):
        kind: Any = nn.MaxPool2d if op == "MaxPool" else nn.AvgPool2d
        size = shapes[layer["inputs"][0]][1:3]
        return kind(tuple(layer["kernel"]), tuple(layer["stride"]), same(layer, size))
    return None


def build(network: Mapping[str, Any]) -> tuple[MorphNetModel, Tensor]:
    (image,) = (x for x in network["layers"] if x["op"] in ("Fill", "Const", "Placeholder"))
    _, height, width, channels = image["out_shape"]
    return MorphNetModel(network).eval(), torch.zeros(1, channels, height, width)


def set_pattern(model: Any, network: Mapping[str, Any], pattern: str) -> None:
    """The scales, or for "W" the kernels, that MorphNet was run with."""
    with torch.no_grad():
        if pattern == "W":
            for name, kernel in group_lasso_weights(network).items():
                weight = model.get_parameter(f"{layer_name(model, name)}.weight")
                weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)).reshape(weight.shape))
            return
        for name, gamma in gammas(network, pattern).items():
            model.get_submodule(name).weight.copy_(torch.from_numpy(gamma))


def layer_name(model: nn.Module, op: str) -> str:
    return f"{op}.1" if isinstance(model.get_submodule(op), nn.Sequential) else op
