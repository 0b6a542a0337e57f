"""From a plain PyTorch model to a pruned, faster one, on the digits of scikit-learn.

    latency-service serve &
    calibrate --device my-machine --budget 1m
    python -m examples.digits_torch --device my-machine --also v100

A network of 33 MFLOP is trained, then trained on with MorphNet's GammaLatency penalty until the
service predicts the asked share of its latency, pruned, and trained a little more. Beside it the
same share of FLOPs, saved by GammaFlops. Latency is predicted for two devices, and measured with
onnxruntime on one thread.
"""

from __future__ import annotations

import argparse
import copy
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.digits import Digits, Result, compare, load_digits, parse, report
from latency_client.torch import (
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    NetworkRegularizer,
    prune,
)

IMAGE = (1, 1, 8, 8)


class CifarNet(nn.Module):
    """CIFARNet's outline for images of 8x8: convolutions, pooling, two dense layers."""

    def __init__(self, width: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.stem = _block(1, width // 2)
        self.wide = _block(width // 2, width)
        self.deep = _block(width, width)
        self.late = _block(width, width)
        self.dense = nn.Linear(width * 4, hidden, bias=False)
        self.dense_norm = nn.BatchNorm1d(hidden)
        self.classes = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 10) scores of (N, 1, 8, 8) images."""
        x = self.deep(self.wide(self.stem(x)))
        x = self.late(F.max_pool2d(x, 2))
        x = F.max_pool2d(x, 2).flatten(1)
        scores: Tensor = self.classes(F.relu(self.dense_norm(self.dense(x))))
        return scores


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()
    )


def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of test images that it gets right."""
    model.eval()
    with torch.no_grad():
        scores = model(torch.from_numpy(data.test_images[:, None]))
    return float((scores.argmax(1).numpy() == data.test_labels).mean())


def train(
    model: nn.Module,
    data: Digits,
    epochs: int,
    seed: int,
    regularizer: NetworkRegularizer | None = None,
    strength: float = 0.0,
    share: float = 1.0,
    rate: float = 2e-3,
) -> None:
    """Train; with a regulariser, until the cost has fallen to the asked share."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(_parameters(model, rate, scales=regularizer is not None))
    images, labels = torch.from_numpy(data.images[:, None]), torch.from_numpy(data.labels)
    steps = -(-len(images) // 64)
    schedule = None
    if regularizer is None:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    goal = None if regularizer is None else share * float(regularizer.get_cost())
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        for rows in torch.split(order, 64):
            # a pixel to and fro makes twice as many images of them
            shift = [int(k) for k in torch.randint(-1, 2, (2,), generator=generator)]
            loss = F.cross_entropy(model(images[rows].roll(shift, (2, 3))), labels[rows])
            if regularizer is not None:
                loss = loss + strength * regularizer.get_regularization_term()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
        if regularizer is not None:
            regularizer.refresh()
            if goal is not None and float(regularizer.get_cost()) <= goal:
                return


def _parameters(model: nn.Module, rate: float, scales: bool) -> list[dict[str, Any]]:
    """The scales that are to shrink learn ten times faster than what is to make up for them."""
    fast = [
        module.weight
        for module in model.modules()
        if scales and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    known = {id(parameter) for parameter in fast}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [{"params": others, "lr": rate}, {"params": fast, "lr": 10 * rate}]


def to_onnx(model: nn.Module) -> bytes:
    """The model as an ONNX file for one image."""
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(IMAGE),), buffer, dynamo=False, opset_version=17
        )
    content: bytes = buffer.getvalue()
    return content


def slimmed(seed_model: nn.Module, data: Digits, kind: str, options: argparse.Namespace,
            seed: int) -> Result:  # fmt: skip
    """Penalise, prune, and train on."""
    model = copy.deepcopy(seed_model)
    make: Any = GammaLatencyRegularizer if kind == "latency" else GammaFlopsRegularizer
    regularizer = make(model, torch.zeros(IMAGE), device=options.device, service=options.service,
                       threshold=0.03)  # fmt: skip
    strength = options.strength * regularizer.suggested_strength()
    train(model, data, 4 * options.epochs, seed, regularizer, strength, options.share, 1e-3)
    smaller = prune(model, regularizer.structure(floor=4, multiple_of="device"), torch.zeros(IMAGE))
    train(smaller, data, 2 * options.epochs, seed + 1)
    return Result(accuracy(smaller, data), smaller, to_onnx(smaller))


def predicted_s(model: nn.Module, device: str, service: Any) -> float:
    """Latency on a device by the service, every channel alive."""
    regularizer = GammaLatencyRegularizer(
        model, torch.zeros(IMAGE), device=device, service=service, threshold=0.0
    )
    return float(regularizer.get_cost())


def networks(options: argparse.Namespace, seed: int) -> dict[str, Result]:
    """The network that a seed gives, and what either penalty makes of it."""
    torch.manual_seed(seed)
    data = load_digits(seed)
    first = CifarNet(options.width)
    train(first, data, options.epochs, seed)
    results = {"seed network": Result(accuracy(first, data), first, to_onnx(first))}
    for kind in ("latency", "flops"):
        results[f"Gamma{kind.title()}"] = slimmed(first, data, kind, options, seed)
    return results


if __name__ == "__main__":
    report(compare(parse(__doc__), networks, predicted_s))
