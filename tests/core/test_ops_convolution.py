from __future__ import annotations

import pytest

from tests.core.cases import FLOAT, Case, Cost, bias, check, data, image, learned, weight


def convolution(op: str = "Conv") -> Case:
    """3x5 taps, strides 2 and 1, asymmetric pads, a bias."""
    batch, c_in, c_out, height, width = 2, 7, 11, 13, 17
    # (13 + 0 + 2 - 3) / 2 + 1 = 7 and (17 + 1 + 3 - 5) / 1 + 1 = 17
    high, wide, taps = 7, 17, 3 * 5
    return Case(
        op,
        [image("x", batch, c_in, height, width)],
        [(batch, c_out, high, wide)],
        lambda i, o: Cost(
            flops=2 * batch * high * wide * taps * i * o,
            bytes=FLOAT
            * (
                batch * height * width * i  # read the input
                + batch * high * wide * o  # write the output
                + taps * i * o  # read the kernel
            ),
            weights=taps * i * o,
            parameters=taps * i * o + o,
        ),
        widths=(c_in, c_out),
        pruned=((3, 5), (7, 1), (1, 11), (0, 0)),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        attributes={"strides": [2, 1], "pads": [0, 1, 2, 3], "kernel_shape": [3, 5]},
        parameters=[weight(c_out, c_in, 3, 5), bias(c_out)],
    )


def convolution_without_parameters() -> Case:
    """The kernel follows from kernel_shape and the stated output; there is no bias."""
    batch, c_in, c_out, length, taps = 2, 5, 7, 19, 3
    long = 19 - 3 + 1
    return Case(
        "Conv",
        [image("x", batch, c_in, length)],
        [(batch, c_out, long)],
        lambda i, o: Cost(
            flops=2 * batch * long * taps * i * o,
            bytes=FLOAT * (batch * length * i + batch * long * o + taps * i * o),
            weights=taps * i * o,
            parameters=taps * i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3),),
        attributes={"kernel_shape": [taps]},
        outputs=[{"shape": [batch, c_out, long]}],
        label="1-D, implied weight",
    )


def convolution_3d() -> Case:
    batch, c_in, c_out = 2, 5, 7
    depth, height, width = 11, 13, 17
    taps = 3 * 1 * 2
    # dilations 2, 1, 3: windows of 5, 1 and 4
    deep, high, wide = 11 - 5 + 1, 13, 17 - 4 + 1
    return Case(
        "Conv",
        [image("x", batch, c_in, depth, height, width)],
        [(batch, c_out, deep, high, wide)],
        lambda i, o: Cost(
            flops=2 * batch * deep * high * wide * taps * i * o,
            bytes=FLOAT
            * (batch * depth * height * width * i + batch * deep * high * wide * o + taps * i * o),
            weights=taps * i * o,
            parameters=taps * i * o,
        ),
        widths=(c_in, c_out),
        pruned=((4, 2),),
        attributes={"dilations": [2, 1, 3]},
        parameters=[weight(c_out, c_in, 3, 1, 2)],
        label="3-D, dilated",
    )


def convolution_auto_pad(auto_pad: str, high: int, wide: int) -> Case:
    batch, c_in, c_out, height, width, taps = 1, 5, 7, 11, 13, 3 * 3
    return Case(
        "Conv",
        [image("x", batch, c_in, height, width)],
        [(batch, c_out, high, wide)],
        lambda i, o: Cost(
            flops=2 * batch * high * wide * taps * i * o,
            bytes=FLOAT * (height * width * i + high * wide * o + taps * i * o),
            weights=taps * i * o,
            parameters=taps * i * o,
        ),
        widths=(c_in, c_out),
        pruned=((3, 2),),
        attributes={"auto_pad": auto_pad, "strides": [2, 3]},
        parameters=[weight(c_out, c_in, 3, 3)],
        label=auto_pad,
    )


