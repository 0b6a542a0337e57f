"""Chains of dense layers: the smallest networks that have weights."""

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
