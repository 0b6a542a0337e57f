"""The expected latency of a choice between branches, differentiable in their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latency_client.errors import OptionError
from latency_client.torch.regularizers import NetworkRegularizer
from latency_client.wire import Answer


class ExpectedLatency:
    """sum over branches of probability times latency.

    Source: ProxylessNAS (Cai et al., 2019), equation 2.
    """

    def __init__(self, branches: Sequence[float | Answer | NetworkRegularizer]) -> None:
        """One entry a branch: seconds, an answer of the service, or a regulariser of the branch.

        Answers and numbers are read once; a regulariser's cost is that of its structure of now.

        Raises:
            OptionError: without a branch, or for a negative latency.
        """
        if not branches:
            raise OptionError("an expected latency needs at least one branch")
        for branch in branches:
            if isinstance(branch, int | float) and not branch >= 0:
                raise OptionError(f"a branch cannot take {branch} s")
        self._branches = list(branches)

    def latencies_s(self) -> list[float]:
        """Seconds of every branch."""
        return [_seconds(branch) for branch in self._branches]

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Expected seconds.

        Args:
            probabilities: (..., B) of the branches; their softmax, say.

        Returns:
            (...) with a gradient in the probabilities.

        Raises:
            OptionError: for another number of probabilities than of branches.
        """
        if probabilities.ndim == 0 or probabilities.shape[-1] != len(self._branches):
            raise OptionError(
                f"probabilities of shape {list(probabilities.shape)} for {len(self._branches)} "
                "branches; the last axis has one for each"
            )
        # single precision at least: seconds are too small for half
        exact = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
        return (exact * exact.new_tensor(self.latencies_s())).sum(dim=-1)


def _seconds(branch: float | Answer | NetworkRegularizer) -> float:
    if isinstance(branch, NetworkRegularizer):
        return float(branch.get_cost())
    if isinstance(branch, Answer):
        return branch.latency_s
    return float(branch)
