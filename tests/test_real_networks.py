"""Networks that other people trained and exported are costed whole, no operator unknown."""

import sys
from pathlib import Path

import onnx.backend.test
import pytest

from latency_service.core.bind import resolve
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.errors import GraphError, UnboundDimensionError, UnknownOpError
from latency_service.core.graph import LayerGraph
from latency_service.core.scoring import totals
from latency_service.ingest import read_network

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
FOLDER = Path(sys.prefix) / "third-party-models"
MODELS = sorted(FOLDER.glob("**/*.onnx"))

# Sizes at which some network or other is at home: images, windows of sound, sentences.
SIZES = (32, 64, 96, 128, 224, 256, 320, 512, 576, 1280, 16000)

# 2 FLOPs a multiply-accumulate of the published layers, batch 1.
LIGHT_FLOPS = {
    "light_resnet50": 8.178e9,
    "light_vgg19": 39.26e9,
    "light_squeezenet": 0.698e9,
    "light_densenet121": 5.668e9,
    "light_inception_v2": 4.038e9,
}


def at_some_size(graph: LayerGraph) -> CostModel:
    """The cost model at the first size that the network accepts."""
    graph = resolve(graph)
    batch = {
        tensor.shape[tensor.batch_axis]
        for tensor in graph.inputs
        if tensor.batch_axis is not None and tensor.shape
    }
    for size in SIZES:
        dims = {name: 1 if name in batch else size for name in graph.symbols}
        try:
            return cost_model(graph, Binding(dims=dims))
        except (UnknownOpError, UnboundDimensionError):
            raise
        except GraphError as error:
            refusal = error
    raise refusal


def flops(costs: CostModel) -> float:
    return float(totals(costs, costs.flops, costs.sizes[None, :])[0])


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_networks_in_the_onnx_package_are_costed(path: Path) -> None:
    costs = at_some_size(read_network(path.read_bytes()))

    assert not costs.assumed.any()
    assert any(group.prunable for group in costs.groups)
    if path.stem in LIGHT_FLOPS:
        assert flops(costs) == pytest.approx(LIGHT_FLOPS[path.stem], rel=1e-3)


@pytest.mark.skipif(not MODELS, reason=f"no .onnx files under {FOLDER}: run make test")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_third_party_networks_are_costed(path: Path) -> None:
    costs = at_some_size(read_network(path.read_bytes()))

    assert not costs.assumed.any()
    assert flops(costs) > 0
    for quantity in (costs.flops, costs.bytes, costs.weights, costs.parameters):
        assert (quantity >= 0).all()


@pytest.mark.skipif(not MODELS, reason=f"no .onnx files under {FOLDER}: run make test")
def test_a_dozen_and_more_files_are_there() -> None:
    assert len(MODELS) >= 12
