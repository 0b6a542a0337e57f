"""Shapes and dtypes of every tensor are those that ONNX's own shape inference finds."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx.backend.test
import pytest

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.errors import GraphError
from latency_service.core.ops.shapes import DTYPE_CODES
from latency_service.ingest import layer_graph_from_onnx

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))
OTHERS = sorted((Path(sys.prefix) / "third-party-models").glob("**/*.onnx"))

# Extents that suit images, windows of sound and token sequences, tried in this order.
EXTENTS = (640, 48, 576, 1, 16_000)

# Without a size that suits every branch, or with shapes that depend on data.
REFUSED = frozenset({"logreg_iris", "silero_vad", "slanet-plus"})


def compare(path: Path) -> int:
    """Number of tensors that both know; the assertion is inside."""
    graph = layer_graph_from_onnx(path.read_bytes())
    proto = onnx.load(path)
    leading = {tensor.shape[0] for tensor in graph.inputs if tensor.shape}
    for extent in EXTENTS:
        dims = {name: 2 if name in leading else extent for name in graph.symbols}
        try:
            network = bind(graph, Binding(dims=dims))
            break
        except GraphError as error:
            refusal = error
    else:
        raise refusal
    for info in proto.graph.input:
        for fed in graph.inputs:
            if fed.name == info.name:
                for dim, name in zip(info.type.tensor_type.shape.dim, fed.shape, strict=True):
                    dim.dim_value = dims[name] if isinstance(name, str) else name
    del proto.graph.value_info[:]
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    expected = {
        info.name: (
            [d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim],
            DTYPE_CODES[t.elem_type],
        )
        for info in (*inferred.value_info, *inferred.output)
        if (t := info.type.tensor_type).HasField("shape")
    }
    found = [t for node in network.nodes for t in node.outputs if t.name in expected]
    for tensor in found:
        dims_wanted, dtype = expected[tensor.name]
        assert len(tensor.shape) == len(dims_wanted), tensor.name
        wanted = [
            mine if dim is None else dim
            for mine, dim in zip(tensor.shape, dims_wanted, strict=True)
        ]
        assert (tensor.name, list(tensor.shape), tensor.dtype) == (tensor.name, wanted, dtype)
    return len(found)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_shapes_of_the_networks_in_the_onnx_package(path: Path) -> None:
    assert compare(path) > 20


@pytest.mark.skipif(not OTHERS, reason="no .onnx files under third-party-models")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_shapes_of_third_party_networks(path: Path) -> None:
    if path.stem in REFUSED:
        pytest.skip("data decides its shapes")
    compare(path)
