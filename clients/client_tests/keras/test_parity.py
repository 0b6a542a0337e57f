"""MorphNet's networks rebuilt in Keras have MorphNet's costs and penalties, op by op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from latency_client.keras import family
from latency_client.service import HttpService
from tests.parity.morphnet_networks import gammas, group_lasso_weights, networks

L = keras.layers
COST_TOLERANCE, PENALTY_TOLERANCE = 2e-6, 2e-6
DEVICES = {
    "K80": "k80", "P4": "p4", "T4": "t4", "P100": "p100-pcie-16gb", "V100": "v100-sxm2-16gb",
    "TPUv2": "tpu-v2-core",
}  # fmt: skip

# Where MorphNet is wrong, and why we do not follow it.
DELIBERATE_DIFFERENCES = {
    "InceptionV2/Conv2d_1a_7x7/dw/depthwise": "depthwise kernels are charged per channel pair there"
}


def rename(name: str) -> str:
    """Keras has no slashes in names."""
    return name.replace("/", ".")


def rebuild(network: Mapping[str, Any]) -> Any:
    """The network with Keras's layers, op by op; a BiasAdd is the bias of the layer before it."""
    rows = network["layers"]
    biases = {row["inputs"][0] for row in rows if row["op"] == "BiasAdd"}
    (image,) = (row for row in rows if row["op"] in ("Fill", "Const", "Placeholder"))
    source = keras.Input(image["out_shape"][1:], name="image")
    tensors = {image["name"]: source}
    for row in rows:
        if row is image:
            continue
        inputs = [tensors[name] for name in row["inputs"] if name in tensors]
        tensors[row["name"]] = _layer(row, inputs, row["name"] in biases)
        assert tuple(tensors[row["name"]].shape[1:]) == tuple(row["out_shape"][1:]), row["name"]
    return keras.Model(source, [tensors[name] for name in network["output_boundary"]])


def _layer(row: Mapping[str, Any], inputs: list[Any], bias: bool) -> Any:
    name, op, x = rename(row["name"]), row["op"], inputs[0]
    if op == "BiasAdd":
        return x
    if op in ("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"):
        window = {"strides": tuple(row["stride"]), "padding": row["padding"].lower(), "name": name}
        kernel = tuple(row["kernel"])
        if op == "MaxPool":
            return L.MaxPooling2D(kernel, **window)(x)
        if op == "AvgPool":
            return L.AveragePooling2D(kernel, **window)(x)
        if op == "Conv2D":
            return L.Conv2D(row["cout"], kernel, use_bias=bias, groups=row["groups"], **window)(x)
        times = row["cout"] // x.shape[-1]
        return L.DepthwiseConv2D(kernel, depth_multiplier=times, use_bias=bias, **window)(x)
    if op == "Mean":
        return keras.ops.mean(x, axis=(1, 2), keepdims=len(row["out_shape"]) == 4)
    made = {
        "FusedBatchNormV3": lambda: L.BatchNormalization(name=name)(x),
        "Relu": lambda: L.ReLU(name=name)(x),
        "AddV2": lambda: L.Add(name=name)(inputs),
        "ConcatV2": lambda: L.Concatenate(name=name)(inputs),
        "MatMul": lambda: L.Dense(row["cout"], use_bias=bias, name=name)(x),
    }
    return made[op]()


def regularizer_for(
    network: Mapping[str, Any], model: Any, service: HttpService, kind: str, **options: Any
) -> Any:
    given = network.get("options", {})
    algorithm = "GroupLasso" if "l1_fraction" in network else "Gamma"
    if algorithm == "GroupLasso":
        options["l1_fraction"] = network["l1_fraction"]
    return getattr(family, f"{algorithm}{kind}Regularizer")(
        model,
        None,
        service=service,
        devices=list(DEVICES.values()),
        runtime="morphnet",
        threshold=network["threshold"],
        force_group=[rename(p) for p in given.get("force_group", [])],
        exclude=given.get("regularizer_blacklist"),
        freeze_outputs=False,
        **options,
    )


