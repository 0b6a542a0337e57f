"""Time of one family's kernels: a roofline of its own, and how far a shape is from it.

A kernel's time is `base x exp(correction)`. The base is a roofline with the family's own achieved
rates and its fixed time, `fixed_s + max(work / flops_per_s, moved / bytes_per_s)`; the correction
is the posterior mean of a Gaussian process over the kernel's shape (Rasmussen and Williams 2006,
chapters 2 and 8.3: `sum_j weight_j k(x, point_j)` with a squared-exponential kernel). Between
samples that lie far apart the correction fades and the base remains; beyond the outermost ones it
stays what it is there.

Each feature of a shape depends on the layer's input channels, on its output channels or on neither,
so the kernel function is a product of three factors and a layer can be tabulated over its widths.
See docs/calibration.md#model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from latency_service.core.blocks import Way, ways
from latency_service.core.features import Feature, FloatArray, features_of
from latency_service.core.geometry import Dim
from latency_service.core.recurrent import parts_s

# The feature that tells convolutions on blocks from others (core/blocks.py).
WAY = "way"
# What a kernel reads and writes.
MOVED = (Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.CONSTANT_ELEMENTS, Dim.EXTRA_ELEMENTS)
# What grows with the rows of an image.
_WITH_ROWS = (Dim.ROWS, Dim.INNER, Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS)


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """Time of one family's kernels for one dtype.

    Attributes:
        fixed_s, flops_per_s, bytes_per_s: of the base; no flops_per_s where nothing is multiplied.
        units: as in `features_of`.
        features: names of those that the correction depends on (`known_features`).
        lengths: (D,) length scales, in the features' own units.
        points: (M, D) features of the support points, divided by their lengths.
        weights: (M,) their weights; the correction is `mean + sum_j weights_j k(x, points_j)`.
        mean: correction far from all points.
        spread: standard deviation of log(measured / predicted) on samples left out of the fit.
        median_error: median of |predicted / measured - 1| on those.
        samples: how many measurements it rests on.
        cached_s_per_byte: seconds that a kernel with a single row saves for every byte of constants
            that is still in the last cache, where the others' come from memory.
        cached_bytes: most bytes of one kernel's constants that are; 0 where nothing limits them.
        cached_rows: rows with which a kernel saves half of that, for it multiplies while it waits;
            0 where any number of them saves as much.
        measured_cached: whether they were in the last cache where the samples were measured.
        nearby_s_per_byte: seconds that a kernel saves for every byte that it moves where its output
            lies in the core's own cache; less, the more of that cache it fills itself (`filling`).
        block, alignment: of the runtime's layout (`Layout`) where the family's kernels run on
            blocks of channels; 0 where they do not.
        way_flops: for each `Way`, FLOPs of the usual one that take as long as one of it; 0 where it
            was not measured: it is charged like the usual one. Empty where all take as long.
        panel: positions of an image that the family's kernels compute at once; 0 where any number.
        packing: FLOPs that take as long as putting one number of a window where such a panel of
            positions reads it.
        parts: seconds of one of each part of a recurrent layer, in place of the roofline
            (core/recurrent.py); empty for all others.
    """

    fixed_s: float
    flops_per_s: float | None
    bytes_per_s: float
    units: int
    features: tuple[str, ...]
    lengths: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    mean: float
    spread: float
    median_error: float
    samples: int
    cached_s_per_byte: float = 0.0
    cached_bytes: float = 0.0
    cached_rows: float = 0.0
    measured_cached: bool = False
    nearby_s_per_byte: float = 0.0
    block: int = 0
    alignment: int = 0
    way_flops: tuple[float, ...] = ()
    panel: int = 0
    packing: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    def base_s(self, dims: FloatArray, itemsize: float) -> FloatArray:
        """(...) seconds of the family's own roofline, or of its parts, at (..., D) dimensions."""
        if self.parts:
            return self.fixed_s + parts_s(dims, self.parts)
        return self.roofline_s(moved_bytes(dims, itemsize), self.done(dims))

    def done(self, dims: FloatArray) -> FloatArray:
        """(...) FLOPs that the kernels do at (..., D) dimensions, or what takes as long."""
        work: FloatArray = dims[..., Dim.WORK]
        if self.panel:
            return self.in_panels(work, windows(dims), dims[..., Dim.INNER])
        if not self.block:
            return work
        groups, inputs = dims[..., Dim.BATCH], dims[..., Dim.DEPTH] / dims[..., Dim.TAPS]
        filters = groups * dims[..., Dim.COLS]
        return work * self.on_blocks(groups, inputs, filters, dims[..., Dim.INSIDE])

    def paneled(self, positions: FloatArray | float) -> FloatArray:
        """(...) positions that are computed for each of (...): whole panels, or a single one."""
        whole = np.ceil(np.divide(positions, self.panel)) * self.panel
        ratio: FloatArray = np.where(positions > 1.0, whole / positions, 1.0)
        return ratio

    def in_panels(
        self, work: FloatArray, numbers: FloatArray, positions: FloatArray | float
    ) -> FloatArray:
        """(...) FLOPs of products whose second matrix holds (...) numbers, in panels.

        Args:
            positions: (...) of an image.
        """
        needed: FloatArray = (work + self.packing * numbers) * self.paneled(positions)
        return needed

    def filled(self, filters: FloatArray | float) -> FloatArray:
        """(...) filters that are computed for each of (...), among them those that fill a block."""
        whole = np.ceil(np.round(filters, 6) / self.block) * self.block
        ratio: FloatArray = whole / np.maximum(filters, 1e-9)
        return ratio

    def on_blocks(
        self,
        groups: FloatArray | float,
        inputs: FloatArray | float,
        filters: FloatArray | float,
        inside: FloatArray | float,
    ) -> FloatArray:
        """(...) FLOPs on blocks that take as long as one that is counted.

        On blocks of channels a convolution leaves out the taps that fall on padding, and fills up
        its last block of filters. Products of matrices do neither.

        Args:
            groups, inputs, filters: (...) as in `ways`.
            inside: (...) share of the taps that fall on the image.
        """
        way = self._way(groups, inputs, filters)
        computed: FloatArray = np.where(way == Way.PLAIN, 1.0, inside * self.filled(filters))
        if self.way_flops:
            computed = computed * np.array(self.way_flops)[way]
        return computed

    def way(self, dims: FloatArray) -> npt.NDArray[np.int64]:
        """(...) the `Way` at (..., D) dimensions, the usual one for one that was not measured."""
        groups, inputs = dims[..., Dim.BATCH], dims[..., Dim.DEPTH] / dims[..., Dim.TAPS]
        return self._way(groups, inputs, groups * dims[..., Dim.COLS])

    def _way(
        self, groups: FloatArray | float, inputs: FloatArray | float, filters: FloatArray | float
    ) -> npt.NDArray[np.int64]:
        found = ways(groups, inputs, filters, self.block, self.alignment)
        if not self.way_flops:
            return found
        flops = np.array(self.way_flops)
        return np.where(flops[found] > 0, found, self.way_flops.index(1.0))

    def fetched_s(self, constants: FloatArray, rows: FloatArray | float) -> FloatArray:
        """(...) seconds longer that kernels take whose constants come from memory.

        Args:
            constants: (...) bytes of them.
            rows: (...) with which they are multiplied.
        """
        most = self.cached_bytes or np.inf
        missing: FloatArray = self.cached_s_per_byte * np.minimum(constants, most)
        return missing / (1.0 + rows / self.cached_rows) if self.cached_rows else missing

    def roofline_s(self, moved: FloatArray, done: FloatArray) -> FloatArray:
        """(...) seconds of the family's own roofline at (...) bytes and FLOPs."""
        total: FloatArray = self.fixed_s + np.maximum(
            moved / self.bytes_per_s, self.busy_s(moved, done)
        )
        return total

    def near_part(
        self, moved: FloatArray, done: FloatArray, bytes_per_s: float, fixed: float
    ) -> FloatArray:
        """(...) part of its seconds that is left with code and data in a core's own cache.

        Args:
            bytes_per_s: of that cache.
            fixed: part of the fixed seconds that is left.
        """
        if self.parts:
            # recurrent layers were measured so
            return np.ones(np.shape(moved))
        data_s = np.maximum(moved / max(bytes_per_s, self.bytes_per_s), self.busy_s(moved, done))
        # of a dead layer's kernels, which may take nothing, nothing is left
        usual_s = np.maximum(self.roofline_s(moved, done), 1e-30)
        part: FloatArray = (fixed * self.fixed_s + data_s) / usual_s
        return part

    def busy_s(self, moved: FloatArray, done: FloatArray) -> FloatArray:
        """(...) seconds that its quickest samples were busy, whatever the caches held.

        What a contraction moves may come quicker than in any of them, from a nearer cache. All
        others move what has just been written; where they are slow all the same, they compute.
        """
        if self.flops_per_s is None:
            return moved / self.bytes_per_s
        return done / self.flops_per_s

    def seconds(
        self, dims: FloatArray, itemsize: float, part: FloatArray | float | None = None
    ) -> FloatArray:
        """(...) predicted seconds at (..., D) dimensions.

        Args:
            part: (...) as `measured_part` gives it at full width; None: these are at full width.
        """
        correction = np.full(dims.shape[:-1], self.mean)
        if self.features and self.weights:
            x = self.features_at(dims, self.measured_part(dims) if part is None else part)
            correction = correction + kernel(x, np.array(self.points)) @ np.array(self.weights)
        result: FloatArray = self.base_s(dims, itemsize) * np.exp(correction)
        return result

    def measured_part(self, dims: FloatArray) -> FloatArray:
        """(...) share of kernels at (..., D) dimensions that is no larger than any sample.

        A large image is computed like one of its parts, row by row, on processors that take one
        tile after the other.
        """
        whole: FloatArray = np.ones(dims.shape[:-1])
        if not self.weights or self.units > 1:
            return whole
        most = np.array(self.points).max(axis=0) * np.array(self.lengths)
        known = dict(zip(self.features, most.tolist(), strict=True))
        limits = [(dim, known.get(f"log_{dim.name.lower()}")) for dim in _WITH_ROWS]
        parts = [
            np.exp(limit) / np.maximum(dims[..., dim], 1.0)
            for dim, limit in limits
            if limit is not None
        ]
        least: FloatArray = np.minimum.reduce([whole, *parts])
        return least

    def known_features(self) -> dict[str, Feature]:
        """Those that its correction may depend on, by name."""
        known = features_of(self.flops_per_s is not None, self.units)
        if self.block:
            known[WAY] = lambda dims: self.way(dims).astype(np.float64)
        return known

    def features_at(self, dims: FloatArray, part: FloatArray | float = 1.0) -> FloatArray:
        """(..., F) scaled features at (..., D) dimensions, no further out than the support points.

        Beyond what was measured a kernel uses the device as well as at the nearest that was. The
        mean, which the correction would fade to, is that of all samples; what networks hold beyond
        them is larger, and large kernels use a device best.

        Args:
            part: (...) share of its rows that is looked at.
        """
        shares = np.broadcast_to(np.asarray(part)[..., None], (*dims.shape[:-1], len(_WITH_ROWS)))
        if (shares < 1.0).any():
            dims = dims.copy()
            dims[..., _WITH_ROWS] *= shares
        known = self.known_features()
        columns = [known[name](dims) for name in self.features]
        scaled: FloatArray = np.stack(columns, axis=-1) / np.array(self.lengths)
        points = np.array(self.points)
        within: FloatArray = np.clip(scaled, points.min(axis=0), points.max(axis=0))
        return within


def windows(dims: FloatArray) -> FloatArray:
    """(...) numbers of all windows of a convolution at (..., D) dimensions, side by side."""
    numbers: FloatArray = dims[..., Dim.ROWS] * dims[..., Dim.DEPTH]
    return numbers


def moved_bytes(dims: FloatArray, itemsize: float) -> FloatArray:
    """(...) bytes that a kernel reads and writes at least."""
    moved: FloatArray = itemsize * dims[..., MOVED].sum(axis=-1)
    return moved


def kernel(x: FloatArray, points: FloatArray) -> FloatArray:
    """(..., M) exp(-|x - point|^2 / 2) of (..., D) and (M, D) scaled features."""
    distance = (x * x).sum(axis=-1)[..., None] + (points * points).sum(axis=-1) - 2.0 * x @ points.T
    result: FloatArray = np.exp(-0.5 * np.maximum(distance, 0.0))
    return result
