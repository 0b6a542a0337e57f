"""More of MorphNet's networks: cost and penalty of every operator, spelled out by hand.

Formulas: MorphNet's (Gordon et al., 2018, and its released code), on its own peaks for the P100 and
the V100. An image has 7x11 pixels and 3 channels, every width is a prime of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from client_tests.keras.networks import conv_bn
from latency_client.keras import family
from latency_client.keras.views import numbers
from latency_client.service import HttpService

L = keras.layers
PIXELS = 7 * 11
THRESHOLD = 0.4

# FLOP/s and bytes/s
RATES = {"p100": (9300e9, 732e9), "v100": (125000e9, 900e9)}
KINDS = ["Flops", "ModelSize", "Activation", *(f"Latency {device}" for device in RATES)]


class Channels:
    """Live channels n and the sum r of their strengths."""

    def __init__(self, strengths: Any, threshold: float = THRESHOLD) -> None:
        values = np.abs(np.asarray(strengths, np.float64))
        self.n, self.r = float((values > threshold).sum()), float(values.sum())

    def __add__(self, other: Channels) -> Channels:
        both = Channels([])
        both.n, both.r = self.n + other.n, self.r + other.r
        return both


def fixed(count: int) -> Channels:
    """Channels without a regulariser."""
    made = Channels([])
    made.n = float(count)
    return made


@dataclass(frozen=True)
class Op:
    """flops = pair_flops n_in n_out + out_flops n_out; bytes / 4 and weights likewise."""

    n_in: Channels
    n_out: Channels
    pair_flops: float = 0
    out_flops: float = 0
    floats_in: float = 0
    floats_out: float = 0
    pair_weights: float = 0
    out_weights: float = 0

    def expected(self, kind: str) -> tuple[float, float]:
        """Cost and penalty."""
        counted = bool(self.pair_flops or self.out_flops)
        flops = (0.0, self.out_flops, self.pair_flops)
        if kind == "Flops":
            return self._form(*flops)
        if kind == "ModelSize":
            return self._form(0, self.out_weights, self.pair_weights)
        if kind == "Activation":
            return self._form(0, float(counted), 0)
        peak, bandwidth = RATES[kind.removeprefix("Latency ")]
        compute = self._form(*(c / peak for c in flops))
        floats = (self.floats_in, self.floats_out + self.out_weights, self.pair_weights)
        memory = self._form(*(4 * c / bandwidth for c in floats))
        return memory if memory[0] > compute[0] else compute

    def _form(self, per_in: float, per_out: float, per_pair: float) -> tuple[float, float]:
        i, o = self.n_in, self.n_out
        return (
            per_in * i.n + per_out * o.n + per_pair * i.n * o.n,
            per_in * i.r + per_out * o.r + per_pair * (i.n * o.r + o.n * i.r),
        )


def conv(i: Channels, o: Channels, taps: int, pixels: int = PIXELS) -> Op:
    """2 FLOPs per multiply-add; reads its input and its kernel, writes its output."""
    return Op(i, o, pair_flops=2 * pixels * taps, floats_in=pixels, floats_out=pixels,
              pair_weights=taps)  # fmt: skip


def elementwise(x: Channels, pixels: int = PIXELS, reads: float = 1) -> Op:
    """BatchNorm, ReLU, sums: reads its inputs, writes its output."""
    return Op(x, x, floats_in=reads * pixels, floats_out=pixels)


def concat(x: Channels, pixels: int = PIXELS) -> Op:
    """Reads and writes all of its output's channels."""
    return Op(x, x, floats_in=pixels, floats_out=pixels)


def block(name: str, i: Channels, o: Channels, taps: int) -> dict[str, Op]:
    """What `conv_bn` is made of."""
    return {name: conv(i, o, taps), f"{name}_bn": elementwise(o), f"{name}_relu": elementwise(o)}


