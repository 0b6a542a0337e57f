from __future__ import annotations

import pytest

from latency_service.core.graph import graph_from_json
from tests.core.cases import (
    FLOAT,
    LAYER,
    Case,
    Cost,
    bias,
    check,
    cost_at,
    costed,
    data,
    features,
    learned,
    share,
    weight,
)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op: str, directions: int, implied: bool) -> Case:
    """Input widths are prunable, hidden sizes are not."""
    steps, batch, width, hidden = 3, 2, 5, 7
    gates = GATES[op]
    y, state = (steps, directions, batch, hidden), (directions, batch, hidden)
    states = 2 if op == "LSTM" else 1
    return Case(
        op,
        [features("x", steps, batch, width)],
        [y] + [state] * states,
        lambda i: Cost(
            # per step: gates x hidden rows, of inputs and of the state
            flops=2 * steps * batch * directions * gates * hidden * (i + hidden),
            bytes=FLOAT
            * (
                steps * batch * i
                + steps * directions * batch * hidden
                + states * directions * batch * hidden
                + directions * gates * hidden * (i + hidden)
            ),
            weights=directions * gates * hidden * (i + hidden),
            parameters=directions * gates * hidden * (i + hidden) + directions * 2 * gates * hidden,
        ),
        widths=(width,),
        pruned=((2,),),
        reads=((width, 1),),
        writes=(),
        attributes={
            "hidden_size": hidden,
            "direction": "bidirectional" if directions == 2 else "forward",
        },
        parameters=None
        if implied
        else [
            weight(directions, gates * hidden, width),
            learned("recurrence", directions, gates * hidden, hidden),
            bias(directions, 2 * gates * hidden),
        ],
        outputs=[{}] * (1 + states),
        label=f"{directions} directions" + (", implied" if implied else ""),
    )


def peephole() -> Case:
    """A decoder's single step: its state is read whole, both bias vectors are learned."""
    batch, width, hidden = 2, 5, 7
    return Case(
        "LSTM",
        [features("x", 1, batch, width), features("h", 1, batch, hidden)],
        [(1, 1, batch, hidden)],
        lambda i: Cost(
            flops=2 * batch * 4 * hidden * (i + hidden),
            bytes=FLOAT * (batch * i + batch * hidden + batch * hidden + 4 * hidden * (i + hidden)),
            weights=4 * hidden * (i + hidden),
            parameters=4 * hidden * (i + hidden) + 8 * hidden + 3 * hidden,
        ),
        widths=(width,),
        pruned=((2,),),
        reads=((width, 1),),
        fixed=(hidden,),
        parameters=[
            weight(1, 4 * hidden, width),
            learned("recurrence", 1, 4 * hidden, hidden),
            bias(1, 8 * hidden),
            bias(1, 3 * hidden),
        ],
        label="one step with peepholes and a state",
    )


def batch_first() -> Case:
    """With layout 1: input (B, T, I), output (B, T, D, H)."""
    batch, steps, width, hidden = 2, 3, 5, 7
    return Case(
        "GRU",
        [features("x", batch, steps, width)],
        [(batch, steps, 1, hidden), (batch, 1, hidden)],
        lambda i: Cost(
            flops=2 * batch * steps * 3 * hidden * (i + hidden),
            bytes=FLOAT
            * (batch * steps * i + batch * steps * 7 + batch * 7 + 3 * hidden * (i + hidden)),
            weights=3 * hidden * (i + hidden),
            parameters=3 * hidden * (i + hidden),
        ),
        widths=(width,),
        pruned=((3,),),
        attributes={"layout": 1},
        parameters=[weight(1, 21, width), learned("recurrence", 1, 21, hidden)],
        outputs=[{}, {}],
        label="layout 1",
    )


