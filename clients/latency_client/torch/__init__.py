"""Latency penalties for PyTorch: two lines in a training script, a smaller model at its end."""

from latency_client.torch.extract import Extraction, extract
from latency_client.torch.family import (
    GammaActivationRegularizer,
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    GammaModelSizeRegularizer,
    GroupLassoActivationRegularizer,
    GroupLassoFlopsRegularizer,
    GroupLassoLatencyRegularizer,
    GroupLassoModelSizeRegularizer,
    LogisticSigmoidActivationRegularizer,
    LogisticSigmoidFlopsRegularizer,
    LogisticSigmoidLatencyRegularizer,
    LogisticSigmoidModelSizeRegularizer,
)
from latency_client.torch.gates import Gate, add_gates
from latency_client.torch.operators import register_operator
from latency_client.torch.prune import masked, prune, rebuild
from latency_client.torch.regularizers import NetworkRegularizer

__all__ = [
    "Extraction",
    "GammaActivationRegularizer",
    "GammaFlopsRegularizer",
    "GammaLatencyRegularizer",
    "GammaModelSizeRegularizer",
    "Gate",
    "GroupLassoActivationRegularizer",
    "GroupLassoFlopsRegularizer",
    "GroupLassoLatencyRegularizer",
    "GroupLassoModelSizeRegularizer",
    "LogisticSigmoidActivationRegularizer",
    "LogisticSigmoidFlopsRegularizer",
    "LogisticSigmoidLatencyRegularizer",
    "LogisticSigmoidModelSizeRegularizer",
    "NetworkRegularizer",
    "add_gates",
    "extract",
    "masked",
    "prune",
    "rebuild",
    "register_operator",
]
