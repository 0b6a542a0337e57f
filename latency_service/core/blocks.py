"""How a convolution runs where a runtime stores images in blocks of channels.

Three pieces of code share the operator: one from blocks into blocks, one that reads a plain image
of few channels, and products of matrices for whatever does not fit. They have little in common but
their shapes; pruning a channel may lead from one to another.
"""

from __future__ import annotations

from enum import IntEnum

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
    each = filters / np.maximum(groups, 1.0)
    dense = groups <= 1.0
    depthwise = ~dense & (inputs == 1.0) & (each == 1.0)
    blocked = np.where(
        dense,
        inputs % alignment == 0,
        np.where(depthwise, filters % alignment == 0, (inputs % block == 0) & (each % block == 0)),
    )
    few = dense & (inputs < block)
    return np.where(few, Way.IMAGE, np.where(blocked, Way.BLOCKS, Way.PLAIN)).astype(np.int64)
