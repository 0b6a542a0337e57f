"""The penalty in a training step: its gradient, precision, losses and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from client_tests.keras.networks import SMALL, image_of, randomise
from latency_client.errors import (
    GraphError,
    NothingToPruneError,
    OptionError,
    ServiceUnavailableError,
)
from latency_client.keras import (
    ExpectedLatency,
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    Gate,
    GroupLassoLatencyRegularizer,
    LogisticSigmoidFlopsRegularizer,
    PenaltyCallback,
    StructureExporter,
    add_gates,
    with_penalty,
)
from latency_client.keras.views import numbers
from latency_client.reference import evaluate
from latency_client.service import FallbackWarning, HttpService, save_answers

L = keras.layers
MODELS: dict[str, Any] = {}
BUILT: dict[str, Any] = {}


def built(name: str, service: HttpService) -> tuple[Any, Any]:
    """A model and its regulariser for two devices, made once."""
    if name not in BUILT:
        MODELS[name] = randomise(SMALL[name]())
        BUILT[name] = GammaLatencyRegularizer(
            MODELS[name], service=service, devices=["v100", "p100"], weights=[0.25, 0.75],
            threshold=0.5,
        )  # fmt: skip
    return MODELS[name], BUILT[name]


def reference(regularizer: Any) -> tuple[float, float, Any]:
    """Cost, penalty and the penalty's gradient per flat source entry, in float64."""
    vectors = [regularizer.algorithm.vector(regularizer.extraction, key)
               for key in regularizer.channels.sources]  # fmt: skip
    flat = np.concatenate([keras.ops.convert_to_numpy(v) for v in vectors]).astype(np.float64)
    channels = regularizer.channels
    strong = channels.strengths(flat)
    counts = channels.fixed_counts + channels.group_sums((strong > regularizer.threshold) * 1.0)
    found = evaluate(regularizer.arrays, counts, channels.group_sums(strong))
    weights = np.array([0.25, 0.75])
    per_group = weights @ found.gradient
    per_channel = per_group[channels.group_of]
    tied = flat[channels.entries] == strong[channels.channels]
    share = tied / np.bincount(channels.channels, weights=tied)[channels.channels]
    gradient = np.zeros(flat.size)
    np.add.at(gradient, channels.entries, share * per_channel[channels.channels])
    return float(weights @ found.cost), float(weights @ found.penalty), gradient


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "grouped", "flatten"])
@given(seed=st.integers(0, 999), ties=st.booleans())
@settings(max_examples=8)
def test_cost_penalty_and_gradient_are_the_references(
    name: str, seed: int, ties: bool, service: HttpService
) -> None:
    _, regularizer = built(name, service)
    rng = np.random.default_rng(seed)
    gammas = [found.variable for key, found in regularizer.extraction.bindings.items()
              if key[1] == "gamma"]  # fmt: skip
    for gamma in gammas:
        value = rng.normal(0, 1, gamma.shape)
        gamma.assign(np.round(value * 2) / 2 if ties else value)
    cost, penalty, gradient = reference(regularizer)
    sources = [regularizer.extraction.bindings[k.layer, "gamma"].variable
               for k in regularizer.channels.sources]  # fmt: skip
    with tf.GradientTape() as tape:
        term = regularizer.get_regularization_term()
    slopes = tape.gradient(term, [v.value for v in sources])
    flat = np.concatenate([np.asarray(keras.ops.convert_to_numpy(s)) for s in slopes])
    signs = np.concatenate([np.sign(numbers(v)) for v in sources])
    assert float(regularizer.get_cost()) == pytest.approx(cost, rel=2e-6)
    assert float(term) == pytest.approx(penalty, rel=2e-6)
    np.testing.assert_allclose(flat, gradient * signs, rtol=2e-5, atol=1e-7 * abs(gradient).max())


