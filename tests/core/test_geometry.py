"""Forms of an operator that run different code are different families."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from latency_service.core.features import features_of
from latency_service.core.fit import sample_geometry
from latency_service.core.geometry import Dim, Geometry
from latency_service.core.sample import Sample, Workload


def family(work: Workload) -> tuple[str, float]:
    """(family, elements that are treated alike and lie together)."""
    name, dims, _ = sample_geometry(Sample(work, 1.0))
    return name, dims[Dim.INNER]


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        # one axis goes to the end or comes from there: channels last and back, heads, a matrix
        ((2, 3, 5, 7), [0, 2, 3, 1], ("Transpose/last", 1)),
        ((2, 3, 5, 7), [0, 3, 1, 2], ("Transpose/last", 1)),
        ((2, 3, 5), [0, 2, 1], ("Transpose/last", 1)),
        ((3, 5), [1, 0], ("Transpose/last", 1)),
        # two axes change places around a third, even if that one has a single position
        ((2, 3, 5, 7), [0, 3, 2, 1], ("Transpose/scattered", 1)),
        ((1, 1, 5, 7), [0, 3, 1, 2], ("Transpose/last", 1)),
        ((1, 5, 1, 7), [0, 3, 2, 1], ("Transpose/scattered", 1)),
        ((2, 3, 5), [2, 1, 0], ("Transpose/scattered", 1)),
        # the trailing axes stay together
        ((2, 3, 5, 7), [0, 2, 1, 3], ("Transpose", 7)),
        ((2, 3, 5, 7), [1, 0, 2, 3], ("Transpose", 35)),
        # only axes of one position move
        ((1, 3, 1, 7), [0, 2, 1, 3], ("Transpose/view", 21)),
    ],
)
def test_transpositions(
    shape: tuple[int, ...], perm: list[int], expected: tuple[str, float]
) -> None:
    out = tuple(shape[axis] for axis in perm)
    assert family(Workload("Transpose", (shape,), {"perm": perm}, outputs=(out,))) == expected


@pytest.mark.parametrize(
    ("axis", "expected"), [(-1, ("Softmax", 7)), (3, ("Softmax", 7)), (1, ("Softmax/strided", 3))]
)
def test_softmax(axis: int, expected: tuple[str, float]) -> None:
    shape = (2, 3, 5, 7)
    assert family(Workload("Softmax", (shape,), {"axis": axis}, outputs=(shape,))) == expected


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((2, 3, 5, 7), [-1], ("ReduceMean", 7)),
        ((2, 3, 5, 7), [2, 3], ("ReduceMean", 35)),
        ((2, 3, 5, 7), [1], ("ReduceMean/strided", 3)),
        ((2, 3, 5, 7), [1, 2], ("ReduceMean/strided", 15)),
        ((2, 3, 5, 7), [0, 2], ("ReduceMean/leading", 10)),
        # no axis before those that go has more than one position
        ((2, 3, 5, 7), [0], ("ReduceMean/leading", 2)),
        ((1, 3, 5, 7), [1, 2], ("ReduceMean/leading", 15)),
        ((1, 3, 5, 7), [0, 2], ("ReduceMean/strided", 5)),
        ((2, 3, 1, 7), [2], ("ReduceMean/leading", 1)),
        ((2, 3, 5, 7), [0, 1, 2, 3], ("ReduceMean", 210)),
    ],
)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(
    shape: tuple[int, ...], axes: list[int], keep: int, expected: tuple[str, float]
) -> None:
    gone = {axis % len(shape) for axis in axes}
    out = tuple(1 if a in gone else n for a, n in enumerate(shape) if keep or a not in gone)
    work = Workload("ReduceMean", (shape,), {"axes": axes, "keepdims": keep}, outputs=(out,))
    assert family(work) == expected


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(0, "ArgMax/leading"), (1, "ArgMax/strided"), (2, "ArgMax/strided"), (3, "ArgMax")],
)
def test_places_of_the_largest(axis: int, expected: str) -> None:
    shape = (2, 3, 5, 7)
    out = tuple(1 if a == axis else n for a, n in enumerate(shape))
    assert family(Workload("ArgMax", (shape,), {"axis": axis}, outputs=(out,)))[0] == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((2, 3, 5, 7), ("Mul", 210)),
        ((2, 3, 1, 1), ("Mul/broadcast", 35)),
        ((2, 3, 5, 1), ("Mul/broadcast", 7)),
        ((1, 1, 5, 1), ("Mul/broadcast", 7)),
        ((7,), ("Mul/broadcast", 7)),
        ((), ("Mul/scalar", 210)),
    ],
)
def test_runs_of_a_product_by_elements(other: tuple[int, ...], expected: tuple[str, float]) -> None:
    shape = (2, 3, 5, 7)
    assert family(Workload("Mul", (shape, other), outputs=(shape,))) == expected


def convolution(image: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> Geometry:
    """Of five filters over three channels."""
    work = Workload(
        "Conv", ((1, 3, *image), (5, 3, *kernel), (5,)), attributes, learned=(1, 2),
        outputs=(output_shape(image, kernel, **attributes),),
    )  # fmt: skip
    _, dims, _ = sample_geometry(Sample(work, 1.0))
    return dims


def inside(image: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> float:
    """Share of a convolution's taps that fall on the image."""
    return convolution(image, kernel, **attributes)[Dim.INSIDE]


