"""How channels pass through operators that do not contract: kept, moved, tied, cut or frozen."""

from latency_service.core.ops.layouts.broadcasting import elementwise, expand
from latency_service.core.ops.layouts.kept import keep, keep_leading, none, opaque
from latency_service.core.ops.layouts.learned import follows
from latency_service.core.ops.layouts.mixing import (
    along_axis,
    arg_reduce,
    batch_norm,
    group_norm,
    mean_variance,
    neighbours,
    norm_over,
    reduce,
    softmax,
    top_k,
)
from latency_service.core.ops.layouts.moves import concat, gather, pad, resize, slice_, split, tile
from latency_service.core.ops.layouts.reshapes import (
    depth_to_space,
    reshape,
    space_to_depth,
    squeeze,
    transpose,
)

__all__ = [
    "along_axis",
    "arg_reduce",
    "batch_norm",
    "concat",
    "depth_to_space",
    "elementwise",
    "expand",
    "follows",
    "gather",
    "group_norm",
    "keep",
    "keep_leading",
    "mean_variance",
    "neighbours",
    "none",
    "norm_over",
    "opaque",
    "pad",
    "reduce",
    "reshape",
    "resize",
    "slice_",
    "softmax",
    "space_to_depth",
    "split",
    "squeeze",
    "tile",
    "top_k",
    "transpose",
]
