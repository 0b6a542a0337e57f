"""From a plain Keras model to a pruned, faster one, on the digits of scikit-learn.

    latency-service serve &
    calibrate --device my-machine --budget 1m
    python -m examples.digits_keras --device my-machine --also v100

The twin of `examples.digits_torch`: a network of 33 MFLOP is trained, then trained on with
MorphNet's GammaLatency penalty until the service predicts the asked share of its latency, pruned,
and trained a little more. Beside it the same share of FLOPs, saved by GammaFlops. Latency is
predicted for two devices, and measured with onnxruntime on one thread.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from examples.digits import Digits, Result, compare, load_digits, parse, report
from latency_client.keras import (
    GammaFlopsRegularizer,
    GammaLatencyRegularizer,
    NetworkRegularizer,
    prune,
)

L = keras.layers
BATCH = 64


def cifarnet(width: int = 128, hidden: int = 128) -> Any:
    """CIFARNet's outline for images of 8x8: convolutions, pooling, two dense layers."""
    image = keras.Input((8, 8, 1), name="image")
    x = _block(image, width // 2, "stem")
    x = _block(_block(x, width, "wide"), width, "deep")
    x = _block(L.MaxPooling2D(name="half")(x), width, "late")
    x = L.Flatten(name="flat")(L.MaxPooling2D(name="quarter")(x))
    x = _normed(L.Dense(hidden, use_bias=False, name="dense")(x), "dense")
    return keras.Model(image, L.Dense(10, name="classes")(x), name="cifarnet")


def _block(x: Any, filters: int, name: str) -> Any:
    return _normed(L.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x), name)


def _normed(x: Any, name: str) -> Any:
    x = L.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
    return L.ReLU(name=f"{name}_relu")(x)


def accuracy(model: Any, data: Digits) -> float:
    """Share of test images that it gets right."""
    scores = np.asarray(model(data.test_images[..., None], training=False))
    return float((scores.argmax(1) == data.test_labels).mean())


