"""MorphNet's own costs and penalties, from models rebuilt in PyTorch; gradients from NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from client_tests.torch_client.morphnet import build, layer_name, set_pattern
from latency_client.reference import evaluate
from latency_client.service import HttpService
from latency_client.torch import family
from latency_client.torch.regularizers import NetworkRegularizer
from tests.parity.morphnet_networks import networks

COST, PENALTY = 1e-6, 2e-6

# Where MorphNet is wrong, and why we do not follow it (tests/parity/test_morphnet.py has the sums).
DELIBERATE_DIFFERENCES = {
    "InceptionV2/Conv2d_1a_7x7/dw/depthwise": "depthwise kernels are charged per channel pair there"
}

RESOURCES = {"Latency": "latency_ns", "Flops": "flops", "ModelSize": "model_size"}


def regularizer(
    model: Any, x: Any, network: Mapping[str, Any], pattern: str, resource: str, **options: Any
) -> NetworkRegularizer:
    algorithm = "GroupLasso" if pattern == "W" else "Gamma"
    kind = getattr(family, f"{algorithm}{resource}Regularizer")
    own = network.get("options", {})
    made: NetworkRegularizer = kind(
        model,
        x,
        threshold=network["threshold"],
        freeze_outputs=False,
        runtime="morphnet",
        force_group=own.get("force_group"),
        regularizer_blacklist=own.get("regularizer_blacklist"),
        **options,
    )
    return made


def cases() -> list[tuple[str, str]]:
    return [(name, pattern) for name, net in networks().items() for pattern in net["patterns"]]


@pytest.mark.parametrize(("name", "pattern"), cases())
@pytest.mark.parametrize("device", ["P100", "V100"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_latencies_and_penalties_are_morphnets(
    service: HttpService, name: str, pattern: str, device: str, batch_size: int
) -> None:
    network = networks()[name]
    model: Any
    model, x = build(network)
    set_pattern(model, network, pattern)
    found = regularizer(
        model, x, network, pattern, "Latency", device=device, service=service, batch_size=batch_size
    )
    compared = 0
    for op, facts in network["patterns"][pattern]["per_op"].items():
        layer = layer_name(model, op) if op in model._modules else op
        if layer not in found.arrays.layers or op in DELIBERATE_DIFFERENCES:
            continue
        cost_ns, penalty_ns = facts["latency_ns"][device][f"b{batch_size}"]
        assert float(found.get_cost([layer])) * 1e9 == pytest.approx(cost_ns, rel=COST), op
        penalty = found.get_regularization_term([layer]).item() * 1e9
        assert penalty == pytest.approx(penalty_ns, rel=PENALTY, abs=1e-20), op
        compared += 1
    # functional additions and concats have PyTorch's names; all else has MorphNet's
    assert compared >= 0.9 * len(network["patterns"][pattern]["per_op"]) - 1


@pytest.mark.parametrize(("name", "pattern"), cases())
@pytest.mark.parametrize("resource", ["Flops", "ModelSize"])
def test_flops_and_sizes_are_morphnets(
    service: HttpService, name: str, pattern: str, resource: str
) -> None:
    network = networks()[name]
    model: Any
    model, x = build(network)
    set_pattern(model, network, pattern)
    found = regularizer(model, x, network, pattern, resource, device="p100", service=service)
    per_op = network["patterns"][pattern]["per_op"]
    for place, total in enumerate((found.get_cost(), found.get_regularization_term())):
        wanted = sum(facts[RESOURCES[resource]][place] for facts in per_op.values())
        # one layer differs on purpose, by its penalty
        tolerance = 1e-3 if name == "inception_v2_224" else 5e-6
        assert total.item() == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize(("name", "pattern"), cases())
def test_gradients_are_those_of_the_reference(
    service: HttpService, name: str, pattern: str
) -> None:
    network = networks()[name]
    model: Any
    model, x = build(network)
    set_pattern(model, network, pattern)
    found = regularizer(model, x, network, pattern, "Latency", device="p100", service=service)
    strengths = found.channel_strengths().detach()
    alive = found.alive_channels().numpy().astype(np.float64)
    channels = found.channels
    expected = evaluate(
        found.arrays,
        channels.fixed_counts + channels.group_sums(alive),
        channels.group_sums(strengths.numpy()),
    )
    assert float(found.get_cost()) == pytest.approx(expected.cost[0], rel=1e-12)
    penalty = found.get_regularization_term()
    assert penalty.item() == pytest.approx(expected.penalty[0], rel=1e-6)
    if pattern == "W":
        return
    penalty.backward()
    # ties share: every entry that holds the maximum of its channel gets the same part of it
    flat = np.concatenate(
        [model.get_submodule(k.layer).weight.detach().abs().numpy() for k in channels.sources]
    )
    largest = (flat[channels.entries] == strengths.numpy()[channels.channels]).astype(np.float64)
    per_channel = expected.gradient[0][channels.group_of]
    ties = np.bincount(channels.channels, weights=largest)
    wanted = np.zeros(flat.size)
    np.add.at(wanted, channels.entries, largest * (per_channel / ties)[channels.channels])
    grads = [model.get_submodule(k.layer).weight.grad.numpy() for k in channels.sources]
    signs = [model.get_submodule(k.layer).weight.detach().sign().numpy() for k in channels.sources]
    got = np.concatenate(grads)
    assert got == pytest.approx(wanted * np.concatenate(signs), rel=1e-5, abs=1e-18)
