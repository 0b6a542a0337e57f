"""Rows of the normalisations, softmax among them."""

from __future__ import annotations

from collections.abc import Iterator

from latency_service.core.ops import implied, layouts, shapes
from latency_service.core.ops.op import Op
from latency_service.core.ops.table.roles import QUANTISATION

_ROLES = {"scale": "gamma", "B": "beta", "bias": "beta"}


def rows() -> Iterator[Op]:
    """The rows of this family."""
    family = "normalisation"
    yield Op(
        "BatchNormalization",
        family,
        shapes.batch_statistics,
        layouts.batch_norm,
        operands=("X", "scale", "B", "input_mean", "input_var"),
        roles={**_ROLES, "input_mean": "mean", "input_var": "variance"},
        implied=implied.batch_norm,
    )
    yield Op(
        "InstanceNormalization",
        family,
        shapes.same,
        layouts.batch_norm,
        operands=("input", "scale", "B"),
        roles=_ROLES,
        implied=implied.channel_norm,
    )
    yield Op(
        "GroupNormalization",
        family,
        shapes.same,
        layouts.group_norm,
        operands=("X", "scale", "bias"),
        roles=_ROLES,
        implied=implied.channel_norm,
    )
    yield Op(
        "LayerNormalization",
        family,
        shapes.outputs_with_statistics,
        layouts.norm_over,
        operands=("X", "Scale", "B"),
        roles={"Scale": "gamma", "B": "beta"},
        implied=implied.last_norm,
    )
    for name in ("RMSNormalization", "SimplifiedLayerNormalization"):
        yield Op(
            name,
            family,
            shapes.outputs_with_statistics,
            layouts.norm_over,
            operands=("X", "scale"),
            roles={"scale": "gamma"},
            implied=implied.scale_norm,
        )
    for name, operands in (
        ("SkipLayerNormalization", ("input", "skip", "gamma", "beta", "bias")),
        ("SkipSimplifiedLayerNormalization", ("input", "skip", "gamma", "bias")),
    ):
        yield Op(
            name,
            family,
            shapes.skip_normalization,
            layouts.norm_over,
            operands=operands,
            roles={"gamma": "gamma", "beta": "beta", "bias": "bias"},
            implied=implied.last_norm,
        )
    for name in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        yield Op(name, family, shapes.same, layouts.softmax, operands=("input",))
    yield Op(
        "QLinearSoftmax",
        family,
        shapes.same,
        layouts.softmax,
        operands=("X", "X_scale", "x_zero_point", "y_scale", "y_zero_point"),
        roles={"X_scale": "scale", "x_zero_point": "zero_point", **QUANTISATION},
    )
    yield Op("LRN", family, shapes.same, layouts.neighbours, operands=("X",))
    yield Op(
        "MeanVarianceNormalization", family, shapes.same, layouts.mean_variance, operands=("X",)
    )
