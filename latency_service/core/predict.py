"""Seconds of a network's kernels on a calibrated device, at one structure.

latency_service/core/sweep.py does the same for many structures at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from latency_service.core.costs import CostModel, FloatArray, Kernels
from latency_service.core.efficiency import Efficiency, filling
from latency_service.core.family import FamilyModel, moved_bytes
from latency_service.core.geometry import LINE, Dim, Follows
from latency_service.core.kernels import usual_forms
from latency_service.core.live import live_counts
from latency_service.core.masks import CAUSES
from latency_service.core.units import BYTES_PER_ELEMENT

Places = npt.NDArray[np.int64]

# Relative spread of a kernel that no measured family describes.
_UNKNOWN_SPREAD = 1.0
# A family that stands in for another one is this much less certain.
_ALIKE_SPREAD = 2.0
# Kernels that follow others of their kind in most networks.
_IN_ROWS = ("Conv/", "QLinearConv/", "ReorderInput", "ReorderOutput")
# A kernel that takes less in a network still takes this share of its time.
_LEAST_SHARE = 0.3
# How many multiples of the hardware's step a slope looks down to find one that pays.
_STEPS_DOWN = 4
# Standard deviation, in logarithms, of a network that stays in the nearer caches altogether.
_NEAR_SPREAD = 0.25
# And of one whose kernels were measured in another dtype: what is converted, and what a runtime
# does not merge in its own dtype, is not known.
_OTHER_DTYPE_SPREAD = 0.2
# No interval is given where kernels that were not measured take a larger share than this.
_MOST_UNKNOWN = 0.05


@dataclass(frozen=True, slots=True)
class Assigned:
    """Kernels that one family model describes.

    Attributes:
        name: of the model, "dtype family"; "" where none fits: bandwidth alone is charged.
        kernels: (K,) their positions.
        exact: whether the family itself was measured for all of them.
    """

    name: str
    model: FamilyModel | None
    kernels: tuple[int, ...]
    exact: bool


def assign(kernels: Kernels, efficiency: Efficiency) -> list[Assigned]:
    """Find the model of every kernel: its family's, else that of one that is alike."""
    found: dict[tuple[str, bool], list[int]] = {}
    for position, (dtype, family, others) in enumerate(
        zip(kernels.dtypes, kernels.families, kernels.fallbacks, strict=True)
    ):
        names = [f"{dtype} {name}" for name in (family, *others)]
        chosen = next((name for name in names if name in efficiency.families), "")
        exact = chosen in (names[0], *(f"{dtype} {usual}" for usual in usual_forms(family)))
        found.setdefault((chosen, exact), []).append(position)
    return [
        Assigned(name, efficiency.families.get(name), tuple(positions), exact)
        for (name, exact), positions in found.items()
    ]


@dataclass(frozen=True, slots=True)
class Structure:
    """Kernels at one structure.

    Attributes:
        seconds: (P,) by which each delays the network's end; 0 where its layer is dead.
        fixed_s: (P,) the part of them that does not depend on the shape.
        spread: (P,) relative standard deviation of each prediction.
        dims: (P, D) live dimensions.
        near: share of what a tiny network gains from the nearer caches.
        kept: share of the constants that are in the last cache.
    """

    seconds: FloatArray
    fixed_s: FloatArray
    spread: FloatArray
    dims: FloatArray
    near: float = 0.0
    kept: float = 0.0


