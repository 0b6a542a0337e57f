"""Scores that a mask hides, and what processors compute slowly for it.

A mask adds a large negative number to those scores of an attention that are not to be seen. Their
exponentials lie below 1e-38, the smallest normal number of float32. Intel's processors compute such
subnormal numbers with microcode, some hundred cycles for a vector of sixteen ("Intel 64 and IA-32
Architectures Optimization Reference Manual", floating-point assists): a softmax over them takes up
to twenty times as long. Beyond -104 the result is zero, and that is all; between -88 and -104 it is
subnormal itself, and every vector that the next product multiplies with it takes as long again.

A graph says so in attributes of the Add or Where that applies the mask, as shares of one image:

* `masked_runs`: of the runs of sixteen scores along the last axis, those with a masked score.
* `subnormal_runs`: those in which a masked score leaves a subnormal number.
* `subnormal_share`: of the scores, those that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_service.core.node import Node, Tensor

# Numbers that a vector of the widest processors holds.
RUN = 16
# exp(x) is no normal number of float32 below the first, and zero below the second.
LEAST_NORMAL, _LEAST = -87.4, -104.0
# Operators that apply a mask, and what they say of it.
MASKING = frozenset({"Add", "Where"})
ATTRIBUTES = ("masked_runs", "subnormal_runs", "subnormal_share")
# What slows a run of numbers down, as an efficiency model calls it: the exponentials of masked
# scores; those of them that leave subnormal numbers; products with a subnormal number.
CAUSES = ("masked", "subnormal", "product")
NONE_SLOW = (0.0, 0.0, 0.0)

# Between a mask and the softmax, and between the softmax and the product.
_VIEWS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Identity", "Dropout", "Flatten"})
_FURTHEST = 8

Array = npt.NDArray[Any]


def masked_shares(added: Array) -> dict[str, float]:
    """The attributes that tell of a mask; none where it hides nothing.

    Args:
        added: (..., K) what is added to scores, or takes their place.
    """
    masked = added <= LEAST_NORMAL
    if not masked.any():
        return {}
    subnormal = masked & (added > _LEAST)
    shares = (_runs(masked), _runs(subnormal), float(subnormal.mean()))
    return {
        name: round(share, 6) for name, share in zip(ATTRIBUTES, shares, strict=True) if share > 0.0
    }


def _runs(found: npt.NDArray[np.bool_]) -> float:
    """Share of the runs along the last axis that hold one."""
    rest = -found.shape[-1] % RUN
    padded = np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, rest)])
    return float(padded.reshape(*found.shape[:-1], -1, RUN).any(axis=-1).mean())


def stated_shares(node: Node) -> tuple[float, ...]:
    """What an Add or a Where says that it hides, in the order of `ATTRIBUTES`.

    Raises:
        GraphError: naming an attribute that is no share.
    """
    found = []
    for name in ATTRIBUTES:
        share = node.layer.attributes.get(name, 0.0)
        if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            node.fail(f"attributes.{name}", f"must lie between 0 and 1; it is {share!r}")
        found.append(float(share))
    return tuple(found)


class Masks:
    """The masks of a network.

    Args:
        nodes: of the network, in order.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._any = any(name in n.layer.attributes for n in nodes for name in ATTRIBUTES)
        self._writer = {id(t): n for n in nodes for t in n.outputs} if self._any else {}

    def slow_runs(self, nodes: Iterable[Node]) -> tuple[float, ...]:
        """Of a kernel of these nodes, the slow runs per output element, by cause."""
        if self._any:
            for node in nodes:
                if node.layer.op == "Softmax":
                    masked, subnormal, _ = self._scores(node)
                    # the dearer of two causes, not both
                    return (masked - subnormal, subnormal, 0.0)
                if node.layer.op == "MatMul" and (share := self._subnormal(node)):
                    return (0.0, 0.0, share)
        return NONE_SLOW

    def _scores(self, softmax: Node) -> tuple[float, float, float]:
        """(masked runs, subnormal runs per output element, subnormal share) of a softmax."""
        scores = softmax.inputs[0]
        last = -1 if scores is None else len(scores.shape) - 1
        if scores is None or scores.dtype != "float32" or softmax.axis(default=-1) != last:
            return NONE_SLOW
        behind = [node for node in self._behind(scores, MASKING) if node.layer.op in MASKING]
        stated = [stated_shares(node) for node in behind]
        masked, subnormal, share = (max(shares) for shares in zip(NONE_SLOW, *stated, strict=True))
        length = scores.shape[-1]
        runs = -(-length // RUN) / max(length, 1)
        return (masked * runs, min(subnormal, masked) * runs, share)

    def _subnormal(self, product: Node) -> float:
        """Slow runs per output element of a product with what a softmax left."""
        first = product.inputs[0]
        if first is None or first.dtype != "float32":
            return 0.0
        for node in self._behind(first, frozenset()):
            if node.layer.op == "Softmax":
                *_, share = self._scores(node)
                # each number is multiplied with all runs of a row of the second matrix
                return share * first.shape[-1] / RUN
        return 0.0

    def _behind(self, tensor: Tensor, through: frozenset[str]) -> Iterator[Node]:
        """The nodes that a tensor comes from, through views and some operators."""
        for _ in range(_FURTHEST):
            node = self._writer.get(id(tensor))
            if node is None:
                return
            yield node
            if node.layer.op not in _VIEWS | through:
                return
            sources = [t for t in node.inputs if t is not None and t.dtype == tensor.dtype]
            if not sources:
                return
            # a mask may be fed in too: what is scored has the shape of the result
            tensor = max(sources, key=lambda t: t.size)