def gamma(model: Any, name: str) -> Any:
    return np.abs(numbers(model.get_layer(name).gamma).astype(np.float64))


def drawn(model: Any) -> Any:
    """Scales of both signs, some of them below the threshold."""
    rng = np.random.default_rng(37)
    for variable in model.variables:
        if variable.path.endswith("gamma"):
            variable.assign(rng.normal(0, 0.6, variable.shape).astype("float32"))
    return model


# --- the networks ---------------------------------------------------------------------------------


def densenet() -> tuple[Any, dict[str, Op]]:
    """Pre-activated layers that read everything before them: a channel has a scale in each."""
    image = keras.Input((7, 11, 3), name="image")
    stem = L.Conv2D(13, 3, padding="same", use_bias=False, name="stem")(image)
    x = L.ReLU(name="one_relu")(L.BatchNormalization(name="one_bn")(stem))
    one = L.Conv2D(5, 3, padding="same", use_bias=False, name="one")(x)
    cat_one = L.Concatenate(name="cat_one")([stem, one])
    x = L.ReLU(name="two_relu")(L.BatchNormalization(name="two_bn")(cat_one))
    two = L.Conv2D(7, 3, padding="same", use_bias=False, name="two")(x)
    cat_two = L.Concatenate(name="cat_two")([cat_one, two])
    x = L.ReLU(name="end_relu")(L.BatchNormalization(name="end_bn")(cat_two))
    x = L.Conv2D(17, 1, use_bias=False, name="end")(x)
    model = drawn(keras.Model(image, x))
    first, second, last = (gamma(model, f"{name}_bn") for name in ("one", "two", "end"))
    # a channel is as strong as the strongest scale that it passes
    a = Channels(np.maximum(np.maximum(first, second[:13]), last[:13]))
    b = Channels(np.maximum(second[13:], last[13:18]))
    c = Channels(last[18:])
    return model, {
        "stem": conv(fixed(3), a, 9),
        "one_bn": elementwise(a), "one_relu": elementwise(a),
        "one": conv(a, b, 9),
        "cat_one": concat(a + b),
        "two_bn": elementwise(a + b), "two_relu": elementwise(a + b),
        "two": conv(a + b, c, 9),
        "cat_two": concat(a + b + c),
        "end_bn": elementwise(a + b + c), "end_relu": elementwise(a + b + c),
        "end": conv(a + b + c, fixed(17), 1),
    }  # fmt: skip


def two_towers() -> tuple[Any, dict[str, Op]]:
    """One tower ends in a concatenation, and the other is added to it."""
    image = keras.Input((7, 11, 3), name="image")
    left = L.Concatenate(name="cat")([conv_bn(image, 13, 3, "a"), conv_bn(image, 19, 1, "b")])
    right = conv_bn(conv_bn(image, 11, 3, "c"), 32, 1, "d")
    x = conv_bn(L.Add(name="add")([left, right]), 17, 3, "e")
    model = drawn(keras.Model(image, L.Conv2D(5, 1, use_bias=False, name="end")(x)))
    d = gamma(model, "d_bn")
    # the sum is re-cut where the concatenation has its seam
    a = Channels(np.maximum(gamma(model, "a_bn"), d[:13]))
    b = Channels(np.maximum(gamma(model, "b_bn"), d[13:]))
    c, e = Channels(gamma(model, "c_bn")), Channels(gamma(model, "e_bn"))
    return model, {
        **block("a", fixed(3), a, 9), **block("b", fixed(3), b, 1),
        "cat": concat(a + b),
        **block("c", fixed(3), c, 9), **block("d", c, a + b, 1),
        "add": elementwise(a + b, reads=2),
        **block("e", a + b, e, 9),
        "end": conv(e, fixed(5), 1),
    }  # fmt: skip


