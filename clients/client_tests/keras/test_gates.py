"""Gates: what is sampled is what is charged, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from client_tests.keras.networks import SMALL, image_of, randomise
from latency_client.errors import OptionError
from latency_client.keras import (
    Gate,
    LogisticSigmoidFlopsRegularizer,
    LogisticSigmoidLatencyRegularizer,
    add_gates,
    with_penalty,
)
from latency_client.keras.views import numbers
from latency_client.reference import evaluate
from latency_client.service import HttpService


def gates_of(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, Gate)]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def spread_logits(model: Any, seed: int = 3) -> None:
    rng = np.random.default_rng(seed)
    for gate in gates_of(model):
        gate.logits.assign(rng.normal(0, 3, gate.logits.shape).astype("float32"))


@pytest.mark.parametrize("on_mask", [True, False])
@pytest.mark.parametrize("alive_by_mask", [True, False])
def test_the_last_sample_or_the_probability_is_charged(
    on_mask: bool, alive_by_mask: bool, service: HttpService
) -> None:
    model = add_gates(randomise(SMALL["residual"]()), temperature=0.7, seed=5)
    spread_logits(model)
    regularizer = LogisticSigmoidLatencyRegularizer(
        model, service=service, regularize_on_mask=on_mask, mask_as_alive_vector=alive_by_mask
    )
    model(image_of(model), training=True)
    vectors: dict[bool, Any] = {
        by_mask: np.concatenate(
            [
                numbers(gate.mask) if by_mask else sigmoid(numbers(gate.logits))
                for key in regularizer.channels.sources
                for gate in [regularizer.extraction.gates[key.layer]]
            ]
        ).astype(np.float64)
        for by_mask in (True, False)
    }
    assert not np.allclose(vectors[True], vectors[False])
    channels = regularizer.channels
    lives = channels.strengths(vectors[alive_by_mask]) >= 0.1
    counts = channels.fixed_counts + channels.group_sums(lives.astype(np.float64))
    strengths = channels.group_sums(channels.probabilities(vectors[on_mask]))
    expected = evaluate(regularizer.arrays, counts, strengths)
    assert float(regularizer.get_cost()) == pytest.approx(expected.cost[0], rel=2e-6)
    term = float(regularizer.get_regularization_term())
    assert term == pytest.approx(expected.penalty[0], rel=2e-6)
    assert sum(regularizer.structure().group_counts().values()) == counts.sum()


def test_before_the_first_pass_the_probability_is_charged(service: HttpService) -> None:
    model = add_gates(randomise(SMALL["residual"]()), temperature=0.7)
    spread_logits(model)
    by_default = LogisticSigmoidFlopsRegularizer(model, service=service)
    by_probability = LogisticSigmoidFlopsRegularizer(
        model, service=service, regularize_on_mask=False, mask_as_alive_vector=False
    )
    assert float(by_default.get_cost()) == float(by_probability.get_cost())
    assert float(by_default.get_regularization_term()) == float(
        by_probability.get_regularization_term()
    )


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_gradient_is_that_of_the_soft_gate_at_the_annealed_temperature(
    straight_through: bool,
) -> None:
    gate = Gate(0.8, annealing_rate=4.0, straight_through=straight_through, seed=7,
                keep_first_channel_alive=False)  # fmt: skip
    x = tf.ones((2, 3, 13))
    gate(x)
    gate.steps.assign(2.0)
    logits = np.linspace(-2, 2, 13, dtype="float32")
    gate.logits.assign(logits)
    tau = 0.8 * 0.1 ** (2 / 4)
    with tf.GradientTape(persistent=True) as tape:
        y = gate(x, training=True)
        through_data, through_penalty = tf.reduce_sum(y), tf.reduce_sum(gate.last_mask())
    assert float(gate.steps.value) == 3
    mask, slope = numbers(gate.mask), numbers(gate.slope)
    assert np.asarray(y)[1, 2] == pytest.approx(mask)
    soft = mask
    if straight_through:
        assert set(mask.tolist()) == {0.0, 1.0}
        # of s (1 - s) / tau = slope the root on the side of the sample
        root = np.sqrt(np.maximum(0.25 - tau * slope.astype(np.float64), 0))
        soft = np.where(mask > 0, 0.5 + root, 0.5 - root)
    np.testing.assert_allclose(slope, soft * (1 - soft) / tau, rtol=1e-3, atol=1e-6)
    assert slope.max() > 0.01
    np.testing.assert_allclose(tape.gradient(through_penalty, gate.logits.value), slope, rtol=1e-6)
    # 2 * 3 positions are multiplied by each gate
    np.testing.assert_allclose(tape.gradient(through_data, gate.logits.value), 6 * slope, rtol=1e-5)


def test_samples_are_open_as_often_as_the_probability_says() -> None:
    gate = Gate(0.0, seed=11, keep_first_channel_alive=False)
    logits = np.repeat([-1.5, 0.4], 4001).astype("float32")
    x = np.ones((1, logits.size), np.float32)
    gate(x)
    gate.logits.assign(logits)
    y = np.asarray(gate(x, training=True))[0]
    assert set(y.tolist()) == {0.0, 1.0}
    assert y[:4001].mean() == pytest.approx(sigmoid(-1.5), abs=0.03)
    assert y[4001:].mean() == pytest.approx(sigmoid(0.4), abs=0.03)
    # a hard gate has no gradient
    assert not numbers(gate.slope).any()


def test_a_negative_temperature_and_an_impossible_annealing_are_refused() -> None:
    with pytest.raises(OptionError, match="temperature=-1"):
        Gate(-1.0)
    with pytest.raises(OptionError, match="annealing_rate=0"):
        Gate(annealing_rate=0)


def test_the_first_channel_is_let_through_although_it_counts_as_dead(service: HttpService) -> None:
    gate = Gate(0.0, seed=1)
    x = np.full((1, 5), 3.0, np.float32)
    gate(x)
    gate.logits.assign(np.full(5, -20.0, np.float32))
    assert np.asarray(gate(x)).tolist() == [[3.0, 0, 0, 0, 0]]
    assert np.asarray(gate(x, training=True)).tolist() == [[3.0, 0, 0, 0, 0]]
    assert not numbers(gate.mask).any()


def test_logits_keep_their_digits_in_mixed_precision() -> None:
    gate = Gate(0.5, dtype="mixed_bfloat16", soft_mask_for_inference=True)
    x = keras.ops.ones((1, 3), dtype="bfloat16")
    gate(x)
    gate.logits.assign(np.array([7.001, 7.002, 7.003], np.float32))
    gate(x)
    assert numbers(gate.mask) == pytest.approx(sigmoid([7.001, 7.002, 7.003]), rel=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_fit_pulls_gates_shut_through_their_samples(jit: bool, service: HttpService) -> None:
    keras.utils.set_random_seed(13)
    model = add_gates(SMALL["plain"](), temperature=0.9, seed=2)
    regularizer = LogisticSigmoidFlopsRegularizer(model, service=service)
    before = {gate.name: numbers(gate.logits) for gate in gates_of(model)}
    trained = with_penalty(model, regularizer, strength=50.0 / float(regularizer.get_cost()))
    trained.compile(
        optimizer=keras.optimizers.SGD(1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    x, y = image_of(model, batch=16), np.arange(16) % 5
    history = trained.fit(x, y, batch_size=4, epochs=4, verbose=0)
    assert history.history["penalty"][-1] < history.history["penalty"][0]
    for gate in gates_of(model):
        assert numbers(gate.logits).mean() < before[gate.name].mean() - 0.5
        assert float(gate.steps.value) == 16
        # the last sample can be read outside of the training function
        assert ((numbers(gate.mask) >= 0) & (numbers(gate.mask) <= 1)).all()
    assert float(regularizer.get_cost()) > 0
