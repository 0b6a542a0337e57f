"""Masks of attention among the constants of a file: which scores they hide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from latency_service.core.masks import masked_shares
from latency_service.ingest.constants import Constant

# Operators that apply one.
MASKING = frozenset({"Add", "Where"})
# A mask is for pairs of positions.
_LEAST_AXES = 2
# Larger ones take more than a few milliseconds to look through.
_MOST = 1 << 22


def mask_attributes(op: str, held: Sequence[Constant | None]) -> dict[str, float]:
    """What an Add or Where hides of its scores (latency_service/core/masks.py).

    Args:
        op: one of MASKING.
        held: the constants among its inputs.
    """
    if op == "Add":
        masks = [c.elements(_MOST, True) for c in held if _is_mask(c, "float32")]
        return next((masked_shares(added) for added in masks if added is not None), {})
    if len(held) != 3 or not _is_mask(held[0], "bool"):
        return {}
    chosen, *branches = held[0].elements(_MOST, True), *held[1:]
    if chosen is None:
        return {}
    added = np.zeros(chosen.shape, dtype=np.float32)
    for constant, where in zip(branches, (chosen, ~chosen), strict=True):
        value = constant.value if constant is not None and constant.size == 1 else None
        if value is not None and value.dtype.kind == "f":
            added = np.where(where, value.reshape(()), added)
    return masked_shares(added)


def _is_mask(constant: Constant | None, dtype: str) -> TypeGuard[Constant]:
    return (
        constant is not None
        and constant.dtype == dtype
        and len(constant.shape) >= _LEAST_AXES
        and constant.shape[-1] > 1
        and constant.size <= _MOST
    )
