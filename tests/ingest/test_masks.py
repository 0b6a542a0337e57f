"""Masks of attention in ONNX files: what is kept of a file, and what is told of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from latency_service.core.graph import LayerGraph
from latency_service.core.masks import masked_shares
from latency_service.ingest import read_network
from latency_service.ingest.strip import strip_weights
from tests.ingest.onnx_files import model, node, numbers, tensor, weight

# 97 x 97 numbers are 37 KB: without a mask in it, such a constant loses its elements.
SIDE, HEADS = 97, 3
CAUSAL = np.triu(np.full((SIDE, SIDE), np.finfo(np.float32).min, np.float32), 1)
WINDOWS = np.where(np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 7 > 3, -100.0, 0.0).astype(
    np.float32
)


def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def read(*nodes: onnx.NodeProto, weights: list[onnx.TensorProto], side: int = SIDE) -> LayerGraph:
    scores = [tensor("scores", [1, HEADS, side, side])]
    return read_network(model(list(nodes), inputs=scores, weights=weights).SerializeToString())


def told(graph: LayerGraph, op: str = "Add") -> dict[str, float]:
    (found,) = [layer.attributes for layer in graph.layers if layer.op == op]
    return {name: value for name, value in found.items() if "runs" in name or "share" in name}


@pytest.mark.parametrize("mask", [CAUSAL, WINDOWS, WINDOWS - 0.0137])
def test_an_added_mask_is_told_by_its_shares(mask):
    graph = read(node("Add", "scores mask"), weights=[constant("mask", mask)])
    assert told(graph) == masked_shares(mask) != {}


def test_a_learned_bias_of_the_same_shape_hides_nothing():
    bias = np.random.default_rng(0).standard_normal((1, HEADS, SIDE, SIDE)).astype(np.float32)
    graph = read(node("Add", "scores bias"), weights=[constant("bias", bias)])
    assert told(graph) == {}


def test_a_mask_is_followed_through_what_is_computed_of_constants():
    bias = np.random.default_rng(0).standard_normal((1, HEADS, SIDE, SIDE)).astype(np.float32)
    graph = read(
        node("Unsqueeze", "mask first", "m4"),
        node("Expand", "m4 shape", "wide"),
        node("Add", "bias wide", "both"),
        node("Add", "scores both"),
        weights=[
            constant("mask", WINDOWS[None]), constant("bias", bias), numbers("first", 0),
            numbers("shape", 1, 1, SIDE, SIDE),
        ],
    )  # fmt: skip
    # of the bias nothing is known, of the mask everything
    assert told(graph) == masked_shares(WINDOWS)


def test_a_causal_mask_that_the_file_computes_is_followed():
    graph = read(
        node("Trilu", "ones", "seen", upper=0),
        node("Equal", "seen zero", "hidden"),
        node("Where", "hidden least zero", "mask"),
        node("Add", "scores mask"),
        weights=[
            weight("ones", SIDE, SIDE), constant("zero", np.zeros((), np.float32)),
            constant("least", np.array(-np.inf, np.float32)),
        ],
    )  # fmt: skip
    assert told(graph) == masked_shares(CAUSAL)


@pytest.mark.parametrize("turned", [False, True])
def test_scores_may_be_replaced_instead(turned):
    hidden = CAUSAL < 0
    graph = read(
        node("Where", "seen scores least" if turned else "hidden least scores"),
        weights=[
            constant("seen" if turned else "hidden", ~hidden if turned else hidden),
            constant("least", np.array(-1e9, np.float32)),
        ],
    )
    assert told(graph, "Where") == masked_shares(CAUSAL)


def test_other_choices_hide_nothing():
    graph = read(
        node("Where", "hidden zero scores"),
        weights=[constant("hidden", CAUSAL < 0), constant("zero", np.zeros((), np.float32))],
    )
    assert told(graph, "Where") == {}


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_a_file_keeps_its_masks_and_loses_its_weights(kept, typed):
    values = CAUSAL if kept else np.random.default_rng(1).standard_normal(CAUSAL.shape)
    values = values.astype(np.float32)
    held = (
        helper.make_tensor("m", onnx.TensorProto.FLOAT, values.shape, values.ravel().tolist())
        if typed
        else constant("m", values)
    )
    file = model([node("Add", "x m")], weights=[held]).SerializeToString()
    assert (len(strip_weights(file)) > 4 * SIDE * SIDE) is kept


def test_a_file_of_nothing_but_masks_is_read_in_no_time():
    ones = np.ones((1024, 1024), np.float32)
    nodes = [node("Add", "ones ones", "c0")]
    # a chain deeper than any stack, and each link of it a mask
    for k in range(3000):
        nodes.append(node("Add", f"c{k} ones", f"c{k + 1}"))
        nodes.append(node("Add", f"{'scores' if not k else f's{k}'} c{k + 1}", f"s{k + 1}"))
    graph = read(*nodes, node("Neg", "s3000"), weights=[constant("ones", ones)], side=1024)
    assert sum(layer.op == "Add" for layer in graph.layers) == 3000


def test_a_tensor_without_a_shape_is_cut_out_like_any_other():
    held = constant("m", CAUSAL)
    del held.dims[:]
    file = model([node("Add", "x m")], weights=[held]).SerializeToString()
    assert len(strip_weights(file)) < 1000


def test_weights_that_happen_to_end_in_two_equal_sizes_are_cut_out():
    windows = np.full((61, 31, 7, 7), -1e4, np.float32)
    file = model([node("Conv", "x w")], weights=[constant("w", windows)]).SerializeToString()
    assert len(strip_weights(file)) < 1000
    halves = np.full((SIDE, SIDE + 2), -1e4, np.float32)
    file = model([node("Add", "x w")], weights=[constant("w", halves)]).SerializeToString()
    assert len(strip_weights(file)) < 1000
