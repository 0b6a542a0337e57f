"""Small Keras models, their extents distinct primes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

L = keras.layers


def randomise(model: Any, seed: int = 7) -> Any:
    """Give every variable, statistics among them, numbers of its own; BatchNorm scales around 1."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        shape = tuple(variable.shape)
        value = rng.normal(0, 0.3, shape)
        if variable.path.endswith(("moving_variance", "gamma")):
            value = 0.5 + rng.random(shape)
        variable.assign(value.astype("float32"))
    return model


def conv_bn(x: Any, filters: int, kernel: int = 3, name: str = "conv", **options: Any) -> Any:
    x = L.Conv2D(filters, kernel, padding="same", use_bias=False, name=name, **options)(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x)


def plain() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 5, "a")
    x = conv_bn(x, 17, 3, "b", strides=2)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="plain")


def residual() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    a = conv_bn(image, 13, 3, "a")
    b = conv_bn(a, 13, 3, "b")
    x = L.Add(name="add")([a, b])
    x = conv_bn(x, 17, 1, "c")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="residual")


def concat() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    a = conv_bn(image, 13, 3, "a")
    b = conv_bn(image, 19, 1, "b")
    x = L.Concatenate(name="cat")([a, b])
    x = conv_bn(x, 17, 3, "c")
    x = L.GlobalMaxPooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="concat")


def depthwise() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(x)
    x = L.BatchNormalization(name="dw_bn")(x)
    x = L.ReLU(6.0, name="dw_relu")(x)
    x = L.SeparableConv2D(17, 3, padding="same", name="sep")(x)
    x = L.BatchNormalization(name="sep_bn")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="depthwise")


def squeeze_excite() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    s = L.GlobalAveragePooling2D(name="squeeze")(x)
    s = L.Reshape((1, 1, 13), name="shape")(s)
    s = L.Conv2D(7, 1, activation="relu", name="reduce")(s)
    s = L.Conv2D(13, 1, activation="sigmoid", name="expand")(s)
    x = L.Multiply(name="excite")([x, s])
    x = conv_bn(x, 17, 3, "b")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="squeeze_excite")


def flatten() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 13, 3, "a")
    x = L.MaxPooling2D(2, name="pool")(x)
    x = L.Flatten(name="flat")(x)
    x = L.Dropout(0.5, name="drop")(x)
    x = L.Dense(19, use_bias=False, name="hidden")(x)
    x = L.BatchNormalization(name="hidden_bn")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="flatten")


def grouped() -> Any:
    image = keras.Input((7, 11, 3), name="image")
    x = conv_bn(image, 15, 3, "a")
    x = conv_bn(x, 35, 3, "b", groups=5)
    x = conv_bn(x, 17, 1, "c")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="grouped")


def nested() -> Any:
    """A sequential block inside, operators between tensors, a shared layer, a transposed one."""
    image = keras.Input((7, 11, 3), name="image")
    block = keras.Sequential(
        [
            keras.Input((7, 11, 13)),
            L.Conv2D(17, 3, padding="same", name="inner"),
            L.BatchNormalization(name="inner_bn"),
        ],
        name="block",
    )
    x = conv_bn(image, 13, 3, "a")
    x = keras.ops.relu(block(x)) * 0.5 + 1.0
    shared = L.Conv2D(17, 1, use_bias=False, name="shared")
    x = L.BatchNormalization(name="after")(shared(shared(x)))
    x = L.Conv2DTranspose(19, 3, strides=2, padding="same", name="up")(x)
    x = L.BatchNormalization(name="up_bn")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(5, name="fc")(x), name="nested")


SMALL = {
    f.__name__: f
    for f in (plain, residual, concat, depthwise, squeeze_excite, flatten, grouped, nested)
}


def image_of(model: Any, batch: int = 2, seed: int = 3) -> Any:
    """Random images for a model."""
    shape = (batch, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
