"""Extracted graphs are the models: FLOPs, parameters and channel groups, layer by layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from latency_client import errors
from latency_client.torch import Extraction, extract, register_operator
from latency_client.torch.trace import OPERATORS
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel
from latency_service.core.graph import LayerGraph, graph_from_json
from tests.parity import test_torch as exported
from tests.parity.torch_networks import EXAMPLES

pytestmark = exported.pytestmark

BATCH = exported.BATCH


def read(extraction: Extraction) -> LayerGraph:
    return graph_from_json(json.loads(json.dumps(extraction.graph.document())))


@pytest.fixture(params=list(EXAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def extraction(name: str) -> Extraction:
    example = EXAMPLES[name]
    return extract(example.model(), example.inputs(BATCH), batch_size=None)


def test_flops_are_those_of_the_flop_counter(name: str, extraction: Extraction) -> None:
    costs = cost_model(read(extraction))
    assert sum(exported.values(costs, costs.flops)) == exported.expected(name).flops


def test_parameters_are_those_of_the_model(name: str) -> None:
    example = EXAMPLES[name]
    costs = cost_model(read(extract(example.model(), example.inputs(1))))
    assert sum(exported.values(costs, costs.parameters)) == exported.expected(name).parameters


def test_weights_have_the_names_of_the_users_modules(extraction: Extraction, name: str) -> None:
    model = EXAMPLES[name].model()
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm2d, nn.Embedding)
    wanted = {path for path, module in model.named_modules() if isinstance(module, kinds)}
    assert wanted <= {layer.name for layer in extraction.graph.layers}


def grouped(graph: LayerGraph, costs: CostModel, aliases: Mapping[str, str]) -> Counter[Any]:
    """How many groups there are of a size, over the same weights; biases add nothing."""
    ids = {(layer.name, p.role): p.id for layer in graph.layers for p in layer.parameters or ()}
    found: Counter[Any] = Counter()
    for group in costs.groups:
        names = {aliases.get(ids.get((m.layer, m.role)) or "") for m in group.members}
        weights = sorted(n for n in names if n and not n.endswith("bias"))
        if group.prunable:
            found[group.size, tuple(weights)] += 1
    return found


def test_groups_are_those_of_the_exported_file(name: str, extraction: Extraction) -> None:
    ours, theirs = read(extraction), exported.graph_of(name, "torchscript")
    aliases = exported.expected(name).aliases
    binding = Binding(batch_size=BATCH)
    assert grouped(ours, cost_model(ours), aliases) == grouped(
        theirs, cost_model(theirs, binding), aliases
    )


# --- the model is left as it was -----------------------------------------------------------------


class Remembering(nn.Module):
    """Counts its calls in a buffer, in an attribute, and keeps what it has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0
        self.kept: Tensor | None = None

    def forward(self, x: Tensor):
        self.calls.add_(1)
        self.count += 1
        self.kept = self.bn(self.conv(x))
        self.scale = self.__dict__.get("scale", torch.ones(1))
        return self.kept * self.scale


def test_a_model_is_afterwards_as_it_was() -> None:
    model = Remembering()
    model.bn.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    extract(model, torch.randn(2, 3, 7, 11))

    assert model.training
    assert not model.bn.training
    assert (model.count, model.kept) == (0, None)
    assert "scale" not in model.__dict__
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    model(torch.randn(2, 3, 7, 11)).sum().backward()


def test_a_model_that_fails_is_afterwards_as_it_was() -> None:
    model = Remembering()
    with pytest.raises(errors.GraphError, match=r"\(\[1, 4, 7, 11\]\): in module 'conv', Runtime"):
        extract(model, torch.randn(2, 4, 7, 11))
    assert model.training
    assert not model.conv._forward_hooks


# --- operations ----------------------------------------------------------------------------------


