"""What a Keras model costs is counted once more here, from its layers."""

from __future__ import annotations

import math
from typing import Any

import pytest

keras = pytest.importorskip("keras")

from client_tests.keras.networks import SMALL, image_of, plain
from latency_client.errors import GraphError, UnsupportedOperatorError
from latency_client.keras import extract
from latency_client.request import Request
from latency_client.service import HttpService

L = keras.layers
ZOO = {
    "ResNet50": 224, "MobileNetV2": 224, "MobileNetV3Small": 224, "EfficientNetB0": 224,
    "DenseNet121": 224, "InceptionV3": 299, "Xception": 299, "ConvNeXtTiny": 224,
    "NASNetMobile": 224,
}  # fmt: skip


def leaves(model: Any) -> list[Any]:
    found = []
    for op in model.layers:
        found += leaves(op) if isinstance(op, keras.Model) else [op]
    return found


def flops_of(model: Any) -> float:
    """2 per multiply-accumulate, from kernels and outputs alone: a kernel at every position."""
    total = 0
    for op in leaves(model):
        name = type(op).__name__
        positions = math.prod(op.output.shape[1:-1]) if hasattr(op, "output") else 0
        if name == "SeparableConv2D":
            kernels = (op.depthwise_kernel, op.pointwise_kernel)
            total += 2 * positions * sum(math.prod(k.shape) for k in kernels)
        elif name in ("Conv2D", "DepthwiseConv2D", "Dense"):
            total += 2 * positions * math.prod(op.kernel.shape)
    return total


