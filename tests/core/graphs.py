"""Layer graphs put together from the building blocks of real networks.

`graphs()` is a Hypothesis strategy; `network([...])` builds a chosen chain of blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hypothesis import strategies as st

from tests.core.graph_builder import Builder, Json, Pick, T, Tensor
from tests.core.image_blocks import IMAGE, pooled
from tests.core.sequence_blocks import SEQUENCE, sequence_vectors


def as_sequence(b: Builder, x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C)."""
    n, c, h, w = x.shape
    if b.pick((True, False)):
        return b.transpose(b.reshape(x, n, c, h * w), 0, 2, 1)
    return b.reshape(b.transpose(x, 0, 2, 3, 1), n, h * w, c)


def image_end(b: Builder, x: Tensor) -> None:
    n, c = x.shape[:2]
    kind = b.pick(("pool", "flatten", "mean", "image", "pool and image"))
    if kind in ("image", "pool and image"):
        b.outputs.append(x.name)
    if kind == "image":
        return
    if kind == "flatten":
        y = b.layer("Flatten", [x], (n, math.prod(x.shape[1:])), {"axis": 1})
    elif kind == "mean":
        y = b.layer("ReduceMean", [x], (n, c), {"axes": [2, 3], "keepdims": 0})
    else:
        y = b.reshape(pooled(b, x), n, c)
    b.outputs.append(b.linear(b.unary("Relu", b.linear(y, b.width())), 2).name)


def sequence_end(b: Builder, x: Tensor, key: str | None) -> None:
    n, _, c = x.shape
    if key is not None:
        # the embedding's table once more, as the last dense layer
        y = b.linear(x, 6)
        weight = b.parameter("weight", 11, 6, key=key)
        b.outputs.append(b.layer("Gemm", [y], (*x.shape[:2], 11), None, [weight]).name)
        return
    if b.pick((True, False)):
        x = b.layer("ReduceMean", [x], (n, c), {"axes": [1], "keepdims": 0})
    b.outputs.append(b.linear(x, 2).name)


def network(
    blocks: Sequence[str], pick: Pick | None = None, tokens: bool = False, batch: int = 2
) -> Json:
    """A network of blocks: first those of images, then those of sequences.

    Args:
        pick: decides what the blocks leave open; by default the first option.
        tokens: begin with an embedding rather than an image; then only sequence blocks follow.
    """
    b = Builder(pick or _first)
    key: str | None = None
    if tokens:
        key = "embedding" if b.pick((True, False)) else None
        ids = b.input((batch, 4), "int64")
        table = b.parameter("weight", 11, 6, key=key)
        x = b.layer("Gather", [ids], (batch, 4, 6), {"axis": 0}, [table])
        if b.pick((True, False)):
            x = sequence_vectors(b, x)
    else:
        x = b.conv(b.input((batch, 3, *b.pick(((5, 4), (6, 7))))), b.width(), 3)
    for name in blocks:
        if name in IMAGE:
            # nothing shrinks to nothing, nothing grows without bound
            if min(x.shape[2:]) < 3 or max(x.shape[2:]) > 12:
                x = b.layer("Resize", [x], (*x.shape[:2], 5, 4), {"sizes": [5, 4], "axes": [2, 3]})
            if x.channels > 14:
                x = b.conv(x, b.width())
            x = IMAGE[name](b, x)
        else:
            x = SEQUENCE[name](b, as_sequence(b, x) if len(x.shape) == 4 else x)
    if len(x.shape) == 4:
        image_end(b, x)
    else:
        sequence_end(b, x, key)
    return b.document()


def _first(options: Sequence[T]) -> T:
    return options[0]


def choosing(seed: int) -> Pick:
    """Decides by a seeded generator."""
    chance = random.Random(seed)

    def pick(options: Sequence[T]) -> T:
        return chance.choice(options)

    return pick


@st.composite
def graphs(draw: st.DrawFn) -> Json:
    """Layer graphs of one to four blocks."""

    def pick(options: Sequence[T]) -> T:
        return options[draw(st.integers(0, len(options) - 1))]

    names = draw(st.lists(st.sampled_from(sorted(IMAGE)), max_size=4))
    tokens = not names and draw(st.booleans())
    least = 0 if names else 1
    names += draw(st.lists(st.sampled_from(sorted(SEQUENCE)), min_size=least, max_size=2))
    return network(names, pick, tokens, draw(st.integers(1, 2)))
