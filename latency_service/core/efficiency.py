"""How well a device's kernels use it: the calibrated part of a profile.

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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from latency_service.core.features import FloatArray, features_of
from latency_service.core.geometry import Dim
from latency_service.core.recurrent import parts_s

# A convolution that moves more finds nothing of it in a nearer cache.
NEAR_KERNEL_BYTES = 1e6
# The core's own cache: where bandwidth has not fallen below this share of the highest.
_OWN = 0.6
# What so many kernels before one moved tells whether the place where it writes is still near.
_BEFORE = 6
# How steeply the last cache forgets, by time and by size: of 80 products with 4 MB of weights and
# more in networks, half lost after 16 ms, 6 % were lost after 6 ms and 85 % after 30.
_STEEP = 2.5
# How often the time of a network is put where it decides what the network finds in the last cache.
_SETTLED = 4
# What a kernel reads and writes.
MOVED = (Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS, Dim.CONSTANT_ELEMENTS, Dim.EXTRA_ELEMENTS)
# What grows with the rows of an image.
_WITH_ROWS = (Dim.ROWS, Dim.INNER, Dim.IN_ELEMENTS, Dim.OUT_ELEMENTS)


def core_cache_bytes(levels: Sequence[tuple[float, float]]) -> float:
    """Bytes of the cache that a core has for itself: the last level before bandwidth falls."""
    if not levels:
        return 0.0
    rates = [rate for _, rate in levels]
    fastest = rates.index(max(rates))
    fallen = (n for n in range(fastest, len(rates)) if rates[n] < _OWN * rates[fastest])
    return levels[next(fallen, len(rates)) - 1][0]


def filling(moved: FloatArray, cache_bytes: float) -> FloatArray:
    """(...) bytes that a kernel which moves (...) bytes finds in a cache, beside what it brings."""
    found: FloatArray = moved * np.maximum(0.0, 1.0 - moved / max(cache_bytes, 1.0))
    return found


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """Time of one family's kernels for one dtype.

    Attributes:
        fixed_s, flops_per_s, bytes_per_s: of the base; no flops_per_s where nothing is multiplied.
        units: as in `features_of`.
        features: names of those that the correction depends on.
        lengths: (D,) length scales, in the features' own units.
        points: (M, D) features of the support points, divided by their lengths.
        weights: (M,) their weights; the correction is `mean + sum_j weights_j k(x, points_j)`.
        mean: correction far from all points.
        spread: standard deviation of log(measured / predicted) on samples left out of the fit.
        median_error: median of |predicted / measured - 1| on those.
        samples: how many measurements it rests on.
        cached_s_per_byte: seconds that a kernel saves for every byte of constants that is still in
            the last cache, where the others' come from memory.
        measured_cached: whether they were in the last cache where the samples were measured.
        nearby_s_per_byte: seconds that a kernel saves for every byte that it moves where its output
            lies in the core's own cache; less, the more of that cache it fills itself (`filling`).
        block, alignment: of the runtime's layout (`Layout`) where the family's kernels run on
            blocks of channels; 0 where they do not.
        panel: positions of an image that the family's kernels compute at once; 0 where any number.
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
    measured_cached: bool = False
    nearby_s_per_byte: float = 0.0
    block: int = 0
    alignment: int = 0
    panel: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    def base_s(self, dims: FloatArray, itemsize: float) -> FloatArray:
        """(...) seconds of the family's own roofline, or of its parts, at (..., D) dimensions."""
        if self.parts:
            return self.fixed_s + parts_s(dims, self.parts)
        return self.roofline_s(moved_bytes(dims, itemsize), self.done(dims))

    def done(self, dims: FloatArray) -> FloatArray:
        """(...) FLOPs that the kernels do at (..., D) dimensions."""
        work: FloatArray = dims[..., Dim.WORK]
        if self.panel:
            return work * self.paneled(dims[..., Dim.INNER])
        if not self.block:
            return work
        filters = dims[..., Dim.BATCH] * dims[..., Dim.COLS]
        inputs = dims[..., Dim.DEPTH] / dims[..., Dim.TAPS]
        return work * self.filled(filters) * self.needed(inputs, dims[..., Dim.INSIDE])

    def paneled(self, positions: FloatArray) -> FloatArray:
        """(...) positions that are computed for each of (...): whole panels, or a single one."""
        whole = np.ceil(positions / self.panel) * self.panel if self.panel else positions
        ratio: FloatArray = np.where(positions > 1.0, whole / positions, 1.0)
        return ratio

    def filled(self, filters: FloatArray) -> FloatArray:
        """(...) filters that are computed for each of (...), among them those that fill a block."""
        whole = np.ceil(np.round(filters, 6) / self.block) * self.block
        ratio: FloatArray = whole / np.maximum(filters, 1e-9)
        return ratio

    def needed(self, inputs: FloatArray, inside: FloatArray | float) -> FloatArray:
        """(...) share of the taps that a convolution of (...) inputs computes.

        On blocks of channels it leaves out those that fall on padding. Over unaligned inputs it is
        a product of matrices, padding and all.
        """
        found = np.round(inputs, 6)
        direct = (found < self.block) | (found % self.alignment == 0)
        share: FloatArray = np.where(direct, inside, 1.0)
        return share

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
        known = features_of(self.flops_per_s is not None, self.units)
        columns = [known[name](dims) for name in self.features]
        scaled: FloatArray = np.stack(columns, axis=-1) / np.array(self.lengths)
        points = np.array(self.points)
        within: FloatArray = np.clip(scaled, points.min(axis=0), points.max(axis=0))
        return within


