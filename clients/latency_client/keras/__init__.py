"""Latency penalties for Keras 3: the same names and numbers as for PyTorch.

regularizer = GammaLatencyRegularizer(model, example, device="v100")
loss = task_loss + strength * regularizer.get_regularization_term()
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Keras cannot be imported, for want of {error.name}. "
        "Run: pip install 'latency-client[keras]'",
        name=error.name,
    ) from error

from latency_client.adapt import adapt, expand, meter_of, shrink_to

# each registers what it knows
from latency_client.keras import (  # noqa: F401
    activations,
    convolutions,
    dense,
    merging,
    normalisations,
    operations,
    shaping,
)
from latency_client.keras.budget import measure_widths
from latency_client.keras.extract import Extraction, extract
from latency_client.keras.family import (
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
from latency_client.keras.gates import Gate, add_gates
from latency_client.keras.masked import masked
from latency_client.keras.prune import at_widths, prune, rebuild
from latency_client.keras.registry import register_layer
from latency_client.keras.regularizers import NetworkRegularizer
from latency_client.keras.training import (
    ExpectedLatency,
    PenalizedModel,
    PenaltyCallback,
    StructureExporter,
    with_penalty,
    write_summaries,
)

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
    "PenalizedModel",
    "PenaltyCallback",
    "StructureExporter",
    "adapt",
    "add_gates",
    "at_widths",
    "expand",
    "extract",
    "masked",
    "measure_widths",
    "meter_of",
    "prune",
    "rebuild",
    "register_layer",
    "shrink_to",
    "with_penalty",
    "write_summaries",
]
