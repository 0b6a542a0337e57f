"""A pruned Keras model computes what its masked model computes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from client_tests.keras.networks import SMALL, conv_bn, image_of, randomise
from latency_client.errors import OptionError, PruningError, StructureError
from latency_client.keras import (
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    GroupLassoLatencyRegularizer,
    at_widths,
    masked,
    measure_widths,
    prune,
    rebuild,
    register_layer,
)
from latency_client.keras.views import numbers
from latency_client.service import HttpService
from latency_client.structure import read_structure, write_structure

L = keras.layers


def kill_gammas(model: Any, seed: int = 5, share: float = 0.4) -> None:
    """Set some scales to zero, never the first of a layer."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith("gamma"):
            value = numbers(variable)
            dead = rng.random(value.size) < share
            dead[0] = False
            value[dead] = 0.0
            variable.assign(value)


def assert_same_outputs(model: Any, regularizer: Any) -> Any:
    structure = regularizer.structure()
    small = prune(model, structure)
    x = image_of(model)
    wanted = keras.ops.convert_to_numpy(masked(model, structure)(x, training=False))
    given = keras.ops.convert_to_numpy(small(x, training=False))
    np.testing.assert_allclose(given, wanted, rtol=2e-5, atol=2e-5)
    return small


@pytest.mark.parametrize("name", SMALL)
def test_a_pruned_model_gives_the_masked_models_outputs(name: str, service: HttpService) -> None:
    model = randomise(SMALL[name]())
    kill_gammas(model)
    regularizer = GammaFlopsRegularizer(model, service=service)
    small = assert_same_outputs(model, regularizer)
    assert small.count_params() < model.count_params()
    again = GammaFlopsRegularizer(small, service=service)
    # the pruned network costs what the regulariser has promised
    assert float(again.get_cost()) == pytest.approx(float(regularizer.get_cost()), rel=1e-6)


def test_a_masked_model_does_not_see_dead_channels(service: HttpService) -> None:
    model = randomise(SMALL["flatten"]())
    kill_gammas(model)
    structure = GammaFlopsRegularizer(model, service=service).structure()
    hidden = masked(model, structure)
    x = image_of(model)
    before = keras.ops.convert_to_numpy(hidden(x, training=False))
    # whatever a dead channel says, nothing after it listens
    dead = [k for k in range(13) if k not in structure.layers["a"].alive]
    beta = numbers(hidden.get_layer("a_bn").beta)
    beta[dead] = 1e3
    hidden.get_layer("a_bn").beta.assign(beta)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(hidden(x, training=False)), before)
    assert dead


def test_what_a_group_lasso_kills_is_pruned_exactly(service: HttpService) -> None:
    model = randomise(SMALL["residual"]())
    kernels = {v.path: numbers(v) for v in model.variables
               if v.path.endswith("kernel")}  # fmt: skip
    for variable in model.variables:
        if variable.path.endswith("kernel"):
            value = kernels[variable.path]
            value[..., 1::3] *= 1e-4
            variable.assign(value)
    regularizer = GroupLassoLatencyRegularizer(model, service=service, threshold=1e-3)
    assert regularizer.alive_counts() == {"a": 9, "b": 9, "c": 11}
    assert_same_outputs(model, regularizer)


def test_heads_and_hidden_widths_are_pruned(service: HttpService) -> None:
    tokens = keras.Input((7, 12), name="tokens")
    y = L.MultiHeadAttention(3, 5, name="mha")(tokens, tokens)
    x = L.LayerNormalization(name="ln")(L.Add(name="sum")([tokens, y]))
    x = L.Dense(12, name="down")(L.Dense(29, activation="gelu", name="up")(x))
    x = L.GlobalAveragePooling1D(name="mean")(x)
    model = randomise(keras.Model(tokens, L.Dense(5, name="fc")(x)))
    attention = model.get_layer("mha")
    for part in (attention.query_dense, attention.key_dense, attention.value_dense):
        kernel = numbers(part.kernel)
        kernel[:, 1] = 0.0
        part.kernel.assign(kernel)
    kernel = numbers(model.get_layer("up").kernel)
    kernel[:, ::2] = 0.0
    model.get_layer("up").kernel.assign(kernel)
    regularizer = GroupLassoLatencyRegularizer(model, service=service)
    counts = regularizer.alive_counts()
    assert counts["mha/query"] == 2 * 5
    assert counts["up"] == 14
    small = assert_same_outputs(model, regularizer)
    assert small.get_layer("mha").num_heads == 2