def forgotten(of_half: FloatArray) -> FloatArray:
    """(...) share that a cache has lost after (...) times what makes it lose half."""
    lost: FloatArray = 1.0 - 1.0 / (1.0 + of_half**_STEEP)
    return lost


def moved_bytes(dims: FloatArray, itemsize: float) -> FloatArray:
    """(...) bytes that a kernel reads and writes at least."""
    moved: FloatArray = itemsize * dims[..., MOVED].sum(axis=-1)
    return moved


def kernel(x: FloatArray, points: FloatArray) -> FloatArray:
    """(..., M) exp(-|x - point|^2 / 2) of (..., D) and (M, D) scaled features."""
    distance = (x * x).sum(axis=-1)[..., None] + (points * points).sum(axis=-1) - 2.0 * x @ points.T
    result: FloatArray = np.exp(-0.5 * np.maximum(distance, 0.0))
    return result


@dataclass(frozen=True, slots=True)
class Layout:
    """How a runtime stores images in blocks of channels, and which operators do.

    Attributes:
        block: channels of a block.
        alignment: convolutions over other multiples of input channels stay plain.
        converts: operators that are worth converting a plain input for.
        keeps: operators that run on blocked images where all their inputs are blocked.
    """

    block: int
    alignment: int
    converts: tuple[str, ...]
    keeps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a calibration found out about a device beside its peak rates.

    Attributes:
        families: by "dtype family" ("float32 Conv/pointwise").
        dispatch_s: what the runtime spends between two kernels.
        levels: (working set in bytes, bytes per second) ascending: the bandwidth of each cache.
        channel_step: channels that the hardware handles at once.
        shared_spread: standard deviation of the error, in logarithms, that all layers of a network
            share; the rest averages out over them.
        merged: seconds per output element that operators cost which a contraction merges, by
            "dtype sequence" ("float32 Conv Add Relu").
        slow_runs: seconds that a run of sixteen numbers takes longer, by what slows it down
            (core/masks.py).
        layout: None where the runtime keeps one layout.
        source: what it was fitted from.
        alone_s: what a convolution of next to no data takes longer on its own, as families were
            measured, than in a network, where others like it run before it and their outputs stay
            in the nearer caches.
        call_s: what a call of the runtime takes besides its kernels.
        near_bytes: footprint of a network half of whose code and data stay in a core's own cache,
            where families were measured between others; 0: nothing does.
        near_fixed: part of a kernel's fixed seconds that is left there.
        kept_s: after which the last cache has lost half of what it held to others that share it; 0
            where nobody does, or nobody measured it.
        slower: logarithm by which whole networks said that all families are slower than their
            samples; it is part of the families' means and of `merged`.
        launches_ahead: whether the host launches kernels while others run, so that the fixed time
            of a family, its launch, is waited for only where the device has nothing else to do.
    """

    families: Mapping[str, FamilyModel]
    dispatch_s: float
    levels: tuple[tuple[float, float], ...]
    channel_step: int
    shared_spread: float
    merged: Mapping[str, float] = field(default_factory=dict)
    slow_runs: Mapping[str, float] = field(default_factory=dict)
    layout: Layout | None = None
    source: str = ""
    alone_s: float = 0.0
    call_s: float = 0.0
    near_bytes: float = 0.0
    near_fixed: float = 0.0
    kept_s: float = 0.0
    slower: float = 0.0
    launches_ahead: bool = False

    def slowed(self, shift: float) -> Efficiency:
        """All families slower by a logarithm."""
        families = {
            name: replace(model, mean=model.mean + shift) for name, model in self.families.items()
        }
        factor = math.exp(shift)
        merged = {name: seconds * factor for name, seconds in self.merged.items()}
        return replace(self, families=families, merged=merged, slower=self.slower + shift)

    def near_share(self, constant_bytes: FloatArray, most_bytes: FloatArray) -> FloatArray:
        """(...) share of a network's code and data that stays in a core's own cache.

        Its footprint is all its constants, and twice what the kernel with most data reads and
        writes: while that one runs, another one's tensors wait.

        Args:
            constant_bytes: (...) what all its layers read of constants.
            most_bytes: (...) activations that the kernel with most of them reads and writes.
        """
        if not self.near_bytes:
            return np.zeros(np.shape(most_bytes))
        footprint = constant_bytes + 2.0 * most_bytes
        return 1.0 - forgotten(footprint / self.near_bytes)

    def sooner_s(self, moved: FloatArray) -> FloatArray:
        """(...) seconds that a convolution takes less in a network than on its own.

        Args:
            moved: (...) bytes that it reads and writes; with more than a nearer cache holds of them
                it finds nothing there.
        """
        share: FloatArray = np.maximum(0.0, 1.0 - moved / NEAR_KERNEL_BYTES)
        return self.alone_s * share

    def near_places(self, moved: FloatArray) -> FloatArray:
        """(P,) how near the place still is where each kernel writes: 1 where it was just used.

        Kernels mostly write where an earlier one's output lay that is no longer needed. What was
        moved since drives it out of the core's own cache: of networks' kernels whose last
        `_BEFORE` ones moved twice that cache half pay what samples pay that find it far away.

        Args:
            moved: (P,) bytes that each kernel moves, in the order in which they run; before the
                first one, the last ones of the run before did.
        """
        twice = 2.0 * self.core_bytes
        before = np.zeros(len(moved))
        for back in range(1, min(_BEFORE, len(moved)) + 1):
            before += np.roll(moved, back)
        share: FloatArray = twice / (before + max(twice, 1.0))
        return share

    @property
    def core_bytes_per_s(self) -> float:
        """Bandwidth of the cache that a core has for itself."""
        return max(rate for _, rate in self.levels)

    @property
    def core_bytes(self) -> float:
        """Of the cache that a core has for itself."""
        return core_cache_bytes(self.levels)

    def kept_share(
        self,
        constant_bytes: FloatArray,
        cached_s: FloatArray | float,
        fetched_s: FloatArray | float,
    ) -> FloatArray:
        """(...) share of a network's constants that are still in the last cache when it runs again.

        Those of larger networks than it holds are not, and as time passes others drive them out.
        The network takes the longer, the fewer of them there are.

        Args:
            constant_bytes: (...) what all its layers read of them.
            cached_s: (...) that it takes with all constants in the last cache.
            fetched_s: (...) longer that it takes with all of them in memory.
        """
        cache = self.cache_bytes
        if not cache:
            return np.zeros(np.shape(constant_bytes))
        held = 1.0 - forgotten(constant_bytes / cache)
        share = held
        for _ in range(_SETTLED if self.kept_s else 0):
            seconds = cached_s + (1.0 - share) * fetched_s
            share = held * (1.0 - forgotten(seconds / self.kept_s))
        return share

    @property
    def cache_bytes(self) -> float:
        """Of the last cache, which others may share; 0 with one level.

        Between the largest working set that was faster than halfway, on a logarithmic scale, from
        what lies beyond a core's own cache to memory, and the next one, twice as large.
        """
        memory = self.levels[-1][1]
        beyond = next((rate for size, rate in self.levels if size > self.core_bytes), memory)
        fast = [size for size, rate in self.levels[:-1] if rate >= math.sqrt(beyond * memory)]
        return math.sqrt(2.0) * max(fast, default=0.0)
