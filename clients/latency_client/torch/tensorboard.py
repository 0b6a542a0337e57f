"""What to watch while training: penalty, costs, live channels, and where the threshold belongs."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from latency_client.torch.regularizers import NetworkRegularizer


class Writer(Protocol):
    """The part of TensorBoard's `SummaryWriter` that is used."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> Any:
        """Write a number."""
        ...

    def add_histogram(self, tag: str, values: Any, global_step: int | None = None) -> Any:
        """Write a distribution."""
        ...


def write_summaries(
    regularizer: NetworkRegularizer, writer: Writer, step: int, prefix: str = "latency"
) -> None:
    """Write scalars and the histogram of strengths.

    Args:
        writer: TensorBoard's `SummaryWriter`, or anything with its two methods.

    `strengths_log10` shows dead and live channels as two hills; the threshold belongs between them.
    """
    with torch.no_grad():
        penalty = regularizer.penalty()
        strengths = regularizer.channel_strengths().detach()
    writer.add_scalar(f"{prefix}/penalty", penalty.item(), step)
    for device, cost in regularizer.costs_by_device().items():
        writer.add_scalar(f"{prefix}/cost_{regularizer.resource.name}/{device}", cost, step)
    structure = regularizer.structure()
    for name, width in structure.layers.items():
        writer.add_scalar(f"{prefix}/alive/{name}", len(width.alive) / max(1, width.size), step)
    logarithms = strengths.clamp(min=1e-12).log10()
    writer.add_histogram(f"{prefix}/strengths_log10", logarithms.cpu(), step)
