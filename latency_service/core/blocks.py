"""How a convolution runs where a runtime stores images in blocks of channels.

Three pieces of code share the operator: one from blocks into blocks, one that reads a plain image
of few channels, and products of matrices for whatever does not fit. They have little in common but
their shapes; pruning a channel may lead from one to another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64] | float


class Way(IntEnum):
    """One of the three."""

    PLAIN = 0  # by products of matrices
    BLOCKS = 1  # from blocks into blocks
    IMAGE = 2  # from a plain image of few channels into blocks


def ways(
    groups: Counts, inputs: Counts, filters: Counts, block: int, alignment: int
) -> npt.NDArray[np.int64]:
    """(...) the `Way` of convolutions over images.

    Args:
        groups: (...) their groups.
        inputs: (...) channels that each group reads.
        filters: (...) channels that all groups write.
        block: channels of a block.
        alignment: convolutions over other multiples of input channels stay plain.
    """
    groups, inputs, filters = (np.round(counts, 6) for counts in (groups, inputs, filters))
    found = _way(np.maximum(groups, 1.0), inputs, filters, block, alignment)
    return np.asarray(found, dtype=np.int64)


def runs_on_blocks(group: int, inputs: int, filters: int, block: int, alignment: int) -> bool:
    """Whether one convolution over images writes blocks; the arguments are those of `ways`."""
    return bool(_way(group, inputs, filters, block, alignment) != Way.PLAIN)


def _way(groups: Any, inputs: Any, filters: Any, block: int, alignment: int) -> Any:
    """The `Way` of one convolution or, in the same words, of arrays of them."""
    dense, each = groups <= 1, filters / groups
    depthwise = (groups > 1) & (inputs == 1) & (each == 1)
    blocked = (
        dense & (inputs % alignment == 0)
        | depthwise & (filters % alignment == 0)
        | (groups > 1) & (inputs % block == 0) & (each % block == 0)
    )
    few = dense & (inputs < block)
    return few * Way.IMAGE + blocked * (1 - few) * Way.BLOCKS