def depthwise(multiplier: int) -> Case:
    """One input channel and its `multiplier` output channels live and die together."""
    batch, channels, height, width, taps = 2, 7, 11, 13, 3 * 3
    positions = 2 * 11 * 13
    return Case(
        "Conv",
        [image("x", batch, channels, height, width)],
        [(batch, channels * multiplier, height, width)],
        lambda c: Cost(
            flops=2 * positions * taps * multiplier * c,
            bytes=FLOAT
            * (
                batch * height * width * c  # read the input
                + batch * height * width * multiplier * c  # write the output
                + taps * multiplier * c  # one kernel per output channel
            ),
            weights=taps * multiplier * c,
            parameters=taps * multiplier * c + multiplier * c,
        ),
        widths=(channels,),
        pruned=((3,), (1,), (0,)),
        reads=((channels, 1),),
        writes=((channels, multiplier),),
        attributes={"group": channels, "pads": [1, 1, 1, 1]},
        parameters=[weight(channels * multiplier, 1, 3, 3), bias(channels * multiplier)],
        label=f"depthwise, multiplier {multiplier}",
    )


def grouped() -> Case:
    """Five conv-groups of 2 input and 3 output channels: only whole ones can go."""
    batch, group, reads, writes, height, width, taps = 2, 5, 2, 3, 11, 13, 3 * 3
    return Case(
        "Conv",
        [image("x", batch, group * reads, height, width)],
        [(batch, group * writes, 9, 11)],
        lambda g: Cost(
            # a conv-group multiplies `reads` by `writes` channels
            flops=2 * batch * 9 * 11 * taps * reads * writes * g,
            bytes=FLOAT
            * (
                batch * height * width * reads * g
                + batch * 9 * 11 * writes * g
                + taps * reads * writes * g
            ),
            weights=taps * reads * writes * g,
            parameters=taps * reads * writes * g + writes * g,
        ),
        widths=(group,),
        pruned=((3,), (1,)),
        reads=((group, reads),),
        writes=((group, writes),),
        attributes={"group": group},
        parameters=[weight(group * writes, reads, 3, 3), bias(group * writes)],
        label="grouped",
    )


def computed_kernel() -> Case:
    """A kernel that other layers compute is an activation; nothing can be pruned."""
    batch, c_in, c_out, height, width = 2, 5, 7, 11, 13
    return Case(
        "Conv",
        [image("x", batch, c_in, height, width), data("w", c_out, c_in, 3, 3)],
        [(batch, c_out, 9, 11)],
        lambda: Cost(
            flops=2 * 2 * 9 * 11 * 3 * 3 * 5 * 7,
            bytes=FLOAT * (2 * 5 * 11 * 13 + 7 * 5 * 3 * 3 + 2 * 7 * 9 * 11),
        ),
        fixed=(c_in,),
        label="computed kernel",
    )


def transposed() -> Case:
    """Every input position meets every tap; output_padding adds positions, not FLOPs."""
    batch, c_in, c_out, height, width, taps = 2, 5, 7, 11, 13, 3 * 4
    # 2 (11 - 1) + 3 + 1 - 0 - 1 = 23 and 3 (13 - 1) + 4 + 2 - 1 - 0 = 41
    high, wide = 23, 41
    return Case(
        "ConvTranspose",
        [image("x", batch, c_in, height, width)],
        [(batch, c_out, high, wide)],
        lambda i, o: Cost(
            flops=2 * batch * height * width * taps * i * o,
            bytes=FLOAT * (batch * height * width * i + batch * high * wide * o + taps * i * o),
            weights=taps * i * o,
            parameters=taps * i * o + o,
        ),
        widths=(c_in, c_out),
        pruned=((3, 2), (1, 7)),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        attributes={"strides": [2, 3], "output_padding": [1, 2], "pads": [0, 1, 1, 0]},
        parameters=[weight(c_in, c_out, 3, 4), bias(c_out)],
    )


