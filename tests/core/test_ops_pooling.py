from __future__ import annotations

import pytest

from tests.core.cases import FLOAT, Case, Cost, check, data, image, learned

REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip


def pool(op: str, size: int = FLOAT) -> Case:
    """Windows of 3x2, strides 2 and 3, a pad at the end of the last axis."""
    batch, channels, height, width = 2, 5, 11, 13
    high, wide = (11 - 3) // 2 + 1, (13 + 1 - 2) // 3 + 1
    quantised = [learned("scale", 1), learned("zero_point", 1, dtype="int8")]
    return Case(
        op,
        [image("x", batch, channels, height, width, dtype="int8" if size == 1 else "float32")],
        [(batch, channels, high, wide)],
        lambda c: Cost(bytes=size * batch * (height * width * c + high * wide * c)),
        widths=(channels,),
        pruned=((3,), (0,)),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 0, 0, 1]},
        parameters=quantised if size == 1 else None,
    )


def pool_with_indices() -> Case:
    """Rounding up adds a window; the indices of the maxima are int64."""
    batch, channels, length = 2, 5, 11
    long = 5 + 1  # (11 - 2) / 2 = 4.5, rounded up, and one
    return Case(
        "MaxPool",
        [image("x", batch, channels, length)],
        [(batch, channels, long), (batch, channels, long)],
        lambda c: Cost(bytes=batch * (4 * length * c + 4 * long * c + 8 * long * c)),
        widths=(channels,),
        pruned=((3,),),
        writes=((channels, 1),),
        attributes={"kernel_shape": [2], "strides": [2], "ceil_mode": 1},
        outputs=[{}, {}],
        label="ceil_mode, indices",
    )


def unpool() -> Case:
    """Undoes a pool with windows of 3 and strides of 2: 2 (7 - 1) + 3 positions."""
    batch, channels, height, width = 2, 5, 7, 11
    high, wide = 2 * 6 + 3, 2 * 10 + 3
    shape = (batch, channels, height, width)
    return Case(
        "MaxUnpool",
        [image("x", *shape), data("indices", *shape, dtype="int64")],
        [(batch, channels, high, wide)],
        lambda c: Cost(
            bytes=batch * (4 * height * width * c + 8 * height * width * 5 + 4 * high * wide * c)
        ),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"kernel_shape": [3, 3], "strides": [2, 2]},
    )


def unpool_stated() -> Case:
    return Case(
        "MaxUnpool",
        [data("x", 2, 5, 7), data("indices", 2, 5, 7, dtype="int64")],
        [(2, 5, 17)],
        lambda: Cost(bytes=2 * 5 * (4 * 7 + 8 * 7 + 4 * 17)),
        attributes={"kernel_shape": [2], "strides": [2], "output_shape": [2, 5, 17]},
        label="output_shape",
    )


def global_pool(op: str, size: int = FLOAT) -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width, dtype="int8" if size == 1 else "float32")],
        [(batch, channels, 1, 1)],
        lambda c: Cost(bytes=size * batch * (height * width * c + c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
    )


def reduction(op: str) -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, channels)],
        lambda c: Cost(bytes=FLOAT * batch * (height * width * c + c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"axes": [2, -1], "keepdims": 0},
        label="over positions",
    )


def reduction_of_channels(op: str) -> Case:
    """What is summed over channels has none; they are frozen."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, 1, height, width)],
        lambda: Cost(bytes=FLOAT * 2 * 7 * 11 * (5 + 1)),
        fixed=(channels,),
        attributes={"axes": [1]},
        label="over channels",
    )


def reduction_of_all() -> Case:
    return Case(
        "ReduceMean",
        [image("x", 2, 5, 7)],
        [()],
        lambda: Cost(bytes=FLOAT * (2 * 5 * 7 + 1)),
        fixed=(5,),
        attributes={"keepdims": 0},
        label="over everything",
    )


def reduction_of_nothing() -> Case:
    return Case(
        "ReduceSum",
        [image("x", 2, 5, 7)],
        [(2, 5, 7)],
        lambda c: Cost(bytes=FLOAT * 2 * 2 * 7 * c),
        widths=(5,),
        pruned=((3,),),
        attributes={"axes": [], "noop_with_empty_axes": 1},
        label="over nothing",
    )


def position_of_extreme(op: str) -> Case:
    """Indices are int64."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, channels, 1, width)],
        lambda c: Cost(bytes=batch * width * (4 * height * c + 8 * c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"axis": 2},
    )


def channel_of_extreme(op: str) -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, height, width)],
        lambda: Cost(bytes=2 * 7 * 11 * (4 * 5 + 8)),
        fixed=(channels,),
        attributes={"axis": 1, "keepdims": 0},
        label="over channels",
    )


def cumulative(axis: int) -> Case:
    batch, channels, length = 2, 5, 7
    frozen = axis % 3 == 1
    return Case(
        "CumSum",
        [image("x", batch, channels, length)],
        [(batch, channels, length)],
        lambda c=channels: Cost(bytes=FLOAT * 2 * batch * length * c),
        widths=() if frozen else (channels,),
        pruned=() if frozen else ((3,),),
        fixed=(channels,) if frozen else (),
        attributes={"axis": axis},
        label=f"along axis {axis}",
    )


def largest(axis: int, k: int) -> Case:
    """Values and int64 indices of the k largest."""
    batch, channels, length = 2, 5, 7
    frozen = axis == 1
    out = (batch, k, length) if frozen else (batch, channels, k)
    kept = k * length if frozen else k
    return Case(
        "TopK",
        [image("x", batch, channels, length)],
        [out, out],
        (lambda: Cost(bytes=batch * (4 * channels * length + (4 + 8) * kept)))
        if frozen
        else (lambda c: Cost(bytes=batch * (4 * length * c + (4 + 8) * kept * c))),
        widths=() if frozen else (channels,),
        pruned=() if frozen else ((2,),),
        fixed=(channels,) if frozen else (),
        attributes={"axis": axis, "k": k},
        outputs=[{}, {}],
        label=f"along axis {axis}",
    )


CASES = [
    pool("MaxPool"),
    pool("AveragePool"),
    pool("LpPool"),
    pool("QLinearAveragePool", size=1),
    pool_with_indices(),
    unpool(),
    unpool_stated(),
    global_pool("GlobalAveragePool"),
    global_pool("GlobalMaxPool"),
    global_pool("GlobalLpPool"),
    global_pool("QLinearGlobalAveragePool", size=1),
    *(reduction(op) for op in REDUCTIONS),
    *(reduction_of_channels(op) for op in REDUCTIONS),
    reduction_of_all(),
    reduction_of_nothing(),
    position_of_extreme("ArgMax"),
    position_of_extreme("ArgMin"),
    channel_of_extreme("ArgMax"),
    channel_of_extreme("ArgMin"),
    cumulative(2),
    cumulative(-2),
    largest(axis=2, k=3),
    largest(axis=1, k=3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pools_and_reductions_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
