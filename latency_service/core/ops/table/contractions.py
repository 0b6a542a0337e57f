"""Rows of the operators that contract: convolution, matrix product, recurrence, attention."""

from __future__ import annotations

from collections.abc import Iterator

from latency_service.core.ops import contractions, implied, shapes
from latency_service.core.ops.op import Op
from latency_service.core.ops.table.roles import QUANTISATION


def rows() -> Iterator[Op]:
    """The rows of this family."""
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
            roles={**conv, **QUANTISATION},
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
    for name, operands in (
        ("Gemm", ("A", "B", "C")),
        ("FusedGemm", ("A", "B", "C")),
        (
            "QGemm",
            (
                "A",
                "a_scale",
                "a_zero_point",
                "B",
                "b_scale",
                "b_zero_point",
                "C",
                "y_scale",
                "y_zero_point",
            ),
        ),
    ):
        yield Op(
            name,
            family,
            shapes.gemm,
            contractions.gemm,
            operands=operands,
            roles={"B": "weight", "C": "bias", **QUANTISATION},
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
                **QUANTISATION,
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
