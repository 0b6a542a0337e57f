"""Pruned models compute what masked ones do, whatever they are made of."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latency_client import errors
from latency_client.reference import costs
from latency_client.resources import MODEL_SIZE, cost_arrays
from latency_client.service import HttpService
from latency_client.structure import Structure, make_structure
from latency_client.torch import (
    GammaLatencyRegularizer,
    GroupLassoLatencyRegularizer,
    LogisticSigmoidLatencyRegularizer,
    add_gates,
    masked,
    prune,
    rebuild,
)
from latency_client.torch.network import Network, describe
from latency_client.torch.vanished import Vanished
from tests.parity import torch_networks as zoo


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 23, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Flat(nn.Module):
    """Flatten between a convolution and dense layers; a BatchNorm without a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1)
        self.plain = nn.BatchNorm2d(7, affine=False)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(7 * 3 * 5, 11)
        self.bn = nn.BatchNorm1d(11)
        self.fc = nn.Linear(11, 5)

    def forward(self, x: Tensor):
        x = self.pool(self.plain(self.conv(x)).relu())
        return self.fc(self.bn(self.hidden(x.flatten(1))).relu())


class Dies(nn.Module):
    """A residual branch with a strided convolution, a pool and a concat that may die."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = zoo.conv_bn(3, 11, 3)
        self.branch = nn.Sequential(
            zoo.conv_bn(11, 5, 3), nn.MaxPool2d(3, 1, 1), zoo.conv_bn(5, 11, 3, act=None)
        )
        self.side = nn.Sequential(zoo.conv_bn(11, 7, 1), nn.AvgPool2d(3, 1, 1))
        self.head = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor):
        x = self.stem(x)
        x = x + self.branch(x)
        return self.head(torch.cat((x, self.side(x)), 1))


class GPT(nn.Module):
    """Causal attention with numbers of heads as attributes; word scores use the embedding."""

    def __init__(self) -> None:
        super().__init__()
        width, self.heads, self.depth = 12, 3, 4
        self.words, self.places = nn.Embedding(37, width), nn.Embedding(19, width)
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 31), nn.GELU(), nn.Linear(31, width))
        self.scores = nn.Linear(width, 37, bias=False)
        self.scores.weight = self.words.weight
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(19, 19).tril().view(1, 1, 19, 19) == 0)

    def forward(self, tokens: Tensor):
        batch, length = tokens.shape
        x = self.words(tokens) + self.places(torch.arange(length))
        query, key, value = (
            part.view(batch, length, self.heads, self.depth).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-2, -1) / self.depth**0.5
        scores = scores.masked_fill(self.mask[:, :, :length, :length], float("-inf"))
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, length, self.heads * self.depth))
        return self.scores(x + self.mlp(self.norm(x)))


class Cell(nn.Module):
    """A recurrent cell in a loop over steps."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.cell, self.after = nn.Linear(5, 9), nn.LSTMCell(9, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor):
        hidden = state = x.new_zeros(x.shape[0], 7)
        for step in range(x.shape[1]):
            hidden, state = self.cell(self.before(x[:, step]).relu(), (hidden, state))
        return self.after(hidden)


def grouped() -> nn.Module:
    """A grouped transposed convolution, a depth multiplier, a weight that is computed."""
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(24, 7, 1))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 12, 3, groups=4),
        nn.GroupNorm(4, 12), nn.Conv2d(12, 24, 3, groups=12), nn.BatchNorm2d(24), nn.ReLU(),
        normed, nn.Conv2d(7, 11, 1), nn.InstanceNorm2d(11, affine=True), nn.Conv2d(11, 5, 1),
    )  # fmt: skip


EXAMPLES = {
    **zoo.EXAMPLES,
    "gpt": zoo.Example(GPT, ((9,),), vocabulary=37),
    "cell": zoo.Example(Cell, ((4, 5),)),
    "grouped": zoo.Example(grouped, ((3, 9, 11),)),
    "transformer": zoo.Example(transformer, ((7, 12),)),
    "flat": zoo.Example(Flat, ((3, 6, 10),)),
    "dies": zoo.Example(Dies, ((3, 7, 11),)),
}


@pytest.fixture(scope="module")
def networks(service: HttpService) -> Callable[[str], Network]:
    known: dict[str, Network] = {}

    def network(name: str) -> Network:
        if name not in known:
            example = EXAMPLES[name]
            known[name] = describe(example.model(), example.inputs(1), ["v100"], service)
        return known[name]

    return network


