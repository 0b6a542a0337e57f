from __future__ import annotations

import pytest

from tests.core.cases import FLOAT, Case, Cost, bias, check, data, features, image, learned, weight


def gemm(op: str = "Gemm") -> Case:
    rows, c_in, c_out = 3, 5, 7
    return Case(
        op,
        [features("x", rows, c_in)],
        [(rows, c_out)],
        lambda i, o: Cost(
            flops=2 * rows * i * o,
            bytes=FLOAT * (rows * i + rows * o + i * o),
            weights=i * o,
            parameters=i * o + o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3), (5, 1), (0, 0)),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        parameters=[weight(c_out, c_in), bias(c_out)],
    )


def gemm_implied() -> Case:
    rows, c_in, c_out = 3, 5, 7
    return Case(
        "Gemm",
        [features("x", rows, c_in)],
        [(rows, c_out)],
        lambda i, o: Cost(
            flops=2 * rows * i * o,
            bytes=FLOAT * (rows * i + rows * o + i * o),
            weights=i * o,
            parameters=i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3),),
        outputs=[{"shape": [rows, c_out]}],
        label="implied weight",
    )


def gemm_transposed(implied: bool) -> Case:
    """With transA the input is (features, rows); its features carry no channels here."""
    c_in, rows, c_out = 5, 3, 7
    return Case(
        "Gemm",
        [data("x", c_in, rows)],
        [(rows, c_out)],
        lambda o: Cost(
            flops=2 * rows * 5 * o,
            bytes=FLOAT * (5 * rows + rows * o + 5 * o),
            weights=5 * o,
            parameters=5 * o,
        ),
        widths=(c_out,),
        pruned=((2,),),
        fixed=(c_in,),
        attributes={"transA": 1},
        parameters=None if implied else [weight(c_out, c_in)],
        outputs=[{"shape": [rows, c_out]}],
        label="transA, implied weight" if implied else "transA",
    )


def gemm_of_activations() -> Case:
    m, k, n = 3, 5, 7
    return Case(
        "Gemm",
        [features("x", m, k), data("w", n, k)],
        [(m, n)],
        lambda: Cost(
            flops=2 * 3 * 5 * 7,
            bytes=FLOAT * (3 * 5 + 7 * 5 + 3 * 7),
        ),
        fixed=(k,),
        attributes={"transB": 1},
        label="two activations",
    )


def gemm_with_addend() -> Case:
    """An activation as C is read whole, and what it is added to stays."""
    rows, c_in, c_out = 3, 5, 7
    return Case(
        "Gemm",
        [features("x", rows, c_in), features("c", rows, c_out)],
        [(rows, c_out)],
        lambda i: Cost(
            flops=2 * rows * i * 7,
            bytes=FLOAT * (rows * i + rows * 7 + rows * 7 + i * 7),
            weights=i * 7,
            parameters=i * 7,
        ),
        widths=(c_in,),
        pruned=((2,),),
        reads=((c_in, 1),),
        fixed=(c_out,),
        parameters=[weight(c_out, c_in)],
        label="with addend",
    )


def matmul(op: str, per_in: int = FLOAT, per_out: int = FLOAT, per_weight: int = FLOAT) -> Case:
    """A learned right factor: rows stand in two axes."""
    batch, length, c_in, c_out = 2, 3, 5, 7
    dtypes = {4: "float32", 1: "int8"}
    return Case(
        op,
        [features("x", batch, length, c_in, dtype=dtypes[per_in])],
        [(batch, length, c_out)],
        lambda i, o: Cost(
            flops=2 * batch * length * i * o,
            bytes=per_in * batch * length * i + per_out * batch * length * o + per_weight * i * o,
            weights=i * o,
            parameters=i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3), (1, 7)),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        parameters=[
            weight(c_in, c_out, dtype=dtypes[per_weight]),
            learned("scale", 1),
            learned("zero_point", 1, dtype=dtypes[per_weight]),
        ],
    )


def matmul_left() -> Case:
    """A learned left factor (O, I) times (batch, I, N)."""
    batch, c_in, c_out, columns = 2, 5, 7, 11
    return Case(
        "MatMul",
        [image("x", batch, c_in, columns)],
        [(batch, c_out, columns)],
        lambda i, o: Cost(
            flops=2 * batch * columns * i * o,
            bytes=FLOAT * (batch * columns * i + batch * columns * o + i * o),
            weights=i * o,
            parameters=i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3),),
        reads=((c_in, 1),),
        writes=((c_out, 1),),
        attributes={"weight_input": 0},
        parameters=[weight(c_out, c_in)],
        label="learned left factor",
    )


def matmul_vector() -> Case:
    c_in, c_out = 5, 7
    return Case(
        "MatMul",
        [data("x", c_in)],
        [(c_out,)],
        lambda o: Cost(
            flops=2 * 5 * o, bytes=FLOAT * (5 + o + 5 * o), weights=5 * o, parameters=5 * o
        ),
        widths=(c_out,),
        pruned=((2,),),
        fixed=(c_in,),
        parameters=[weight(c_in, c_out)],
        label="vector",
    )


def matmul_dot_product() -> Case:
    return Case(
        "MatMul",
        [data("x", 5), data("w", 5)],
        [()],
        lambda: Cost(flops=2 * 5, bytes=FLOAT * (5 + 5 + 1)),
        label="dot product",
    )


