"""Penalties in training: every algorithm, several devices, boundaries, precision, wrappers."""

from __future__ import annotations

import copy
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from latency_client import errors
from latency_client.cache import Cache
from latency_client.reference import evaluate
from latency_client.service import FallbackWarning, HttpService, save_answers
from latency_client.torch import (
    ExpectedLatency,
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    GroupLassoFlopsRegularizer,
    GroupLassoLatencyRegularizer,
    LogisticSigmoidFlopsRegularizer,
    LogisticSigmoidLatencyRegularizer,
    StructureExporter,
    adapt,
    add_gates,
    expand,
    family,
    shrink_to,
    write_summaries,
)
from tests.parity import torch_networks as zoo

RESNET = zoo.EXAMPLES["resnet"]


def resnet() -> Any:
    model = zoo.ResNet()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(-0.3, 1, module.num_features))
    return model


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return resnet()


def gamma(model: Any, service: HttpService, **options: Any) -> GammaLatencyRegularizer:
    options.setdefault("threshold", 0.1)
    return GammaLatencyRegularizer(model, RESNET.inputs(1), "v100", service, **options)


# --- algorithms ----------------------------------------------------------------------------------


def test_the_family_is_complete() -> None:
    names = {
        f"{algorithm}{resource}Regularizer"
        for algorithm, resource in itertools.product(
            ("Gamma", "GroupLasso", "LogisticSigmoid"),
            ("Latency", "Flops", "ModelSize", "Activation"),
        )
    }
    assert names <= set(vars(family))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_group_lasso_norms_by_hand(service: HttpService, fraction: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1))
    found = GroupLassoFlopsRegularizer(
        model, torch.zeros(1, 3, 7, 11), service=service, l1_fraction=fraction
    )
    kernel: Any = model[0].weight
    rows = kernel.detach().double().reshape(5, -1).numpy()
    norms = (1 - fraction) * np.sqrt((rows**2).mean(1)) + fraction * np.abs(rows).mean(1)
    # the first convolution writes 5 channels at 5 * 9 positions, the second reads them
    per_channel = 2 * 5 * 9 * (3 * 3 * 3 + 7)
    penalty = found.get_regularization_term()
    assert penalty.item() == pytest.approx(per_channel * norms.sum(), rel=1e-6)
    assert found.get_cost().item() == per_channel * 5
    penalty.backward()
    scale = per_channel * ((1 - fraction) * rows / (27 * np.sqrt((rows**2).mean(1))[:, None])
                           + fraction * np.sign(rows) / 27)  # fmt: skip
    assert kernel.grad.reshape(5, -1).numpy() == pytest.approx(scale, rel=1e-4, abs=1e-6)


def test_a_dead_filter_has_no_gradient_and_no_nan(service: HttpService) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1))
    weight: Any = model[0].weight
    with torch.no_grad():
        weight[2] = 0
    found = GroupLassoLatencyRegularizer(model, torch.zeros(1, 3, 7, 11), service=service)
    found.get_regularization_term().backward()
    assert weight.grad.isfinite().all()
    assert (weight.grad[2] == 0).all()
    assert found.alive_counts() == {"0": 4}


def test_a_fraction_lies_between_0_and_1(service: HttpService) -> None:
    with pytest.raises(errors.OptionError, match="l1_fraction"):
        GroupLassoFlopsRegularizer(nn.Conv2d(3, 5, 1), torch.zeros(1, 3, 7, 7), l1_fraction=2.0)