def transposed_grouped() -> Case:
    batch, group, reads, writes, height, width, taps = 1, 5, 2, 3, 11, 13, 2 * 2
    high, wide = 2 * 11, 2 * 13
    return Case(
        "ConvTranspose",
        [image("x", batch, group * reads, height, width)],
        [(batch, group * writes, high, wide)],
        lambda g: Cost(
            flops=2 * height * width * taps * reads * writes * g,
            bytes=FLOAT
            * (height * width * reads * g + high * wide * writes * g + taps * reads * writes * g),
            weights=taps * reads * writes * g,
            parameters=taps * reads * writes * g,
        ),
        widths=(group,),
        pruned=((2,),),
        reads=((group, reads),),
        writes=((group, writes),),
        attributes={"strides": [2, 2], "group": group},
        parameters=[weight(group * reads, writes, 2, 2)],
        label="grouped",
    )


def transposed_implied() -> Case:
    batch, c_in, c_out, length, taps = 1, 5, 7, 11, 3
    return Case(
        "ConvTranspose",
        [image("x", batch, c_in, length)],
        [(batch, c_out, 13)],
        lambda i, o: Cost(
            flops=2 * length * taps * i * o,
            bytes=FLOAT * (length * i + 13 * o + taps * i * o),
            weights=taps * i * o,
            parameters=taps * i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3),),
        attributes={"kernel_shape": [3]},
        outputs=[{"shape": [batch, c_out, 13]}],
        label="1-D, implied weight",
    )


def integer(op: str) -> Case:
    """A byte an element; ConvInteger accumulates in int32, QLinearConv writes int8 again."""
    batch, c_in, c_out, height, width, taps = 2, 5, 7, 11, 13, 3 * 3
    per_output = 4 if op == "ConvInteger" else 1
    scales = [learned("scale", 1), learned("zero_point", 1, dtype="int8")]
    return Case(
        op,
        [image("x", batch, c_in, height, width, dtype="int8")],
        [(batch, c_out, 9, 11)],
        lambda i, o: Cost(
            flops=2 * batch * 9 * 11 * taps * i * o,
            bytes=1 * batch * height * width * i
            + per_output * batch * 9 * 11 * o
            + 1 * taps * i * o,
            weights=taps * i * o,
            parameters=taps * i * o,  # scales and zero points are chosen, not learned
        ),
        widths=(c_in, c_out),
        pruned=((3, 2),),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        parameters=[*scales, weight(c_out, c_in, 3, 3, dtype="int8"), *scales],
    )


def fused_with_addend() -> Case:
    """FusedConv adds its fourth input: what is added cannot be cut with the output, so it stays."""
    batch, c_in, c_out, height, width, taps = 2, 5, 7, 11, 13, 3 * 3
    return Case(
        "FusedConv",
        [image("x", batch, c_in, height, width), image("z", batch, c_out, height, width)],
        [(batch, c_out, height, width)],
        lambda i: Cost(
            flops=2 * batch * height * width * taps * i * 7,
            bytes=FLOAT
            * (
                batch * height * width * i
                + batch * height * width * 7  # read the addend
                + batch * height * width * 7  # write
                + taps * i * 7
            ),
            weights=taps * i * 7,
            parameters=taps * i * 7,
        ),
        widths=(c_in,),
        pruned=((3,),),
        reads=((c_in, 1),),
        fixed=(c_out,),
        attributes={"pads": [1, 1, 1, 1], "activation": "Relu"},
        parameters=[weight(c_out, c_in, 3, 3)],
        label="with addend",
    )


CASES = [
    convolution(),
    convolution_without_parameters(),
    convolution_3d(),
    convolution_auto_pad("SAME_UPPER", -(-11 // 2), -(-13 // 3)),
    convolution_auto_pad("SAME_LOWER", -(-11 // 2), -(-13 // 3)),
    convolution_auto_pad("VALID", (11 - 3) // 2 + 1, (13 - 3) // 3 + 1),
    depthwise(1),
    depthwise(3),
    grouped(),
    computed_kernel(),
    convolution("FusedConv"),
    fused_with_addend(),
    transposed(),
    transposed_grouped(),
    transposed_implied(),
    integer("ConvInteger"),
    integer("QLinearConv"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolutions_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