def train(
    model: Any,
    data: Digits,
    epochs: int,
    seed: int,
    regularizer: NetworkRegularizer | None = None,
    strength: float = 0.0,
    share: float = 1.0,
    rate: float = 2e-3,
) -> None:
    """Train; with a regulariser, until the cost has fallen to the asked share."""
    rng = np.random.default_rng(seed)
    steps = epochs * -(-len(data.images) // BATCH)
    optimizers = _optimizers(model, rate, steps, scales=regularizer is not None)
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator, unused-ignore]
    def step(images: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            loss = criterion(labels, model(images, training=True))
            if regularizer is not None:
                loss = loss + strength * regularizer.get_regularization_term()
        groups = [variables for _, variables in optimizers]
        slopes = tape.gradient(loss, [[v.value for v in variables] for variables in groups])
        for (optimizer, variables), own in zip(optimizers, slopes, strict=True):
            optimizer.apply(own, variables)

    goal = None if regularizer is None else share * float(regularizer.get_cost())
    for _ in range(epochs):
        order = rng.permutation(len(data.images))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            # a pixel to and fro makes twice as many images of them
            images = np.roll(data.images[rows], rng.integers(-1, 2, 2), (1, 2))[..., None]
            step(tf.constant(images), tf.constant(data.labels[rows]))
        if regularizer is not None:
            regularizer.refresh()
            if goal is not None and float(regularizer.get_cost()) <= goal:
                return


def _optimizers(model: Any, rate: float, steps: int, scales: bool) -> list[tuple[Any, list[Any]]]:
    """Optimisers and their variables.

    Scales that are to shrink learn ten times faster than what is to make up for them, at a steady
    rate; without a penalty the rate rises and falls once.
    """
    if not scales:
        rises = int(0.3 * steps)
        cycle = keras.optimizers.schedules.CosineDecay(
            rate / 25, steps - rises, warmup_target=rate, warmup_steps=rises
        )
        return [(keras.optimizers.Adam(cycle), model.trainable_variables)]
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    fast = [layer.gamma for layer in norms]
    known = {id(variable) for variable in fast}
    others = [v for v in model.trainable_variables if id(v) not in known]
    adam = keras.optimizers.Adam
    return [(adam(rate), others), (adam(10 * rate), fast)]


def to_onnx(model: Any) -> bytes:
    """A model of the layers above as an ONNX file for one image, channels first.

    Keras's own export to ONNX needs packages besides it; six kinds of layers need none.
    """
    nodes: list[Any] = []
    constants: list[Any] = []

    def add(op: str, layer: Any, *values: Any, **attributes: Any) -> None:
        names = []
        for place, value in enumerate(values):
            names.append(f"{layer.name}.{place}")
            constants.append(numpy_helper.from_array(np.ascontiguousarray(value), names[-1]))
        last = nodes[-1].output[0] if nodes else "image"
        nodes.append(
            helper.make_node(op, [last, *names], [f"{layer.name}.out"], layer.name, **attributes)
        )

    flattened: tuple[int, ...] | None = None
    for layer in model.layers[1:]:
        kind = type(layer).__name__
        weights = layer.get_weights()
        if kind == "Conv2D":
            add("Conv", layer, weights[0].transpose(3, 2, 0, 1), pads=[1, 1, 1, 1])
        elif kind == "BatchNormalization":
            add("BatchNormalization", layer, *weights, epsilon=layer.epsilon)
        elif kind == "ReLU":
            add("Relu", layer)
        elif kind == "MaxPooling2D":
            add("MaxPool", layer, kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "Flatten":
            flattened = layer.input.shape[1:]
            add("Flatten", layer)
        elif kind == "Dense":
            kernel = weights[0]
            if flattened is not None:
                # Keras flattens (height, width, channels), ONNX (channels, height, width)
                kernel = kernel.reshape(*flattened, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(-1, layer.units)
                flattened = None
            add("Gemm", layer, kernel, *weights[1:])
        else:
            raise TypeError(f"layer {layer.name!r} is a {kind}, which this example has none of")
    shapes = {"image": (1, 1, 8, 8), nodes[-1].output[0]: (1, model.output_shape[-1])}
    first, last = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()
    )
    graph = helper.make_graph(nodes, model.name, [first], [last], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content


def slimmed(seed_model: Any, data: Digits, kind: str, options: argparse.Namespace,
            seed: int) -> Result:  # fmt: skip
    """Penalise, prune, and train on."""
    model = keras.models.clone_model(seed_model)
    model.set_weights(seed_model.get_weights())
    make: Any = GammaLatencyRegularizer if kind == "latency" else GammaFlopsRegularizer
    regularizer = make(model, device=options.device, service=options.service, threshold=0.03)
    strength = options.strength * regularizer.suggested_strength()
    train(model, data, 4 * options.epochs, seed, regularizer, strength, options.share, 1e-3)
    smaller = prune(model, regularizer.structure(floor=4, multiple_of="device"))
    train(smaller, data, 2 * options.epochs, seed + 1)
    return Result(accuracy(smaller, data), smaller, to_onnx(smaller))


def predicted_s(model: Any, device: str, service: Any) -> float:
    """Latency on a device by the service, every channel alive."""
    regularizer = GammaLatencyRegularizer(model, device=device, service=service, threshold=0.0)
    return float(regularizer.get_cost())


def networks(options: argparse.Namespace, seed: int) -> dict[str, Result]:
    """The network that a seed gives, and what either penalty makes of it."""
    keras.utils.set_random_seed(seed)
    data = load_digits(seed)
    first = cifarnet(options.width)
    train(first, data, options.epochs, seed)
    results = {"seed network": Result(accuracy(first, data), first, to_onnx(first))}
    for kind in ("latency", "flops"):
        results[f"Gamma{kind.title()}"] = slimmed(first, data, kind, options, seed)
    return results


if __name__ == "__main__":
    report(compare(parse(__doc__), networks, predicted_s))