def test_gates_join_as_probabilities(service: HttpService) -> None:
    model = resnet()
    assert len(add_gates(model)) == 12
    found = LogisticSigmoidFlopsRegularizer(
        model,
        RESNET.inputs(1),
        service=service,
        regularize_on_mask=False,
        mask_as_alive_vector=False,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("logits"):
                parameter.uniform_(-2, 2)
    flat = np.concatenate(
        [
            model.get_submodule(k.layer).gate.probabilities().detach().double().numpy()
            for k in found.channels.sources
        ]
    )
    wanted = evaluate(
        found.arrays,
        found.channels.fixed_counts
        + found.channels.group_sums((found.channels.strengths(flat) >= 0.1).astype(float)),
        found.channels.group_sums(found.channels.probabilities(flat)),
    )
    assert found.get_regularization_term().item() == pytest.approx(wanted.penalty[0], rel=1e-6)
    assert found.get_cost().item() == pytest.approx(wanted.cost[0], rel=1e-9)


def test_a_gate_samples_in_training_and_anneals() -> None:
    from latency_client.torch import Gate

    torch.manual_seed(0)
    gate = Gate(1000, temperature=2.0, annealing_rate=10, log_odds_init=0.5)
    x = torch.ones(2, 1000, 3)
    for _ in range(10):
        out = gate(x)
    assert float(gate.temperature) == pytest.approx(2.0 * 0.1)
    mask = gate.last_mask()
    assert torch.equal(out[0, 1:, 0], mask[1:])
    assert out[0, 0, 0] == max(1.0, mask[0].item())
    assert mask.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(0.5)).item(), abs=0.05)
    mask.sum().backward()
    assert isinstance(gate.logits.grad, Tensor)
    assert gate.logits.grad.any()

    hard = Gate(1000, straight_through=True, temperature=1.0)
    hard(x)
    assert set(hard.last_mask().detach().round(decimals=6).tolist()) == {0.0, 1.0}
    hard.last_mask().sum().backward()
    assert isinstance(hard.logits.grad, Tensor)
    assert (hard.logits.grad > 0).all()
    gate.eval()
    assert torch.allclose(gate(x)[0, 1:, 0], torch.sigmoid(gate.logits[1:]))
    copy.deepcopy(gate)


def test_gates_leave_parameters_their_names_and_cost_nothing(service: HttpService) -> None:
    plain, gated = resnet(), resnet()
    add_gates(gated)
    assert set(plain.state_dict()) <= set(gated.state_dict())
    found = LogisticSigmoidLatencyRegularizer(gated, RESNET.inputs(1), "v100", service)
    reference = gamma(plain, service, threshold=-1)
    assert found.get_cost().item() == pytest.approx(reference.get_cost().item(), rel=1e-12)


# --- nothing to prune ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 1)), r"no scale of a BatchNorm"),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, affine=False), nn.Conv2d(5, 7, 1)
            ),
            r"scale switched off \(affine=False\): 1",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)), "freeze_outputs"),
    ],
)
def test_no_scale_is_an_error_that_says_what_to_change(
    service: HttpService, build: Any, message: str
) -> None:
    with pytest.raises(errors.NothingToPruneError, match=message):
        GammaLatencyRegularizer(build(), torch.zeros(1, 3, 7, 11), "v100", service)


def test_no_gates_is_an_error_that_says_what_to_call(service: HttpService, model: Any) -> None:
    with pytest.raises(errors.NothingToPruneError, match="add_gates"):
        LogisticSigmoidLatencyRegularizer(model, RESNET.inputs(1), "v100", service)


# --- options -------------------------------------------------------------------------------------


def test_several_devices_weighted_and_worst(service: HttpService, model: Any) -> None:
    single = {d: gamma_on(model, service, d) for d in ("v100", "p100")}
    costs = {d: r.get_cost().item() for d, r in single.items()}
    terms = {d: r.get_regularization_term().item() for d, r in single.items()}
    options: Any = {"devices": ["v100", "p100"], "service": service, "threshold": 0.1}

    both = GammaLatencyRegularizer(model, RESNET.inputs(1), **options, weights=[0.25, 2.0])
    assert both.get_cost().item() == pytest.approx(0.25 * costs["v100"] + 2 * costs["p100"])
    wanted = 0.25 * terms["v100"] + 2 * terms["p100"]
    assert both.get_regularization_term().item() == pytest.approx(wanted, rel=1e-6)
    assert list(both.costs_by_device().values()) == pytest.approx(list(costs.values()))
    worst = GammaLatencyRegularizer(model, RESNET.inputs(1), **options, combine="worst")
    assert worst.get_cost().item() == pytest.approx(max(costs.values()))
    assert worst.get_regularization_term().item() == pytest.approx(terms["p100"], rel=1e-6)


