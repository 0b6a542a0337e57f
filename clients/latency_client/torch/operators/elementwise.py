"""Operations that work position by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from latency_client.torch.trace import Call, Translation, dtype_name
from latency_client.torch.values import Activation, Constant, Piece, Value

UNARY = {
    "relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu", "selu": "Selu", "celu": "Celu",
    "threshold": "ThresholdedRelu", "sigmoid": "Sigmoid", "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish", "silu": "Swish", "mish": "Mish", "gelu": "Gelu", "tanh": "Tanh",
    "softplus": "Softplus", "softsign": "Softsign", "hardshrink": "Shrink",
    "softshrink": "Shrink", "erf": "Erf", "exp": "Exp", "expm1": "Exp", "log": "Log",
    "log1p": "Log", "log2": "Log", "sqrt": "Sqrt", "rsqrt": "Sqrt", "reciprocal": "Reciprocal",
    "abs": "Abs", "neg": "Neg", "sign": "Sign", "floor": "Floor", "ceil": "Ceil",
    "round": "Round", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos",
    "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "bitwise_not": "BitwiseNot",
    "logical_not": "Not", "isnan": "IsNaN", "isinf": "IsInf", "square": "Pow",
}  # fmt: skip

BINARY = {
    "add": "Add", "sub": "Sub", "rsub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow",
    "maximum": "Max", "minimum": "Min", "fmod": "Mod", "remainder": "Mod",
    "floor_divide": "Div", "true_divide": "Div", "atan2": "Div", "logical_and": "And",
    "logical_or": "Or", "logical_xor": "Xor", "bitwise_and": "BitwiseAnd",
    "bitwise_or": "BitwiseOr", "eq": "Equal", "ne": "Equal", "lt": "Less", "gt": "Greater",
    "le": "LessOrEqual", "ge": "GreaterOrEqual", "xlogy": "Mul",
}  # fmt: skip

# The same tensor, as far as costs and channels go.
ALIASES = (
    "contiguous", "clone", "detach", "alias", "lift_fresh", "dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "native_dropout", "positive", "view_as_real",
    "requires_grad", "resolve_conj", "resolve_neg", "data", "_fw_primal",
)  # fmt: skip


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for name, op in UNARY.items():
        yield f"aten::{name}", unary(op)
    for name, op in BINARY.items():
        yield f"aten::{name}", binary(op)
    for name in ALIASES:
        yield f"aten::{name}", alias
    for name in ("to", "_to_copy", "type_as"):
        yield f"aten::{name}", cast
    yield "aten::copy", copied
    for name in ("clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6"):
        yield f"aten::{name}", clip
    yield "aten::prelu", prelu
    yield "aten::where", where
    yield "aten::masked_fill", masked_fill
    yield "aten::glu", glu
    yield "aten::log_sigmoid", log_sigmoid
    for name in ("addcmul", "addcdiv"):
        yield f"aten::{name}", scaled_sum
    yield "aten::lerp", scaled_sum
    for name in ("fill", "zero", "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros",
                 "new_ones", "new_full", "new_empty", "rand_like", "randn_like",
                 "bernoulli"):  # fmt: skip
        yield f"aten::{name}", constant


def _main(call: Call) -> str:
    return "self" if "self" in call.arguments else next(iter(call.arguments))


def unary(op: str) -> Translation:
    """One input, one output."""

    def translation(call: Call) -> Sequence[Value]:
        return call.layer(op, [call.tensor(_main(call))])

    return translation


def _operands(call: Call, tensors: Sequence[Any]) -> tuple[list[str], list[tuple[str, Tensor]]]:
    """Activations, and what the model owns or is constant, of an operation's tensors."""
    inputs: list[str] = []
    learned: list[tuple[str, Tensor]] = []
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        if isinstance(call.value(tensor), Activation):
            inputs.append(call.tensor(tensor))
        elif tensor.numel() > 1:
            learned.append(("weight", tensor))
    return inputs, learned


