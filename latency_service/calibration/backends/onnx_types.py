"""Types of tensors in ONNX models and in NumPy, and those of quantised operators' operands."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "bool": TensorProto.BOOL,
}  # fmt: skip
NUMPY = {
    "float32": np.float32, "float16": np.float16, "float64": np.float64, "int8": np.int8,
    "uint8": np.uint8, "int32": np.int32, "int64": np.int64, "bool": np.bool_,
}  # fmt: skip
# Operands whose type is not the workload's: quantised activations are unsigned, weights signed.
_UNSIGNED = {
    "QLinearConv": ("x", "x_zero_point", "y_zero_point"),
    "QLinearMatMul": ("a", "a_zero_point", "y_zero_point"),
    "ConvInteger": ("x", "x_zero_point"),
    "MatMulInteger": ("A", "a_zero_point"),
    "MatMulIntegerToFloat": ("A", "a_zero_point"),
    **dict.fromkeys(
        ("QLinearAdd", "QLinearMul"), ("A", "A_zero_point", "B", "B_zero_point", "C_zero_point")
    ),
    **dict.fromkeys(
        (
            "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool",
            "QLinearSoftmax",
        ),
        ("X", "x_zero_point", "y_zero_point"),
    ),
    "QLinearConcat": ("inputs",),
    "QuantizeLinear": ("y_zero_point",),
    "DequantizeLinear": ("X", "y_zero_point"),
}  # fmt: skip
OPERAND_TYPES = {
    **{(op, operand): "uint8" for op, operands in _UNSIGNED.items() for operand in operands},
    ("DynamicQuantizeMatMul", "B"): "int8", ("DynamicQuantizeMatMul", "b_zero_point"): "int8",
    ("QLinearConv", "B"): "int32", ("Where", "condition"): "bool",
    ("OneHot", "indices"): "int64",
    **{
        ("DynamicQuantizeLSTM", operand): "int8"
        for operand in ("W", "R", "W_zero_point", "R_zero_point")
    },
}  # fmt: skip
