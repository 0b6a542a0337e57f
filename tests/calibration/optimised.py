"""What onnxruntime leaves of a model, beside the kernels that we say it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from latency_service.calibration.backends.onnx_models import assemble
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.family import FamilyModel
from latency_service.core.profile import FusionRules
from latency_service.ingest import read_network

# What open dimensions are bound to.
EDGE = 8
# Families that a profile has to have measured for their kernels to be charged.
_FAMILY = FamilyModel(1e-6, None, 1e9, 1, (), (), (), (), 0.0, 0.04, 0.03, 11)
_MEASURED = dict.fromkeys(("float32 DequantizeLinear", "float32 Reshape"), _FAMILY)


def written(
    nodes: list[Any], shape: tuple[int, ...], constants: list[Any], named: list[int]
) -> bytes:
    """A model from "x" to "y" with constants "w0", "w1", ..."""
    tensors = [numpy_helper.from_array(value, f"w{k}") for k, value in enumerate(constants)]
    return assemble(nodes, {"x": np.zeros(shape, np.float32)}, ["y"], tensors, named)


def both(
    model: bytes, rules: tuple[FusionRules, Layout | None], folder: Path
) -> tuple[list[str], tuple[str, ...]]:
    """(operators that onnxruntime leaves, families of the kernels that we say it runs)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model, options)
    left = [node.op_type for node in onnx.load(str(folder / "optimised.onnx")).graph.node]
    graph = read_network(model)
    fusion, layout = rules
    if layout is None and "Conv" in left:
        pytest.skip("this processor's kernels keep one layout")
    kernels = cost_model(
        graph,
        Binding(dims=dict.fromkeys(graph.symbols, EDGE)),
        fusion=fusion,
        efficiency=Efficiency(_MEASURED, 0.0, ((2.0**30, 1e9),), 8, 0.04, layout=layout),
    ).kernels
    assert kernels is not None
    return left, kernels.families