def dying_branch() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    stem = conv_bn(image, 13, 3, "stem")
    x = conv_bn(stem, 17, 3, "inner")
    x = L.Conv2D(13, 3, padding="same", name="outer")(x)
    x = L.BatchNormalization(name="outer_bn")(x)
    x = L.Add(name="add")([stem, x])
    side = conv_bn(stem, 19, 1, "side")
    x = L.Concatenate(name="cat")([x, side])
    x = conv_bn(x, 23, 3, "last")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="dying")


def test_branches_that_die_are_removed_and_a_residual_keeps_its_shortcut(
    service: HttpService,
) -> None:
    model = randomise(dying_branch())
    for name in ("inner_bn", "side_bn"):
        gamma = model.get_layer(name).gamma
        gamma.assign(keras.ops.zeros(gamma.shape))
    regularizer = GammaLatencyRegularizer(model, service=service)
    small = assert_same_outputs(model, regularizer)
    left = {layer.name for layer in small.layers}
    assert not left & {"inner", "inner_bn", "outer", "outer_bn", "side", "side_bn", "cat", "add"}
    assert "stem" in left


def test_a_network_without_a_living_path_is_refused(service: HttpService) -> None:
    model = SMALL["plain"]()
    model.get_layer("b_bn").gamma.assign(keras.ops.zeros(17))
    regularizer = GammaLatencyRegularizer(model, service=service)
    with pytest.raises(PruningError, match="floor=1"):
        regularizer.prune()


@pytest.mark.parametrize("name", SMALL)
def test_a_rebuilt_model_has_the_sizes_of_the_pruned_one(
    name: str, service: HttpService, tmp_path: Any
) -> None:
    model = randomise(SMALL[name]())
    kill_gammas(model)
    regularizer = GammaFlopsRegularizer(model, service=service)
    small = regularizer.prune()
    write_structure(tmp_path, 7, regularizer.structure())
    structure = read_structure(tmp_path / "learned_structure" / "structure_7.json")
    fresh = rebuild(SMALL[name], structure)
    assert [tuple(v.shape) for v in fresh.variables] == [tuple(v.shape) for v in small.variables]


def test_a_structure_of_another_network_is_refused(service: HttpService) -> None:
    model = randomise(SMALL["plain"]())
    structure = GammaFlopsRegularizer(model, service=service).structure()
    with pytest.raises(StructureError, match=r"another|19 output channels"):
        rebuild(SMALL["concat"], structure)


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "squeeze_excite", "flatten"])
def test_a_network_is_measured_at_twice_its_width(name: str, service: HttpService) -> None:
    measure = measure_widths(SMALL[name], "v100", service)
    model = SMALL[name]()
    regularizer = GammaLatencyRegularizer(model, service=service)
    counts = regularizer.alive_counts()
    assert measure(counts)["latency_s"] == pytest.approx(float(regularizer.get_cost()), rel=1e-6)
    wide = at_widths(model, {layer: 2 * count for layer, count in counts.items()})
    assert wide.get_layer("a").filters == 26
    doubled = measure({layer: 2 * count for layer, count in counts.items()})
    assert doubled["flops"] > 2 * measure(counts)["flops"]
    with pytest.raises(OptionError, match="'nowhere'"):
        measure({"nowhere": 3})


class Centred(L.Layer):  # type: ignore[misc, name-defined]  # no types: importorskip
    """Takes the mean over the channels away."""

    def call(self, x: Any) -> Any:
        return x - keras.ops.mean(x, axis=-1, keepdims=True)


def centred() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = Centred(name="centred")(conv_bn(image, 13, 3, "a"))
    x = L.GlobalAveragePooling2D(name="pool")(conv_bn(x, 17, 3, "b"))
    return keras.Model(image, L.Dense(5, name="fc")(x))