def test_layers_add_up_and_the_worst_device_counts(service: HttpService) -> None:
    model = randomise(SMALL["residual"]())
    one = {d: GammaLatencyRegularizer(model, service=service, device=d) for d in ("v100", "p100")}
    both = GammaLatencyRegularizer(
        model, service=service, devices=["v100", "p100"], combine="worst"
    )
    worst = max(one.values(), key=lambda r: float(r.get_cost()))
    assert float(both.get_cost()) == pytest.approx(float(worst.get_cost()), rel=1e-6)
    assert float(both.get_regularization_term()) == pytest.approx(
        float(worst.get_regularization_term()), rel=1e-6
    )
    names = worst.arrays.layers
    total = sum(float(worst.get_cost([name])) for name in names)
    assert total == pytest.approx(float(worst.get_cost()), rel=1e-6)
    with pytest.raises(OptionError, match="no layer 'nowhere'"):
        worst.get_cost(["nowhere"])


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_the_same_number_in_a_function_and_in_mixed_precision(
    precision: str, jit: bool, service: HttpService
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = SMALL["residual"]()
    finally:
        keras.config.set_dtype_policy(before)
    randomise(model)
    regularizer = GammaLatencyRegularizer(model, service=service)
    compiled = tf.function(regularizer.get_regularization_term, jit_compile=jit)
    term = compiled()
    assert term.dtype == tf.float32
    assert float(term) == pytest.approx(float(regularizer.get_regularization_term()), rel=1e-6)
    model.get_layer("a_bn").gamma.assign(2 * numbers(model.get_layer("a_bn").gamma))
    assert float(compiled()) > float(term)


def test_fit_with_a_strong_penalty_kills_channels(service: HttpService, tmp_path: Any) -> None:
    keras.utils.set_random_seed(11)
    model = SMALL["plain"]()
    regularizer = GammaLatencyRegularizer(model, service=service, threshold=0.5, refresh_every=5)
    cost = float(regularizer.get_cost())
    trained = with_penalty(model, regularizer, strength=20.0 / cost)
    trained.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = image_of(model, batch=32), np.arange(32) % 5
    callback = PenaltyCallback(regularizer, export_to=str(tmp_path))
    history = trained.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert history.history["penalty"][-1] < history.history["penalty"][0]
    assert float(regularizer.get_cost()) < cost
    assert (tmp_path / "learned_structure" / "alive_12").exists()
    assert history.history["cost"][-1] == pytest.approx(float(regularizer.get_cost()))


def test_summaries_show_costs_live_channels_and_strengths(
    service: HttpService, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    regularizer = GammaLatencyRegularizer(
        randomise(SMALL["plain"]()), service=service, devices=["v100", "p100"]
    )
    PenaltyCallback(regularizer, log_dir=str(tmp_path)).on_epoch_end(0, {})
    (file,) = tmp_path.iterdir()
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert tags == {
        "latency/penalty", "latency/cost/v100-sxm2-16gb", "latency/cost/p100-pcie-16gb",
        "latency/alive/a", "latency/alive/b", "latency/strengths/a_bn", "latency/strengths/b_bn",
    }  # fmt: skip


def test_a_scale_that_is_switched_off_is_an_error(service: HttpService) -> None:
    image = keras.Input((7, 11, 3))
    x = L.BatchNormalization(scale=False, name="bn")(L.Conv2D(13, 3, name="c")(image))
    model = keras.Model(image, L.GlobalAveragePooling2D()(L.Conv2D(5, 3, name="d")(x)))
    with pytest.raises(NothingToPruneError, match=r"'bn'.*scale=True"):
        GammaLatencyRegularizer(model, service=service)
    assert GroupLassoLatencyRegularizer(model, service=service).alive_counts() == {"c": 13}


def test_a_model_without_normalisation_is_an_error(service: HttpService) -> None:
    image = keras.Input((7, 11, 3))
    model = keras.Model(image, L.Conv2D(5, 3, name="d")(L.Conv2D(13, 3, name="c")(image)))
    with pytest.raises(NothingToPruneError, match="no BatchNormalization"):
        GammaLatencyRegularizer(model, service=service)


def test_exclude_boundary_and_decorator(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    whole = GammaFlopsRegularizer(model, service=service)
    assert set(whole.alive_counts()) == {"a", "b"}
    kept = GammaFlopsRegularizer(model, service=service, exclude=["^a$"])
    assert set(kept.alive_counts()) == {"b"}
    blacklisted = GammaFlopsRegularizer(model, service=service, regularizer_blacklist=["^a$"])
    assert float(blacklisted.get_regularization_term()) == float(kept.get_regularization_term())
    part = GammaFlopsRegularizer(model, service=service, input_boundary=["^a_relu$"])
    assert float(part.get_cost()) == pytest.approx(float(whole.get_cost(["b", "fc"])))
    half = GammaFlopsRegularizer(model, service=service, decorator=lambda name, v: 0.5 * v)
    assert float(half.get_regularization_term()) == pytest.approx(
        0.5 * float(whole.get_regularization_term())
    )
    assert float(half.get_cost()) == float(whole.get_cost())
    with pytest.raises(OptionError, match="matches no layer"):
        GammaFlopsRegularizer(model, service=service, input_boundary=["nowhere"])


def test_gates_prune_what_they_close(service: HttpService) -> None:
    model = add_gates(randomise(SMALL["residual"]()), temperature=0.5, seed=3)
    x = image_of(model)
    regularizer = LogisticSigmoidFlopsRegularizer(model, service=service)
    gates = [layer for layer in model.layers if isinstance(layer, Gate)]
    assert len(gates) == 3
    # 13 channels of a and b are one group: off with probability (1 - p)^2
    p = 1 / (1 + np.exp(-2.5))
    strengths = regularizer.algorithm.strengths(
        regularizer.charges,
        keras.ops.concatenate(
            [regularizer.algorithm.vector(regularizer.extraction, k)
             for k in regularizer.channels.sources]
        ),
    )  # fmt: skip
    expected = sorted([1 - (1 - p) ** 2] * 13 + [p] * 17)
    assert sorted(np.asarray(strengths).tolist()) == pytest.approx(expected, rel=1e-5)
    for name in ("a_bn_gate", "b_bn_gate"):
        logits = numbers(model.get_layer(name).logits)
        logits[3:9] = -20.0
        model.get_layer(name).logits.assign(logits)
    assert regularizer.alive_counts() == {"a": 7, "b": 7, "c": 17}
    small = regularizer.prune()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(small(x)), keras.ops.convert_to_numpy(model(x)), atol=2e-5
    )
    samples = keras.ops.convert_to_numpy(gates[0](np.ones((1, 5, 13), np.float32), training=True))
    assert (samples == samples[:, :1]).all()
    with pytest.raises(GraphError, match="BatchNormalization"):
        add_gates(keras.Sequential([keras.Input((3,)), L.Dense(5)]))


def test_a_calibrated_answer_is_refreshed_at_the_current_structure(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    regularizer = GammaLatencyRegularizer(model, service=service)
    gamma = model.get_layer("a_bn").gamma
    gamma.assign(np.r_[np.zeros(7), np.ones(6)].astype("float32"))
    before = float(regularizer.get_cost())
    assert regularizer.refresh()
    assert float(regularizer.get_cost()) == pytest.approx(before, rel=1e-6)
    assert regularizer.answers[0].latency_s == pytest.approx(before, rel=1e-6)
    away = HttpService("http://127.0.0.1:9", timeout_s=1)
    regularizer.network = dataclasses.replace(regularizer.network, source=away)
    with pytest.warns(FallbackWarning, match="stay as they are"):
        assert not regularizer.refresh()
    assert float(regularizer.get_cost()) == pytest.approx(before, rel=1e-6)


def test_without_a_service_a_file_answers(service: HttpService, tmp_path: Any) -> None:
    model = randomise(SMALL["plain"]())
    regularizer = GammaLatencyRegularizer(model, service=service)
    path = tmp_path / "coefficients.json"
    save_answers(path, [(regularizer.network.requests[0], regularizer.answers[0])])
    offline = GammaLatencyRegularizer(model, service=f"file:{path}")
    assert float(offline.get_cost()) == float(regularizer.get_cost())
    away = HttpService("http://127.0.0.1:9", timeout_s=1, retries=0)
    with pytest.raises(ServiceUnavailableError, match=r"file:coefficients.json"):
        GammaLatencyRegularizer(model, service=away)


def test_a_structure_is_rounded_and_exported(service: HttpService, tmp_path: Any) -> None:
    model = randomise(SMALL["plain"]())
    gamma = np.r_[np.zeros(8), np.ones(5)].astype("float32")
    model.get_layer("a_bn").gamma.assign(gamma)
    model.get_layer("b_bn").gamma.assign(np.zeros(17, np.float32))
    exporter = StructureExporter(
        GammaFlopsRegularizer(model, service=service), floor=1, multiple_of=8
    )
    assert exporter.alive_counts() == {"a": 8, "b": 8}
    path = exporter.save(str(tmp_path), 3)
    assert Path(path).read_text() == '{\n  "a": 8,\n  "b": 8\n}'


def test_expected_latency_is_the_mean_of_the_branches(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    branch = GammaLatencyRegularizer(model, service=service)
    expected = ExpectedLatency([[branch, branch.answers[0], 0.5], [0.25]])
    logits = tf.Variable([0.3, -0.1, 0.7])
    with tf.GradientTape() as tape:
        p = tf.nn.softmax(logits)
        seconds = expected([p, tf.ones(1)])
    cost = float(branch.get_cost())
    values = np.array([cost, branch.answers[0].latency_s, 0.5])
    share = np.asarray(p)
    mean = share @ values
    assert float(seconds) == pytest.approx(mean + 0.25, rel=1e-6)
    np.testing.assert_allclose(tape.gradient(seconds, logits), share * (values - mean), rtol=1e-4)
    with pytest.raises(OptionError, match="GammaFlopsRegularizer"):
        ExpectedLatency([[GammaFlopsRegularizer(model, service=service)]])