def squeeze_excite() -> tuple[Any, dict[str, Op]]:
    """The gates of the excitation live and die with the channels that they multiply."""
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    s = L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    s = L.Conv2D(7, 1, use_bias=False, name="reduce")(s)
    s = L.Conv2D(13, 1, use_bias=False, name="expand")(L.ReLU(name="reduce_relu")(s))
    x = L.Multiply(name="excite")([x, L.Activation("sigmoid", name="gates")(s)])
    x = conv_bn(x, 17, 3, "b")
    model = drawn(keras.Model(image, L.Conv2D(5, 1, use_bias=False, name="end")(x)))
    a, b = Channels(gamma(model, "a_bn")), Channels(gamma(model, "b_bn"))
    return model, {
        **block("a", fixed(3), a, 9),
        "reduce": conv(a, fixed(7), 1, pixels=1),
        "reduce_relu": elementwise(fixed(7), pixels=1),
        "expand": conv(fixed(7), a, 1, pixels=1),
        "excite": Op(a, a, floats_in=PIXELS + 1, floats_out=PIXELS),
        **block("b", a, b, 9),
        "end": conv(b, fixed(5), 1),
    }


def transposed() -> tuple[Any, dict[str, Op]]:
    """A transposed convolution multiplies per position of its input."""
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    x = L.Conv2DTranspose(17, 3, strides=2, padding="same", use_bias=False, name="up")(x)
    x = L.ReLU(name="up_relu")(L.BatchNormalization(name="up_bn")(x))
    model = drawn(keras.Model(image, L.Conv2D(5, 1, use_bias=False, name="end")(x)))
    a, up = Channels(gamma(model, "a_bn")), Channels(gamma(model, "up_bn"))
    large = 14 * 22
    return model, {
        **block("a", fixed(3), a, 9),
        "up": Op(a, up, pair_flops=2 * PIXELS * 9, floats_in=PIXELS, floats_out=large,
                 pair_weights=9),
        "up_bn": elementwise(up, large), "up_relu": elementwise(up, large),
        "end": conv(up, fixed(5), 1, pixels=large),
    }  # fmt: skip


def mobilenet() -> tuple[Any, dict[str, Op]]:
    """Depthwise channels are those of their input; one kernel each, where MorphNet pairs them."""
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)
    x = L.ReLU(6.0, name="dw_relu")(L.BatchNormalization(name="dw_bn")(x))
    x = conv_bn(x, 17, 1, "pw")
    model = drawn(keras.Model(image, L.Conv2D(5, 1, use_bias=False, name="end")(x)))
    a = Channels(np.maximum(gamma(model, "a_bn"), gamma(model, "dw_bn")))
    pw = Channels(gamma(model, "pw_bn"))
    return model, {
        **block("a", fixed(3), a, 9),
        "dw": Op(a, a, out_flops=2 * PIXELS * 9, floats_in=PIXELS, floats_out=PIXELS,
                 out_weights=9),
        "dw_bn": elementwise(a), "dw_relu": elementwise(a),
        **block("pw", a, pw, 1),
        "end": conv(pw, fixed(5), 1),
    }  # fmt: skip


NETWORKS: dict[str, Callable[[], tuple[Any, dict[str, Op]]]] = {
    f.__name__: f for f in (densenet, two_towers, squeeze_excite, transposed, mobilenet)
}


def check(regularizer: Any, expected: Mapping[str, Op], kind: str) -> None:
    """Compare operator by operator, then all of them."""
    total = np.zeros(2)
    for name, op in expected.items():
        cost, penalty = op.expected(kind)
        assert float(regularizer.get_cost([name])) == pytest.approx(cost, rel=2e-6), name
        assert float(regularizer.get_regularization_term([name])) == pytest.approx(
            penalty, rel=2e-6
        ), name
        total += cost, penalty
    names = list(expected)
    assert float(regularizer.get_cost(names)) == pytest.approx(total[0], rel=2e-6)
    assert float(regularizer.get_regularization_term(names)) == pytest.approx(total[1], rel=2e-6)


