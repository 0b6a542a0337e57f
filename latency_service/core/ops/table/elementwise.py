"""Rows of the operators that work position by position, casts and quantisation among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from latency_service.core.ops import layouts, shapes, values
from latency_service.core.ops.op import Op
from latency_service.core.ops.table.roles import QUANTISATION


def rows() -> Iterator[Op]:
    """The rows of this family."""
    family = "elementwise"
    folds: dict[str, Callable[..., Any]] = {
        "Abs": np.abs,
        "Neg": np.negative,
        "Floor": np.floor,
        "Ceil": np.ceil,
        "Round": np.round,
        "Sqrt": np.sqrt,
        "Not": np.logical_not,
        "Exp": np.exp,
        "Log": np.log,
        "Sign": np.sign,
        "Reciprocal": np.reciprocal,
        "Cos": np.cos,
        "Sin": np.sin,
        "Relu": lambda v: np.maximum(v, 0),
    }
    for name in (
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "ThresholdedRelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Mish",
        "Gelu",
        "QuickGelu",
        "FastGelu",
        "BiasGelu",
        "Tanh",
        "Softplus",
        "Softsign",
        "Shrink",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Abs",
        "Neg",
        "Sign",
        "Floor",
        "Ceil",
        "Round",
        "Sin",
        "Cos",
        "Tan",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "BitwiseNot",
    ):
        roles = {"B": "weight", "bias": "bias"} if name in ("BiasGelu", "FastGelu") else {}
        yield Op(
            name,
            family,
            shapes.elementwise,
            layouts.elementwise,
            operands=("A", "B") if roles else ("X",),
            roles=roles,
            value=values.unary(folds[name]) if name in folds else None,
        )
    for name in ("Not", "IsNaN", "IsInf"):
        yield Op(
            name,
            family,
            shapes.typed("bool"),
            layouts.elementwise,
            operands=("X",),
            value=values.unary(folds[name]) if name in folds else None,
        )
    pairs: dict[str, Callable[..., Any]] = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": values.divide,
        "Pow": np.power,
        "Mod": np.mod,
        "Min": np.minimum,
        "Max": np.maximum,
        "Sum": np.add,
    }
    for name in (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Min",
        "Max",
        "Sum",
        "Mean",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "PRelu",
    ):
        yield Op(
            name,
            family,
            shapes.elementwise,
            layouts.elementwise,
            operands=("A", "B"),
            roles={"A": "weight", "B": "weight"},
            value=values.variadic(pairs[name]) if name in pairs else None,
        )
    tests: dict[str, Callable[..., Any]] = {
        "And": np.logical_and,
        "Or": np.logical_or,
        "Xor": np.logical_xor,
        "Equal": np.equal,
        "Less": np.less,
        "Greater": np.greater,
        "LessOrEqual": np.less_equal,
        "GreaterOrEqual": np.greater_equal,
    }
    for name, function in tests.items():
        yield Op(
            name,
            family,
            shapes.comparison,
            layouts.elementwise,
            operands=("A", "B"),
            roles={"A": "weight", "B": "weight"},
            value=values.variadic(function),
        )
    yield Op(
        "Where",
        family,
        shapes.where,
        layouts.elementwise,
        operands=("condition", "X", "Y"),
        roles={"condition": "weight", "X": "weight", "Y": "weight"},
        value=values.where,
    )
    yield Op(
        "Clip",
        family,
        shapes.same,
        layouts.keep,
        operands=("input", "min", "max"),
        constants=frozenset({"min", "max"}),
        value=values.clip,
    )
    yield Op("Cast", family, shapes.cast, layouts.keep, operands=("input",), value=values.cast)
    yield Op(
        "CastLike",
        family,
        shapes.cast_like,
        layouts.keep,
        operands=("input", "target"),
        constants=frozenset({"target"}),
        value=values.cast,
    )
    for name in ("QLinearAdd", "QLinearMul"):
        yield Op(
            name,
            family,
            shapes.elementwise,
            layouts.elementwise,
            operands=(
                "A",
                "A_scale",
                "A_zero_point",
                "B",
                "B_scale",
                "B_zero_point",
                "C_scale",
                "C_zero_point",
            ),
            roles={
                "A": "weight",
                "B": "weight",
                "A_scale": "scale",
                "A_zero_point": "zero_point",
                "B_scale": "scale",
                "B_zero_point": "zero_point",
                "C_scale": "scale",
                "C_zero_point": "zero_point",
            },
        )
    scaled = ("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point")
    for name in ("QLinearSigmoid", "QLinearLeakyRelu"):
        yield Op(
            name,
            family,
            shapes.same,
            layouts.keep,
            operands=scaled,
            roles={"X_scale": "scale", "X_zero_point": "zero_point", **QUANTISATION},
        )
    for name, shape in (
        ("QuantizeLinear", shapes.quantize),
        ("DequantizeLinear", shapes.floating),
    ):
        yield Op(
            name,
            family,
            shape,
            layouts.keep,
            operands=("X", "y_scale", "y_zero_point"),
            roles=QUANTISATION,
        )
    yield Op(
        "DynamicQuantizeLinear", family, shapes.dynamic_quantize, layouts.keep, operands=("x",)
    )