def matmul_stacked_weight() -> Case:
    """One learned matrix a batch entry: nothing to prune."""
    batch, length, c_in, c_out = 2, 3, 5, 7
    return Case(
        "MatMul",
        [features("x", batch, length, c_in)],
        [(batch, length, c_out)],
        lambda: Cost(
            flops=2 * 2 * 3 * 5 * 7,
            bytes=FLOAT * (2 * 3 * 5 + 2 * 3 * 7 + 2 * 5 * 7),
            weights=2 * 5 * 7,
            parameters=2 * 5 * 7,
        ),
        fixed=(c_in,),
        parameters=[weight(batch, c_in, c_out)],
        label="stacked weight",
    )


def matmul_beside_channels() -> Case:
    """Channels on an axis that the product only stacks pass through it."""
    batch, channels, length, c_in, c_out = 2, 3, 5, 7, 11
    return Case(
        "MatMul",
        [image("x", batch, channels, length, c_in)],
        [(batch, channels, length, c_out)],
        lambda c: Cost(
            flops=2 * batch * c * length * 7 * 11,
            bytes=FLOAT * (batch * c * length * 7 + batch * c * length * 11 + 7 * 11),
            weights=7 * 11,
            parameters=7 * 11,
        ),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        parameters=[weight(c_in, c_out)],
        label="channels on a stacked axis",
    )


def matmul_of_activations(queries: int, keys: int) -> Case:
    """No weight reads the channels that are summed over: nothing could be zeroed, so they stay."""
    batch, channels = 2, 5
    return Case(
        "MatMul",
        [features("q", batch, queries, channels), image("k", batch, channels, keys)],
        [(batch, queries, keys)],
        lambda: Cost(
            flops=2 * batch * queries * keys * 5,
            bytes=FLOAT * (batch * queries * 5 + batch * keys * 5 + batch * queries * keys),
        ),
        writes=(),
        fixed=(channels,),
        label=f"two activations, {queries} queries, {keys} keys",
    )


def matmul_through() -> Case:
    """Weighted values: the second factor's channels pass."""
    batch, queries, keys, channels = 2, 3, 5, 7
    return Case(
        "MatMul",
        [data("p", batch, queries, keys), features("v", batch, keys, channels)],
        [(batch, queries, channels)],
        lambda c: Cost(
            flops=2 * batch * queries * keys * c,
            bytes=FLOAT * (batch * queries * 5 + batch * keys * c + batch * queries * c),
        ),
        widths=(channels,),
        pruned=((2,),),
        reads=((channels, 1),),
        writes=((channels, 1),),
        label="two activations, channels pass",
    )


def matmul_over_heads() -> Case:
    """Heads live and die in both factors; the dimension of a head is a constant."""
    batch, heads, queries, depth, keys = 2, 3, 5, 7, 11
    return Case(
        "MatMul",
        [image("q", batch, heads, queries, depth), image("k", batch, heads, depth, keys)],
        [(batch, heads, queries, keys)],
        lambda h: Cost(
            flops=2 * batch * h * queries * depth * keys,
            bytes=FLOAT
            * (batch * h * queries * depth + batch * h * depth * keys + batch * h * queries * keys),
        ),
        widths=(heads,),
        pruned=((2,), (1,)),
        reads=((heads, 1),),
        writes=((heads, 1),),
        label="heads",
    )


def fused_matmul_transposed() -> Case:
    batch, length, c_in, c_out = 2, 3, 5, 7
    return Case(
        "FusedMatMul",
        [features("x", batch, length, c_in)],
        [(batch, length, c_out)],
        lambda i, o: Cost(
            flops=2 * batch * length * i * o,
            bytes=FLOAT * (batch * length * i + batch * length * o + i * o),
            weights=i * o,
            parameters=i * o,
        ),
        widths=(c_in, c_out),
        pruned=((2, 3),),
        attributes={"transB": 1},
        outputs=[{"shape": [batch, length, c_out]}],
        label="transB, implied weight",
    )


def blocks() -> Case:
    """Four-bit weights, packed: 7 rows of 2 blocks of 8 bytes, with a scale a block."""
    batch, length, c_in, c_out = 2, 3, 32, 7
    return Case(
        "MatMulNBits",
        [features("x", batch, length, c_in)],
        [(batch, length, c_out)],
        lambda: Cost(
            flops=2 * 2 * 3 * 32 * 7,
            bytes=FLOAT * (2 * 3 * 32 + 2 * 3 * 7) + 1 * 7 * 2 * 8,
            weights=7 * 2 * 8,
            parameters=7 * 2 * 8,
        ),
        fixed=(c_in,),
        attributes={"K": c_in, "N": c_out, "bits": 4, "block_size": 16},
        parameters=[weight(c_out, 2, 8, dtype="uint8"), learned("scale", c_out * 2)],
    )


CASES = [
    gemm(),
    gemm_implied(),
    gemm_transposed(implied=False),
    gemm_transposed(implied=True),
    gemm_of_activations(),
    gemm_with_addend(),
    gemm("FusedGemm"),
    gemm("QGemm"),
    matmul("MatMul"),
    matmul_left(),
    matmul_vector(),
    matmul_dot_product(),
    matmul_stacked_weight(),
    matmul_beside_channels(),
    matmul_of_activations(queries=3, keys=7),
    matmul_of_activations(queries=7, keys=7),
    matmul_through(),
    matmul_over_heads(),
    matmul("FusedMatMul"),
    fused_matmul_transposed(),
    matmul("MatMulInteger", per_in=1, per_weight=1, per_out=4),
    matmul("MatMulIntegerToFloat", per_in=1, per_weight=1, per_out=4),
    matmul("DynamicQuantizeMatMul", per_in=4, per_weight=1, per_out=4),
    matmul("QLinearMatMul", per_in=1, per_weight=1, per_out=1),
    blocks(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matrix_products_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)
