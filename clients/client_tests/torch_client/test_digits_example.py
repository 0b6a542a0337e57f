"""The example of the README, made small: it runs from end to end and prints what it promises."""

import pytest
import torch
from torch import nn

from examples import digits_torch
from examples.digits import compare, parse, report

pytest.importorskip("sklearn")


def test_the_example_runs(service_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--service", service_url, "--device", "t4", "--also", "p100", "--width", "16"]
    options = parse("", [*words, "--epochs", "1", "--share", "0.97"])
    rows = compare(options, digits_torch.networks, digits_torch.predicted_s)
    report(rows)

    assert [row["network"] for row in rows] == ["seed network", "GammaLatency", "GammaFlops"]
    for row in rows:
        assert 0.0 <= row["accuracy"] <= 1.0
        assert min(row["measured_s"], row["t4"], row["p100"]) > 0.0
    assert "of the seed's latency" in capsys.readouterr().out


def test_the_seed_costs_at_least_twenty_million_flops() -> None:
    found = 0

    def count(module: object, inputs: tuple[object, ...], output: object) -> None:
        nonlocal found
        weight = module.weight  # type: ignore[attr-defined]
        positions = output[0, 0].numel() if weight.dim() == 4 else 1  # type: ignore[index]
        found += 2 * weight.numel() * positions

    model = digits_torch.CifarNet().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(digits_torch.IMAGE))
    assert found >= 20e6
