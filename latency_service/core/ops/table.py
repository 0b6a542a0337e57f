"""The operator table: everything the cost model knows about an operator is its row here.

A new operator is one row, and one hand-computed expectation in tests/core/test_ops_*.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from latency_service.core.ops import contractions, implied, layouts, shapes, values
from latency_service.core.ops.op import Op, Traffic, ValueRule, guarded

_ROLES = {"B": "bias"}
_NORM = {"scale": "gamma", "B": "beta", "bias": "beta"}
_QUANT = {
    "x_scale": "scale",
    "x_zero_point": "zero_point",
    "w_scale": "scale",
    "w_zero_point": "zero_point",
    "y_scale": "scale",
    "y_zero_point": "zero_point",
    "a_scale": "scale",
    "a_zero_point": "zero_point",
    "b_scale": "scale",
    "b_zero_point": "zero_point",
}


def _contractions() -> Iterator[Op]:
    family = "contraction"
    conv = {"W": "weight", "w": "weight", "B": "bias"}
    operands: tuple[str, ...]
    for name, operands in (
        ("Conv", ("X", "W", "B")),
        ("FusedConv", ("X", "W", "B", "Z")),
        ("ConvInteger", ("x", "w", "x_zero_point", "w_zero_point")),
        (
            "QLinearConv",
            (
                "x",
                "x_scale",
                "x_zero_point",
                "w",
                "w_scale",
                "w_zero_point",
                "y_scale",
                "y_zero_point",
                "B",
            ),
        ),
    ):
        yield Op(
            name,
            family,
            shapes.conv,
            contractions.conv,
            operands=operands,
            roles={**conv, **_QUANT},
            implied=implied.conv,
            contraction=True,
        )
    yield Op(
        "ConvTranspose",
        family,
        shapes.conv_transpose,
        contractions.conv_transpose,
        operands=("X", "W", "B"),
        roles=conv,
        implied=implied.conv_transpose,
        contraction=True,
    )
    for name in ("Gemm", "FusedGemm"):
        yield Op(
            name,
            family,
            shapes.gemm,
            contractions.gemm,
            operands=("A", "B", "C"),
            roles={"B": "weight", "C": "bias"},
            implied=implied.gemm,
            contraction=True,
        )
    for name, operands in (
        ("MatMul", ("A", "B")),
        ("FusedMatMul", ("A", "B")),
        ("MatMulInteger", ("A", "B", "a_zero_point", "b_zero_point")),
        (
            "MatMulIntegerToFloat",
            ("A", "B", "a_scale", "b_scale", "a_zero_point", "b_zero_point", "bias"),
        ),
        ("DynamicQuantizeMatMul", ("A", "B", "b_scale", "b_zero_point", "bias")),
        (
            "QLinearMatMul",
            (
                "a",
                "a_scale",
                "a_zero_point",
                "b",
                "b_scale",
                "b_zero_point",
                "y_scale",
                "y_zero_point",
            ),
        ),
    ):
        yield Op(
            name,
            family,
            shapes.matmul,
            contractions.matmul,
            operands=operands,
            roles={
                "A": "weight",
                "a": "weight",
                "B": "weight",
                "b": "weight",
                "bias": "bias",
                **_QUANT,
            },
            implied=implied.matmul,
            contraction=True,
        )
    for name, gates, vectors in (("LSTM", 4, 2), ("GRU", 3, 2), ("RNN", 1, 2)):
        yield Op(
            name,
            family,
            shapes.recurrent(gates),
            contractions.recurrent(gates),
            operands=("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
            roles={
                "W": "weight",
                "R": "recurrence",
                "B": "bias",
                "P": "bias",
                "initial_h": "state",
                "initial_c": "state",
            },
            implied=implied.recurrent(gates, vectors),
            contraction=True,
        )
    yield Op(
        "DynamicQuantizeLSTM",
        family,
        shapes.recurrent(4),
        contractions.recurrent(4),
        operands=(
            "X",
            "W",
            "R",
            "B",
            "sequence_lens",
            "initial_h",
            "initial_c",
            "P",
            "W_scale",
            "W_zero_point",
            "R_scale",
            "R_zero_point",
        ),
        roles={
            "W": "weight",
            "R": "recurrence",
            "B": "bias",
            "P": "bias",
            "initial_h": "state",
            "initial_c": "state",
            "W_scale": "scale",
            "W_zero_point": "zero_point",
            "R_scale": "scale",
            "R_zero_point": "zero_point",
        },
        contraction=True,
    )
    yield Op(
        "Einsum",
        family,
        shapes.einsum,
        contractions.einsum,
        operands=("Inputs", "Inputs"),
        roles={"Inputs": "weight"},
        contraction=True,
    )
    yield Op(
        "MatMulNBits",
        family,
        lambda node: [((*node.x.shape[:-1], node.integer("N")), node.x.dtype)],
        contractions.dense_blocks,
        operands=("A", "B", "scales", "zero_points"),
        roles={"B": "weight", "scales": "scale", "zero_points": "zero_point"},
        contraction=True,
    )
    for name, operands in (
        ("Attention", ("Q", "K", "V", "attn_mask", "past_key", "past_value")),
        ("MultiHeadAttention", ("query", "key", "value", "bias")),
    ):
        yield Op(
            name,
            family,
            shapes.attention,
            contractions.attention,
            operands=operands,
            roles={"bias": "bias"},
            contraction=True,
        )


def _elementwise() -> Iterator[Op]:
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
            roles={"X_scale": "scale", "X_zero_point": "zero_point", **_QUANT},
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
            roles=_QUANT,
        )
    yield Op(
        "DynamicQuantizeLinear", family, shapes.dynamic_quantize, layouts.keep, operands=("x",)
    )


def _normalisations() -> Iterator[Op]:
    family = "normalisation"
    yield Op(
        "BatchNormalization",
        family,
        shapes.batch_statistics,
        layouts.batch_norm,
        operands=("X", "scale", "B", "input_mean", "input_var"),
        roles={**_NORM, "input_mean": "mean", "input_var": "variance"},
        implied=implied.batch_norm,
    )
    yield Op(
        "InstanceNormalization",
        family,
        shapes.same,
        layouts.batch_norm,
        operands=("input", "scale", "B"),
        roles=_NORM,
        implied=implied.channel_norm,
    )
    yield Op(
        "GroupNormalization",
        family,
        shapes.same,
        layouts.group_norm,
        operands=("X", "scale", "bias"),
        roles=_NORM,
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
    yield Op("LRN", family, shapes.same, layouts.neighbours, operands=("X",))
    yield Op(
        "MeanVarianceNormalization", family, shapes.same, layouts.mean_variance, operands=("X",)
    )


def _pools() -> Iterator[Op]:
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
        roles=_QUANT,
    )
    yield Op(
        "QLinearAveragePool",
        family,
        shapes.pool,
        layouts.keep_leading,
        operands=scaled,
        roles=_QUANT,
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


def _moves() -> Iterator[Op]:
    family = "moving data"
    yield Op(
        "Transpose",
        family,
        shapes.transpose,
        layouts.transpose,
        operands=("data",),
        value=values.transpose,
    )
    for name in ("Concat", "QLinearConcat"):
        yield Op(
            name,
            family,
            shapes.concat,
            layouts.concat,
            operands=("inputs",),
            roles={"inputs": "weight"},
            value=values.concat,
        )
    yield Op(
        "Split",
        family,
        shapes.split,
        layouts.split,
        operands=("input", "split"),
        constants=frozenset({"split"}),
        value=values.split,
    )
    yield Op(
        "Pad",
        family,
        shapes.pad,
        layouts.pad,
        operands=("data", "pads", "constant_value", "axes"),
        constants=frozenset({"pads", "constant_value", "axes"}),
    )
    yield Op(
        "Expand",
        family,
        shapes.expand,
        layouts.expand,
        operands=("input", "shape"),
        constants=frozenset({"shape"}),
        value=values.expand,
    )
    yield Op(
        "Tile",
        family,
        shapes.tile,
        layouts.tile,
        operands=("input", "repeats"),
        constants=frozenset({"repeats"}),
        value=values.tile,
    )
    yield Op(
        "Resize",
        family,
        shapes.resize,
        layouts.resize,
        operands=("X", "roi", "scales", "sizes"),
        constants=frozenset({"roi", "scales", "sizes"}),
    )
    yield Op(
        "Upsample",
        family,
        shapes.resize,
        layouts.resize,
        operands=("X", "scales"),
        constants=frozenset({"scales"}),
    )
    yield Op(
        "DepthToSpace", family, shapes.depth_to_space, layouts.depth_to_space, operands=("input",)
    )
    yield Op(
        "SpaceToDepth", family, shapes.space_to_depth, layouts.space_to_depth, operands=("input",)
    )
    yield Op(
        "Slice",
        family,
        shapes.slice_,
        layouts.slice_,
        Traffic.TOUCH,
        operands=("data", "starts", "ends", "axes", "steps"),
        constants=frozenset({"starts", "ends", "axes", "steps"}),
        value=values.slice_,
    )
    yield Op(
        "Gather",
        family,
        shapes.gather,
        layouts.gather,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
        roles={"data": "weight"},
        value=values.gather,
    )
    yield Op(
        "GatherElements",
        family,
        shapes.gather_elements,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
    )
    yield Op(
        "GatherND",
        family,
        shapes.gather_nd,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
    )
    for name in ("ScatterND", "ScatterElements"):
        yield Op(
            name,
            family,
            shapes.same,
            layouts.opaque,
            operands=("data", "indices", "updates"),
            roles={"data": "weight", "indices": "state", "updates": "weight"},
        )
    for name in ("Trilu", "ReverseSequence"):
        yield Op(
            name,
            family,
            shapes.same,
            layouts.opaque,
            operands=("input", "k"),
            constants=frozenset({"k", "sequence_lens"}),
        )
    yield Op("GridSample", family, shapes.grid_sample, layouts.keep_leading, operands=("X", "grid"))
    yield Op(
        "RoiAlign",
        family,
        shapes.roi_align,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("X", "rois", "batch_indices"),
    )
    yield Op(
        "MaxRoiPool",
        family,
        shapes.roi_align,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("X", "rois"),
    )
    yield Op(
        "OneHot",
        family,
        shapes.one_hot,
        layouts.opaque,
        operands=("indices", "depth", "values"),
        constants=frozenset({"depth", "values"}),
    )
    for name in ("NonMaxSuppression", "NonZero", "Compress", "Unique"):
        yield Op(
            name,
            family,
            shapes.declared,
            layouts.opaque,
            operands=("input",),
            constants=frozenset(
                {"max_output_boxes_per_class", "iou_threshold", "score_threshold", "condition"}
            ),
            value=values.nonzero if name == "NonZero" else None,
        )


def _free() -> Iterator[Op]:
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


def _rows() -> dict[str, Op]:
    table: dict[str, Op] = {}
    for rows in (_contractions, _elementwise, _normalisations, _pools, _moves, _free):
        for op in rows():
            if op.name in table:
                raise RuntimeError(f"operator {op.name} has two rows")
            table[op.name] = replace(op, channels=guarded(op.channels))
    return table


OPS: dict[str, Op] = {}
OPS.update(sorted(_rows().items()))
