"""The same network in PyTorch and in Keras has the same costs and penalties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
torch = pytest.importorskip("torch")

from client_tests.keras.networks import SMALL
from latency_client import keras as keras_budgets
from latency_client import torch as torch_budgets
from latency_client.keras import add_gates
from latency_client.keras import family as keras_side
from latency_client.service import HttpService
from latency_client.torch import add_gates as torch_gates
from latency_client.torch import family as torch_side

nn = torch.nn


class Residual(nn.Module):  # type: ignore[misc, name-defined]  # no types: importorskip
    """`client_tests.keras.networks.residual` in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 13, 3, padding=1, bias=False)
        self.a_bn = nn.BatchNorm2d(13)
        self.b = nn.Conv2d(13, 13, 3, padding=1, bias=False)
        self.b_bn = nn.BatchNorm2d(13)
        self.c = nn.Conv2d(13, 17, 1, bias=False)
        self.c_bn = nn.BatchNorm2d(17)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(17, 5)

    def forward(self, x: Any) -> Any:
        a = torch.relu(self.a_bn(self.a(x)))
        x = a + torch.relu(self.b_bn(self.b(a)))
        x = torch.relu(self.c_bn(self.c(x)))
        return self.fc(self.pool(x).flatten(1))


def same_numbers(ours: Any, theirs: Any) -> None:
    """Give both models the same random scales and kernels."""
    rng = np.random.default_rng(17)
    for name in ("a", "b", "c"):
        width = ours.get_layer(name).filters
        gamma = np.round(rng.normal(0, 1, width), 1).astype("float32")
        ours.get_layer(f"{name}_bn").gamma.assign(gamma)
        getattr(theirs, f"{name}_bn").weight.data = torch.from_numpy(gamma)
        kernel = rng.normal(0, 0.1, tuple(ours.get_layer(name).kernel.shape)).astype("float32")
        ours.get_layer(name).kernel.assign(kernel)
        oihw = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        getattr(theirs, name).weight.data = torch.from_numpy(oihw)


@pytest.mark.parametrize("kind", ["Latency", "Flops", "ModelSize", "Activation"])
@pytest.mark.parametrize("algorithm", ["Gamma", "GroupLasso"])
def test_both_frameworks_give_one_number(kind: str, algorithm: str, service: HttpService) -> None:
    ours, theirs = SMALL["residual"](), Residual()
    same_numbers(ours, theirs)
    options: dict[str, Any] = {
        "devices": ["v100", "p100"], "weights": [0.25, 0.75], "service": service, "threshold": 0.1,
    }  # fmt: skip
    if algorithm == "GroupLasso":
        options["l1_fraction"] = 0.3
    if kind != "Latency":
        del options["weights"]
    name = f"{algorithm}{kind}Regularizer"
    here = getattr(keras_side, name)(ours, None, **options)
    there = getattr(torch_side, name)(theirs, torch.zeros(1, 3, 7, 11), **options)
    assert here.alive_counts() == there.alive_counts()
    assert 0 < sum(here.alive_counts().values()) < 13 + 13 + 17
    assert float(here.get_cost()) == pytest.approx(float(there.get_cost()), rel=1e-6)
    assert float(here.get_regularization_term()) == pytest.approx(
        float(there.get_regularization_term().detach()), rel=1e-6
    )


@pytest.mark.parametrize("passed", [False, True])
@pytest.mark.parametrize("on_mask", [True, False])
@pytest.mark.parametrize("alive_by_mask", [True, False])
def test_gates_are_charged_alike(
    on_mask: bool, alive_by_mask: bool, passed: bool, service: HttpService
) -> None:
    ours, theirs = add_gates(SMALL["residual"]()), Residual().eval()
    torch_gates(theirs)
    rng = np.random.default_rng(23)
    here, there = [], []
    for name, width in (("a", 13), ("b", 13), ("c", 17)):
        # around the logit at which 0.1 is the probability, and around 0
        logits = rng.uniform(-4, 2, width).astype("float32")
        here.append(ours.get_layer(f"{name}_bn_gate").logits)
        there.append(getattr(theirs, f"{name}_bn").gate.logits)
        here[-1].assign(logits)
        there[-1].data = torch.from_numpy(logits)
    options: dict[str, Any] = {
        "regularize_on_mask": on_mask, "mask_as_alive_vector": alive_by_mask, "service": service,
    }  # fmt: skip
    kind = "LogisticSigmoidLatencyRegularizer"
    one = getattr(keras_side, kind)(ours, None, **options)
    other = getattr(torch_side, kind)(theirs, torch.zeros(1, 3, 7, 11), **options)
    if passed:
        # at inference both take the same gates; samples are their own
        ours(np.zeros((1, 7, 11, 3), np.float32), training=False)
        theirs(torch.zeros(1, 3, 7, 11))
    assert one.alive_counts() == other.alive_counts()
    assert float(one.get_cost()) == pytest.approx(float(other.get_cost()), rel=1e-6)
    with tf.GradientTape() as tape:
        term = one.get_regularization_term()
    penalty = other.get_regularization_term()
    penalty.backward()
    assert float(term) == pytest.approx(float(penalty.detach()), rel=1e-6)
    slopes = tape.gradient(term, [logits.value for logits in here])
    for slope, logits in zip(slopes, there, strict=True):
        wanted = logits.grad.numpy()
        np.testing.assert_allclose(slope, wanted, rtol=2e-5, atol=1e-6 * abs(wanted).max())


@pytest.mark.parametrize("device", ["v100", "tile-board"])
def test_budgets_are_met_alike(device: str, service: HttpService) -> None:
    ours, theirs = SMALL["residual"](), Residual()
    same_numbers(ours, theirs)
    options: dict[str, Any] = {"device": device, "service": service, "threshold": 0.1}
    one = keras_side.GammaLatencyRegularizer(ours, None, **options)
    other = torch_side.GammaLatencyRegularizer(theirs, torch.zeros(1, 3, 7, 11), **options)
    seconds = one.answers[0].latency_s
    assert seconds == pytest.approx(other.answers[0].latency_s, rel=1e-12)
    narrow, narrow_there = (
        side.shrink_to(r, r.full_structure(), target_latency_s=0.9 * seconds).alive_counts()
        for side, r in ((keras_budgets, one), (torch_budgets, other))
    )
    assert narrow == narrow_there
    wide, wide_there = (
        side.expand(r, r.full_structure(), target_latency_s=2 * seconds)
        for side, r in ((keras_budgets, one), (torch_budgets, other))
    )
    assert wide.widths == wide_there.widths
    assert wide.multiplier == wide_there.multiplier > 1
    adapted = keras_budgets.adapt(one, 0.95 * seconds, multiple_of=1)
    adapted_there = torch_budgets.adapt(other, 0.95 * seconds, multiple_of=1)
    for name in ("a", "b", "c"):
        assert adapted.get_layer(name).filters == getattr(adapted_there, name).out_channels