class Predictor:
    """A network's kernels on a calibrated device.

    Args:
        kernels_as: by dtype, the one whose kernels stand for its own where those are unknown.
    """

    def __init__(
        self,
        costs: CostModel,
        efficiency: Efficiency,
        kernels_as: Callable[[str], str] = lambda dtype: dtype,
    ) -> None:
        assert costs.kernels is not None
        self.costs = costs
        own = costs.kernels.dtypes
        charged = {dtype: kernels_as(dtype) for dtype in own}
        self.replaced = {dtype: other for dtype, other in charged.items() if dtype != other}
        self.kernels = kernels = replace(costs.kernels, dtypes=tuple([charged[d] for d in own]))
        self.efficiency = efficiency
        self.assigned = assign(kernels, efficiency)
        self._full_in, self._full_out, _ = live_counts(costs, costs.sizes)
        self.per_element = np.array(
            [
                efficiency.merged.get(f"{dtype} {merges}", 0.0) if merges else 0.0
                for dtype, merges in zip(kernels.dtypes, kernels.merges, strict=True)
            ]
        )
        slow = np.array([efficiency.slow_runs.get(cause, 0.0) for cause in CAUSES])
        self.per_element += kernels.slow_runs @ slow
        self._itemsizes = np.array([BYTES_PER_ELEMENT[dtype] for dtype in kernels.dtypes])
        nearby = np.zeros(len(kernels.layers))
        self.measured_cached = np.zeros(len(kernels.layers), dtype=bool)
        self.measured_part = np.ones(len(kernels.layers))
        for group in self.assigned:
            if group.model is not None:
                rows = list(group.kernels)
                self.measured_cached[rows] = group.model.measured_cached
                nearby[rows] = group.model.nearby_s_per_byte
                self.measured_part[rows] = group.model.measured_part(kernels.dims[rows])

        # (P,) seconds for each byte that lies in the core's own cache, at the full structure
        moved = moved_bytes(kernels.dims, 1.0) * self._itemsizes
        in_turn = np.argsort(kernels.layers, kind="stable")  # reorders stand behind all layers
        nearby[in_turn] *= efficiency.near_places(moved[in_turn])
        self.nearby_s_per_byte = nearby
        self._core_bytes = efficiency.core_bytes
        self.in_rows = np.array(
            [f.startswith(_IN_ROWS) and not f.endswith(LINE) for f in kernels.families], dtype=bool
        )
        # the call is charged to the first kernel
        self.call_s = np.zeros(len(kernels.layers))
        if len(kernels.layers):
            self.call_s[int(np.argmin(kernels.layers))] = efficiency.call_s
        # (P,) the part of their seconds that passes before they start, while others may run
        self.launch_s = np.zeros(len(kernels.layers))
        for group in self.assigned if efficiency.launches_ahead else ():
            model = group.model or self._addition(group)
            self.launch_s[list(group.kernels)] = 0.0 if model is None else model.fixed_s

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Which kernels are charged as something else, in words."""
        said = [
            f"{dtype} kernels were not measured on this device; charged like {other} ones"
            for dtype, other in self.replaced.items()
        ]
        for group in self.assigned:
            if group.exact:
                continue
            families = sorted({self.kernels.families[k] for k in group.kernels})
            charged = (
                f"like {group.name}" if group.name else "the roofline, launched like an addition"
            )
            said.append(
                f"kernels of {', '.join(families)} were not measured on this device; "
                f"charged {charged}"
            )
        return tuple(said)

    def at(self, counts: FloatArray) -> Structure:
        """The kernels at (G,) live channels."""
        n_in, n_out, alive = live_counts(self.costs, counts)
        alone = self._at(n_in, n_out, alive)
        return self._queued(alone, alive) if self.efficiency.launches_ahead else alone

    def _queued(self, alone: Structure, alive: FloatArray) -> Structure:
        """Kernels that start when they are launched and the one before them has ended."""
        live = alive[self.kernels.layers]
        launches = self.launch_s * self.kernels.times * live + self.call_s * live
        launches = np.minimum(launches, alone.seconds)
        work = alone.seconds - launches
        ended = np.cumsum(work)  # if none had to wait
        late = np.maximum.accumulate(np.cumsum(launches) - (ended - work))
        seconds = np.diff(ended + late, prepend=0.0)
        return Structure(seconds, np.maximum(seconds - work, 0.0), alone.spread, alone.dims)

    def slopes(self, counts: FloatArray, step: float, of_inputs: bool) -> FloatArray:
        """(L,) seconds per live input (or output) channel, down to a lower multiple of a step.

        The next one below; where the layer is no faster there, the first of the following ones at
        which it is: pruning goes on past a step that pays nothing. Never negative.
        """
        n_in, n_out, alive = live_counts(self.costs, counts)
        live = n_in if of_inputs else n_out
        now = self._at(n_in, n_out, alive)
        caches = now.kept, now.near
        found = np.zeros(len(live))
        for steps in range(1, _STEPS_DOWN + 1):
            lower = np.maximum((np.ceil(live / step) - steps) * step, 0.0)
            lower = np.where(lower > 0, lower, np.minimum(live, 1.0))
            less = (lower, n_out) if of_inputs else (n_in, lower)
            by_layer = np.zeros(len(live))
            saved = now.seconds - self._at(less[0], less[1], alive, caches).seconds
            np.add.at(by_layer, self.kernels.layers, saved)
            gap = live - lower
            secant = np.where(gap > 0, np.maximum(by_layer, 0.0) / np.maximum(gap, 1.0), 0.0)
            found = np.where(found > 0, found, secant)
            if found.all():
                break
        return found

    def bandwidths(self, working_set: FloatArray) -> FloatArray:
        """(L,) bytes per second of the smallest memory that holds (L,) bytes."""
        sizes = np.array([size for size, _ in self.efficiency.levels])
        rates = np.array([rate for _, rate in self.efficiency.levels])
        level = np.minimum(np.searchsorted(sizes, working_set), len(sizes) - 1)
        found: FloatArray = rates[level]
        return found

    def _at(
        self,
        n_in: FloatArray,
        n_out: FloatArray,
        alive: FloatArray,
        caches: tuple[float, float] | None = None,
    ) -> Structure:
        """The kernels at (L,) live channels.

        Args:
            caches: `kept` and `near` of a structure; None: of this one.
        """
        kernels = self.kernels
        dims = self._dims(n_in, n_out)
        seconds = np.zeros(len(kernels.layers))
        fixed, spread, busy_s, fetched_s = (np.zeros_like(seconds) for _ in range(4))
        constants = self._constant_bytes(dims)
        near_part = np.ones_like(seconds)
        for group in self.assigned:
            rows = np.array(group.kernels, dtype=np.int64)
            if group.model is None:
                moved = moved_bytes(dims[rows], self._itemsize(group))
                seconds[rows] = self.unmeasured_s(group, moved, dims[rows, Dim.WORK])
                spread[rows] = _UNKNOWN_SPREAD
            else:
                seconds[rows] = self._like(group, dims[rows])
                fixed[rows] = group.model.fixed_s
                if not self.efficiency.launches_ahead:
                    fetched_s[rows] = group.model.fetched_s(constants[rows], dims[rows, Dim.ROWS])
                moved = moved_bytes(dims[rows], self._itemsize(group))
                done = group.model.done(dims[rows])
                busy_s[rows] = group.model.busy_s(moved, done)
                near_part[rows] = np.where(
                    self.in_rows[rows], 1.0, self.near_part(group.model, moved, done)
                )
                spread[rows] = group.model.spread * (1.0 if group.exact else _ALIKE_SPREAD)
        seconds += self.per_element * dims[:, Dim.OUT_ELEMENTS] + self.efficiency.dispatch_s
        moved = moved_bytes(dims, 1.0) * self._itemsizes
        seconds = self.nearby(seconds, self.nearby_s_per_byte, moved)
        among_s = np.where(self.in_rows, self.among_others_s(seconds, busy_s), 0.0)
        live = alive[kernels.layers]
        runs = kernels.times * live
        called = self.call_s * live
        cached = seconds - np.where(self.measured_cached, 0.0, fetched_s)
        saved_s = (1.0 - near_part) * cached
        if caches is None:
            in_all = float((cached * runs + called).sum()), float((fetched_s * runs).sum())
            caches = self._caches(dims, live, *in_all)
        kept, near = caches
        seconds = cached + (1.0 - kept) * fetched_s - near * saved_s - kept * among_s
        fixed = np.minimum(fixed + self.efficiency.dispatch_s, 0.5 * seconds)
        return Structure(seconds * runs + called, fixed * runs + called, spread, dims, near, kept)

    def _caches(
        self, dims: FloatArray, live: FloatArray, cached_s: float, fetched_s: float
    ) -> tuple[float, float]:
        """(`kept`, `near`) of a structure with (P, D) dimensions.

        None where launches run ahead: what is saved while the next launch is awaited ends nothing.

        Args:
            live: (P,) whether the kernels' layers are alive.
            cached_s: that the network takes with all constants in the last cache.
            fetched_s: longer that it takes with all of them in memory.
        """
        if self.efficiency.launches_ahead:
            return 0.0, 0.0
        constants = self._constant_bytes(dims) * live
        activations = moved_bytes(dims, 1.0) * self._itemsizes * live - constants
        total = (constants * self.kernels.times).sum()
        return (
            float(self.efficiency.kept_share(total, cached_s, fetched_s)),
            float(self.efficiency.near_share(total, activations.max(initial=0.0))),
        )

    def near_part(self, model: FamilyModel, moved: FloatArray, done: FloatArray) -> FloatArray:
        """(...) part of a family's seconds that is left in the core's own cache."""
        efficiency = self.efficiency
        return model.near_part(moved, done, efficiency.core_bytes_per_s, efficiency.near_fixed)

    def nearby(
        self, seconds: FloatArray, each_s: FloatArray | float, moved: FloatArray
    ) -> FloatArray:
        """(...) seconds of kernels of (...) seconds whose outputs lie nearer than samples' did.

        Args:
            each_s: (...) seconds that each byte saves.
            moved: (...) bytes that they move.
        """
        saved = each_s * filling(moved, self._core_bytes)
        return np.maximum(seconds - saved, _LEAST_SHARE * seconds)

    def among_others_s(self, seconds: FloatArray, busy_s: FloatArray | float) -> FloatArray:
        """(...) seconds that convolutions of (...) seconds save among others like them.

        In a network whose constants stay in the last cache; in others they wait as samples do.

        Args:
            busy_s: (...) that no cache saves.
        """
        left = np.maximum(_LEAST_SHARE * seconds, busy_s)
        less: FloatArray = np.clip(seconds - left, 0.0, self.efficiency.alone_s)
        return less

    def _constant_bytes(self, dims: FloatArray) -> FloatArray:
        """(P,) bytes of constants that each kernel reads at (P, D) dimensions."""
        size: FloatArray = self._itemsizes * dims[..., Dim.CONSTANT_ELEMENTS]
        return size

    def _dims(self, n_in: FloatArray, n_out: FloatArray) -> FloatArray:
        """(P, D) live dimensions at (L,) live channels."""
        kernels = self.kernels
        reads = _share(n_in, self._full_in)[kernels.layers]
        writes = _share(n_out, self._full_out)[kernels.layers]
        factors = np.ones((len(Follows), len(reads)))
        factors[Follows.READS], factors[Follows.WRITES] = reads, writes
        factors[Follows.BOTH] = reads * writes
        dims: FloatArray = kernels.dims * factors[kernels.follows, np.arange(len(reads))[:, None]]
        return np.round(dims, 6)

    def _itemsize(self, group: Assigned) -> float:
        return BYTES_PER_ELEMENT[self.kernels.dtypes[group.kernels[0]]]

    def _like(self, group: Assigned, dims: FloatArray) -> FloatArray:
        """Seconds by the group's model; one that stands in for another moves all bytes at least."""
        assert group.model is not None
        itemsize = self._itemsize(group)
        seconds = group.model.seconds(dims, itemsize, self.measured_part[list(group.kernels)])
        if not group.exact:
            seconds = np.maximum(seconds, self.least_s(moved_bytes(dims, itemsize)))
        return seconds

    def least_s(self, moved: FloatArray) -> FloatArray:
        """(...) seconds in which the smallest memory that holds them moves (...) bytes."""
        least: FloatArray = moved / self.bandwidths(moved)
        return least

    def _addition(self, group: Assigned) -> FamilyModel | None:
        """The model of additions in the group's dtype, or of an activation."""
        dtype = self.kernels.dtypes[group.kernels[0]]
        models = self.efficiency.families
        return next((models[n] for n in (f"{dtype} Add", f"{dtype} Relu") if n in models), None)

    def unmeasured_s(self, group: Assigned, moved: FloatArray, work: FloatArray) -> FloatArray:
        """(...) seconds of kernels that no family describes, at (...) bytes and FLOPs.

        The roofline of the best rates measured, with the fixed time of an addition.
        """
        dtype = self.kernels.dtypes[group.kernels[0]]
        models = self.efficiency.families
        like = self._addition(group)
        bandwidth = self.efficiency.levels[-1][1] if like is None else like.bytes_per_s
        rates = [
            model.flops_per_s
            for name, model in models.items()
            if model.flops_per_s is not None and name.startswith(f"{dtype} ")
        ]
        seconds = moved / bandwidth
        if rates:
            seconds = np.maximum(seconds, work / max(rates))
        total: FloatArray = seconds + (0.0 if like is None else like.fixed_s)
        return total


