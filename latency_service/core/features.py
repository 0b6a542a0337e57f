"""What a family's efficiency may depend on: functions of a kernel's shape.

Each feature depends on the layer's input channels, on its output channels or on neither, never on
both; so the kernel function of latency_service/core/family.py is a product of three factors.
Hardware moves in steps: a vector, a tile, a wave of tiles over the processors. The features show
how much of the last step is padding; the fit decides which of them matter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from latency_service.core.geometry import Dim

FloatArray = npt.NDArray[np.float64]


def _log(values: FloatArray) -> FloatArray:
    result: FloatArray = np.log(np.maximum(values, 1e-3))
    return result


def _padding(values: FloatArray, step: int) -> FloatArray:
    """Log of what rounding up to a multiple of `step` adds."""
    return _log(np.ceil(values / step) * step / np.maximum(values, 1.0))


def _aligned(values: FloatArray, step: int) -> FloatArray:
    aligned: FloatArray = (values % step == 0).astype(np.float64)
    return aligned


# PyTorch's softmax on a GPU keeps rows of up to so many elements in registers and reads them once;
# longer ones are read three times (aten/src/ATen/native/cuda/SoftMax.cu).
_MOST_HELD = 1024


def _longer(values: FloatArray, most: int) -> FloatArray:
    longer: FloatArray = (values > most).astype(np.float64)
    return longer


Feature = Callable[[FloatArray], FloatArray]


def _of(dim: Dim) -> Feature:
    return lambda dims: _log(dims[..., dim])


def _inputs(dims: FloatArray) -> FloatArray:
    """Input channels of one group."""
    channels: FloatArray = dims[..., Dim.DEPTH] / dims[..., Dim.TAPS]
    return channels


def _filters(dims: FloatArray) -> FloatArray:
    """Output channels of all groups."""
    filters: FloatArray = dims[..., Dim.BATCH] * dims[..., Dim.COLS]
    return filters


def _waves(rows: int, cols: int, units: int) -> Feature:
    """Log of the share of the last wave of tiles that is idle on so many units."""

    def feature(dims: FloatArray) -> FloatArray:
        tiles = (
            dims[..., Dim.BATCH]
            * np.ceil(dims[..., Dim.ROWS] / rows)
            * np.ceil(dims[..., Dim.COLS] / cols)
        )
        return _log(np.ceil(tiles / units) * units / np.maximum(tiles, 1.0))

    return feature


def _passes(step: int) -> Feature:
    """Log of the passes over a row of outputs, times `step`, for each of them.

    onnxruntime's convolutions on blocks of channels compute `step` positions of a row at once where
    no window touches padding, what remains of them in one or two passes, and each other position on
    its own (mlas/lib/x86_64/SconvKernelAvx512F.S: 6, then 3, then 2). Rows of 1x1 windows are whole
    images.
    """

    def feature(dims: FloatArray) -> FloatArray:
        whole = (dims[..., Dim.TAPS] == 1.0) & (dims[..., Dim.STRIDE] == 1.0)
        width = np.where(whole, dims[..., Dim.INNER], dims[..., Dim.WIDTH])
        clear = np.where(whole, width, np.minimum(dims[..., Dim.CLEAR], width))
        rest = clear % step
        threes = np.where(rest >= 3, 1.0, 0.0)
        passes = width - clear + clear // step + threes + np.where(rest % 3 > 0, 1.0, 0.0)
        return _log(passes * step / width)

    return feature


def _patches(side: int) -> Callable[[FloatArray], FloatArray]:
    """Squares of side x side output positions that cover all images; 1 without a window.

    Winograd's convolutions compute such squares whole, of 2 and of 4 for 3x3 windows: F(2x2, 3x3)
    and F(4x4, 3x3) in Lavin and Gray 2016 (arXiv 1509.09308), which cuDNN offers both.
    """

    def count(dims: FloatArray) -> FloatArray:
        width = dims[..., Dim.WIDTH]
        height = dims[..., Dim.INNER] / width
        squares = dims[..., Dim.IMAGES] * np.ceil(height / side) * np.ceil(width / side)
        patches: FloatArray = np.where(dims[..., Dim.TAPS] > 1.0, squares, 1.0)
        return patches

    return count


def _patch_padding(side: int) -> Feature:
    """Log of what covering the images by such squares adds; 0 without a window."""

    def feature(dims: FloatArray) -> FloatArray:
        covered = _patches(side)(dims) * side**2
        padding: FloatArray = np.where(
            dims[..., Dim.TAPS] > 1.0, _log(covered / np.maximum(dims[..., Dim.ROWS], 1.0)), 0.0
        )
        return padding

    return feature


def _bind(
    function: Callable[..., FloatArray], of: Callable[[FloatArray], FloatArray], *args: int
) -> Feature:
    return lambda dims: function(of(dims), *args)


def _column(dim: Dim) -> Callable[[FloatArray], FloatArray]:
    return lambda dims: dims[..., dim]


_SHAPE = (
    Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.CONSTANT_ELEMENTS, Dim.INNER, Dim.ROWS, Dim.TAPS,
    Dim.STRIDE, Dim.WIDTH, Dim.IMAGES,
)  # fmt: skip
_NEST = (
    Dim.BATCH, Dim.ROWS, Dim.DEPTH, Dim.COLS, Dim.TAPS, Dim.STRIDE, Dim.DILATION, Dim.WIDTH,
    Dim.IMAGES, Dim.INNER, Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.STEPS,
)  # fmt: skip


def features_of(contraction: bool, units: int) -> dict[str, Feature]:
    """The features of a family by name.

    Args:
        contraction: whether the family multiplies and accumulates.
        units: processors that work on tiles side by side; 1 leaves waves out.
    """
    if not contraction:
        found = {f"log_{dim.name.lower()}": _of(dim) for dim in _SHAPE}
        for step in (8, 16):
            found[f"inner_padding_{step}"] = _bind(_padding, _column(Dim.INNER), step)
        if units > 1:
            found["long_rows"] = _bind(_longer, _column(Dim.INNER), _MOST_HELD)
        return found
    found = {f"log_{dim.name.lower()}": _of(dim) for dim in _NEST}
    steps = (4, 8, 16, 32) if units == 1 else (4, 8, 32, 64, 128)
    for step in steps:
        found[f"inputs_padding_{step}"] = _bind(_padding, _inputs, step)
        found[f"cols_padding_{step}"] = _bind(_padding, _column(Dim.COLS), step)
    if units == 1:
        for step in (4, 16):
            found[f"inputs_aligned_{step}"] = _bind(_aligned, _inputs, step)
            found[f"filters_aligned_{step}"] = _bind(_aligned, _filters, step)
        # blocks, and the four of them that onnxruntime computes at once (FilterSetSize in
        # mlas/lib/snchwc.cpp)
        for step in (16, 64):
            found[f"filters_padding_{step}"] = _bind(_padding, _filters, step)
        for step in (6, 14):
            found[f"width_padding_{step}"] = _bind(_padding, _column(Dim.WIDTH), step)
        for step in (3, 6):
            found[f"passes_{step}"] = _passes(step)
        for step in (6, 12):
            found[f"rows_padding_{step}"] = _bind(_padding, _column(Dim.ROWS), step)
        found["few_inputs"] = lambda dims: (_inputs(dims) < 16).astype(np.float64)
    else:
        for step in (64, 128):
            found[f"rows_padding_{step}"] = _bind(_padding, _column(Dim.ROWS), step)
        for step in (2, 4, 8):
            found[f"depth_aligned_{step}"] = _bind(_aligned, _column(Dim.DEPTH), step)
            found[f"cols_aligned_{step}"] = _bind(_aligned, _column(Dim.COLS), step)
        for rows, cols in ((32, 32), (64, 64), (128, 64), (128, 128)):
            found[f"waves_{rows}x{cols}"] = _waves(rows, cols, units)
        for side in (2, 4):
            found[f"log_patches_{side}"] = _bind(_log, _patches(side))
            found[f"patch_padding_{side}"] = _patch_padding(side)
    return found
