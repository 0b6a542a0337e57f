"""Chains of dense layers, and of convolutions: the smallest networks that have weights."""

import itertools

from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output, Parameter, layer_graph


def dense(rows: int, *widths: int) -> LayerGraph:
    """Gemms fc0, fc1, ... one behind the other, without biases."""
    return _chain("fc", "Gemm", (rows, widths[0]), {"transB": 1}, widths)


def pointwise(edge: int, *widths: int) -> LayerGraph:
    """Convolutions of single positions, conv0, conv1, ... one behind the other, without biases."""
    return _chain("conv", "Conv", (1, widths[0], edge, edge), {}, widths, (1, 1))


def _chain(
    name: str,
    op: str,
    first: tuple[int, ...],
    attributes: dict[str, int],
    widths: tuple[int, ...],
    window: tuple[int, ...] = (),
) -> LayerGraph:
    layers = tuple(
        Layer(
            f"{name}{k}",
            op,
            (f"t{k}",),
            (Output(f"t{k + 1}"),),
            attributes,
            (Parameter("weight", (outs, ins, *window)),),
        )
        for k, (ins, outs) in enumerate(itertools.pairwise(widths))
    )
    return layer_graph((GraphInput("t0", first),), layers, (f"t{len(layers)}",))
