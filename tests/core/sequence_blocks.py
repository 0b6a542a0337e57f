"""Building blocks of real networks for sequences (B, S, C).

A block takes a tensor and returns one of the same rank.
"""

from __future__ import annotations

from tests.core.graph_builder import Block, Builder, Tensor


def heads_of(b: Builder, x: Tensor, heads: int, keys: bool = False) -> Tensor:
    """(B, S, H D) to (B, H, S, D), or for keys to (B, H, D, S)."""
    n, s, c = x.shape
    y = b.reshape(x, n, s, heads, c // heads)
    if not keys:
        return b.transpose(y, 0, 2, 1, 3)
    if b.pick((True, False)):
        return b.transpose(y, 0, 2, 3, 1)
    return b.transpose(b.transpose(y, 0, 2, 1, 3), 0, 1, 3, 2)


def projections(b: Builder, x: Tensor, heads: int, depth: int) -> list[Tensor]:
    """Queries (B, H, S, D), keys (B, H, D, S), values (B, H, S, D)."""
    n, s, _ = x.shape
    inner = heads * depth
    kind = b.pick(("separate", "split", "gather", "split heads", "slice"))
    if kind == "separate":
        q, k, v = (b.linear(x, inner) for _ in range(3))
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    fused = b.linear(x, 3 * inner)
    if kind == "split":
        q, k, v = b.split(fused, [inner] * 3, 2)
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    if kind == "slice":
        q, k, v = (b.slice(fused, 2, i * inner, (i + 1) * inner) for i in range(3))
        return [heads_of(b, q, heads), heads_of(b, k, heads, True), heads_of(b, v, heads)]
    if kind == "gather":
        table = b.transpose(b.reshape(fused, n, s, 3, heads, depth), 2, 0, 3, 1, 4)
        q, k, v = (
            b.layer("Gather", [table], (n, heads, s, depth), {"indices": i, "axis": 0})
            for i in range(3)
        )
    else:
        # every head's query, key and value lie side by side
        table = b.transpose(b.reshape(fused, n, s, heads, 3 * depth), 0, 2, 1, 3)
        q, k, v = b.split(table, [depth] * 3, 3)
    return [q, b.transpose(k, 0, 1, 3, 2), v]


def head_norm(b: Builder, x: Tensor) -> Tensor:
    """Queries normalised over the dimension of their head."""
    if b.pick((True, False)):
        return b.unary("LayerNormalization", x)
    mean = b.layer("ReduceMean", [x], (*x.shape[:-1], 1), {"axes": [-1], "keepdims": 1})
    return b.with_vector("Mul", b.add("Sub", x, mean), x.shape[-1])


def attention(b: Builder, x: Tensor) -> Tensor:
    n, s, c = x.shape
    heads, depth = b.pick(((3, 2), (2, 3), (4, 1), (1, 3)))
    y = b.unary("LayerNormalization", x) if b.pick((True, False)) else x
    q, k, v = projections(b, y, heads, depth)
    if b.pick((True, False)):
        q = b.with_vector("Mul", q, *b.pick(((1,), (heads, 1, 1), (depth,))))
    if b.pick((False, True)):
        q = head_norm(b, q)
    if b.pick((True, False)):
        scores = b.layer("MatMul", [q, k], (n, heads, s, s))
        scores = b.with_vector("Mul", scores, *b.pick(((1,), (heads, s, s), (s, s))))
        scores = b.unary("Softmax", scores, {"axis": -1})
        y = b.layer("MatMul", [scores, v], (n, heads, s, depth))
    else:
        # heads stacked on the batch, as for a batched product of rank 3
        flat = [b.reshape(t, n * heads, *t.shape[2:]) for t in (q, k, v)]
        scores = b.layer("MatMul", flat[:2], (n * heads, s, s))
        scores = b.unary("Softmax", scores, {"axis": -1})
        y = b.layer("MatMul", [scores, flat[2]], (n * heads, s, depth))
        y = b.reshape(y, n, heads, s, depth)
    y = b.reshape(b.transpose(y, 0, 2, 1, 3), n, s, heads * depth)
    return b.add("Add", x, b.linear(y, c))


def mlp(b: Builder, x: Tensor) -> Tensor:
    y = b.unary("LayerNormalization", x) if b.pick((True, False)) else x
    y = b.linear(b.activate(b.linear(y, b.width())), x.shape[-1])
    return b.add("Add", x, y)


def gated_mlp(b: Builder, x: Tensor) -> Tensor:
    inner = b.width()
    if b.pick((True, False)):
        left, right = b.split(b.linear(x, 2 * inner), [inner, inner], 2)
    else:
        left, right = b.linear(x, inner), b.linear(x, inner)
    y = b.add("Mul", b.activate(left), right)
    return b.linear(y, x.shape[-1])


def lstm(b: Builder, x: Tensor) -> Tensor:
    n, s, _ = x.shape
    y = b.transpose(b.linear(x, b.width()), 1, 0, 2)
    hidden, directions = b.width(), b.pick((1, 2))
    attributes = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    state = (directions, n, hidden)
    found = b.layers_of("LSTM", [y], [(s, directions, n, hidden), state, state], attributes)
    y = b.transpose(found[0], 2, 0, 1, 3)
    return b.linear(b.reshape(y, n, s, directions * hidden), b.width())


def temporal_conv(b: Builder, x: Tensor) -> Tensor:
    y = b.conv(b.transpose(x, 0, 2, 1), b.width(), 3, 1, b.pick((1, 2)))
    return b.transpose(b.activate(y), 0, 2, 1)


def class_token(b: Builder, x: Tensor) -> Tensor:
    """The first position, put in front again; positions are cut, channels are not."""
    first = b.slice(x, 1, 0, 1)
    return b.concat([first, x], 1)


def sequence_vectors(b: Builder, x: Tensor) -> Tensor:
    _, s, c = x.shape
    return b.with_vector("Add", x, *b.pick(((1, s, c), (s, c), (c,), (s, 1))))


def dense(b: Builder, x: Tensor) -> Tensor:
    return b.activate(b.linear(x, b.width()))


def token_mixing(b: Builder, x: Tensor) -> Tensor:
    """An MLP over positions: channels pass through the product."""
    s = x.shape[1]
    y = b.transpose(x, 0, 2, 1)
    y = b.linear(b.activate(b.linear(y, b.width())), s)
    return b.add("Add", x, b.transpose(y, 0, 2, 1))


SEQUENCE: dict[str, Block] = {
    "attention": attention,
    "mlp": mlp,
    "gated mlp": gated_mlp,
    "lstm": lstm,
    "temporal conv": temporal_conv,
    "class token": class_token,
    "sequence vectors": sequence_vectors,
    "dense": dense,
    "token mixing": token_mixing,
}
