"""FLOPs, weights and shapes are PyTorch's, layer by layer, on what PyTorch exports.

Three files of every network: from the TorchScript exporter as written, from the exporter over
torch.export as written, and the same after its optimiser, which is what users get by default.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, FloatArray
from latency_service.core.graph import LayerGraph
from latency_service.core.live import live_counts
from latency_service.core.scoring import evaluate
from latency_service.ingest import read_network
from tests.parity.torch_networks import EXAMPLES, Example, MobileNetV1

pytestmark = [
    # the exporter that older releases of PyTorch have says that there is a newer one
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning:torch"),
    # it says what it assumes of the networks: no length but the batch varies
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning"),
    pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1 can be:UserWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning"),
    # PyTorch calls what it has itself deprecated
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
]

BATCH = 2  # 1 would be taken for a constant

# Which file, and whether its layers can be told by the names of their weights.
FILES = {"torchscript": True, "dynamo": True, "dynamo optimised": False}

# Files that are not compared, and why.
LEFT_OUT = {
    ("shufflenet", "dynamo"): "a sequence of tensors, which the optimiser makes a Split",
    ("recurrent", "dynamo"): "weights cut at places that are known once the batch is",
    ("simple", "dynamo"): "written out step by step, the first one's zeros folded away",
    ("simple", "dynamo optimised"): "the same",
}

# Numbers in a file that look learned, beyond those of the network.
ADDED_PARAMETERS = {
    ("prelu", "torchscript"): (2 * 5, "GroupNorm: InstanceNormalization by ones and zeros"),
    ("prelu", "dynamo optimised"): (2 * 5, "the same"),
    ("text", "dynamo optimised"): (37 * 12, "the tied embedding once more, transposed"),
}


# --- what PyTorch says ---------------------------------------------------------------------------


class OperationFlops(TorchDispatchMode):
    """FLOPs of every operation, by the innermost module that it happens in."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[str, list[int]] = defaultdict(list)
        self.tracker = ModuleTracker()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            module = max(self.tracker.parents - {"Global"}, key=len)
            flops = count(*args, **(kwargs or {}), out_val=out)
            self.flops[module.partition(".")[2]].append(flops)
        return out


@dataclass(frozen=True)
class Learned:
    """A layer with a weight: a convolution, a dense layer, a recurrent one."""

    flops: int
    weights: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Expected:
    """What PyTorch knows about a network at a batch of `BATCH`.

    Attributes:
        learned: layers by the name of their weight; recurrent ones by their kind.
        products: FLOPs of every product of two activations, in ascending order.
        parameters: numbers learned.
        outputs: their shapes.
        aliases: {name: first name} of all parameters; names of one parameter have the same first.
    """

    flops: int
    learned: dict[str, Learned]
    products: list[int]
    parameters: int
    outputs: list[tuple[int, ...]]
    aliases: dict[str, str]


@cache
def expected(name: str) -> Expected:
    # in double precision: a CPU then has no fused recurrent layers, which hide their products
    model = EXAMPLES[name].model().double()
    inputs = [x.double() if x.is_floating_point() else x for x in EXAMPLES[name].inputs(BATCH)]
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, out: Any) -> None:
        shapes[module] = tuple(out.shape) if isinstance(out, Tensor) else ()

    for module in model.modules():
        module.register_forward_hook(note)
    with FlopCounterMode(display=False) as counter, OperationFlops() as ops, ops.tracker:
        out = model(*inputs)
    first: dict[int, str] = {}
    aliases = {
        alias: first.setdefault(id(parameter), alias)
        for alias, parameter in model.named_parameters(remove_duplicate=False)
    }
    learned = {}
    products = []
    for path, flops in ops.flops.items():
        module = model.get_submodule(path)
        if isinstance(module, nn.RNNBase):
            weights = sum(p.numel() for n, p in module.named_parameters() if "weight" in n)
            learned[module.mode.partition("_")[0]] = Learned(sum(flops), weights, None)
        elif hasattr(module, "weight"):
            key = aliases[f"{path}.weight"]
            # a tied weight is counted where it occurs first
            weights = module.get_parameter("weight").numel() if key == f"{path}.weight" else 0
            learned[key] = Learned(sum(flops), weights, shapes[module])
        else:
            products += flops
    return Expected(
        counter.get_total_flops(),
        learned,
        sorted(products),
        sum(p.numel() for p in model.parameters()),
        [tuple(x.shape) for x in (out if isinstance(out, tuple) else (out,))],
        aliases,
    )


# --- what the service says -----------------------------------------------------------------------