def quantised_recurrent() -> Case:
    """DynamicQuantizeLSTM keeps its int8 weights the other way round: (D, I, 4H), (D, H, 4H)."""
    steps, batch, width, hidden = 3, 2, 5, 7
    return Case(
        "DynamicQuantizeLSTM",
        [features("x", steps, batch, width)],
        [(steps, 1, batch, hidden)],
        lambda i: Cost(
            flops=2 * steps * batch * 4 * hidden * (i + hidden),
            bytes=FLOAT * (steps * batch * i + steps * batch * hidden)
            + 1 * 4 * hidden * (i + hidden),
            weights=4 * hidden * (i + hidden),
            parameters=4 * hidden * (i + hidden) + 8 * hidden,
        ),
        widths=(width,),
        pruned=((2,),),
        reads=((width, 1),),
        parameters=[
            weight(1, width, 4 * hidden, dtype="int8"),
            learned("recurrence", 1, hidden, 4 * hidden, dtype="int8"),
            bias(1, 8 * hidden),
            learned("scale", 1),
            learned("zero_point", 1, dtype="int8"),
        ],
    )


def einsum(equation: str, a: tuple[int, ...], b: tuple[int, ...], out: tuple[int, ...]) -> Case:
    """Every combination of the labels is one multiply-accumulate: here b, i, j and k."""
    volume = 2 * 3 * 5 * 7
    sizes: dict[tuple[int, ...], int] = {
        (2, 3, 5): 2 * 3 * 5,
        (2, 5, 7): 2 * 5 * 7,
        (2, 3, 7): 2 * 3 * 7,
    }
    return Case(
        "Einsum",
        [features("x", *a), data("w", *b)],
        [out],
        lambda: Cost(flops=2 * volume, bytes=FLOAT * (sizes[a] + sizes[b] + sizes[out])),
        fixed=(a[-1],),
        attributes={"equation": equation},
        label=equation,
    )


def einsum_learned() -> Case:
    return Case(
        "Einsum",
        [features("x", 2, 3, 5)],
        [(2, 3, 7)],
        lambda: Cost(
            flops=2 * 2 * 3 * 5 * 7,
            bytes=FLOAT * (2 * 3 * 5 + 2 * 3 * 7 + 5 * 7),
            weights=5 * 7,
            parameters=5 * 7,
        ),
        fixed=(5,),
        attributes={"equation": "bij, jk -> bik"},
        parameters=[weight(5, 7)],
        label="learned",
    )


def einsum_of_three() -> Case:
    """Two at a time from left to right; what is read once only is summed first."""
    i, j, k, m = 2, 3, 5, 7
    return Case(
        "Einsum",
        [features("x", i, j), data("y", j, k), data("z", k, m)],
        [(m,)],
        lambda: Cost(
            # i is summed away before the first product, j after it
            flops=2 * (j * k + k * m),
            bytes=FLOAT * (i * j + j * k + k * m + m),
        ),
        fixed=(j,),
        attributes={"equation": "ij,jk,km->m"},
        label="of three",
    )


def attention_4d() -> Case:
    batch, heads, queries, keys, depth, values = 2, 3, 5, 7, 11, 13
    return Case(
        "Attention",
        [
            data("q", batch, heads, queries, depth),
            data("k", batch, heads, keys, depth),
            data("v", batch, heads, keys, values),
        ],
        [(batch, heads, queries, values)],
        lambda: Cost(
            # scores, and values weighted by them
            flops=2 * 2 * 3 * (5 * 7 * 11 + 5 * 7 * 13),
            bytes=FLOAT * 2 * 3 * (5 * 11 + 7 * 11 + 7 * 13 + 5 * 13),
        ),
        label="4 axes",
    )


def attention_3d() -> Case:
    """Grouped queries: six heads of 11 read two heads of keys and values."""
    batch, queries, keys, heads, shared, depth = 2, 5, 7, 6, 2, 11
    return Case(
        "Attention",
        [
            features("q", batch, queries, heads * depth),
            data("k", batch, keys, shared * depth),
            data("v", batch, keys, shared * 13),
        ],
        [(batch, queries, heads * 13)],
        lambda: Cost(
            flops=2 * 2 * 6 * (5 * 7 * 11 + 5 * 7 * 13),
            bytes=FLOAT * 2 * (5 * 6 * 11 + 7 * 2 * 11 + 7 * 2 * 13 + 5 * 6 * 13),
        ),
        fixed=(heads * depth,),
        attributes={"q_num_heads": heads, "kv_num_heads": shared},
        label="3 axes, grouped queries",
    )


