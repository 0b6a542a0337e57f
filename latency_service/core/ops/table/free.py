"""Rows of the operators that cost nothing: another view of a tensor, or known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from latency_service.core.ops import layouts, shapes, values
from latency_service.core.ops.op import Op, Traffic, ValueRule


def rows() -> Iterator[Op]:
    """The rows of this family."""
    family = "free"

    def row(
        name: str,
        shape: Any,
        channels: Any,
        operands: tuple[str, ...] = ("data",),
        constants: tuple[str, ...] = (),
        value: ValueRule | None = None,
        of_shapes: bool = False,
    ) -> Op:
        return Op(
            name,
            family,
            shape,
            channels,
            Traffic.FREE,
            operands=operands,
            constants=frozenset(constants),
            value=value,
            of_shapes=of_shapes,
        )

    yield row(
        "Reshape", shapes.reshape, layouts.reshape, ("data", "shape"), ("shape",), values.reshaped
    )
    yield row("Flatten", shapes.flatten, layouts.reshape, value=values.reshaped)
    yield row(
        "Squeeze", shapes.squeeze, layouts.squeeze, ("data", "axes"), ("axes",), values.reshaped
    )
    yield row(
        "Unsqueeze", shapes.unsqueeze, layouts.squeeze, ("data", "axes"), ("axes",), values.reshaped
    )
    yield row("Identity", shapes.same, layouts.keep, value=values.identity)
    yield row(
        "Dropout",
        shapes.dropout,
        layouts.keep,
        ("data", "ratio", "training_mode"),
        ("ratio", "training_mode"),
    )
    yield row("Constant", shapes.constant, layouts.none, (), (), values.constant, True)
    yield row("Shape", shapes.shape_of, layouts.none, value=values.shape_of, of_shapes=True)
    yield row("Size", shapes.scalar("int64"), layouts.none, value=values.size_of, of_shapes=True)
    yield row(
        "ConstantOfShape",
        shapes.constant_of_shape,
        layouts.none,
        ("input",),
        ("input",),
        values.constant_of_shape,
    )
    yield row(
        "Range",
        shapes.range_,
        layouts.none,
        ("start", "limit", "delta"),
        ("start", "limit", "delta"),
        values.range_,
    )
    yield row("EyeLike", shapes.eye_like, layouts.none)
    for name in ("RandomNormal", "RandomUniform"):
        yield row(name, shapes.random, layouts.none, ())
    for name in ("RandomNormalLike", "RandomUniformLike"):
        yield row(name, shapes.same, layouts.none)
    for name in ("If", "Loop", "Scan"):
        # taken apart before costing: latency_service/core/control.py
        yield replace(row(name, shapes.declared, layouts.opaque), expanded=True)