def _share(live: FloatArray, full: FloatArray) -> FloatArray:
    """Live channels as a share of all; 1 where there are none."""
    share: FloatArray = np.where(full > 0, live / np.maximum(full, 1e-9), 1.0)
    return share


def interval_s(
    predictor: Predictor, structure: Structure, level_deviations: float = 1.645
) -> tuple[float, float] | None:
    """90 % interval of a network's latency; None where too much of it was never measured.

    Kernels of one shape err alike; those of different shapes independently; and all of a network
    together by what the efficiency model calls its shared spread, a tiny one by more.
    """
    total = float(structure.seconds.sum())
    if total <= 0:
        return 0.0, 0.0
    unknown = [k for group in predictor.assigned if group.model is None for k in group.kernels]
    if float(structure.seconds[unknown].sum()) > _MOST_UNKNOWN * total:
        return None
    alike: dict[tuple[str, bytes], float] = {}
    for family, dims, seconds, spread in zip(
        predictor.kernels.families, structure.dims, structure.seconds, structure.spread, strict=True
    ):
        key = family, dims.tobytes()
        alike[key] = alike.get(key, 0.0) + seconds * spread
    own = sum(value * value for value in alike.values()) / total**2
    shared = predictor.efficiency.shared_spread**2 + (structure.near * _NEAR_SPREAD) ** 2
    if predictor.replaced:
        shared += _OTHER_DTYPE_SPREAD**2
    deviation = level_deviations * float(np.sqrt(own + shared))
    return total * float(np.exp(-deviation)), total * float(np.exp(deviation))