def output_shape(image: tuple[int, ...], kernel: tuple[int, ...], **attributes: Any) -> Any:
    rank = len(image)
    strides = attributes.get("strides", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    dilations = attributes.get("dilations", [1] * rank)
    sizes = [
        (image[k] + pads[k] + pads[rank + k] - dilations[k] * (kernel[k] - 1) - 1) // strides[k] + 1
        for k in range(rank)
    ]
    if attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        sizes = [-(-image[k] // strides[k]) for k in range(rank)]
    return 1, 5, *sizes


@pytest.mark.parametrize(
    ("inputs", "filters", "kernel", "group", "expected"),
    [
        (3, 61, 7, 1, "first"), (1, 61, 3, 1, "first"), (4, 61, 3, 1, "first"),
        (5, 61, 3, 1, "dense"), (61, 3, 3, 1, "dense"), (3, 61, 1, 1, "pointwise"),
        (3, 3, 3, 3, "depthwise"), (6, 6, 3, 3, "grouped"),
    ],
)  # fmt: skip
def test_convolutions(inputs: int, filters: int, kernel: int, group: int, expected: str) -> None:
    work = Workload(
        "Conv",
        ((1, inputs, 13, 11), (filters, inputs // group, kernel, kernel)),
        {"group": group, "pads": [kernel // 2] * 4},
        learned=(1,),
        outputs=((1, filters, 13, 11),),
    )
    assert family(work)[0] == f"Conv/{expected}"


@pytest.mark.parametrize(
    ("inputs", "filters", "kernel", "group", "expected"),
    [
        (1, 61, 13, 1, "line"), (61, 7, 3, 1, "line"), (61, 7, 1, 1, "line"),
        (3, 3, 3, 3, "depthwise/line"), (6, 6, 3, 3, "grouped/line"),
    ],
)  # fmt: skip
def test_convolutions_along_one_axis(
    inputs: int, filters: int, kernel: int, group: int, expected: str
) -> None:
    work = Workload(
        "Conv",
        ((1, inputs, 13), (filters, inputs // group, kernel)),
        {"group": group, "pads": [kernel // 2] * 2},
        learned=(1,),
        outputs=((1, filters, 13),),
    )
    assert family(work)[0] == f"Conv/{expected}"
    # an image of one row runs as other images do
    image = Workload(
        "Conv",
        ((1, inputs, 1, 13), (filters, inputs // group, 1, kernel)),
        {"group": group, "pads": [0, kernel // 2] * 2},
        learned=(1,),
        outputs=((1, filters, 1, 13),),
    )
    assert "line" not in family(image)[0]


def test_taps_on_padding() -> None:
    # of 3 taps at each of 7 rows one falls outside at either end
    around = {"pads": [1, 1, 1, 1]}
    assert inside((7, 11), (3, 3), **around) == pytest.approx(19 / 21 * 31 / 33)
    assert inside((7, 11), (3, 3)) == 1.0
    assert inside((7, 11), (1, 1)) == 1.0
    # a window larger than the image: it covers the 4 rows wherever it stands
    assert inside((4,), (39,), pads=[19, 19]) == pytest.approx(4 / 39)


def test_a_window_of_any_width_is_looked_at_in_no_time() -> None:
    # it covers the 5 positions wherever it stands, and nothing but padding besides
    wide = 10**10
    found = inside((5,), (2 * wide + 1,), pads=[wide, wide])
    assert found == pytest.approx(5 / (2 * wide + 1), abs=1e-2)


@pytest.mark.parametrize(
    ("auto_pad", "expected"),
    # 5 positions, stride 2, window 4: outputs at -1, 1, 3 or, padded below, at -2, 0, 2
    [("SAME_UPPER", (3 + 4 + 2) / 12), ("SAME_LOWER", (2 + 4 + 3) / 12), ("VALID", 1.0)],
)
def test_taps_on_padding_that_is_left_to_the_runtime(auto_pad: str, expected: float) -> None:
    assert inside((5,), (4,), strides=[2], auto_pad=auto_pad) == pytest.approx(expected)


@given(
    extent=st.integers(1, 13), size=st.integers(1, 7), stride=st.integers(1, 3),
    dilation=st.integers(1, 3), before=st.integers(0, 5), after=st.integers(0, 5),
)  # fmt: skip
def test_taps_on_padding_counted_one_by_one(
    extent: int, size: int, stride: int, dilation: int, before: int, after: int
) -> None:
    outputs = (extent + before + after - dilation * (size - 1) - 1) // stride + 1
    if outputs < 1:
        return
    taps = [
        0 <= y * stride - before + k * dilation < extent
        for y in range(outputs) for k in range(size)
    ]  # fmt: skip
    found = inside((extent,), (size,), strides=[stride], dilations=[dilation], pads=[before, after])
    assert found == pytest.approx(sum(taps) / len(taps))


@pytest.mark.parametrize(
    ("image", "kernel", "attributes", "clear"),
    [
        # 11 positions in a row, of which the first and the last see padding
        ((7, 11), (3, 3), {"pads": [1, 1, 1, 1]}, 9),
        ((7, 11), (3, 3), {}, 9),
        # at -1, 1, 3, 5, 7, 9: the first reaches to the left of the image, the last to its right
        ((7, 11), (3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 4),
        ((7, 11), (3, 5), {"pads": [1, 4, 1, 4], "dilations": [1, 2]}, 3),
        ((4,), (39,), {"pads": [19, 19]}, 0),
        ((5,), (4,), {"strides": [2], "auto_pad": "SAME_UPPER"}, 1),
    ],
)
def test_positions_without_padding(
    image: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any], clear: int
) -> None:
    assert convolution(image, kernel, **attributes)[Dim.CLEAR] == clear


@given(
    st.integers(1, 23), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3),
    st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
def test_positions_are_clear_whose_taps_are_all_on_the_image(
    extent: int, size: int, stride: int, dilation: int, before: int, after: int
) -> None:
    count = (extent + before + after - dilation * (size - 1) - 1) // stride + 1
    assume(count > 0)
    taps = [
        [0 <= at * stride - before + tap * dilation < extent for tap in range(size)]
        for at in range(count)
    ]
    dims = convolution(
        (extent,), (size,), strides=[stride], dilations=[dilation], pads=[before, after]
    )

    assert dims[Dim.CLEAR] == sum(map(all, taps))
    assert dims[Dim.INSIDE] == pytest.approx(sum(map(sum, taps)) / (count * size))


@pytest.mark.parametrize(
    ("image", "kernel", "attributes", "six", "three"),
    [
        # 5 clear positions are 3 + 2, and one at either end
        ((7, 7), (3, 3), {"pads": [1, 1, 1, 1]}, 4, 4),
        # 54 = 9 x 6 = 18 x 3
        ((56, 56), (3, 3), {"pads": [1, 1, 1, 1]}, 11, 20),
        # 28 = 4 x 6 + 3 + 1 = 9 x 3 + 1
        ((57, 57), (3, 3), {"strides": [2, 2]}, 6, 10),
        # all 49 positions are one row, of 8 x 6 + 1 or 16 x 3 + 1
        ((7, 7), (1, 1), {}, 9, 17),
        # a row at a time with a stride: 4 positions, 3 + 1
        ((7, 7), (1, 1), {"strides": [2, 2]}, 2, 2),
    ],
)
def test_passes_over_a_row(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    attributes: dict[str, Any],
    six: int,
    three: int,
) -> None:
    dims = np.array(convolution(image, kernel, **attributes))
    row = dims[Dim.INNER] if kernel == (1, 1) and not attributes else dims[Dim.WIDTH]
    known = features_of(True, 1)

    assert known["passes_6"](dims) == pytest.approx(math.log(six * 6 / row))
    assert known["passes_3"](dims) == pytest.approx(math.log(three * 3 / row))
