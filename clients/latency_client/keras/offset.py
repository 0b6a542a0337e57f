"""A number per channel that is added: what dead inputs of a layer leave behind."""

from __future__ import annotations

from typing import Any

import keras

from latency_client.keras.merging import combine
from latency_client.keras.registry import register_layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Value


@keras.saving.register_keras_serializable(package="latency_client")
class Offset(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """x + bias, along the last axis.

    A branch whose inputs are dead still writes its biases; pruning puts them into the sum that the
    branch was a term of. They are weights, and learn on.
    """

    def build(self, input_shape: Any) -> None:
        """One weight per channel."""
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x: Any) -> Any:
        """The sum."""
        return keras.ops.add(x, self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The same."""
        return input_shape


def _offset(call: Call) -> Value:
    return combine(call, call.name, "Add", [call.x, call.op.bias], call.shape)


register_layer(Offset, _offset)
