"""Networks from outside: layer graphs as JSON, and ONNX files."""

from __future__ import annotations

from dataclasses import replace

from latency_service.core.costing import TakesLong
from latency_service.core.graph import LayerGraph
from latency_service.ingest.layer_graph import LayerGraphJson, parse_layer_graph
from latency_service.ingest.onnx_model import layer_graph_from_onnx

__all__ = [
    "SHORT_BYTES",
    "LayerGraphJson",
    "layer_graph_from_onnx",
    "parse_layer_graph",
    "read_network",
]

# A layer graph of 350 layers or so: some 20 ms, for which other requests wait.
SHORT_BYTES = 128 * 1024


def read_network(data: bytes, name: str = "", briefly: bool = False) -> LayerGraph:
    """A network from the bytes of a file: a layer graph in JSON, or an ONNX model.

    Args:
        data: the file.
        name: of the network; empty takes the one in the file.
        briefly: whether to give up, early, where it would take more than some twenty milliseconds.

    Raises:
        TakesLong: only if `briefly`.
        GraphError: for a graph that cannot be costed.
        ModelFileError: for bytes that are neither.
    """
    # no ONNX file starts with a brace or bracket: protobuf would have to have a group there
    if data[:64].lstrip()[:1] in (b"{", b"["):
        if briefly and len(data) > SHORT_BYTES:
            raise TakesLong
        graph = parse_layer_graph(data)
        return replace(graph, name=name) if name else graph
    return layer_graph_from_onnx(data, name, briefly)
