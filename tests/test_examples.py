"""The networks under examples/: the files are current, and the networks are the published ones."""

import json
import math
from collections import Counter

import pytest

from examples.networks import NETWORKS, Network, path_of, same_padding, to_text
from latency_service.core.canonical import graph_to_json
from latency_service.core.graph import graph_from_json
from tests.parity.morphnet_networks import networks as morphnet_networks

# MorphNet counts these and nothing else that occurs in Inception V2.
COUNTED = ("Conv", "BatchNormalization", "Relu", "Concat", "Gemm")

# Layers, multiply-adds and kernel weights, counted from the files.
SIZES = {
    "inception_v2": (233, 1_934_858_240, 11_168_408),  # MorphNet: 3.86972e9 FLOPs
    "mobilenet_v1": (84, 568_740_352, 4_209_088),  # the paper: 569 M, 4.2 M
    "mobilenet_v1_full_conv": (45, 4_867_293_184, 29_281_120),  # the paper: 29.3 M
    "mobilenet_v2": (152, 300_774_272, 3_469_760),  # the paper: 300 M, 3.4 M
    "resnet50": (175, 4_089_184_256, 25_502_912),  # 3.8e9 with the stride on the 1x1, as published
    "vit_small": (355, 4_574_026_752, 21_912_576),  # the paper: 4.6 G, 22 M
}


@pytest.mark.parametrize("name", NETWORKS)
def test_committed_file_is_what_the_script_writes(name):
    text = path_of(name).read_text(encoding="utf-8")
    assert text == to_text(NETWORKS[name]()), "run: python -m examples.networks"
    assert json.loads(text) == NETWORKS[name]()


@pytest.mark.parametrize("name", NETWORKS)
def test_example_has_the_size_of_the_published_network(name):
    document = NETWORKS[name]()
    multiply_adds = weights = 0
    shapes = {row["name"]: row["outputs"][0]["shape"] for row in document["layers"]}
    for row in document["layers"]:
        if row["op"] not in ("Conv", "Gemm", "MatMul"):
            continue
        out = math.prod(shapes[row["name"]][1:])
        if "parameters" not in row:
            multiply_adds += out * shapes[row["inputs"][0]][-1]
            continue
        kernel = row["parameters"][0]["shape"]
        summed = kernel[0] if row["op"] == "MatMul" else math.prod(kernel[1:])
        multiply_adds += out * summed
        weights += math.prod(kernel)
    assert (len(document["layers"]), multiply_adds, weights) == SIZES[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_example_is_a_layer_graph(name):
    document = NETWORKS[name]()
    graph = graph_from_json(document)
    again = json.loads(json.dumps(graph_to_json(graph)))
    assert graph.symbols == {"N"}
    assert sorted(again["layers"], key=lambda row: row["name"]) == sorted(
        document["layers"], key=lambda row: row["name"]
    )


def test_resnet50_has_its_175_layers():
    ops = Counter(row["op"] for row in NETWORKS["resnet50"]()["layers"])
    assert ops == {
        "Conv": 53,
        "BatchNormalization": 53,
        "Relu": 49,
        "Add": 16,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


def test_inception_v2_has_the_219_ops_that_morphnet_counts():
    ops = Counter(row["op"] for row in NETWORKS["inception_v2"]()["layers"])
    assert sum(ops[op] for op in COUNTED) == 219
    assert set(ops) - set(COUNTED) == {"MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"}


def test_inception_v2_is_morphnets_op_by_op():
    def ours(name: str) -> str:
        renamed = {
            "InceptionV2/Conv2d_1a_7x7/dw/depthwise": "Conv2d_1a_7x7/depthwise",
            "global_pool": "flatten",
        }
        name = renamed.get(name, name).removeprefix("InceptionV2/")
        for suffix in ("/Conv2D", "/FusedBatchNormV3", "/MatMul"):
            name = name.removesuffix(suffix)
        return name

    rows = {row["name"]: row for row in NETWORKS["inception_v2"]()["layers"]}
    seen = {"global_pool"}
    for layer in morphnet_networks()["inception_v2_224"]["layers"]:
        if layer["op"] in ("Fill", "BiasAdd"):
            continue
        row = rows[ours(layer["name"])]
        seen.add(row["name"])
        _, *size, channels = layer["out_shape"]
        assert row["outputs"][0]["shape"] == ["N", channels, *size]
        if layer["op"] != "Mean":
            assert row["inputs"] == [ours(name) for name in layer["inputs"]]
        if "kernel" in layer:
            assert row["attributes"]["kernel_shape"] == layer["kernel"]
            assert row["attributes"]["strides"] == layer["stride"]
        if layer["op"] == "Conv2D":
            height, width, c_in, c_out = layer["weight_shape"]
            assert row["parameters"][0]["shape"] == [c_out, c_in, height, width]
    assert seen == set(rows)


def test_same_padding_puts_the_odd_row_at_the_bottom_and_right():
    # 6 positions of 11 rows: (6 - 1) * 2 + 7 - 11 = 6; 7 of 14 columns: (7 - 1) * 2 + 3 - 14 = 1
    assert same_padding((11, 14), (7, 3), (2, 2)) == (3, 0, 3, 1)
    # windows that do not reach further than the stride need none
    assert same_padding((56, 56), (1, 1), (2, 2)) == (0, 0, 0, 0)


def test_builder_refuses_what_does_not_fit():
    net = Network("test", image=(3, 11, 13))
    a = net.conv("a", net.input, 5, 3)
    b = net.conv("b", net.input, 7, 3)
    with pytest.raises(ValueError, match="sum: a is"):
        net.add("sum", a, b)
    with pytest.raises(ValueError, match="already is a tensor 'a'"):
        net.relu("a", b)
