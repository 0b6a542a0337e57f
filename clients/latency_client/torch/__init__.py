"""Latency penalties for PyTorch: two lines in a training script, a smaller model at its end."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "PyTorch is not installed. Run: pip install 'latency-client[torch]'", name="torch"
    ) from error

from latency_client.adapt import adapt, expand, meter_of, shrink_to
from latency_client.torch.expected import ExpectedLatency
from latency_client.torch.exporter import StructureExporter
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
from latency_client.torch.tensorboard import write_summaries

__all__ = [
    "ExpectedLatency",
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
    "StructureExporter",
    "adapt",
    "add_gates",
    "expand",
    "extract",
    "masked",
    "meter_of",
    "prune",
    "rebuild",
    "register_operator",
    "shrink_to",
    "write_summaries",
]
