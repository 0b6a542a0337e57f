"""Masks of attention among the constants of a file: which scores they hide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency_service.core.masks import masked_shares
from latency_service.ingest.constants import Constant, Effort

# A mask is for pairs of positions.
_LEAST_AXES = 2
# Larger ones take more than a few milliseconds to look through.
_MOST = 1 << 22


def mask_attributes(op: str, held: Sequence[Constant | None], effort: Effort) -> dict[str, float]:
    """What an Add or Where hides of its scores (latency_service/core/masks.py).

    Args:
        op: one of MASKING.
        held: the constants among its inputs.
        effort: that the file's masks are still worth.
    """
    worth = [c for c in held if c is not None and _is_mask(c) and effort.spend(c.size)]
    if op == "Add":
        masks = [c.elements(_MOST, effort) for c in worth if c.dtype == "float32"]
        return next((masked_shares(added) for added in masks if added is not None), {})
    first = held[0]
    if first is None or first not in worth or first.dtype != "bool" or len(held) != 3:
        return {}
    chosen, branches = first.elements(_MOST, effort), held[1:]
    if chosen is None:
        return {}
    added = np.zeros(chosen.shape, dtype=np.float32)
    for constant, where in zip(branches, (chosen, ~chosen), strict=True):
        value = constant.value if constant is not None and constant.size == 1 else None
        if value is not None and value.dtype.kind == "f":
            added = np.where(where, value.reshape(()), added)
    return masked_shares(added)


def _is_mask(constant: Constant) -> bool:
    axes = len(constant.shape)
    return axes >= _LEAST_AXES and constant.shape[-1] > 1 and constant.size <= _MOST
