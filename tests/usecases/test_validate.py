"""What networks are fed to be timed."""

from __future__ import annotations

import numpy as np

from latency_service.core.binding import Binding
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Output
from latency_service.usecases.validate import feeds


def graph(*inputs: GraphInput) -> LayerGraph:
    layer = Layer("y", "Identity", (inputs[0].name,), (Output("y"),))
    return LayerGraph(inputs, (layer,), ("y",))


def test_feeds_have_the_bound_shapes_and_the_stated_dtypes() -> None:
    found = feeds(
        graph(
            GraphInput("image", ("N", 3, 11)),
            GraphInput("half", (5, 7), "float16"),
            GraphInput("ids", ("N", "T"), "int64"),
            GraphInput("known", (13,), "bool"),
        ),
        Binding(dims={"N": 2, "T": 17}, shapes={"half": (5, 19)}),
    )
    shapes = {name: (array.dtype.name, array.shape) for name, array in found.items()}
    assert shapes == {
        "image": ("float32", (2, 3, 11)),
        "half": ("float16", (5, 19)),
        "ids": ("int64", (2, 17)),
        "known": ("bool", (13,)),
    }
    assert found["image"].std() > 0.5
    assert set(np.unique(found["ids"])) == {0, 1}


def test_a_mask_hides_nothing() -> None:
    found = feeds(
        graph(GraphInput("Attention_Mask", (2, 7), "int64"), GraphInput("mask", (2, 7))), Binding()
    )
    for array in found.values():
        assert (array == 1).all()