@pytest.mark.parametrize("example", [None, np.zeros((1, 7, 11, 3), np.float32)])
def test_a_pruned_model_that_computes_something_else_is_refused(
    example: Any, service: HttpService
) -> None:
    # a counterpart that does not tell about the mean
    register_layer(Centred, lambda call: call.x)
    model = randomise(centred())
    kill_gammas(model)
    regularizer = GammaFlopsRegularizer(model, example, service=service)
    with pytest.raises(PruningError, match=r"output 'fc' .* masked one by \d") as caught:
        regularizer.prune()
    apart = float(re.findall(r"one by ([^:]+):", str(caught.value))[0])
    assert apart > 1e-3
    assert regularizer.prune(tolerance=2 * apart).get_layer("a").filters < 13


def test_layers_in_half_precision_are_allowed_their_rounding(service: HttpService) -> None:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(conv_bn(image, 13, 3, "a", dtype="mixed_bfloat16"), 17, dtype="mixed_bfloat16")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    model = randomise(keras.Model(image, L.Dense(5, name="fc")(x)))
    kill_gammas(model)
    small = GammaFlopsRegularizer(model, service=service).prune()
    assert small.get_layer("a").filters < 13


def test_a_model_with_named_inputs_and_tokens_is_checked_on_its_own_kind(
    service: HttpService,
) -> None:
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    image = keras.Input((7, 11, 3), name="image")
    words = L.GlobalAveragePooling1D(name="mean")(L.Embedding(19, 13, name="embedding")(tokens))
    seen = L.GlobalAveragePooling2D(name="pool")(conv_bn(image, 17, 3, "a"))
    x = L.Concatenate(name="cat")([words, seen])
    x = L.BatchNormalization(name="both")(L.Dense(23, name="up")(x))
    outputs = {"score": L.Dense(5, name="fc")(x), "side": L.Dense(2, name="side")(x)}
    model = randomise(keras.Model({"tokens": tokens, "image": image}, outputs))
    kill_gammas(model)
    regularizer = GammaFlopsRegularizer(model, service=service)
    small = regularizer.prune()
    assert small.get_layer("up").units == regularizer.alive_counts()["up"] < 23


@pytest.mark.parametrize("name", [*SMALL, "dying"])
def test_a_pruned_model_is_pruned_once_more(name: str, service: HttpService) -> None:
    model = randomise(dying_branch() if name == "dying" else SMALL[name]())
    if name == "dying":
        gamma = model.get_layer("inner_bn").gamma
        gamma.assign(keras.ops.zeros(gamma.shape))
    for seed in (5, 6):
        kill_gammas(model, seed, share=0.3)
        regularizer = GammaFlopsRegularizer(model, service=service)
        smaller = assert_same_outputs(model, regularizer)
        assert smaller.count_params() < model.count_params()
        model = smaller


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_what_a_dead_branch_still_adds_is_kept_saved_and_pruned(
    service: HttpService, tmp_path: Any
) -> None:
    model = randomise(dying_branch())
    for name in ("inner_bn", "side_bn"):
        gamma = model.get_layer(name).gamma
        gamma.assign(keras.ops.zeros(gamma.shape))
    # a convolution without live inputs writes its bias, which its normalisation scales
    small = GammaLatencyRegularizer(model, service=service).prune()
    outer, norm = model.get_layer("outer"), model.get_layer("outer_bn")
    level = (numbers(outer.bias) - numbers(norm.moving_mean)) / np.sqrt(
        numbers(norm.moving_variance) + norm.epsilon
    ) * numbers(norm.gamma) + numbers(norm.beta)
    np.testing.assert_allclose(numbers(small.get_layer("add_level").bias), level, rtol=1e-4)
    path = tmp_path / "small.keras"
    small.save(path)
    x = image_of(model)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(x)) for m in (again, small)))


def test_a_list_of_numbers_in_a_configuration_is_named_as_the_reason(
    service: HttpService,
) -> None:
    image = keras.Input((7, 11, 3), name="image")
    x = L.Rescaling(0.5, offset=[0.25] * 13, name="shift")(conv_bn(image, 13, 3, "a"))
    x = L.GlobalAveragePooling2D(name="pool")(conv_bn(x, 17, 3, "b"))
    model = randomise(keras.Model(image, L.Dense(5, name="fc")(x)))
    kill_gammas(model)
    with pytest.raises(PruningError, match=r"does not run.*exclude.*Rescaling"):
        GammaFlopsRegularizer(model, service=service).prune()
