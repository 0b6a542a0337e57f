"""The example of the README, made small: it runs from end to end and prints what it promises."""

import pytest
import torch
from torch import nn

from client_tests.digits_run import runs_and_prints_what_it_promises
from examples import digits_torch

pytest.importorskip("sklearn")


def test_the_example_runs(service_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs_and_prints_what_it_promises(digits_torch, service_url, capsys)


def test_the_seed_costs_at_least_twenty_million_flops() -> None:
    found = 0

    def count(module: nn.Module, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        nonlocal found
        assert isinstance(module, nn.Conv2d | nn.Linear)
        positions = output[0, 0].numel() if module.weight.dim() == 4 else 1
        found += 2 * module.weight.numel() * positions

    model = digits_torch.CifarNet().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(digits_torch.IMAGE))
    assert found >= 20e6