def gamma_on(model: Any, service: HttpService, device: str) -> GammaLatencyRegularizer:
    return GammaLatencyRegularizer(model, RESNET.inputs(1), device, service, threshold=0.1)


def test_boundaries_leave_the_rest_alone(service: HttpService, model: Any) -> None:
    part = gamma(
        model, service, input_boundary=[r"^stem\.1$"], output_boundary=[r"^blocks\.1\.relu$"]
    )
    layers = [n for n in part.arrays.layers if n.startswith(("blocks.0.", "blocks.1."))]
    assert part.network.chosen == frozenset(layers)
    counts = part.alive_counts()
    assert set(counts) == {n for n in counts if n.startswith(("blocks.0.", "blocks.1."))}
    assert counts
    part.get_regularization_term().backward()
    for name, parameter in model.named_parameters():
        inside = name.startswith(("blocks.0.", "blocks.1."))
        assert inside or parameter.grad is None or not parameter.grad.any(), name


def test_excluded_layers_keep_their_channels(service: HttpService, model: Any) -> None:
    by_name = gamma(model, service, exclude=r"^stem")
    by_morphnets_name = gamma(model, service, regularizer_blacklist=[r"^stem"])
    assert "stem.0.0" not in by_name.alive_counts()
    assert by_name.alive_counts() == by_morphnets_name.alive_counts()
    with pytest.raises(errors.LatencyClientError, match="matches no layer"):
        gamma(model, service, exclude="nothing-of-the-sort")


def test_costs_add_up_layer_by_layer(service: HttpService, model: Any) -> None:
    found = gamma(model, service)
    by_layer = found.costs_by_layer()
    assert sum(by_layer.values()) == pytest.approx(found.get_cost().item())
    some = ["stem.0.0", "fc"]
    assert found.get_cost(some).item() == pytest.approx(sum(by_layer[n] for n in some))
    assert found.get_cost([]).item() == 0
    with pytest.raises(errors.OptionError, match="there is no layer 'fcc'"):
        found.get_cost(["fcc"])


def test_a_decorator_changes_strengths_and_not_what_lives(service: HttpService, model: Any) -> None:
    plain = gamma(model, service)
    halved = gamma(model, service, decorator=lambda layer, strength: 0.5 * strength)
    assert halved.get_regularization_term().item() == pytest.approx(
        0.5 * plain.get_regularization_term().item(), rel=1e-6
    )
    assert halved.alive_counts() == plain.alive_counts()


@pytest.mark.parametrize(
    "options",
    [{"combine": "best"}, {"devices": []}, {"devices": ["v100"], "device": "v100"},
     {"refresh_every": 0}, {"batch_size": 0}, {"unknown_ops": "guess"},
     {"devices": ["v100", "p100"], "weights": [1.0]}],
)  # fmt: skip
def test_impossible_options_are_refused(
    service: HttpService, model: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.OptionError):
        GammaLatencyRegularizer(model, RESNET.inputs(1), service=service, **options)


# --- training ------------------------------------------------------------------------------------


def test_a_step_lowers_the_penalty_and_autocast_changes_nothing(
    service: HttpService, model: Any
) -> None:
    found = gamma(model, service)
    before = found.get_regularization_term()
    assert before.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found.get_regularization_term().item() == before.item()
        assert found.get_cost().item() == pytest.approx(found.get_cost().item(), rel=1e-15)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    (found.suggested_strength() * before).backward()
    optimizer.step()
    assert found.get_regularization_term().item() < before.item()


def test_gradients_accumulate(service: HttpService, model: Any) -> None:
    found = gamma(model, service)
    found.get_regularization_term().backward()
    once = model.stem[0][1].weight.grad.clone()
    found.get_regularization_term().backward()
    assert torch.equal(model.stem[0][1].weight.grad, 2 * once)


