from __future__ import annotations

from typing import Any

import pytest

from tests.core.cases import (
    FLOAT,
    Case,
    Cost,
    check,
    data,
    image,
    weight,
)


def slice_channels() -> Case:
    """Channels 2, 5 and 8 of 11: touched twice, once to read and once to write."""
    batch, channels, length = 2, 11, 13
    return Case(
        "Slice",
        [image("x", batch, channels, length)],
        [(batch, 3, length)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * c),
        widths=(3,),
        pruned=((2,), (1,)),
        reads=((3, 1),),
        writes=((3, 1),),
        attributes={"starts": [2], "ends": [1 << 40], "axes": [1], "steps": [3]},
        label="channels",
    )


def slice_positions() -> Case:
    batch, channels, length = 2, 5, 13
    return Case(
        "Slice",
        [image("x", batch, channels, length)],
        [(batch, channels, 7)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * 7 * c),
        widths=(channels,),
        pruned=((2,),),
        attributes={"starts": [-1], "ends": [-(1 << 40)], "axes": [-1], "steps": [-2]},
        label="backwards",
    )


def gather_channels() -> Case:
    """Takes channels 1, 3 and, counted from the end, 10."""
    batch, channels, length = 2, 11, 13
    return Case(
        "Gather",
        [image("x", batch, channels, length)],
        [(batch, 3, length)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * c),
        widths=(3,),
        pruned=((2,),),
        reads=((3, 1),),
        writes=((3, 1),),
        attributes={"axis": 1, "indices": [1, 3, -1]},
        label="channels",
    )


def gather_by_data() -> Case:
    """Which channels it takes is data: all are frozen."""
    batch, channels, length = 2, 5, 7
    return Case(
        "Gather",
        [image("x", batch, channels, length), data("i", 3, dtype="int64")],
        [(batch, 3, length)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 3 * 7),
        fixed=(channels,),
        attributes={"axis": 1},
        label="by data",
    )


def gather_positions() -> Case:
    batch, channels, length = 2, 5, 7
    return Case(
        "Gather",
        [image("x", batch, channels, length), data("i", 3, 11, dtype="int64")],
        [(batch, channels, 3, 11)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * 3 * 11 * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"axis": 2},
        label="positions",
    )


def embedding() -> Case:
    """Rows of a learned table: only those touched are read; the table is learned, no kernel."""
    batch, length, words, channels = 2, 3, 101, 5
    return Case(
        "Gather",
        [data("tokens", batch, length, dtype="int64")],
        [(batch, length, channels)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * c, parameters=words * c),
        widths=(channels,),
        pruned=((2,),),
        writes=((channels, 1),),
        parameters=[weight(words, channels)],
        label="embedding",
    )


def gather_elements() -> Case:
    return Case(
        "GatherElements",
        [image("x", 2, 5, 7), data("i", 2, 3, 7, dtype="int64")],
        [(2, 3, 7)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 3 * 7),
        fixed=(5,),
        attributes={"axis": 1},
    )


def gather_nd() -> Case:
    """Pairs of indices into the axes after the batch."""
    return Case(
        "GatherND",
        [image("x", 2, 5, 7, 11), data("i", 2, 3, 2, dtype="int64")],
        [(2, 3, 11)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 3 * 11),
        fixed=(5,),
        attributes={"batch_dims": 1},
    )


def scatter(op: str, indices: tuple[int, ...], updates: tuple[int, ...], moved: int) -> Case:
    """Reads the tensor, int64 indices and updates; writes the tensor."""
    return Case(
        op,
        [image("x", 2, 5, 7), data("i", *indices, dtype="int64"), data("u", *updates)],
        [(2, 5, 7)],
        lambda: Cost(bytes=4 * 2 * 5 * 7 + moved + 4 * 2 * 5 * 7),
        fixed=(5,),
    )


def rewritten(op: str, **attributes: Any) -> Case:
    """Reads and writes all; channels frozen."""
    return Case(
        op,
        [image("x", 2, 5, 7)],
        [(2, 5, 7)],
        lambda: Cost(bytes=FLOAT * 2 * 2 * 5 * 7),
        fixed=(5,),
        attributes=attributes,
    )


def grid_sample() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "GridSample",
        [image("x", batch, channels, height, width), data("grid", batch, 13, 17, 2)],
        [(batch, channels, 13, 17)],
        lambda c: Cost(bytes=FLOAT * batch * (height * width * c + 13 * 17 * 2 + 13 * 17 * c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
    )


def regions(op: str, **attributes: Any) -> Case:
    """One patch of 3x2 a region: touches what it writes."""
    feeds = [image("x", 2, 5, 7, 11), data("rois", 13, 4 if op == "RoiAlign" else 5)]
    if op == "RoiAlign":
        feeds.append(data("batch_indices", 13, dtype="int64"))
    return Case(
        op,
        feeds,
        [(13, 5, 3, 2)],
        lambda: Cost(bytes=FLOAT * 2 * 13 * 5 * 3 * 2),
        fixed=(5,),
        attributes=attributes,
    )


def one_hot() -> Case:
    return Case(
        "OneHot",
        [data("i", 2, 3, dtype="int64")],
        [(2, 7, 3)],
        lambda: Cost(bytes=8 * 2 * 3 + 4 * 2 * 7 * 3),
        attributes={"depth": 7, "values": [0.0, 1.0], "axis": 1},
    )


def of_stated_shape(op: str, dtype: str, size: int) -> Case:
    """How much it writes depends on data: what the graph states counts."""
    return Case(
        op,
        [image("x", 2, 5, 7)],
        [(3, 11)],
        lambda: Cost(bytes=4 * 2 * 5 * 7 + size * 3 * 11),
        fixed=(5,),
        outputs=[{"shape": [3, 11], "dtype": dtype}],
    )


CASES = [
    slice_channels(),
    slice_positions(),
    gather_channels(),
    gather_by_data(),
    gather_positions(),
    embedding(),
    gather_elements(),
    gather_nd(),
    scatter("ScatterND", (3, 2), (3, 7), moved=8 * 3 * 2 + 4 * 3 * 7),
    scatter("ScatterElements", (2, 3, 7), (2, 3, 7), moved=(8 + 4) * 2 * 3 * 7),
    rewritten("Trilu", upper=1),
    rewritten("ReverseSequence", sequence_lens=[3, 2, 1, 3, 2], batch_axis=1, time_axis=2),
    grid_sample(),
    regions("RoiAlign", output_height=3, output_width=2),
    regions("MaxRoiPool", pooled_shape=[3, 2]),
    one_hot(),
    of_stated_shape("NonZero", "int64", 8),
    of_stated_shape("NonMaxSuppression", "int64", 8),
    of_stated_shape("Compress", "float32", 4),
    of_stated_shape("Unique", "float16", 2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_that_pick_data_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