def set_pattern(network: Mapping[str, Any], pattern: str, model: Any) -> None:
    """Scales, or weights in TensorFlow's layout, of a pattern."""
    if pattern == "W":
        for name, kernel in group_lasso_weights(network).items():
            axes = (*range(2, kernel.ndim), 1, 0)
            model.get_layer(rename(name)).kernel.assign(kernel.transpose(axes))
        return
    for name, gamma in gammas(network, pattern).items():
        model.get_layer(rename(name)).gamma.assign(gamma)


@pytest.fixture(scope="module", params=sorted(networks()))
def built(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, rebuild(networks()[request.param])


@pytest.mark.parametrize("batch_size", [1, 8])
def test_latency_and_its_penalty_are_morphnets(
    built: tuple[str, Any], batch_size: int, service: HttpService
) -> None:
    name, model = built
    network = networks()[name]
    regularizer = regularizer_for(network, model, service, "Latency", batch_size=batch_size)
    rows = {layer: row for row, layer in enumerate(regularizer.arrays.layers)}
    for pattern, facts in network["patterns"].items():
        set_pattern(network, pattern, model)
        costs, penalties = map(keras.ops.convert_to_numpy, regularizer.evaluate())
        compared = 0
        for op, expected in facts["per_op"].items():
            if op in DELIBERATE_DIFFERENCES:
                continue
            row = rows[rename(op)]
            for place, device in enumerate(DEVICES):
                if device not in expected["latency_ns"]:
                    continue
                cost_ns, penalty_ns = expected["latency_ns"][device][f"b{batch_size}"]
                assert costs[place, row] * 1e9 == pytest.approx(cost_ns, rel=COST_TOLERANCE)
                assert penalties[place, row] * 1e9 == pytest.approx(
                    penalty_ns, rel=PENALTY_TOLERANCE, abs=1e-30
                )
                compared += 1
        assert compared >= 2 * (len(facts["per_op"]) - 1) > 0


@pytest.mark.parametrize(
    ("kind", "key"), [("Flops", "flops"), ("ModelSize", "model_size"), ("Activation", "activation")]
)
def test_the_other_resources_are_morphnets(
    built: tuple[str, Any], kind: str, key: str, service: HttpService
) -> None:
    name, model = built
    network = networks()[name]
    regularizer = regularizer_for(network, model, service, kind)
    for pattern, facts in network["patterns"].items():
        set_pattern(network, pattern, model)
        counted = [op for op in facts["per_op"] if op not in DELIBERATE_DIFFERENCES]
        layers = [rename(op) for op in counted]
        for which, value in enumerate(
            (regularizer.get_cost(layers), regularizer.get_regularization_term(layers))
        ):
            wanted = np.sum([facts["per_op"][op][key][which] for op in counted], dtype=np.float64)
            assert float(value) == pytest.approx(wanted, rel=PENALTY_TOLERANCE)


def test_whole_networks_cost_what_morphnet_says(service: HttpService) -> None:
    network = networks()["resnet_blocks"]
    model = rebuild(network)
    set_pattern(network, "P1", model)
    regularizer = regularizer_for(network, model, service, "Latency")
    totals = network["patterns"]["P1"]["totals"]["latency_ns"]
    layers = [rename(op) for op in network["patterns"]["P1"]["per_op"]]
    rows = regularizer.arrays.rows(layers)
    costs, penalties = map(keras.ops.convert_to_numpy, regularizer.evaluate())
    for place, device in enumerate(DEVICES):
        assert costs[place, rows].sum() * 1e9 == pytest.approx(
            totals[device]["b1"]["cost"], rel=COST_TOLERANCE
        )
        assert penalties[place, rows].sum() * 1e9 == pytest.approx(
            totals[device]["b1"]["reg"], rel=PENALTY_TOLERANCE
        )