def test_arrays_follow_the_model_and_its_dtype(service: HttpService, model: Any) -> None:
    found = gamma(model, service)
    cost = found.get_cost().item()
    model.double()
    assert found.get_cost().item() == pytest.approx(cost)
    model.bfloat16()
    assert found.get_regularization_term().dtype == torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_penalty_is_traced_whole_by_torch_compile(service: HttpService, model: Any) -> None:
    found = gamma(model, service)

    def loss(x: Tensor) -> Any:
        return model(x).square().mean() + 1e3 * found.get_regularization_term()

    x = RESNET.inputs(2)[0]
    wanted = loss(x)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = compiled(x)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    got.backward()
    assert model.stem[0][1].weight.grad is not None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_distributed_data_parallel_averages_to_the_same(
    service: HttpService, model: Any, tmp_path: Path
) -> None:
    import torch.distributed as dist

    found = gamma(model, service)
    found.get_regularization_term().backward()
    alone = model.stem[0][1].weight.grad.clone()
    model.zero_grad()
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        same = gamma(parallel, service)
        (0 * parallel(RESNET.inputs(2)[0]).sum() + same.get_regularization_term()).backward()
    finally:
        dist.destroy_process_group()
    assert torch.allclose(model.stem[0][1].weight.grad, alone, rtol=1e-6, atol=0)
    assert same.alive_counts() == found.alive_counts()


def test_training_prunes_what_does_not_help(service: HttpService) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(
        nn.Conv2d(1, 11, 3, padding=1), nn.BatchNorm2d(11), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(11, 2),
    )  # fmt: skip
    x = torch.randn(32, 1, 7, 7)
    y = (x.mean((1, 2, 3)) > 0).long()
    found = GammaFlopsRegularizer(net, x, service=service, threshold=0.01)
    full = found.get_cost().item()
    strength = 0.5 * found.suggested_strength()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (F.cross_entropy(net(x), y) + strength * found.get_regularization_term()).backward()
        optimizer.step()
    assert found.get_cost().item() < full / 2
    smaller = found.prune(floor=1)
    assert smaller.get_submodule("0").out_channels == found.structure(floor=1).alive_counts()["0"]


# --- refresh -------------------------------------------------------------------------------------


def test_refreshing_pins_the_revision_and_keeps_going_without_a_service(
    service_url: str, model: Any, tmp_path: Path
) -> None:
    service = HttpService(service_url, cache=Cache(tmp_path))
    found = gamma(model, service)
    before = found.get_cost().item()
    digest = found.answers[0].device.digest
    assert found.refresh()
    assert found.answers[0].device.digest == digest
    assert found.get_cost().item() == pytest.approx(before)
    service.url = "http://127.0.0.1:9"
    with pytest.warns(FallbackWarning, match=r"not refreshed.*Training goes on with those of v100"):
        assert not found.refresh()
    assert found.get_cost().item() == pytest.approx(before)


def test_a_refresh_is_exact_at_the_structure_of_now(service: HttpService, model: Any) -> None:
    found = GammaLatencyRegularizer(model, RESNET.inputs(1), "tile-board", service, threshold=0.5)
    assert found.answers[0].model == "calibrated"
    linearised = found.get_cost().item()
    assert found.refresh()
    prunable = {g.id for g in found.network.answer.groups if g.prunable}
    counts = found.structure().group_counts()
    alive = {g: n for g, n in counts.items() if g in prunable}
    exact = service.coefficients(found.network.requests[0].with_options(alive=alive)).latency_s
    assert found.get_cost().item() == pytest.approx(exact, rel=1e-9)
    assert abs(linearised - exact) > 1e-6 * exact
    found.get_regularization_term().backward()


