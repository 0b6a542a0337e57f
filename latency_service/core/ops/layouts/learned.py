"""What an operator that does not contract has learned, and how much of it is cut with channels."""

from __future__ import annotations

import math

from latency_service.core.forms import BilinearForm
from latency_service.core.node import Dims, IdArray, Node

# Estimated while training (statistics), chosen when quantising, or fixed: stored, but not learned.
UNLEARNED = frozenset({"mean", "variance", "scale", "zero_point", "state"})


def count_learned(node: Node, ids: IdArray | None) -> None:
    """Charge what is learned, per output channel where it is cut along with the channels."""
    per_out = constant = 0.0
    for parameter in node.parameters:
        if parameter.role in node.shared or parameter.role in UNLEARNED:
            continue
        size = math.prod(parameter.shape)
        vector = parameter.role in ("gamma", "beta") and ids is not None and size == ids.size
        if ids is not None and (vector or follows(parameter.shape, ids)):
            per_out += size / ids.size
        else:
            constant += size
    node.learned = BilinearForm(constant=constant, per_out=per_out)


def follows(shape: Dims, ids: IdArray) -> bool:
    """Whether a learned operand has an axis of its own for every channel axis."""
    offset = ids.ndim - len(shape)
    return all(
        axis >= offset and shape[axis - offset] == extent
        for axis, extent in enumerate(ids.shape)
        if extent > 1
    )