def options(kind: str, service: HttpService) -> dict[str, Any]:
    device = kind.removeprefix("Latency ") if kind.startswith("Latency") else "p100"
    return {"service": service, "device": device, "runtime": "morphnet", "threshold": THRESHOLD}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_is_charged_by_hand_arithmetic(
    name: str, kind: str, service: HttpService
) -> None:
    model, expected = NETWORKS[name]()
    widths = {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}
    assert any(expected[n].n_out.n < width for n, width in widths.items())
    # a dead layer costs nothing here, where MorphNet charges what is left of its bytes
    assert all(op.n_out.n > 0 for op in expected.values())
    make = getattr(family, f"Gamma{kind.partition(' ')[0]}Regularizer")
    check(make(model, **options(kind, service)), expected, kind)


@pytest.mark.parametrize("l1_fraction", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_a_residual_block_are_mixed(
    kind: str, l1_fraction: float, service: HttpService
) -> None:
    image = keras.Input((7, 11, 3), name="image")
    a = L.Conv2D(13, 3, padding="same", use_bias=False, name="a")(image)
    b = L.Conv2D(13, 3, padding="same", use_bias=False, name="b")(L.ReLU(name="a_relu")(a))
    x = L.Add(name="add")([a, b])
    x = L.Conv2DTranspose(17, 3, strides=2, padding="same", use_bias=False, name="up")(x)
    model = keras.Model(image, L.Conv2D(5, 1, use_bias=False, name="end")(x))
    rng = np.random.default_rng(31)
    norms = {}
    for name, own in (("a", 3), ("b", 3), ("up", 2)):
        layer = model.get_layer(name)
        kernel = rng.normal(0, 1, layer.kernel.shape).astype("float32")
        # transposed kernels are (height, width, out, in)
        scale = rng.uniform(0.1, 0.8, kernel.shape[own]).astype("float32")
        kernel *= scale if own == 3 else scale[:, None]
        layer.kernel.assign(kernel)
        rows = np.moveaxis(kernel.astype(np.float64), own, 0).reshape(kernel.shape[own], -1)
        square, absolute = np.sqrt((rows**2).mean(1)), abs(rows).mean(1)
        norms[name] = (1 - l1_fraction) * square + l1_fraction * absolute
    tied, up = Channels(np.maximum(norms["a"], norms["b"])), Channels(norms["up"])
    assert 0 < tied.n < 13
    assert 0 < up.n < 17
    expected = {
        "a": conv(fixed(3), tied, 9),
        "a_relu": elementwise(tied),
        "b": conv(tied, tied, 9),
        "add": elementwise(tied, reads=2),
        "up": Op(tied, up, pair_flops=2 * PIXELS * 9, floats_in=PIXELS, floats_out=14 * 22,
                 pair_weights=9),
        "end": conv(up, fixed(5), 1, pixels=14 * 22),
    }  # fmt: skip
    make = getattr(family, f"GroupLasso{kind.partition(' ')[0]}Regularizer")
    check(make(model, l1_fraction=l1_fraction, **options(kind, service)), expected, kind)


def test_a_tower_that_is_dead_costs_nothing_and_keeps_its_pull(service: HttpService) -> None:
    model, _ = two_towers()
    scales = model.get_layer("c_bn").gamma
    scales.assign(np.full(scales.shape, 0.5 * THRESHOLD, np.float32))
    regularizer = family.GammaFlopsRegularizer(model, **options("Flops", service))
    assert float(regularizer.get_cost(["c"])) == 0
    assert float(regularizer.get_cost(["d"])) == 0
    # 11 scales of half the threshold, on 3 input channels
    penalty = 2 * PIXELS * 9 * 3 * 11 * 0.5 * THRESHOLD
    assert float(regularizer.get_regularization_term(["c"])) == pytest.approx(penalty, rel=2e-6)
    small = regularizer.prune()
    assert not {"c", "d", "add"} & {layer.name for layer in small.layers}
