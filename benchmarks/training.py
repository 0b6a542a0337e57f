"""What a penalty costs a training script: once at its start, and in every step."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import uvicorn
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import interleaved
from benchmarks.networks.plain import InceptionV3
from benchmarks.networks.residual import Bottleneck, ResNet
from latency_client.torch import GammaLatencyRegularizer
from latency_service.api.app import create_app
from latency_service.settings import Settings


def main() -> None:
    """Start a service, build regularisers, and take steps with and without one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_directory=Path(folder)))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        try:
            thread.start()
            _measure(server)
        finally:
            server.should_exit = True
            thread.join()


def _measure(server: uvicorn.Server) -> None:
    while not server.started:
        time.sleep(0.02)
    service = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    print("regulariser, from a model to its first penalty (service warm, client's cache off)")
    for name, model in (("Inception v3", InceptionV3()), ("ResNet-50", _resnet50())):
        image = torch.zeros(1, 3, 224, 224)

        def build(model: nn.Module = model, image: torch.Tensor = image) -> None:
            regularizer = GammaLatencyRegularizer(model, image, service=service, cache=False)
            regularizer.get_regularization_term()

        print(f"  {name:<14} {interleaved({'build': build}, rounds=3, repeats=2)['build']}")
    _steps(service)


def _resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


def _steps(service: str) -> None:
    """ResNet-50, 8 images of 64x64: pairs of steps, one with the penalty and one without."""
    model = _resnet50().train()
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(0, 1000, (8,))
    regularizer = GammaLatencyRegularizer(model, images, service=service, cache=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step(penalty: bool) -> None:
        loss = F.cross_entropy(model(images), labels)
        if penalty:
            loss = loss + 1e-9 * regularizer.get_regularization_term()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def alone() -> None:
        regularizer.get_regularization_term().backward()

    print("step of ResNet-50, 8 images of 64x64, seconds of the thread's CPU time")
    with_it: list[float] = []
    without: list[float] = []
    for turn in range(24):
        pair: list[tuple[bool, list[float]]] = [(True, with_it), (False, without)]
        for penalty, times in pair if turn % 2 else pair[::-1]:
            times.append(_cpu(partial(step, penalty)))
    lone = statistics.median(_cpu(alone) for _ in range(20))
    ratios = [a / b for a, b in zip(with_it, without, strict=True)]
    print(f"  without {statistics.median(without):.4f}, with {statistics.median(with_it):.4f}")
    print(f"  median ratio of pairs {statistics.median(ratios):.4f}")
    print(f"  the penalty and its gradient alone {1e3 * lone:.2f} ms: "
          f"{100 * lone / statistics.median(without):.2f} % of a step")  # fmt: skip


def _cpu(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
