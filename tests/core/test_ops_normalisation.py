from __future__ import annotations

from typing import Any

import pytest

from tests.core.cases import FLOAT, Case, Cost, bias, check, data, features, image, learned


def per_channel(op: str, vectors: int = 2, **attributes: object) -> Case:
    """One scale and one shift a channel; statistics of a dead channel disturb no other."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width)],
        lambda c: Cost(
            bytes=FLOAT * 2 * batch * height * width * c,
            parameters=vectors * c,  # mean and variance are estimated, not learned
        ),
        widths=(channels,),
        pruned=((3,), (0,)),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes=attributes,
    )


def batch_norm_stated() -> Case:
    batch, channels = 2, 5
    roles = ("gamma", "beta", "mean", "variance")
    return Case(
        "BatchNormalization",
        [features("x", batch, channels)],
        [(batch, channels)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * c, parameters=2 * c),
        widths=(channels,),
        pruned=((3,),),
        parameters=[learned(role, channels) for role in roles],
        label="2 axes, stated vectors",
    )


def group_norm() -> Case:
    """Three groups of 5 channels share their statistics: only whole groups can go."""
    batch, groups, size, height, width = 2, 3, 5, 7, 11
    return Case(
        "GroupNormalization",
        [image("x", batch, groups * size, height, width)],
        [(batch, groups * size, height, width)],
        lambda g: Cost(
            bytes=FLOAT * 2 * batch * height * width * size * g, parameters=2 * size * g
        ),
        widths=(groups,),
        pruned=((2,), (1,)),
        reads=((groups, size),),
        writes=((groups, size),),
        attributes={"num_groups": groups},
    )


def layer_norm(op: str, vectors: int) -> Case:
    """Over its channels a normalisation freezes them: their statistics see a zeroed one."""
    batch, length, channels = 2, 3, 5
    return Case(
        op,
        [features("x", batch, length, channels)],
        [(batch, length, channels)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 3 * 5, parameters=vectors * 5),
        fixed=(channels,),
    )


def layer_norm_statistics() -> Case:
    """Over the last two axes: mean and inverse deviation have one entry a row, in float32."""
    batch, length, channels = 2, 3, 5
    return Case(
        "LayerNormalization",
        [features("x", batch, length, channels, dtype="float16")],
        [(batch, length, channels), (batch, 1, 1), (batch, 1, 1)],
        lambda: Cost(bytes=2 * 2 * 2 * 3 * 5 + 4 * 2 * 2, parameters=2 * 3 * 5),
        fixed=(channels,),
        attributes={"axis": 1},
        outputs=[{}, {}, {}],
        label="with statistics",
    )


def layer_norm_beside_channels() -> Case:
    """Heads on another axis pass; the scale over the normalised axis is theirs in common."""
    batch, heads, length, depth = 2, 3, 5, 7
    return Case(
        "LayerNormalization",
        [image("x", batch, heads, length, depth)],
        [(batch, heads, length, depth)],
        lambda h: Cost(bytes=FLOAT * 2 * batch * h * length * depth, parameters=2 * depth),
        widths=(heads,),
        pruned=((2,),),
        reads=((heads, 1),),
        writes=((heads, 1),),
        label="beside channels",
    )


def skip_norm(op: str, vectors: int) -> Case:
    """Reads both branches; writes the result and, where asked for, their sum."""
    batch, length, channels = 2, 3, 5
    shape = (batch, length, channels)
    roles = ("gamma", "beta")[:vectors]
    return Case(
        op,
        [features("x", *shape), features("skip", *shape)],
        [shape, (batch, length, 1), (batch, length, 1), shape],
        lambda: Cost(
            # the statistics have no names here: nobody asked for them
            bytes=FLOAT * (2 * 2 * 3 * 5 + 2 * 2 * 3 * 5),
            parameters=(vectors + 1) * 5,
        ),
        fixed=(channels,),
        parameters=[*(learned(role, channels) for role in roles), bias(channels)],
        outputs=[{}, {"name": ""}, {"name": ""}, {}],
    )


def softmax(op: str, itemsize: int = FLOAT, **more: Any) -> Case:
    batch, length, channels = 2, 3, 5
    dtype = {4: "float32", 1: "int8"}[itemsize]
    return Case(
        op,
        [features("x", batch, length, channels, dtype=dtype)],
        [(batch, length, channels)],
        lambda: Cost(bytes=itemsize * 2 * 2 * 3 * 5),
        fixed=(channels,),
        label="over channels",
        **more,
    )


def softmax_beside(op: str) -> Case:
    batch, channels, length = 2, 3, 5
    return Case(
        op,
        [image("x", batch, channels, length)],
        [(batch, channels, length)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"axis": -1},
        label="over positions",
    )


def neighbours() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "LRN",
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 5 * 7 * 11),
        fixed=(channels,),
        attributes={"size": 3},
    )


def mean_variance_over_channels() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "MeanVarianceNormalization",
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 5 * 7 * 11),
        fixed=(channels,),
        attributes={"axes": [1, 2, 3]},
        label="over channels",
    )


def instance_norm_of_an_input() -> Case:
    """What comes from outside has no channels to prune, but its vectors count."""
    return Case(
        "InstanceNormalization",
        [data("x", 2, 5, 7)],
        [(2, 5, 7)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 5 * 7, parameters=2 * 5),
        fixed=(5,),
        label="of an input",
    )


SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")

CASES = [
    per_channel("BatchNormalization"),
    batch_norm_stated(),
    per_channel("InstanceNormalization"),
    instance_norm_of_an_input(),
    group_norm(),
    layer_norm("LayerNormalization", vectors=2),
    layer_norm_statistics(),
    layer_norm_beside_channels(),
    layer_norm("RMSNormalization", vectors=1),
    layer_norm("SimplifiedLayerNormalization", vectors=1),
    skip_norm("SkipLayerNormalization", vectors=2),
    skip_norm("SkipSimplifiedLayerNormalization", vectors=1),
    *(softmax(op) for op in SOFTMAX),
    *(softmax_beside(op) for op in SOFTMAX),
    softmax(
        "QLinearSoftmax",
        itemsize=1,
        parameters=[learned("scale", 1), learned("zero_point", 1, dtype="int8")],
    ),
    neighbours(),
    per_channel("MeanVarianceNormalization", vectors=0),
    mean_variance_over_channels(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_normalisations_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
