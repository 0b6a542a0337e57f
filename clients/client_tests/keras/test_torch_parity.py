"""The same network in PyTorch and in Keras has the same costs and penalties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

from client_tests.keras.networks import SMALL  # noqa: E402
from latency_client.keras import regularizers as keras_side  # noqa: E402
from latency_client.service import HttpService  # noqa: E402
from latency_client.torch import family as torch_side  # noqa: E402

nn = torch.nn


class Residual(nn.Module):  # type: ignore[misc, name-defined]
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


@pytest.mark.parametrize("kind", ["Latency", "Flops", "ModelSize", "Activation"])
@pytest.mark.parametrize("algorithm", ["Gamma", "GroupLasso"])
def test_both_frameworks_give_one_number(kind: str, algorithm: str, service: HttpService) -> None:
    rng = np.random.default_rng(17)
    ours, theirs = SMALL["residual"](), Residual()
    for name in ("a", "b", "c"):
        width = ours.get_layer(name).filters
        gamma = np.round(rng.normal(0, 1, width), 1).astype("float32")
        ours.get_layer(f"{name}_bn").gamma.assign(gamma)
        getattr(theirs, f"{name}_bn").weight.data = torch.from_numpy(gamma)
        kernel = rng.normal(0, 0.1, tuple(ours.get_layer(name).kernel.shape)).astype("float32")
        ours.get_layer(name).kernel.assign(kernel)
        oihw = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        getattr(theirs, name).weight.data = torch.from_numpy(oihw)
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