def test_refreshing_every_so_often_happens_in_the_background(
    service: HttpService, model: Any
) -> None:
    found = gamma(model, service, refresh_every=2)
    first = found.network
    for _ in range(2):
        found.get_regularization_term()
    assert found._refreshing is not None
    found._refreshing.join()
    found.get_regularization_term()
    assert found.network is not first


def test_a_file_is_enough(service: HttpService, model: Any, tmp_path: Path) -> None:
    found = gamma(model, service)
    path = tmp_path / "coefficients.json"
    save_answers(path, zip(found.network.requests, found.answers, strict=True))
    offline = GammaLatencyRegularizer(
        model, RESNET.inputs(1), "v100", f"file:{path}", threshold=0.1
    )
    assert offline.get_cost().item() == found.get_cost().item()
    wider = resnet()
    wider.fc = nn.Linear(40, 13)
    with pytest.raises(errors.StaleAnswerError, match="for another network"):
        GammaLatencyRegularizer(wider, RESNET.inputs(1), "v100", f"file:{path}")


# --- structures, budgets, summaries --------------------------------------------------------------


def test_the_exporter_writes_both_files(service: HttpService, model: Any, tmp_path: Path) -> None:
    found = gamma(model, service)
    exporter = StructureExporter(found)
    path = exporter.save(tmp_path, 42)
    assert path == Path(os.fspath(tmp_path)) / "learned_structure" / "alive_42"
    counts = json.loads(path.read_text())
    assert counts == found.alive_counts()
    assert counts["stem.0.0"] == int((model.stem[0][1].weight.abs() > 0.1).sum())
    again = StructureExporter.load(tmp_path, 42)
    assert again.alive_counts() == counts
    assert {n: p.shape for n, p in found.prune_to(again).named_parameters()} == {
        n: p.shape for n, p in found.prune().named_parameters()
    }


def test_budgets_are_met_by_real_models(service: HttpService, model: Any) -> None:
    found = gamma(model, service, threshold=0.0)
    full = found.get_cost().item()
    structure = shrink_to(found, target_latency_s=0.7 * full)
    smaller = found.prune_to(structure)
    again = gamma(smaller, service, threshold=-1)
    assert again.get_cost().item() <= 0.7 * full
    adapted = gamma(adapt(found, 0.7 * full), service, threshold=-1)
    assert adapted.get_cost().item() <= 0.7 * full
    assert expand(found, structure, target_latency_s=full).multiplier > 1


def test_summaries_hold_what_is_worth_watching(service: HttpService, model: Any) -> None:
    class Writer:
        def __init__(self) -> None:
            self.scalars: dict[str, float] = {}
            self.histograms: dict[str, Any] = {}

        def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
            self.scalars[tag] = scalar_value

        def add_histogram(self, tag: str, values: Any, global_step: int | None = None) -> None:
            self.histograms[tag] = values

    found, writer = gamma(model, service), Writer()
    write_summaries(found, writer, 3)
    assert writer.scalars["latency/penalty"] == found.get_regularization_term().item()
    assert writer.scalars["latency/cost_latency/v100-sxm2-16gb"] == found.get_cost().item()
    assert writer.scalars["latency/alive/stem.0.0"] == found.alive_counts()["stem.0.0"] / 8
    assert writer.histograms["latency/strengths_log10"].numel() == found.channels.channel_count
    assert "v100-sxm2-16gb" in found.summary()


def test_the_expected_latency_is_differentiable(service: HttpService, model: Any) -> None:
    branch = gamma(model, service)
    answer = branch.answers[0]
    expected = ExpectedLatency([1e-3, answer, branch])
    logits = torch.zeros(3, requires_grad=True)
    total = expected(logits.softmax(0))
    latencies = [1e-3, answer.latency_s, branch.get_cost().item()]
    assert total.item() == pytest.approx(sum(latencies) / 3, rel=1e-6)
    total.backward()
    mean = sum(latencies) / 3
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([(x - mean) / 3 for x in latencies], rel=1e-5)
    with pytest.raises(errors.OptionError, match="3 branches"):
        expected(torch.zeros(2))
