"""What the rules say is merged is what onnxruntime merges, sizes known or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.backends.onnxruntime_rules import discover
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.profile import FusionRules
from latency_service.ingest import read_network

CHANNELS, EDGE, TOKENS = 32, 8, 5


@pytest.fixture(scope="module")
def rules() -> tuple[FusionRules, Layout | None]:
    return discover("CPUExecutionProvider", "onnxruntime-cpu-1-thread", 1)


def residual(named: list[int]) -> bytes:
    """Two convolutions that are added, an activation, a convolution."""
    weights = [noise((CHANNELS, CHANNELS, 3, 3), seed) for seed in range(3)]
    window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], **window),
        helper.make_node("Conv", ["x", "w1"], ["b"], **window),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2"], ["y"], **window),
    ]
    return written(nodes, (1, CHANNELS, EDGE, EDGE), weights, named)


def dense(named: list[int]) -> bytes:
    """Tokens by a learned matrix, with a bias."""
    constants = [noise((CHANNELS, 7)), noise((7,))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["product"]),
        helper.make_node("Add", ["product", "w1"], ["y"]),
    ]
    return written(nodes, (1, TOKENS, CHANNELS), constants, named)


def written(
    nodes: list[Any], shape: tuple[int, ...], constants: list[Any], named: list[int]
) -> bytes:
    tensors = [numpy_helper.from_array(value, f"w{k}") for k, value in enumerate(constants)]
    return assemble(nodes, {"x": np.zeros(shape, np.float32)}, ["y"], tensors, named)


@pytest.mark.parametrize(
    ("model", "added"),
    [
        (residual([]), 0), (residual([0]), 0), (residual([0, 2, 3]), 1), (residual([2, 3]), 1),
        (dense([]), 0), (dense([0]), 1), (dense([0, 1]), 1), (dense([1]), 1),
    ],
)  # fmt: skip
def test_additions_are_merged_as_far_as_the_model_states_sizes(
    model: bytes, added: int, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model, options)
    left = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]

    graph = read_network(model)
    fusion, layout = rules
    kernels = cost_model(
        graph,
        Binding(dims=dict.fromkeys(graph.symbols, EDGE)),
        fusion=fusion,
        efficiency=Efficiency({}, 0.0, ((2.0**30, 1e9),), 8, 0.04, layout=layout),
    ).kernels
    assert kernels is not None
    if layout is None and "Conv" in left:
        pytest.skip("this processor's kernels keep one layout")
    ours = [family for family in kernels.families if family.startswith("Add")]
    assert len(ours) == left.count("Add") == added


def test_rules_that_need_sizes_are_among_the_sequences(
    rules: tuple[FusionRules, Layout | None],
) -> None:
    fusion, _ = rules
    assert {*fusion.static, *fusion.sized} < set(fusion.sequences)
    assert not {*fusion.static} & {*fusion.sized}