class Special(nn.Module):
    """Calls a function on what a convolution gives."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.function = function
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor):
        return self.head(self.function(self.conv(x)))


FUNCTIONS = {
    "in place": lambda x: F.relu(x, inplace=True).add_(1).mul_(2),
    "stack": lambda x: torch.stack((x, x), 1)[:, 0],
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "unbind": lambda x: torch.stack(x.unbind(1), 1),
    "roll": lambda x: x.roll((1, -1), (2, 3)),
    "flip": lambda x: x.flip(3),
    "glu": lambda x: torch.cat((F.glu(x, 1), F.glu(x, 1)), 1),
    "pad": lambda x: F.pad(x, (1, 1, 0, 0), mode="circular"),
    "normalize": lambda x: F.normalize(x, dim=1),
    "softmax": lambda x: x * x.flatten(2).softmax(-1).unflatten(2, x.shape[2:]),
    "index": lambda x: x[:, torch.arange(7, -1, -1)],
    "clamp": lambda x: x.clamp(-1, 1).clip(min=0),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked": lambda x: x.masked_fill(x < 0, 0.0),
    "max": lambda x: x - x.max(dim=1, keepdim=True).values,
    "moments": lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "interpolate": lambda x: F.interpolate(x, size=(5, 3), mode="nearest-exact"),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "shuffle": lambda x: F.channel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x[..., :6, :10], 2), 2),
    "repeat": lambda x: x.repeat(1, 1, 2, 1) + x.repeat_interleave(2, 2),
    "write": lambda x: torch.zeros_like(x).index_add(1, torch.arange(8), x),
    "movedim": lambda x: x.movedim(1, -1).movedim(-1, 1),
    "einsum": lambda x: torch.einsum("nchw,nchw->nchw", x, x),
    "dots": lambda x: torch.einsum("...hw,...hw->...hw", x, x),
    "buffer": lambda x: x * torch.linspace(0, 1, 8).reshape(8, 1, 1),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_operations_have_their_shapes(function: Any) -> None:
    # the service derives every shape from the operators and compares it with the stated one
    model = Special(function)
    extraction = extract(model, torch.randn(1, 3, 7, 11))
    costs = cost_model(read(extraction))
    assert costs.names[-1] == "head"


def slice_assignment(x: Tensor) -> Tensor:
    out = x.clone()
    out[:, :3] = 0 * x[:, 5:]
    return out


def test_channels_that_are_written_to_in_part_are_frozen() -> None:
    costs = cost_model(read(extract(Special(slice_assignment), torch.randn(1, 3, 7, 11))))
    assert not any(group.prunable for group in costs.groups)


class Unknown(nn.Module):
    def forward(self, x: Tensor):
        return torch.special.bessel_j0(x)


def test_an_unknown_operation_is_named_with_its_module_and_the_remedy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), Unknown(), nn.Conv2d(5, 7, 3))
    x = torch.randn(1, 3, 7, 11)
    with pytest.raises(
        errors.UnsupportedOperatorError,
        match=r"special_bessel_j0.* in module '1'.*unknown_ops=\"freeze\".*register_operator",
    ) as caught:
        extract(model, x)
    assert caught.value.operators == (("aten.special_bessel_j0.default", "1"),)

    frozen = extract(model, x, unknown_ops="freeze")
    assert [layer.op for layer in frozen.graph.layers][1].startswith("torch.aten.special_bessel")
    register_operator(
        "aten::special_bessel_j0", lambda call: call.layer("Cos", [call.tensor("self")])
    )
    try:
        known = extract(model, x)
    finally:
        del OPERATORS["aten::special_bessel_j0"]
    assert [(layer.name, layer.op) for layer in known.graph.layers][1] == (
        "1.special_bessel_j0",
        "Cos",
    )


def test_a_shared_module_has_one_parameter_and_two_layers() -> None:
    conv = nn.Conv2d(5, 5, 3, padding=1)
    extraction = extract(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 5, 7, 11))
    assert [layer.name for layer in extraction.graph.layers] == ["0", "1", "0_1"]
    costs = cost_model(read(extraction))
    assert sum(exported.values(costs, costs.weights)) == 5 * 5 * 3 * 3


class Functional(nn.Module):
    """Weights without a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(7, 3, 3, 3))
        self.matrix = nn.Parameter(torch.randn(7, 5))

    def forward(self, x: Tensor):
        x = F.conv2d(x, self.kernel).mean((2, 3))
        return x @ self.matrix


def test_functional_weights_are_parameters() -> None:
    extraction = extract(Functional(), torch.randn(1, 3, 7, 11))
    costs = cost_model(read(extraction))
    assert [layer.name for layer in extraction.graph.layers] == ["conv2d", "mean", "matmul"]
    assert sum(exported.values(costs, costs.weights)) == 7 * 3 * 3 * 3 + 7 * 5
    assert [group.size for group in costs.groups if group.prunable] == [7]


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorchs_own_transformer_layers(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 23, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(1, 7, 12) if batch_first else torch.randn(7, 1, 12)
    extraction = extract(model, x, batch_axis=0 if batch_first else 1)
    costs = cost_model(read(extraction))

    width, hidden, length = 12, 23, 7
    dense = 2 * (4 * width * width + 2 * width * hidden)
    assert sum(exported.values(costs, costs.weights)) == dense
    products = 2 * 2 * (2 * length * length * width)
    assert sum(exported.values(costs, costs.flops)) == 2 * length * dense + products
    sizes = sorted(group.size for group in costs.groups if group.prunable)
    assert sizes == [3, 3, hidden, hidden]


def test_wrappers_are_looked_through() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3))
    x = torch.randn(1, 3, 7, 11)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert extract(wrapped, x).graph == extract(model, x).graph


def test_inputs_by_name_in_containers_and_without_a_batch() -> None:
    class Named(nn.Module):
        def forward(self, image: Tensor, extra: dict[str, Tensor]):
            return {"sum": image + extra["a"]}

    x = torch.randn(3, 5)
    extraction = extract(Named(), {"image": x, "extra": {"a": x}}, batch_size=7, most_rows=None)
    assert [(t.name, t.shape) for t in extraction.graph.inputs] == [
        ("image", (7, 5)),
        ("extra", (7, 5)),
    ]
    assert extract(Named(), (x, {"a": x + 1}), batch_size=None).graph.inputs[1].name == "extra"


def test_a_model_without_outputs_is_refused() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor):
            return None

    with pytest.raises(errors.GraphError, match="returns no tensor"):
        extract(Nothing(), torch.randn(1, 3))
