"""Chains of dense layers, and of convolutions: the smallest networks that have weights."""

import itertools

from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, layer_graph


def dense(rows: int, *widths: int) -> LayerGraph:
    """Gemms fc0, fc1, ... one behind the other, without biases."""
    layers = tuple(
        Layer(
            f"fc{k}",
            "Gemm",
            (f"t{k}",),
            (Output(f"t{k + 1}"),),
            {"transB": 1},
            (Parameter("weight", (cols, depth)),),
        )
        for k, (depth, cols) in enumerate(itertools.pairwise(widths))
    )
    return layer_graph((GraphInput("t0", (rows, widths[0])),), layers, (f"t{len(layers)}",))


def pointwise(edge: int, *widths: int) -> LayerGraph:
    """Convolutions of single positions, conv0, conv1, ... one behind the other, without biases."""
    layers = tuple(
        Layer(
            f"conv{k}",
            "Conv",
            (f"t{k}",),
            (Output(f"t{k + 1}"),),
            {},
            (Parameter("weight", (filters, depth, 1, 1)),),
        )
        for k, (depth, filters) in enumerate(itertools.pairwise(widths))
    )
    first = GraphInput("t0", (1, widths[0], edge, edge))
    return layer_graph((first,), layers, (f"t{len(layers)}",))
