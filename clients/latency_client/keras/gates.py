"""Gates that learn whether a channel is let through (FiGS, Louizos et al., 2018; MorphNet)."""

from __future__ import annotations

from typing import Any

import keras

from latency_client.errors import GraphError, OptionError
from latency_client.keras.registry import register_layer
from latency_client.keras.trace import Call
from latency_client.keras.values import Value
from latency_client.keras.views import Binding, View

# Variables of a gate that have one number per channel.
GATE_ROLES = ("gate", "gate_mask", "gate_slope")

_SAMPLE_LIMIT = 1e-7
_NO_PASS_YET = -1.0


@keras.saving.register_keras_serializable(package="latency_client")
class Gate(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """Multiplies every channel (last axis) with a gate between 0 and 1.

    In training a gate is sigmoid((logit + L) / temperature) with L drawn from the logistic
    distribution, one sample per channel and step. In inference it is sigmoid(logit) where the
    logit is positive and 0 elsewhere.

    The last gate and its derivative are kept in variables, so that a regulariser charges the very
    sample of the step, with its gradient, inside of `tf.function` and out of it.

    Attributes:
        temperature: at the start; at t steps it is temperature * 0.1^(t / annealing_rate). At 0 a
            gate is 0 or 1 and has no gradient.
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
        """Check temperature and annealing.

        Raises:
            OptionError: for a negative temperature or an annealing rate that is not positive.
        """
        super().__init__(**options)
        if temperature < 0:
            raise OptionError(f"temperature={temperature}: it must not be negative")
        if annealing_rate is not None and annealing_rate <= 0:
            raise OptionError(f"annealing_rate={annealing_rate}: it must be positive")
        self.temperature = float(temperature)
        self.straight_through = straight_through
        self.log_odds_init = float(log_odds_init)
        self.soft_mask_for_inference = soft_mask_for_inference
        self.keep_first_channel_alive = keep_first_channel_alive
        self.annealing_rate = annealing_rate
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """One logit per channel, the last gates, and a count of steps."""
        shape = (int(input_shape[-1]),)
        initial = keras.initializers.Constant(self.log_odds_init)
        none = keras.initializers.Constant(_NO_PASS_YET)
        # logits are float32 even under mixed precision: probabilities close to 1 need the digits
        self.logits = self.add_weight(
            name="logits", shape=shape, initializer=initial, dtype="float32", autocast=False
        )
        self.steps = self._kept("steps", (), "zeros")
        self.mask = self._kept("mask", shape, none)
        self.slope = self._kept("slope", shape, "zeros")

    def _kept(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        """A variable that a pass writes."""
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, dtype="float32",
            autocast=False, aggregation="only_first_replica",
        )  # fmt: skip

    def probabilities(self) -> Any:
        """(C,) that each channel is on."""
        return keras.ops.sigmoid(self.logits.value)

    def last_mask(self) -> Any:
        """(C,) gates of the last pass; before the first, the probabilities."""
        ops, logits = keras.ops, self.logits.value
        # the second term is zero, and brings the gradient
        last = self.mask.value + self.slope.value * (logits - ops.stop_gradient(logits))
        return ops.where(self.mask.value == _NO_PASS_YET, self.probabilities(), last)

    def sample(self) -> tuple[Any, Any]:
        """(C,) new gates, and (C,) their derivatives in the logits."""
        ops, logits = keras.ops, self.logits.value
        uniform = keras.random.uniform(
            logits.shape, _SAMPLE_LIMIT, 1 - _SAMPLE_LIMIT, dtype="float32", seed=self.generator
        )
        noisy = logits + ops.log(uniform) - ops.log1p(-uniform)
        hard = ops.cast(noisy > 0, "float32")
        if not self.temperature:
            return hard, ops.zeros_like(hard)
        temperature = self.temperature
        if self.annealing_rate is not None:
            temperature = temperature * ops.power(0.1, self.steps.value / self.annealing_rate)
        soft = ops.sigmoid(noisy / temperature)
        slope = soft * (1.0 - soft) / temperature
        return hard if self.straight_through else soft, slope

    def inference_mask(self) -> tuple[Any, Any]:
        """(C,) gates once training is over, and (C,) their derivatives in the logits."""
        ops, p = keras.ops, self.probabilities()
        on = ops.cast(self.logits.value > 0, "float32")
        if self.soft_mask_for_inference:
            return on * p, on * p * (1.0 - p)
        return on, ops.zeros_like(on)

    def call(self, x: Any, training: bool = False) -> Any:
        """The gated tensor."""
        ops, logits = keras.ops, self.logits.value
        mask, slope = map(ops.stop_gradient, self.sample() if training else self.inference_mask())
        if training:
            self.steps.assign_add(1.0)
        # what the regulariser reads may say that no channel lives; the network keeps one
        self.mask.assign(mask)
        self.slope.assign(slope)
        gate = mask + slope * (logits - ops.stop_gradient(logits))
        if self.keep_first_channel_alive:
            gate = ops.concatenate([ops.maximum(gate[:1], 1.0), gate[1:]])
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
    gate = call.trace.gates[name] = call.op
    order = None if x.order is None else (0, x.order)
    view = View((0,), None, None, order)
    for role, variable in zip(GATE_ROLES, (gate.logits, gate.mask, gate.slope), strict=True):
        call.trace.bindings[name, role] = Binding(variable, view)
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
