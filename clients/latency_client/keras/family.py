"""The family of MorphNet: three algorithms times four resources, under its names."""

from __future__ import annotations

from typing import Any

from latency_client import resources
from latency_client.keras.algorithms import Algorithm, Gamma, GroupLasso, LogisticSigmoid
from latency_client.keras.regularizers import NetworkRegularizer


class _GammaRegularizer(NetworkRegularizer):
    """Regularises the scales of normalisations."""

    @classmethod
    def _algorithm(cls) -> Algorithm:
        return Gamma()


class _GroupLassoRegularizer(NetworkRegularizer):
    """Regularises the norms of weights, (1 - f) root mean square + f mean of absolute values."""

    def __init__(self, *args: Any, l1_fraction: float = 0.0, **options: Any) -> None:
        """See `NetworkRegularizer`; `l1_fraction` is f."""
        super().__init__(*args, algorithm={"l1_fraction": l1_fraction}, **options)

    @classmethod
    def _algorithm(cls, l1_fraction: float = 0.0) -> Algorithm:
        return GroupLasso(l1_fraction)


class _LogisticSigmoidRegularizer(NetworkRegularizer):
    """Regularises gates, which `add_gates(model)` puts into a model beforehand."""

    default_threshold = 0.1

    def __init__(
        self,
        *args: Any,
        regularize_on_mask: bool = True,
        mask_as_alive_vector: bool = True,
        alive_threshold: float | None = None,
        **options: Any,
    ) -> None:
        """See `NetworkRegularizer`.

        Args:
            regularize_on_mask: charge for the sampled mask; False: for the probability.
            mask_as_alive_vector: the sampled mask decides what lives; False: the probability.
            alive_threshold: MorphNet's name of `threshold`; a channel is alive at it or above.
        """
        if alive_threshold is not None:
            options["threshold"] = alive_threshold
        algorithm = {
            "regularize_on_mask": regularize_on_mask,
            "mask_as_alive_vector": mask_as_alive_vector,
        }
        super().__init__(*args, algorithm=algorithm, **options)

    @classmethod
    def _algorithm(
        cls, regularize_on_mask: bool = True, mask_as_alive_vector: bool = True
    ) -> Algorithm:
        return LogisticSigmoid(regularize_on_mask, mask_as_alive_vector)


class GammaLatencyRegularizer(_GammaRegularizer):
    """Seconds on a device, through BatchNorm scales."""

    resource = resources.LATENCY


class GammaFlopsRegularizer(_GammaRegularizer):
    """FLOPs, through BatchNorm scales."""

    resource = resources.FLOPS


class GammaModelSizeRegularizer(_GammaRegularizer):
    """Weights, through BatchNorm scales."""

    resource = resources.MODEL_SIZE


class GammaActivationRegularizer(_GammaRegularizer):
    """Output channels, through BatchNorm scales."""

    resource = resources.ACTIVATION


class GroupLassoLatencyRegularizer(_GroupLassoRegularizer):
    """Seconds on a device, through weight norms."""

    resource = resources.LATENCY


class GroupLassoFlopsRegularizer(_GroupLassoRegularizer):
    """FLOPs, through weight norms."""

    resource = resources.FLOPS


class GroupLassoModelSizeRegularizer(_GroupLassoRegularizer):
    """Weights, through weight norms."""

    resource = resources.MODEL_SIZE


class GroupLassoActivationRegularizer(_GroupLassoRegularizer):
    """Output channels, through weight norms."""

    resource = resources.ACTIVATION


class LogisticSigmoidLatencyRegularizer(_LogisticSigmoidRegularizer):
    """Seconds on a device, through gates."""

    resource = resources.LATENCY


class LogisticSigmoidFlopsRegularizer(_LogisticSigmoidRegularizer):
    """FLOPs, through gates."""

    resource = resources.FLOPS


class LogisticSigmoidModelSizeRegularizer(_LogisticSigmoidRegularizer):
    """Weights, through gates."""

    resource = resources.MODEL_SIZE


class LogisticSigmoidActivationRegularizer(_LogisticSigmoidRegularizer):
    """Output channels, through gates."""

    resource = resources.ACTIVATION
