"""Rows of the pools and reductions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from latency_service.core.ops import layouts, shapes, values
from latency_service.core.ops.op import Op
from latency_service.core.ops.table.roles import QUANTISATION


def rows() -> Iterator[Op]:
    """The rows of this family."""
    family = "pooling and reduction"
    for name in ("MaxPool", "AveragePool", "LpPool"):
        yield Op(name, family, shapes.pool, layouts.keep_leading, operands=("X",))
    yield Op(
        "MaxUnpool",
        family,
        shapes.max_unpool,
        layouts.keep_leading,
        operands=("X", "I", "output_shape"),
        constants=frozenset({"output_shape"}),
    )
    for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Op(name, family, shapes.global_pool, layouts.keep_leading, operands=("X",))
    scaled = ("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point")
    yield Op(
        "QLinearGlobalAveragePool",
        family,
        shapes.global_pool,
        layouts.keep_leading,
        operands=scaled,
        roles=QUANTISATION,
    )
    yield Op(
        "QLinearAveragePool",
        family,
        shapes.pool,
        layouts.keep_leading,
        operands=scaled,
        roles=QUANTISATION,
    )
    folds: dict[str, Callable[..., Any]] = {
        "ReduceProd": np.prod,
        "ReduceSum": np.sum,
        "ReduceMin": np.min,
        "ReduceMax": np.max,
        "ReduceMean": np.mean,
    }
    for name in (
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ):
        yield Op(
            name,
            family,
            shapes.reduce,
            layouts.reduce,
            operands=("data", "axes"),
            constants=frozenset({"axes"}),
            value=values.reduction(folds[name]) if name in folds else None,
        )
    for name in ("ArgMax", "ArgMin"):
        yield Op(name, family, shapes.arg_reduce, layouts.arg_reduce, operands=("data",))
    yield Op(
        "CumSum",
        family,
        shapes.same,
        layouts.along_axis,
        operands=("x", "axis"),
        constants=frozenset({"axis"}),
    )
    yield Op(
        "TopK",
        family,
        shapes.top_k,
        layouts.top_k,
        operands=("X", "K"),
        constants=frozenset({"K", "k"}),
    )
