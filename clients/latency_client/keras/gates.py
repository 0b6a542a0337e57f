"""Gates that learn whether a channel is let through (FiGS, Louizos et al., 2018; MorphNet)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from latency_client.errors import GraphError, OptionError
from latency_client.keras.extract import Call, register_layer
from latency_client.keras.values import Value
from latency_client.keras.views import Binding, View

_SAMPLE_LIMIT = 1e-6


@keras.saving.register_keras_serializable(package="latency_client")
class Gate(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """Multiplies every channel (last axis) with a gate between 0 and 1.

    In training a gate is sigmoid((logit + L) / temperature) with L drawn from the logistic
    distribution, one sample per channel and step. In inference it is sigmoid(logit) where the
    logit is positive and 0 elsewhere.

    Attributes:
        temperature: at the start; at t steps it is temperature * 0.1^(t / annealing_rate).
        straight_through: 0 or 1 forwards, the gradient of the soft gate backwards.
        log_odds_init: of every gate at the start.
        soft_mask_for_inference: False: a gate that is open is 1.
        keep_first_channel_alive: the first channel is always let through.
        annealing_rate: steps to a tenth of the temperature; None: it stays.
    """

    def __init__(
        self,
        temperature: float = 0.001,
        *,
        straight_through: bool = False,
        log_odds_init: float = 2.5,
        soft_mask_for_inference: bool = True,
        keep_first_channel_alive: bool = True,
        annealing_rate: float | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        """Check the temperature.

        Raises:
            OptionError: if it is not positive: a hard gate has no gradient.
        """
        super().__init__(**options)
        if not temperature > 0:
            raise OptionError(f"temperature={temperature}: it must be positive")
        self.temperature = float(temperature)
        self.straight_through = straight_through
        self.log_odds_init = float(log_odds_init)
        self.soft_mask_for_inference = soft_mask_for_inference
        self.keep_first_channel_alive = keep_first_channel_alive
        self.annealing_rate = annealing_rate
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """One logit per channel, and a count of steps."""
        shape = (int(input_shape[-1]),)
        initial = keras.initializers.Constant(self.log_odds_init)
        self.logits = self.add_weight(name="logits", shape=shape, initializer=initial)
        self.steps = self.add_weight(
            name="steps", shape=(), initializer="zeros", trainable=False, dtype="float32"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        """The gated tensor."""
        ops = keras.ops
        logits = ops.cast(self.logits, "float32")
        if training:
            tau = self.temperature
            if self.annealing_rate is not None:
                tau = tau * ops.power(0.1, self.steps / self.annealing_rate)
            uniform = keras.random.uniform(
                logits.shape, _SAMPLE_LIMIT, 1 - _SAMPLE_LIMIT, seed=self.generator
            )
            noisy = logits + ops.log(uniform) - ops.log(1.0 - uniform)
            gate = ops.sigmoid(noisy / tau)
            if self.straight_through:
                gate = gate + ops.stop_gradient(ops.cast(noisy > 0, "float32") - gate)
            self.steps.assign_add(1.0)
        else:
            open_ = ops.cast(logits > 0, "float32")
            gate = open_ * ops.sigmoid(logits) if self.soft_mask_for_inference else open_
        if self.keep_first_channel_alive:
            first = np.zeros(logits.shape, np.float32)
            first[0] = 1.0
            gate = ops.maximum(gate, first)
        return x * ops.cast(gate, x.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The same."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """As given."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "straight_through": self.straight_through,
            "log_odds_init": self.log_odds_init,
            "soft_mask_for_inference": self.soft_mask_for_inference,
            "keep_first_channel_alive": self.keep_first_channel_alive,
            "annealing_rate": self.annealing_rate,
            "seed": self.seed,
        }


def _gate(call: Call) -> Value:
    """A gate costs nothing once deployed: it is a factor of the layer before it."""
    x = call.x
    tensor = x.moved if x.moved is not None else call.trace.tensors.features(x)
    name = call.trace.source_of(tensor)
    if name is None:
        raise GraphError(
            f"gate {call.name!r} follows no BatchNormalization, convolution or dense layer whose "
            "channels it could let through; put it right behind one"
        )
    call.trace.gates[name] = call.op
    order = None if x.order is None else (0, x.order)
    call.trace.bindings[name, "gate"] = Binding(call.op.logits, View((0,), None, None, order))
    return x


register_layer(Gate, _gate)


def add_gates(model: Any, after: tuple[type, ...] | None = None, **options: Any) -> Any:
    """The same functional model with a gate behind every BatchNormalization, weights copied.

    Models nested in it are left as they are.

    Args:
        after: kinds of layers that get a gate behind them in place of BatchNormalization.
        options: of `Gate`.

    Raises:
        GraphError: if the model is no functional or sequential one, or has no such layer.
    """
    kinds = after or (keras.layers.BatchNormalization,)
    if not getattr(model, "inputs", None):
        raise GraphError(
            "add_gates takes functional and sequential models; in a model of one's own put "
            "Gate() behind the BatchNormalization layers"
        )
    gates: dict[str, Any] = {}

    def gated(operation: Any, *args: Any, **kwargs: Any) -> Any:
        result: Any = operation(*args, **kwargs)
        wanted = isinstance(operation, kinds)
        if not wanted:
            return result
        name = str(operation.name)
        if name not in gates:
            gates[name] = Gate(name=f"{name}_gate", **options)
        return gates[name](result)

    if isinstance(model, keras.Sequential):
        # the same layers, with their calls recorded one by one
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    copy: Any = keras.models.clone_model(model, call_function=gated)
    if not gates:
        raise GraphError(f"the model has no {' or '.join(kind.__name__ for kind in kinds)} layer")
    old = {v.path: v for v in model.variables}
    for variable in copy.variables:
        if variable.path in old:
            variable.assign(old[variable.path])
    return copy