def torchscript(model: nn.Module, inputs: tuple[Tensor, ...]) -> LayerGraph:
    file = io.BytesIO()
    names = [f"x{i}" for i in range(len(inputs))]
    torch.onnx.export(
        model,
        inputs,
        file,
        dynamo=False,
        input_names=names,
        dynamic_axes={name: {0: "batch"} for name in names},
        # as written: neither folded into each other nor transposed
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return read_network(file.getvalue())


def dynamo(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[LayerGraph, LayerGraph]:
    """As written, and optimised."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        inputs,
        dynamo=True,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        optimize=False,
        verbose=False,
    )
    assert program is not None
    written = program.model_proto.SerializeToString()
    program.optimize()
    return read_network(written), read_network(program.model_proto.SerializeToString())


@cache
def exported(name: str, exporter: str) -> Any:
    example = EXAMPLES[name]
    with torch.no_grad():
        export = torchscript if exporter == "torchscript" else dynamo
        return export(example.model(), example.inputs(BATCH))


def graph_of(name: str, file: str) -> LayerGraph:
    found = exported(name, file.split()[0])
    graph: LayerGraph = found if file == "torchscript" else found[file == "dynamo optimised"]
    return graph


def values(costs: CostModel, forms: FloatArray) -> list[int]:
    """A quantity of every layer; all are whole numbers."""
    n_in, n_out, _ = live_counts(costs, costs.sizes)
    found = evaluate(forms, n_in, n_out)
    assert found == pytest.approx(found.round(), rel=1e-12)
    return [round(x) for x in found.tolist()]


CASES = [(name, file) for name in EXAMPLES for file in FILES if (name, file) not in LEFT_OUT]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A network and which of its files."""
    found: tuple[str, str] = request.param
    return found


def test_flops_are_those_of_the_flop_counter(case: tuple[str, str]) -> None:
    graph = graph_of(*case)
    want = expected(case[0]).flops

    assert graph.symbols == {"batch"}
    for factor in (1, 3):
        costs = cost_model(graph, Binding(batch_size=factor * BATCH))
        assert sum(values(costs, costs.flops)) == factor * want


def test_flops_and_weights_agree_layer_by_layer(case: tuple[str, str]) -> None:
    name, file = case
    network = bind(graph_of(*case), Binding(batch_size=BATCH))
    costs = cost_model(graph_of(*case), Binding(batch_size=BATCH))
    flops, weights = values(costs, costs.flops), values(costs, costs.weights)
    want = expected(name)

    if not FILES[file]:
        pairs = Counter((f, w) for f, w in zip(flops, weights, strict=True) if f)
        wanted = Counter((layer.flops, layer.weights) for layer in want.learned.values())
        if name == "text":
            tied = want.learned["embedding.weight"].flops
            wanted += Counter({(tied, 0): -1, (tied, ADDED_PARAMETERS[case][0]): 1})
        assert pairs == wanted + Counter((f, 0) for f in want.products)
        return
    learned: dict[str, Learned] = {}
    products = []
    for node, f, w in zip(network.nodes, flops, weights, strict=True):
        kernel = node.parameter("weight")
        if node.layer.op in ("LSTM", "GRU", "RNN"):
            learned[node.layer.op] = Learned(f, w, None)
        elif f and kernel is not None:
            assert kernel.id is not None
            learned[want.aliases[kernel.id]] = Learned(f, w, node.outputs[0].shape)
        elif f:
            products.append(f)
    assert learned == want.learned
    assert sorted(products) == want.products


def test_every_kind_of_contraction_that_pytorch_exports_is_compared() -> None:
    ops = {layer.op for case in CASES for layer in graph_of(*case).layers}

    assert {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"} <= ops


def test_parameters_are_those_of_the_model(case: tuple[str, str]) -> None:
    name, file = case
    graph = graph_of(*case)
    costs = cost_model(graph, Binding(batch_size=BATCH))
    want = expected(name).parameters + ADDED_PARAMETERS.get(case, (0,))[0]
    if not FILES[file]:
        # a scale and an offset per channel become a bias
        kept = {p.id for layer in graph.layers for p in layer.parameters or ()}
        want -= sum(
            module.num_features
            for path, module in EXAMPLES[name].model().named_modules()
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) and f"{path}.weight" not in kept
        )

    assert sum(values(costs, costs.parameters)) == want


def test_outputs_have_the_shapes_that_pytorch_computes(case: tuple[str, str]) -> None:
    network = bind(graph_of(*case), Binding(batch_size=BATCH))

    assert [tensor.shape for tensor in network.outputs] == expected(case[0]).outputs


@pytest.mark.parametrize(
    ("separable", "multiply_adds", "weights"),
    # Howard et al. (2017), table 4: 569 and 4866 million, 4.2 and 29.3 million
    [(True, 568_740_352, 4_209_088), (False, 4_867_293_184, 29_281_120)],
    ids=["separable", "full"],
)
def test_mobilenet_v1_has_its_published_size(
    separable: bool, multiply_adds: int, weights: int
) -> None:
    example = Example(lambda: MobileNetV1(separable), ((3, 224, 224),))
    model = example.model()
    with torch.no_grad():
        graph = torchscript(model, example.inputs(1))
        with FlopCounterMode(display=False) as counter:
            model.to("meta")(torch.zeros(1, 3, 224, 224, device="meta"))
    costs = cost_model(graph)

    flops = sum(values(costs, costs.flops))
    assert flops == counter.get_total_flops() == 2 * multiply_adds
    assert sum(values(costs, costs.weights)) == weights
    parameters = sum(p.numel() for p in model.parameters())
    assert sum(values(costs, costs.parameters)) == parameters