def multi_head_attention() -> Case:
    batch, queries, keys, width, values = 2, 5, 7, 3 * 11, 3 * 13
    return Case(
        "MultiHeadAttention",
        [
            data("q", batch, queries, width),
            data("k", batch, keys, width),
            data("v", batch, keys, values),
        ],
        [(batch, queries, values)],
        lambda: Cost(
            flops=2 * 2 * 3 * (5 * 7 * 11 + 5 * 7 * 13),
            bytes=FLOAT * 2 * (5 * 33 + 7 * 33 + 7 * 39 + 5 * 39),
            parameters=33 + 33 + 39,
        ),
        attributes={"num_heads": 3},
        parameters=[bias(33 + 33 + 39)],
    )


CASES = [
    *(recurrent(op, directions, implied=False) for op in GATES for directions in (1, 2)),
    recurrent("LSTM", 2, implied=True),
    recurrent("GRU", 1, implied=True),
    peephole(),
    batch_first(),
    quantised_recurrent(),
    einsum("bij,bjk->bik", (2, 3, 5), (2, 5, 7), (2, 3, 7)),
    einsum_learned(),
    einsum_of_three(),
    attention_4d(),
    attention_3d(),
    multi_head_attention(),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence_operators_cost_what_hand_arithmetic_says(case: Case) -> None:
    check(case)


def test_attention_written_out_prunes_whole_heads() -> None:
    """Queries, keys and values of 3 heads of 5; scores, softmax, values, and back to one axis."""
    batch, length, width, heads, depth = 2, 7, 11, 3, 5
    inner = heads * depth

    def dense(name: str, source: str, shape: list[int]) -> dict[str, object]:
        parameters = [{"role": "weight", "shape": shape}]
        return {"name": name, "op": "MatMul", "inputs": [source], "outputs": [{"name": name}],
                "parameters": parameters}  # fmt: skip

    def plain(name: str, op: str, *inputs: str, **attributes: object) -> dict[str, object]:
        return {"name": name, "op": op, "inputs": list(inputs), "outputs": [{"name": name}],
                "attributes": attributes}  # fmt: skip

    layers = [
        *(dense(name, "x", [width, inner]) for name in "qkv"),
        *(plain(f"{n} split", "Reshape", n, shape=[0, 0, heads, depth]) for n in "qkv"),
        plain("q heads", "Transpose", "q split", perm=[0, 2, 1, 3]),
        plain("k heads", "Transpose", "k split", perm=[0, 2, 3, 1]),
        plain("v heads", "Transpose", "v split", perm=[0, 2, 1, 3]),
        plain("scores", "MatMul", "q heads", "k heads"),
        plain("softmax", "Softmax", "scores", axis=-1),
        plain("values", "MatMul", "softmax", "v heads"),
        plain("joined", "Transpose", "values", perm=[0, 2, 1, 3]),
        plain("merged", "Reshape", "joined", shape=[0, 0, inner]),
        dense(LAYER, "merged", [inner, width]),
    ]
    source = {"name": "x", "shape": [batch, length, width]}
    costs = costed(graph_from_json({"inputs": [source], "layers": layers, "outputs": [LAYER]}))
    sizes = {group.size for group in costs.groups if group.prunable}
    assert sizes == {heads, width}
    for live in (3, 2, 1):
        alive = {heads: live}
        assert cost_at(costs, "q", alive) == Cost(
            flops=2 * batch * length * width * depth * live,
            bytes=FLOAT
            * (batch * length * width + batch * length * depth * live + width * depth * live),
            weights=width * depth * live,
            parameters=width * depth * live,
        )
        assert cost_at(costs, "scores", alive) == Cost(
            flops=2 * batch * live * length * depth * length,
            bytes=FLOAT * batch * live * (2 * length * depth + length * length),
        )
        assert cost_at(costs, "softmax", alive) == Cost(
            bytes=FLOAT * 2 * batch * live * length * length
        )
        assert cost_at(costs, "values", alive) == Cost(
            flops=2 * batch * live * length * length * depth,
            bytes=FLOAT * batch * live * (length * length + 2 * length * depth),
        )
        assert cost_at(costs, "merged", alive) == Cost()
        assert cost_at(costs, LAYER, alive).weights == depth * live * width
    row = costs.names.index(LAYER)
    assert share(costs, costs.reads[row]) == ((heads, depth),)
