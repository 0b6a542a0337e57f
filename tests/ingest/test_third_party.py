"""Networks that other people trained and exported, where this machine has some.

Unpack .onnx files of published Python packages into `third-party-models` of the environment's
folder; `.venv/third-party-models` in a checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx.backend.test
import pytest

from latency_service.core.canonical import canonical_text
from latency_service.ingest import layer_graph_from_onnx, parse_layer_graph

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
FOLDER = Path(sys.prefix) / "third-party-models"
MODELS = sorted(FOLDER.glob("**/*.onnx"))


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_networks_in_the_onnx_package_are_read(path: Path) -> None:
    graph = layer_graph_from_onnx(path.read_bytes())
    assert graph.layers
    assert all(layer.op != "Constant" for layer in graph.layers)
    again = parse_layer_graph(canonical_text(graph).encode())
    assert canonical_text(again) == canonical_text(graph)


@pytest.mark.skipif(not MODELS, reason=f"no .onnx files under {FOLDER}")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_third_party_network_is_read(path: Path) -> None:
    graph = layer_graph_from_onnx(path.read_bytes())
    assert graph.layers
    text = canonical_text(graph)
    json.loads(text, parse_constant=pytest.fail)
    assert canonical_text(parse_layer_graph(text.encode())) == text
