"""The family of MorphNet: three algorithms times four resources, under its names."""

from __future__ import annotations

from typing import Any

from torch import nn

from latency_client.resources import ACTIVATION, FLOPS, LATENCY, MODEL_SIZE, Resource
from latency_client.service import Source
from latency_client.torch.algorithms import Gamma, GroupLasso, LogisticSigmoid
from latency_client.torch.regularizers import NetworkRegularizer

_SERVICE = "http://127.0.0.1:8000"


class _OfResource(NetworkRegularizer):
    """A regulariser whose resource belongs to its class."""

    RESOURCE: Resource


class _Gamma(_OfResource):
    """Strengths are the scales of BatchNorms: |gamma|, alive above `threshold`."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        device: str | None = None,
        service: str | Source = _SERVICE,
        threshold: float = 1e-3,
        **options: Any,
    ) -> None:
        """See `NetworkRegularizer`."""
        algorithm = Gamma(threshold)
        super().__init__(
            model, example_inputs, device, service, algorithm=algorithm, resource=self.RESOURCE,
            **options,
        )  # fmt: skip


class _GroupLasso(_OfResource):
    """Strengths are norms of kernels: (1 - f) root mean square + f mean of absolute values."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        device: str | None = None,
        service: str | Source = _SERVICE,
        threshold: float = 1e-3,
        *,
        l1_fraction: float = 0.0,
        **options: Any,
    ) -> None:
        """See `NetworkRegularizer`; `l1_fraction` is f."""
        algorithm = GroupLasso(threshold, l1_fraction)
        super().__init__(
            model, example_inputs, device, service, algorithm=algorithm, resource=self.RESOURCE,
            **options,
        )  # fmt: skip


class _LogisticSigmoid(_OfResource):
    """Strengths are gates, which `add_gates(model)` puts into the model beforehand."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        device: str | None = None,
        service: str | Source = _SERVICE,
        threshold: float = 0.1,
        *,
        regularize_on_mask: bool = True,
        mask_as_alive_vector: bool = True,
        alive_threshold: float | None = None,
        **options: Any,
    ) -> None:
        """See `NetworkRegularizer`.

        Args:
            threshold: a channel is alive at it or above; `alive_threshold` is MorphNet's name.
            regularize_on_mask: charge for the sampled mask; False: for the probability.
            mask_as_alive_vector: the sampled mask decides what lives; False: the probability.
        """
        at = threshold if alive_threshold is None else alive_threshold
        algorithm = LogisticSigmoid(at, regularize_on_mask, mask_as_alive_vector)
        super().__init__(
            model, example_inputs, device, service, algorithm=algorithm, resource=self.RESOURCE,
            **options,
        )  # fmt: skip


class GammaLatencyRegularizer(_Gamma):
    """Seconds, by the scales of BatchNorms."""

    RESOURCE = LATENCY


class GammaFlopsRegularizer(_Gamma):
    """FLOPs, by the scales of BatchNorms."""

    RESOURCE = FLOPS


class GammaModelSizeRegularizer(_Gamma):
    """Weights, by the scales of BatchNorms."""

    RESOURCE = MODEL_SIZE


class GammaActivationRegularizer(_Gamma):
    """Output channels of layers with FLOPs, by the scales of BatchNorms."""

    RESOURCE = ACTIVATION


class GroupLassoLatencyRegularizer(_GroupLasso):
    """Seconds, by the norms of kernels."""

    RESOURCE = LATENCY


class GroupLassoFlopsRegularizer(_GroupLasso):
    """FLOPs, by the norms of kernels."""

    RESOURCE = FLOPS


class GroupLassoModelSizeRegularizer(_GroupLasso):
    """Weights, by the norms of kernels."""

    RESOURCE = MODEL_SIZE


class GroupLassoActivationRegularizer(_GroupLasso):
    """Output channels of layers with FLOPs, by the norms of kernels."""

    RESOURCE = ACTIVATION


class LogisticSigmoidLatencyRegularizer(_LogisticSigmoid):
    """Seconds, by gates."""

    RESOURCE = LATENCY


class LogisticSigmoidFlopsRegularizer(_LogisticSigmoid):
    """FLOPs, by gates."""

    RESOURCE = FLOPS


class LogisticSigmoidModelSizeRegularizer(_LogisticSigmoid):
    """Weights, by gates."""

    RESOURCE = MODEL_SIZE


class LogisticSigmoidActivationRegularizer(_LogisticSigmoid):
    """Output channels of layers with FLOPs, by gates."""

    RESOURCE = ACTIVATION