@pytest.mark.parametrize("name", ZOO)
def test_a_known_network_has_its_flops_and_parameters(name: str, service: HttpService) -> None:
    size = ZOO[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    graph = extract(model).graph
    answer = service.coefficients(Request(graph, "v100"))

    learned = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert answer.document["totals"]["flops"] == pytest.approx(flops_of(model), rel=1e-12)
    assert answer.document["totals"]["parameters"] == learned
    assert not [layer.name for layer in graph.layers if layer.op == "Transpose"]
    keras.backend.clear_session()


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_those_that_keras_counts(name: str, service: HttpService) -> None:
    model = SMALL[name]()
    answer = service.coefficients(Request(extract(model, image_of(model)).graph, "v100"))
    learned = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert answer.document["totals"]["parameters"] == learned


def test_layers_keep_the_names_of_the_user_and_the_sizes_of_the_example() -> None:
    model = SMALL["nested"]()
    graph = extract(model, image_of(model, batch=3)).graph
    names = [layer.name for layer in graph.layers]
    assert names[:5] == ["a", "a_bn", "a_relu", "block/inner", "block/inner_bn"]
    assert [n for n in names if n.startswith("shared")] == ["shared", "shared_1"]
    ids = [graph.by_name[n].parameters[0].id for n in ("shared", "shared_1")]  # type: ignore[index]
    assert ids[0] == ids[1]
    assert graph.shapes["up"] == (3, 19, 14, 22)


def test_same_padding_puts_the_odd_row_last() -> None:
    image = keras.Input((8, 13, 3))
    model = keras.Model(image, L.Conv2D(5, (3, 4), strides=2, padding="same", name="c")(image))
    layer = extract(model).graph.by_name["c"]
    # 8 rows at stride 2: 4 positions, (4 - 1) * 2 + 3 - 8 = 1 row; 13: 7, 6 * 2 + 4 - 13 = 3
    assert layer.attributes["pads"] == [0, 1, 1, 2]
    assert layer.outputs[0].shape == (1, 5, 4, 7)


def test_a_model_of_ones_own_is_recorded_and_left_as_it_was() -> None:
    class Block(keras.layers.Layer):  # type: ignore[misc, name-defined]  # no types: importorskip
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.conv = L.Conv2D(13, 3, padding="same", name="conv")
            self.norm = L.BatchNormalization(name="norm")

        def call(self, x: Any) -> Any:
            return keras.ops.relu(self.norm(self.conv(x)))

    class Net(keras.Model):  # type: ignore[misc, name-defined]  # no types: importorskip
        def __init__(self) -> None:
            super().__init__(name="net")
            self.block = Block(name="block")
            self.fc = L.Dense(5, name="fc")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.fc(keras.ops.mean(self.block(x), axis=(1, 2)))

    model = Net()
    example = image_of(plain())
    model(example)
    graph = extract(model, example).graph
    assert [layer.op for layer in graph.layers] == [
        "Conv", "BatchNormalization", "Relu", "ReduceMean", "Gemm",
    ]  # fmt: skip
    assert graph.layers[0].name == "block/conv"
    assert not model.fc._inbound_nodes
    assert not model.block.conv._inbound_nodes


def test_a_transformer_is_understood(service: HttpService) -> None:
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = L.Embedding(101, 12, name="table")(tokens)
    y = L.MultiHeadAttention(3, 4, name="mha")(x, x)
    x = L.LayerNormalization(name="ln")(x + y)
    y = L.Dense(12, name="down")(L.Dense(29, activation="gelu", name="up")(x))
    x = L.LSTM(11, name="lstm")(L.Add(name="add")([x, y]))
    model = keras.Model(tokens, L.Dense(5, name="fc")(x))
    answer = service.coefficients(Request(extract(model).graph, "v100"))
    assert answer.document["totals"]["parameters"] == model.count_params()
    # scores and weighted values of 3 heads over 4: 2 * 2 * 7 * 7 * 12
    attention = 4 * 2 * 7 * 12 * 12 + 2 * 2 * 7 * 7 * 12
    dense = 2 * 7 * 2 * 12 * 29 + 2 * 11 * 5
    lstm = 2 * 7 * 4 * 11 * (12 + 11)
    assert answer.document["totals"]["flops"] == attention + dense + lstm


def test_an_operation_without_a_counterpart_is_refused_by_name() -> None:
    image = keras.Input((7, 11, 3))
    model = keras.Model(image, L.Lambda(keras.ops.sort, name="mystery")(image))
    with pytest.raises(UnsupportedOperatorError, match=r"'mystery/sort.*register_layer"):
        extract(model)


def test_a_function_that_cannot_be_recorded_is_refused_by_name() -> None:
    image = keras.Input((7, 11, 3))
    opaque = L.Lambda(lambda x: float(x) * x, output_shape=(7, 11, 3), name="mystery")
    with pytest.raises(UnsupportedOperatorError, match=r"'mystery'.*keras\.ops"):
        extract(keras.Model(image, opaque(image)))


def test_an_example_of_another_size_is_refused() -> None:
    model = plain()
    with pytest.raises(GraphError, match=r"\[2, 7, 13, 3\].*\[None, 7, 11, 3\]"):
        extract(model, keras.ops.zeros((2, 7, 13, 3)))


@pytest.mark.parametrize("given", [1, 3])
def test_another_number_of_inputs_is_refused(given: int) -> None:
    images = [keras.Input((7, 11, 3)) for _ in range(2)]
    model = keras.Model(images, L.Add()(images))
    with pytest.raises(GraphError, match=f"takes 2 inputs, not {given}"):
        extract(model, [keras.ops.zeros((1, 7, 11, 3))] * given)


def test_what_is_not_understood_can_be_frozen(service: HttpService) -> None:
    image = keras.Input((7, 11, 3))
    x = L.Lambda(keras.ops.sort, name="mystery")(L.Conv2D(13, 3, padding="same", name="c")(image))
    model = keras.Model(image, L.Conv2D(5, 1, name="d")(x))
    graph = extract(model, unknown_ops="freeze").graph
    assert [layer.op for layer in graph.layers if layer.name.startswith("mystery")] == ["Sort"]
    answer = service.coefficients(Request(graph, "v100", {"unknown_ops": "freeze"}))
    assert not any(group.prunable for group in answer.groups)
    assert any("Sort" in text for text in answer.assumptions)
