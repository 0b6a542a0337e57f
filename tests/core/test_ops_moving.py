from __future__ import annotations

from typing import Any

import pytest

from tests.core.cases import (
    FLOAT,
    Case,
    Cost,
    check,
    features,
    image,
    weight,
)


def transpose() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Transpose",
        [image("x", batch, channels, height, width)],
        [(height, batch, width, channels)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * height * width * c),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"perm": [2, 0, 3, 1]},
    )


def concat(op: str) -> Case:
    """One entry a piece: 5 and 7 channels, the first of them twice."""
    batch, first, second, height, width = 2, 5, 7, 11, 13
    a = image("a", batch, first, height, width)
    b = image("b", batch, second, height, width)
    return Case(
        op,
        [a, b, a],
        [(batch, first + second + first, height, width)],
        lambda i, j: Cost(bytes=FLOAT * 2 * batch * height * width * (i + j + i)),
        widths=(first, second),
        pruned=((3, 2), (5, 1), (0, 7)),
        reads=((first, 1), (second, 1), (first, 1)),
        writes=((first, 2), (second, 1)),
        attributes={"axis": 1},
    )


def concat_positions() -> Case:
    """Along another axis the pieces have the same channels: they are tied."""
    batch, channels, left, right = 2, 5, 7, 11
    return Case(
        "Concat",
        [image("a", batch, channels, left), image("b", batch, channels, right)],
        [(batch, channels, left + right)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * (left + right) * c),
        widths=(channels,),
        pruned=((3,),),
        writes=((channels, 1),),
        attributes={"axis": -1},
        label="along positions",
    )


def concat_learned() -> Case:
    """A class token: learned, never read as a kernel, cut with the channels it joins."""
    batch, length, channels = 1, 3, 5
    return Case(
        "Concat",
        [features("x", batch, length, channels)],
        [(batch, 1 + length, channels)],
        lambda c: Cost(bytes=FLOAT * (length * c + (1 + length) * c), parameters=c),
        widths=(channels,),
        pruned=((2,),),
        attributes={"axis": 1, "parameter_inputs": [0]},
        parameters=[weight(1, 1, channels)],
        label="class token",
    )


def split() -> Case:
    """Each output takes its part: two groups of the pieces' sizes."""
    batch, first, second, length = 2, 5, 7, 11
    return Case(
        "Split",
        [image("x", batch, first + second, length)],
        [(batch, first, length), (batch, second, length)],
        lambda i, j: Cost(bytes=FLOAT * 2 * batch * length * (i + j)),
        widths=(first, second),
        pruned=((3, 7), (2, 1)),
        reads=((first, 1), (second, 1)),
        writes=((first, 1), (second, 1)),
        attributes={"axis": 1, "split": [first, second]},
        outputs=[{}, {}],
    )


def split_partly() -> Case:
    """13 channels in three pieces of 5, 5 and 3."""
    batch, length = 2, 11
    return Case(
        "Split",
        [image("x", batch, 13, length)],
        [(batch, 5, length), (batch, 5, length), (batch, 3, length)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * (5 + 5 + c)),
        widths=(3,),
        pruned=((2,),),
        attributes={"axis": 1, "num_outputs": 3},
        outputs=[{}, {}, {}],
        label="num_outputs",
    )


def pad() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Pad",
        [image("x", batch, channels, height, width)],
        [(batch, channels, 7 + 1 + 2, 11 + 0 - 3)],
        lambda c: Cost(bytes=FLOAT * batch * (height * width * c + 10 * 8 * c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"pads": [1, 0, 2, -3], "axes": [2, -1]},
    )


def pad_channels() -> Case:
    """Three padded channels are constant and stay: the output is those and the live ones."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Pad",
        [image("x", batch, channels, height, width)],
        [(batch, channels + 3, height, width)],
        lambda c: Cost(bytes=FLOAT * batch * height * width * (c + c + 3)),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1), (3, 1)),
        fixed=(3,),
        attributes={"pads": [0, 0, 0, 0, 0, 3, 0, 0]},
        label="channels",
    )


def expand() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Expand",
        [image("x", batch, channels, 1, 1)],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=FLOAT * batch * (c + height * width * c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes={"shape": [1, 1, height, width]},
    )


def tile() -> Case:
    """Repeats of a channel are the same channel: three times over."""
    batch, channels, length = 2, 5, 7
    return Case(
        "Tile",
        [image("x", batch, channels, length)],
        [(batch, 3 * channels, 2 * length)],
        lambda c: Cost(bytes=FLOAT * batch * (length * c + 2 * length * 3 * c)),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 3),),
        attributes={"repeats": [1, 3, 2]},
    )


def resize(op: str, high: int, wide: int, label: str, **attributes: Any) -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        op,
        [image("x", batch, channels, height, width)],
        [(batch, channels, high, wide)],
        lambda c: Cost(bytes=FLOAT * batch * (height * width * c + high * wide * c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        attributes=attributes,
        label=label,
    )


def depth_to_space(mode: str) -> Case:
    """The nine channels of a pixel live and die together."""
    batch, pixels, height, width = 2, 5, 7, 11
    return Case(
        "DepthToSpace",
        [image("x", batch, 9 * pixels, height, width)],
        [(batch, pixels, 3 * height, 3 * width)],
        lambda c: Cost(bytes=FLOAT * batch * (height * width * 9 * c + 9 * height * width * c)),
        widths=(pixels,),
        pruned=((2,),),
        reads=((pixels, 9),),
        writes=((pixels, 1),),
        attributes={"blocksize": 3, "mode": mode},
        label=mode,
    )


def space_to_depth() -> Case:
    batch, channels, height, width = 2, 5, 3 * 7, 3 * 11
    return Case(
        "SpaceToDepth",
        [image("x", batch, channels, height, width)],
        [(batch, 9 * channels, 7, 11)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * height * width * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 9),),
        attributes={"blocksize": 3},
    )


CASES = [
    transpose(),
    concat("Concat"),
    concat("QLinearConcat"),
    concat_positions(),
    concat_learned(),
    split(),
    split_partly(),
    pad(),
    pad_channels(),
    expand(),
    tile(),
    resize("Resize", 14, 16, "scales", scales=[1.0, 1.0, 2.0, 1.5]),
    resize("Resize", 13, 17, "sizes", sizes=[2, 5, 13, 17]),
    resize("Resize", 2, 17, "sizes of two axes", sizes=[17, 2], axes=[3, 2]),
    resize("Upsample", 14, 33, "", scales=[1.0, 1.0, 2.0, 3.0]),
    depth_to_space("DCR"),
    depth_to_space("CRD"),
    space_to_depth(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_that_move_data_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
