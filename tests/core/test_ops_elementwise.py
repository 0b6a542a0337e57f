from __future__ import annotations

from typing import Any

import pytest

from tests.core.cases import FLOAT, Case, Cost, check, data, features, image, learned, weight

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "FastGelu", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "QuickGelu", "Reciprocal", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish",
    "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
TESTS = ("Not", "IsNaN", "IsInf")
PAIRS = (
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "BitShift",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor", "PRelu",
)  # fmt: skip
COMPARISONS = (
    "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
)  # fmt: skip


def unary(op: str, per_out: int = FLOAT, per_in: int = FLOAT, **more: Any) -> Case:
    """Reads and writes every element; channel k stays channel k."""
    batch, channels, height, width = 2, 5, 7, 11
    dtypes = {4: "float32", 1: "int8", 2: "float16"}
    return Case(
        op,
        [image("x", batch, channels, height, width, dtype=dtypes[per_in])],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=(per_in + per_out) * batch * height * width * c),
        widths=(channels,),
        pruned=((3,), (0,)),
        reads=((channels, 1),),
        writes=((channels, 1),),
        **more,
    )


def pair(op: str, per_out: int = FLOAT, per_in: int = FLOAT) -> Case:
    """Two operands with the same channels are tied: read both, write one."""
    batch, channels, height, width = 2, 5, 7, 11
    shape = (batch, channels, height, width)
    dtype = {4: "float32", 1: "int8"}[per_in]
    return Case(
        op,
        [image("x", *shape, dtype=dtype), image("z", *shape, dtype=dtype)],
        [shape],
        lambda c: Cost(bytes=(2 * per_in + per_out) * batch * height * width * c),
        widths=(channels,),
        pruned=((3,), (1,)),
        reads=((channels, 1),),
        writes=((channels, 1),),
    )


def broadcast_positions() -> Case:
    """Squeeze-and-excitation: a gate with one position a channel."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Mul",
        [image("x", batch, channels, height, width), image("gate", batch, channels, 1, 1)],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=FLOAT * batch * (2 * height * width * c + c)),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        label="gate a channel",
    )


def broadcast_over_channels() -> Case:
    """A single channel that meets all others cannot go, and is read at a rate of its own."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Mul",
        [image("x", batch, channels, height, width), image("mask", batch, 1, height, width)],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=FLOAT * batch * height * width * (2 * c + 1)),
        widths=(channels,),
        pruned=((3,),),
        writes=((channels, 1),),
        fixed=(1,),
        label="mask over channels",
    )


def without_channels() -> Case:
    """What is added from outside has all channels: the sum keeps all of its own."""
    batch, channels, height, width = 2, 5, 7, 11
    shape = (batch, channels, height, width)
    return Case(
        "Add",
        [image("x", *shape), data("z", *shape)],
        [shape],
        lambda: Cost(bytes=FLOAT * 3 * 2 * 5 * 7 * 11),
        fixed=(channels,),
        label="operand without channels",
    )


def three() -> Case:
    shape = (2, 5, 7, 11)
    return Case(
        "Sum",
        [image("x", *shape), image("z", *shape), image("w", *shape)],
        [shape],
        lambda c: Cost(bytes=FLOAT * (3 + 1) * 2 * 7 * 11 * c),
        widths=(5,),
        pruned=((2,),),
        reads=((5, 1),),
        label="three operands",
    )


