"""Matrix products: dense layers, products of activations, attention, Einsum, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    yield "aten::linear", linear
    for name in ("matmul", "mm", "bmm", "mv", "dot"):
        yield f"aten::{name}", matmul
    yield "aten::addmm", added_product("mat1", "mat2")
    yield "aten::baddbmm", added_product("batch1", "batch2")
    yield "aten::scaled_dot_product_attention", attention
    yield "aten::einsum", einsum
    yield "aten::embedding", embedding


def linear(call: Call) -> Sequence[Value]:
    """A dense layer over the last axis, whatever the rank."""
    if isinstance(call.value("weight"), Activation):
        shape = call.shape("weight")
        (turned,) = call.layer("Transpose", [call.tensor("weight")], {"perm": [1, 0]},
                               shapes=[shape[::-1]], name="transpose")  # fmt: skip
        inputs = [call.tensor("input"), turned.name]
        made = call.layer("MatMul", inputs)
        return made if call["bias"] is None else _plus(call, made[0].name, call["bias"])
    if not isinstance(call.value("input"), Activation):
        # a product of learned matrices with something computed as bias
        return _plus(call, call.tensor("input"), call["bias"])
    learned = [("weight", call["weight"]), ("bias", call["bias"])]
    if len(call.shape("input")) > 1:
        return call.layer("Gemm", [call.tensor("input")], {}, learned)
    return call.layer("MatMul", [call.tensor("input")], {"transB": 1}, learned)


def _plus(call: Call, x: str, addend: Tensor) -> Sequence[Value]:
    if isinstance(call.value(addend), Activation):
        return call.layer("Add", [x, call.tensor(addend)], name="add")
    return call.layer("Add", [x], {}, [("weight", addend)], name="add")


def _product(call: Call, left: Any, right: Any, shapes: Any = None) -> tuple[Activation, ...]:
    a, b = call.value(left), call.value(right)
    if isinstance(a, Activation) and isinstance(b, Activation):
        return call.layer("MatMul", [a.name, b.name], shapes=shapes)
    if isinstance(a, Activation):
        tensor = call[right] if isinstance(right, str) else right
        return call.layer("MatMul", [a.name], {}, [("weight", tensor)], shapes)
    tensor = call[left] if isinstance(left, str) else left
    x = call.tensor(right)
    return call.layer("MatMul", [x], {"weight_input": 0}, [("weight", tensor)], shapes)


def matmul(call: Call) -> Sequence[Value]:
    """matmul, mm, bmm, mv, dot: of activations, or with a learned factor."""
    left, right = [name for name, value in call.arguments.items() if isinstance(value, Tensor)]
    return _product(call, left, right)


def added_product(left: str, right: str) -> Translation:
    """Input + left @ right."""

    def translation(call: Call) -> Sequence[Value]:
        (made,) = _product(call, left, right, [call.out_shape])
        return _plus(call, made.name, call["self"])

    return translation


def attention(call: Call) -> Sequence[Value]:
    """Scaled dot-product attention as two products and a softmax.

    The scaling and a causal mask cost nothing of their own: every kernel that computes them does so
    on the way.
    """
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    q_shape, k_shape = call.shape("query"), call.shape("key")
    if len(q_shape) > 3 and q_shape[-3] != k_shape[-3]:
        # grouped queries: each head of keys and values serves several heads of queries
        times = q_shape[-3] // k_shape[-3]
        repeats = [1] * len(k_shape)
        key, value = (
            _repeated(call, name, call.shape(which), times)
            for name, which in ((key, "key"), (value, "value"))
        )
        k_shape = (*k_shape[:-3], repeats[-3] * k_shape[-3] * times, *k_shape[-2:])
    rank = len(k_shape)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    turned_shape = (*k_shape[:-2], k_shape[-1], k_shape[-2])
    (turned,) = call.layer("Transpose", [key], {"perm": perm}, shapes=[turned_shape],
                           name="transpose")  # fmt: skip
    scores_shape = (*call.out_shape[:-1], k_shape[-2])
    (scores,) = call.layer("MatMul", [query, turned.name], shapes=[scores_shape], name="scores")
    mask = call.get("attn_mask")
    if mask is not None:
        inputs, learned = [scores.name], []
        if isinstance(call.value(mask), Activation):
            inputs.append(call.tensor(mask))
        else:
            learned.append(("state", mask))
        (scores,) = call.layer("Add", inputs, {}, learned, [scores_shape], name="mask")
    (weights,) = call.layer("Softmax", [scores.name], {"axis": -1}, shapes=[scores_shape],
                            name="softmax")  # fmt: skip
    return call.layer("MatMul", [weights.name, value], name="values")


def _repeated(call: Call, name: str, shape: tuple[int, ...], times: int) -> str:
    """(..., H, T, D) with every head `times` times in a row."""
    lead, (heads, length, depth) = shape[:-3], shape[-3:]
    rank = len(shape)
    (wide,) = call.layer("Unsqueeze", [name], {"axes": [rank - 2]},
                         shapes=[(*lead, heads, 1, length, depth)], name="unsqueeze")  # fmt: skip
    target = (*lead, heads, times, length, depth)
    (many,) = call.layer("Expand", [wide.name], {"shape": list(target)}, shapes=[target],
                         name="expand")  # fmt: skip
    flat = (*lead, heads * times, length, depth)
    (joined,) = call.layer("Reshape", [many.name], {"shape": list(flat)}, shapes=[flat],
                           name="reshape")  # fmt: skip
    return joined.name


def einsum(call: Call) -> Sequence[Value]:
    """Einsum; activations come first, as the service wants them."""
    equation = call["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    labels = left.split(",")
    tensors = list(call["tensors"])
    order = sorted(
        range(len(tensors)), key=lambda i: not isinstance(call.value(tensors[i]), Activation)
    )
    if "..." in equation:
        labels, right = _spelled(labels, right, tensors)
    if not arrow:
        joined = "".join(labels)
        right = "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
    inputs = [call.tensor(tensors[i]) for i in order
              if isinstance(call.value(tensors[i]), Activation)]  # fmt: skip
    learned = [("weight", tensors[i]) for i in order
               if not isinstance(call.value(tensors[i]), Activation)]  # fmt: skip
    text = ",".join(labels[i] for i in order) + "->" + right
    return call.layer("Einsum", inputs, {"equation": text}, learned)


def _spelled(labels: list[str], right: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """Axes that are written as three dots get letters of their own."""
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in "".join(labels)]
    ranks = [
        tensor.ndim - len(label.replace("...", ""))
        for label, tensor in zip(labels, tensors, strict=True)
        if "..." in label
    ]
    most = max(ranks)
    dots = "".join(free[:most])
    spelled = []
    for label, tensor in zip(labels, tensors, strict=True):
        own = tensor.ndim - len(label.replace("...", ""))
        spelled.append(label.replace("...", dots[most - own :] if own else ""))
    return spelled, right.replace("...", dots)


def embedding(call: Call) -> Sequence[Value]:
    """Rows of a learned table."""
    if isinstance(call.value("weight"), Activation):
        return call.layer("Gather", [call.tensor("weight"), call.tensor("indices")], {"axis": 0})
    learned = [("weight", call["weight"])]
    return call.layer("Gather", [call.tensor("indices")], {"axis": 0}, learned)
