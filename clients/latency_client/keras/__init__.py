"""Keras: extraction of models."""

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
from latency_client.keras.extract import Extraction, extract, register_layer

__all__ = ["Extraction", "extract", "register_layer"]