def random_structure(network: Network, seed: int, kill: bool = False) -> Structure:
    random = np.random.default_rng(seed)
    masks = {}
    for group in network.answer.groups:
        if group.prunable:
            mask = random.random(group.size) > 0.4
            mask[0] |= not mask.any()
            if kill and random.random() < 0.3:
                mask[:] = False
            masks[group.id] = mask
    return make_structure(network.extraction.graph, network.answer, masks)


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_pruned_model_gives_the_masked_models_outputs(
    networks: Callable[[str], Network], name: str, seed: int
) -> None:
    network = networks(name)
    structure = random_structure(network, seed)
    example = EXAMPLES[name]
    inputs = example.inputs(3)
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    smaller = prune(network.model, structure, example.inputs(1))
    full = masked(network.model, structure, example.inputs(1))

    with torch.no_grad():
        wanted, got = full.eval()(*inputs), smaller.eval()(*inputs)
    for a, b in zip(_tuple(wanted), _tuple(got), strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1, a.abs().max())
    for key, value in network.model.state_dict().items():
        assert torch.equal(value, before[key])
    arrays = cost_arrays(network.answers, MODEL_SIZE)
    kernels = costs(arrays, structure.counts(arrays.groups))[0]
    # einsum's weights and learned additions count as weights, too
    assert kernels <= sum(p.numel() for p in smaller.parameters())


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", ["resnet", "mobilenet-v3", "densenet", "unet", "mixer", "dies"])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_branches_that_die_are_removed(
    networks: Callable[[str], Network], name: str, seed: int
) -> None:
    network = networks(name)
    structure = random_structure(network, seed, kill=True)
    inputs = EXAMPLES[name].inputs(1)
    try:
        smaller = prune(network.model, structure, inputs)
    except errors.PruningError as refused:
        if "no live channel leads" not in str(refused):
            raise
        full, others = masked(network.model, structure, inputs), EXAMPLES[name].inputs(1)
        with torch.no_grad():
            pairs = zip(_tuple(full(*inputs)), _tuple(full(*others)), strict=True)
            assert any(torch.allclose(a, b) for a, b in pairs)
        return
    full = masked(network.model, structure, inputs)
    with torch.no_grad():
        for a, b in zip(_tuple(full(*inputs)), _tuple(smaller(*inputs)), strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(1, a.abs().max())


def test_a_dead_branch_leaves_its_shortcut_and_no_convolution(
    networks: Callable[[str], Network],
) -> None:
    network = networks("dies")
    (group,) = (g for g in network.answer.groups if g.prunable and g.size == 5)
    masks = {group.id: np.zeros(5, dtype=np.bool_)}
    structure = make_structure(network.extraction.graph, network.answer, masks)
    smaller: Any = prune(network.model, structure, EXAMPLES["dies"].inputs(1))

    assert not any(isinstance(m, nn.Conv2d) for m in smaller.branch.modules())
    x = torch.randn(2, 3, 13, 17)  # of another size than the example
    full = masked(network.model, structure, EXAMPLES["dies"].inputs(1))
    assert torch.allclose(full(x), smaller(x), atol=1e-5)
    assert not any(module.training for module in smaller.modules())
    smaller.train()(x).sum().backward()


WINDOWS = [
    nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(3, 5, (3, 5), padding="same", dilation=2),
    nn.Conv1d(3, 5, 4, padding="valid"), nn.ConvTranspose2d(3, 5, 3, 2, 1, output_padding=1),
    nn.ConvTranspose1d(3, 5, 4, dilation=2), nn.Conv3d(3, 5, 2, (1, 2, 1)),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d((3, 2), ceil_mode=True),
    nn.MaxPool1d(2, dilation=3, stride=1), nn.AdaptiveAvgPool2d((None, 3)),
    nn.AdaptiveMaxPool3d(2), nn.Upsample(scale_factor=1.5), nn.Upsample(size=(13, 5)),
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=repr)
def test_a_stand_in_writes_the_size_of_what_it_stands_for(window: nn.Module) -> None:
    rank = next((n for n in (1, 3) if f"{n}d" in type(window).__name__), 2)
    x = torch.randn(2, 3, *(7, 11, 5)[:rank])
    assert Vanished("", window)(x[:, :0]).shape == (2, 0, *window(x).shape[2:])


@pytest.mark.parametrize("lost", [{5}, {7}, {5, 7}])
def test_a_model_with_dead_branches_goes_on(
    networks: Callable[[str], Network], service: HttpService, lost: set[int]
) -> None:
    ort = pytest.importorskip("onnxruntime")
    network, inputs = networks("dies"), EXAMPLES["dies"].inputs(1)
    masks = {
        group.id: np.zeros(group.size, dtype=np.bool_)
        for group in network.answer.groups
        if group.prunable and group.size in lost
    }
    structure = make_structure(network.extraction.graph, network.answer, masks)
    smaller = prune(network.model, structure, inputs)
    wanted = smaller(*inputs).detach().numpy()
    # it can be copied, written, exported, and extracted again
    for again in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert np.array_equal(again(*inputs).detach().numpy(), wanted)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(smaller, inputs, file, dynamo=False, input_names=["x"])
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": inputs[0].numpy()})
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    again_described = describe(smaller, inputs, ["v100"], service)
    assert again_described.answer.latency_s < network.answer.latency_s


def test_heads_whose_rows_are_small_go(service: HttpService) -> None:
    model = transformer().eval()
    attention: Any = model.get_submodule("layers.0.self_attn")
    with torch.no_grad():
        # the second head of queries, keys and values: 4 rows each
        attention.in_proj_weight.view(3, 3, 4, 12)[:, 1] = 0
    x = torch.randn(2, 7, 12)
    found = GroupLassoLatencyRegularizer(model, x, "v100", service)
    full = found.get_regularization_term()
    full.backward()
    assert attention.in_proj_weight.grad.any()
    smaller: Any = found.prune()
    assert smaller.layers[0].self_attn.num_heads == 2
    assert smaller.layers[1].self_attn.num_heads == 3
    with torch.no_grad():
        wanted = masked(model, found.structure(), x)(x)
        assert torch.allclose(smaller(x), wanted, atol=1e-5)
        padding = torch.arange(7)[None] >= torch.tensor([[5], [7]])
        assert torch.allclose(
            smaller(x, src_key_padding_mask=padding)[0, :5],
            masked(model, found.structure(), x)(x, src_key_padding_mask=padding)[0, :5],
            atol=1e-5,
        )


def test_modules_say_their_new_sizes(networks: Callable[[str], Network]) -> None:
    network = networks("mobilenet-v3")
    smaller = prune(network.model, random_structure(network, 5), EXAMPLES["mobilenet-v3"].inputs(1))
    for module in smaller.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert module.weight.shape == shape
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == module.running_var.shape == (module.num_features,)  # type: ignore[union-attr]
    torch.nn.utils.parameters_to_vector(smaller.parameters())


class Slices(nn.Module):
    """Takes channels by numbers in its code, which no reshape shows."""

    def __init__(self, split: bool) -> None:
        super().__init__()
        self.conv = zoo.conv_bn(3, 12, 1)
        self.head = nn.Conv2d(5, 7, 1)
        self.split, self.first = split, 5

    def forward(self, x: Tensor):
        x = self.conv(x)
        return self.head(x.split([self.first, 7], 1)[0] if self.split else x[:, : self.first])


def first_channels(service: HttpService, split: bool) -> tuple[nn.Module, Structure, Any]:
    model, inputs = Slices(split).eval(), (torch.randn(1, 3, 7, 11),)
    network = describe(model, inputs, ["v100"], service)
    masks = {g.id: np.arange(g.size) > 0 for g in network.answer.groups if g.prunable}
    return model, make_structure(network.extraction.graph, network.answer, masks), inputs


def test_splits_by_numbers_name_what_is_left(service: HttpService) -> None:
    model, structure, inputs = first_channels(service, split=True)
    smaller = prune(model, structure, inputs)
    assert smaller.get_submodule("head").in_channels == 4
    for again in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert torch.equal(again(*inputs), smaller(*inputs))


def test_slices_by_numbers_are_named(service: HttpService) -> None:
    model, structure, inputs = first_channels(service, split=False)
    with pytest.raises(errors.PruningError, match=r"resize=|'head'"):
        prune(model, structure, inputs)

    def resize(module: Any, axes: Mapping[str, tuple[int, int]]) -> None:
        raise AssertionError("no reshape shows the slice")

    with pytest.raises(errors.PruningError, match="fewer channels"):
        prune(model, structure, inputs, resize={Slices: resize})


def test_a_hook_changes_a_module_in_the_place_of_its_calls(
    networks: Callable[[str], Network],
) -> None:
    network, inputs = networks("gpt"), EXAMPLES["gpt"].inputs(1)
    structure = random_structure(network, 1)

    def resize(module: Any, axes: Mapping[str, tuple[int, int]]) -> None:
        # the heads are the third axis of every view
        (change,) = {extents for extents in axes.values() if extents[0] == 3}
        module.heads = change[1]

    smaller = prune(network.model, structure, inputs, resize={GPT: resize})
    assert "forward" not in vars(smaller)
    assert torch.allclose(smaller(*inputs), prune(network.model, structure, inputs)(*inputs))


@pytest.mark.parametrize("name", ["gpt", "vit", "text", "transformer"])
def test_models_with_fewer_heads_can_be_copied_compiled_and_exported(
    networks: Callable[[str], Network], name: str
) -> None:
    network, inputs = networks(name), EXAMPLES[name].inputs(1)
    smaller = prune(network.model, random_structure(network, 1), inputs)
    wanted = _tuple(smaller(*inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        versions = (
            copy.deepcopy(smaller),
            pickle.loads(pickle.dumps(smaller)),
            torch.compile(smaller, backend="aot_eager"),
            torch.export.export(smaller, inputs).module(),
            torch.jit.trace(smaller, inputs),
        )
        for version in versions:
            for a, b in zip(wanted, _tuple(version(*inputs)), strict=True):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "vit", "text", "transformer", "mobilenet-v3"])
def test_a_pruned_model_can_be_pruned_again(
    networks: Callable[[str], Network], service: HttpService, name: str
) -> None:
    network, inputs = networks(name), EXAMPLES[name].inputs(1)
    once = prune(network.model, random_structure(network, 4), inputs)
    smaller = describe(once, inputs, ["v100"], service)
    structure = random_structure(smaller, 5)
    twice, full = prune(once, structure, inputs), masked(once, structure, inputs)
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
    with torch.no_grad():
        for a, b in zip(_tuple(full(*inputs)), _tuple(twice(*inputs)), strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(1, a.abs().max())


def test_a_structure_from_other_code_is_refused(networks: Callable[[str], Network]) -> None:
    structure = random_structure(networks("resnet"), 0)
    with pytest.raises(errors.StructureError, match="exported from other code"):
        prune(networks("densenet").model, structure, EXAMPLES["densenet"].inputs(1))


def test_nothing_is_left_without_a_floor(networks: Callable[[str], Network]) -> None:
    network = networks("resnet")
    masks = {g.id: np.zeros(g.size, dtype=np.bool_) for g in network.answer.groups if g.prunable}
    structure = make_structure(network.extraction.graph, network.answer, masks)
    with pytest.raises(errors.PruningError, match=r"no live channel leads.*floor=1"):
        prune(network.model, structure, EXAMPLES["resnet"].inputs(1))


def test_a_model_is_rebuilt_from_its_structure(networks: Callable[[str], Network]) -> None:
    network, example = networks("resnet"), EXAMPLES["resnet"]
    structure = random_structure(network, 3)
    pruned = prune(network.model, structure, example.inputs(1))
    fresh = rebuild(zoo.ResNet, structure, example.inputs(1))

    assert {n: p.shape for n, p in fresh.named_parameters()} == {
        n: p.shape for n, p in pruned.named_parameters()
    }
    assert fresh.training
    weight = fresh.get_parameter("stem.0.0.weight")
    assert weight.abs().max() <= (3 * 7 * 7) ** -0.5  # drawn for the width that is left


def test_gates_are_folded_into_the_scales(service: HttpService) -> None:
    model = zoo.EXAMPLES["resnet"].model()
    inputs = zoo.EXAMPLES["resnet"].inputs(2)
    add_gates(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.logits"):
                parameter.uniform_(-1, 3)
    regularizer = LogisticSigmoidLatencyRegularizer(
        model, inputs, "v100", service, mask_as_alive_vector=False, threshold=0.5
    )
    structure = regularizer.structure(floor=1)
    smaller = prune(model, structure, inputs)
    assert not any("gate" in name for name, _ in smaller.named_modules())
    full = masked(model, structure, inputs)
    with torch.no_grad():
        assert torch.allclose(full(*inputs), smaller(*inputs), rtol=1e-4, atol=1e-4)


def test_a_regularizer_prunes_its_own_model(service: HttpService) -> None:
    model = zoo.EXAMPLES["densenet"].model()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(0, 1, module.num_features) * (name != "x"))
    inputs = zoo.EXAMPLES["densenet"].inputs(1)
    regularizer = GammaLatencyRegularizer(model, inputs, "v100", service, threshold=0.3)
    smaller = regularizer.prune()
    counts = regularizer.alive_counts()
    for name, count in counts.items():
        assert smaller.get_parameter(f"{name}.weight").shape[0] == count, name
    again = GammaLatencyRegularizer(smaller, inputs, "v100", service, threshold=0)
    assert again.get_cost().item() == pytest.approx(regularizer.get_cost().item(), rel=1e-9)