def vector(op: str, role: str = "weight") -> Case:
    """One learned number a channel is a parameter, not traffic."""
    batch, length, channels = 2, 3, 5
    return Case(
        op,
        [features("x", batch, length, channels)],
        [(batch, length, channels)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * length * c, parameters=c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        parameters=[learned(role, channels)],
        label="learned vector",
    )


def positions() -> Case:
    """A learned position embedding is read whole and cut with the channels it is added to."""
    batch, length, channels = 2, 3, 5
    return Case(
        "Add",
        [features("x", batch, length, channels)],
        [(batch, length, channels)],
        lambda c: Cost(bytes=FLOAT * (2 * batch * length * c + length * c), parameters=length * c),
        widths=(channels,),
        pruned=((2,),),
        parameters=[weight(1, length, channels)],
        label="learned table",
    )


def table_over_positions() -> Case:
    """A learned mask over positions is the same for all channels: nothing of it is cut."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "Mul",
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width)],
        lambda c: Cost(
            bytes=FLOAT * (2 * batch * height * width * c + height * width),
            parameters=height * width,
        ),
        widths=(channels,),
        pruned=((2,),),
        parameters=[weight(height, width)],
        label="learned table over positions",
    )


def slope() -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "PRelu",
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=FLOAT * 2 * batch * height * width * c, parameters=c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        parameters=[weight(channels, 1, 1)],
        label="learned slope",
    )


def slope_of_all() -> Case:
    shape = (2, 5, 7, 11)
    return Case(
        "PRelu",
        [image("x", *shape)],
        [shape],
        lambda c: Cost(bytes=FLOAT * 2 * 2 * 7 * 11 * c, parameters=1),
        widths=(5,),
        pruned=((2,),),
        parameters=[weight(1)],
        label="one slope",
    )


def where() -> Case:
    """A byte for the condition, four for each branch and the result; all live and die together."""
    batch, channels, height, width = 2, 5, 7, 11
    shape = (batch, channels, height, width)
    return Case(
        "Where",
        [image("if", *shape, dtype="bool"), image("x", *shape), image("z", *shape)],
        [shape],
        lambda c: Cost(bytes=(1 + 4 + 4 + 4) * batch * height * width * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
    )


def cast_like() -> Case:
    """What it is cast like is not read."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "CastLike",
        [image("x", batch, channels, height, width), data("like", 3, 13, dtype="float16")],
        [(batch, channels, height, width)],
        lambda c: Cost(bytes=(4 + 2) * batch * height * width * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
    )


def quantised_pair(op: str) -> Case:
    batch, channels, height, width = 2, 5, 7, 11
    shape = (batch, channels, height, width)
    scales = [learned("scale", 1), learned("zero_point", 1, dtype="int8")]
    return Case(
        op,
        [image("x", *shape, dtype="int8"), image("z", *shape, dtype="int8")],
        [shape],
        lambda c: Cost(bytes=(1 + 1 + 1) * batch * height * width * c),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        parameters=scales * 3,
    )


def dynamic_quantised() -> Case:
    """Values of a byte, a float32 scale, a byte as zero point."""
    batch, channels, height, width = 2, 5, 7, 11
    return Case(
        "DynamicQuantizeLinear",
        [image("x", batch, channels, height, width)],
        [(batch, channels, height, width), (), ()],
        lambda c: Cost(bytes=(4 + 1) * batch * height * width * c + 4 + 1),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        outputs=[{}, {}, {}],
    )


SCALES: dict[str, Any] = {
    "parameters": [learned("scale", 1), learned("zero_point", 1, dtype="int8")]
}

CASES = [
    *(unary(op) for op in UNARY),
    *(unary(op, per_out=1) for op in TESTS),
    *(pair(op) for op in PAIRS),
    *(pair(op, per_out=1) for op in COMPARISONS),
    broadcast_positions(),
    broadcast_over_channels(),
    without_channels(),
    three(),
    vector("Mul"),
    vector("Add", role="bias"),
    vector("BiasGelu"),
    vector("FastGelu", role="bias"),
    positions(),
    table_over_positions(),
    slope(),
    slope_of_all(),
    where(),
    unary("Cast", per_out=2, attributes={"to": "float16"}),
    unary("Cast", per_out=1, attributes={"to": 9}, label="by ONNX's code"),
    cast_like(),
    unary("QLinearSigmoid", per_in=1, per_out=1, **SCALES),
    unary("QLinearLeakyRelu", per_in=1, per_out=1, **SCALES),
    quantised_pair("QLinearAdd"),
    quantised_pair("QLinearMul"),
    unary("QuantizeLinear", per_out=1, **SCALES),
    unary("DequantizeLinear", per_in=1, per_out=4, **SCALES),
    dynamic_quantised(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_elementwise_operators_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