def binary(op: str) -> Translation:
    """Two operands; numbers and one-element constants are part of the operation."""

    def translation(call: Call) -> Sequence[Value]:
        inputs, learned = _operands(call, [call.get("self"), call.get("other"),
                                           call.get("exponent")])  # fmt: skip
        return call.layer(op, inputs, {}, learned)

    return translation


def alias(call: Call) -> Sequence[Value]:
    """What changes nothing."""
    value = call.value(_main(call))
    return [value] * len(call.outputs)


def cast(call: Call) -> Sequence[Value]:
    """Casts between kinds of numbers; among floating ones they are the runtime's business."""
    source, target = call[_main(call)].dtype, call.outputs[0].dtype
    if source == target or (source.is_floating_point and target.is_floating_point):
        return alias(call)
    to = dtype_name(target) or "float32"
    return call.layer("Cast", [call.tensor(_main(call))], {"to": to})


def copied(call: Call) -> Sequence[Value]:
    """copy_: the target becomes the source."""
    if call.shape("src") == call.out_shape:
        return [call.value("src")]
    return call.layer("Expand", [call.tensor("src")], {"shape": list(call.out_shape)})


def clip(call: Call) -> Sequence[Value]:
    """Clip, and relu6 in its disguises."""
    low = call.get("min", call.get("min_val"))
    high = call.get("max", call.get("max_val"))
    if call.key == "aten::relu6":
        low, high = 0.0, 6.0
    bounds = {"min": low, "max": high}
    tensors = [bound for bound in bounds.values() if isinstance(bound, Tensor)]
    if tensors:
        inputs, learned = _operands(call, [call[_main(call)], *tensors])
        return call.layer("Max", inputs, {}, learned)
    attributes = {key: float(bound) for key, bound in bounds.items() if bound is not None}
    return call.layer("Clip", [call.tensor(_main(call))], attributes)


def prelu(call: Call) -> Sequence[Value]:
    """PReLU: the slopes lie along axis 1."""
    x, slopes = call.tensor("self"), call["weight"]
    shape = call.out_shape
    value = call.value(slopes)
    if isinstance(value, Activation):
        return call.layer("PRelu", [x, value.name])
    if slopes.numel() == 1 or len(shape) < 3:
        return call.layer("PRelu", [x], {}, [("weight", slopes)])
    # as ONNX has it: (C, 1, ...) against (N, C, ...)
    column = (slopes.numel(), *[1] * (len(shape) - 2))
    piece = value.reshaped(column) if isinstance(value, Piece) else slopes.reshape(column)
    return call.layer("PRelu", [x], {}, [("weight", piece)])


def where(call: Call) -> Sequence[Value]:
    """A choice between two tensors, position by position."""
    inputs, learned = _operands(call, [call["condition"], call.get("self"), call.get("other")])
    return call.layer("Where", inputs, {}, learned)


def masked_fill(call: Call) -> Sequence[Value]:
    """masked_fill: a choice between the tensor and one number."""
    inputs, learned = _operands(call, [call["mask"], call["self"]])
    return call.layer("Where", inputs, {}, learned)


def glu(call: Call) -> Sequence[Value]:
    """Half of the channels are the gates of the other half."""
    shape, axis = call.shape("self"), call["dim"] % len(call.shape("self"))
    half = call.out_shape
    kept, gates = call.layer("Split", [call.tensor("self")],
                             {"axis": axis, "split": [shape[axis] // 2] * 2}, shapes=[half, half],
                             name="split")  # fmt: skip
    (on,) = call.layer("Sigmoid", [gates.name], shapes=[half], name="sigmoid")
    return call.layer("Mul", [kept.name, on.name])


def log_sigmoid(call: Call) -> Sequence[Value]:
    """-softplus(-x)."""
    return call.layer("Softplus", [call.tensor("self")])


def scaled_sum(call: Call) -> Sequence[Value]:
    """Self + value * tensor1 * tensor2 and its kin, in one kernel."""
    inputs, learned = _operands(call, list(call.arguments.values()))
    return call.layer("Sum", inputs, {}, learned)


def constant(call: Call) -> Sequence[Value]:
    """What only takes its shape from an activation."""
    return [Constant(tuple(tensor.shape)) for tensor in call.outputs]
