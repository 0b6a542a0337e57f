"""Seconds of many sub-networks of a network on a calibrated device.

Every feature of a family depends on the layer's input channels, on its output channels or on
neither, so a kernel function is a product of three factors: for ten thousand sub-networks each
factor is evaluated once per channel count that occurs, not once per sub-network. Layers that read
or write the same channels share those counts, and blocks that repeat share whole tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_service.core.channels import Share
from latency_service.core.costs import FloatArray
from latency_service.core.family import MOVED
from latency_service.core.geometry import Dim, Follows
from latency_service.core.predict import Assigned, Predictor
from latency_service.core.units import BYTES_PER_ELEMENT

Places = npt.NDArray[np.intp]
Table = npt.NDArray[np.floating[Any]]

# A table of corrections may have so many entries for each sub-network that looks one up.
_ENTRIES_PER_ROW = 32
# Rows whose factors are multiplied one by one at a time: they stay in the processor's cache.
_ROWS = 512
# So few structures are no trouble in double precision: they agree with one costed on its own.
_FEW = 256
# Support points are left out while they change the logarithm of a kernel's time by less in all.
_NEGLIGIBLE = {np.float32: 1e-8, np.float64: 1e-13}


def totals_s(predictor: Predictor, counts: FloatArray) -> FloatArray:
    """(N,) seconds of the whole network at (N, G) live channels."""
    sweep = _Sweep(predictor, counts)
    if not len(counts):
        return sweep.total_s
    found = [(position, group) for group in predictor.assigned for position in group.kernels]
    for position, group in sorted(found, key=lambda row: row[0]):
        sweep.add(group, position)
    if predictor.efficiency.launches_ahead:
        return sweep.total_s
    in_all = sweep.constants, sweep.total_s, sweep.fetched_s
    kept = predictor.efficiency.kept_share(*in_all)
    near = predictor.efficiency.near_share(sweep.constants, sweep.most)
    waits_s = (1.0 - kept) * sweep.fetched_s
    return sweep.total_s + waits_s - near * sweep.near_s - kept * sweep.among_s


@dataclass(frozen=True, slots=True)
class _Widths:
    """Live channels that some layers read, or write, over all sub-networks.

    Attributes:
        shares: (V,) those that occur, as shares of all.
        places: (N,) which of them each sub-network has.
        of_rows: (N,) the share that each sub-network has.
        alive: (N,) whether there are any; where layers hold no channels, always.
        key: equal for equal `shares`.
    """

    shares: FloatArray
    places: Places
    of_rows: FloatArray
    alive: npt.NDArray[np.bool_]
    key: object


class _Sweep:
    """Adds kernel by kernel.

    Attributes:
        total_s: (N,) seconds until the last kernel so far ends, with all constants in the last
            cache.
        launched_s: (N,) seconds until it has been launched.
        constants: (N,) bytes of constants that the network reads.
        fetched_s: (N,) seconds longer that it takes with all constants in memory.
        most: (N,) bytes of activations of the kernel with most of them.
        near_s: (N,) seconds that it would save with all of them in the nearer caches.
        among_s: (N,) seconds that its convolutions save with all constants in the last cache.
    """

    def __init__(self, predictor: Predictor, counts: FloatArray) -> None:
        self.predictor = predictor
        self.counts = counts
        self.total_s, self.launched_s, self.constants = np.zeros((3, len(counts)))
        self.fetched_s, self.most, self.near_s, self.among_s = np.zeros((4, len(counts)))
        self._widths: dict[Share, _Widths] = {}
        self._factors: dict[object, _Factors] = {}

    def add(self, group: Assigned, position: int) -> None:
        """Charge one kernel."""
        predictor, kernels = self.predictor, self.predictor.kernels
        layer = int(kernels.layers[position])
        read = self._of(predictor.costs.reads[layer])
        written = self._of(predictor.costs.writes[layer])
        alive = read.alive & written.alive
        runs = alive * kernels.times[position]
        kernel = _Kernel(predictor, group, position)
        factors = self._factors_of(kernel, read, written)
        follows = kernels.follows[position]
        reads = _follow(follows, Follows.READS)
        writes = _follow(follows, Follows.WRITES)
        entries = (len(read.shares) if reads else 1) * (len(written.shares) if writes else 1)
        if entries <= len(runs):
            ins = read.shares[:, None] if reads else np.ones((1, 1))
            outs = written.shares if writes else np.ones(1)
            table, saved = kernel.seconds(ins, outs, None if factors is None else factors.table())
            at = (read.places if reads else 0, written.places if writes else 0)
            # what depends on no channels is one number
            whole = (ins.shape[0], outs.shape[0])
            seconds = np.broadcast_to(table, whole)[at]
            among_s = saved if np.isscalar(saved) else np.broadcast_to(saved, whole)[at]
        else:
            correction = None
            if factors is not None:
                small = factors.entries <= _ENTRIES_PER_ROW * len(runs)
                find = factors.looked_up if small else factors.multiplied
                correction = find(read.places, written.places)
            seconds, among_s = kernel.seconds(read.of_rows, written.of_rows, correction)
        if predictor.in_rows[position]:
            self.among_s += among_s * runs
        constants: FloatArray | float = 0.0
        if kernel.has_constants:
            constants = kernel.constant_bytes(read.of_rows, written.of_rows)
            self.constants += constants * runs
            fetched_s = kernel.fetched_s(constants, read.of_rows, written.of_rows)
            self.fetched_s += fetched_s * runs
            if not predictor.measured_cached[position]:
                seconds = seconds - fetched_s
        self._run(kernel, seconds, runs, predictor.call_s[position] * alive)
        if predictor.efficiency.near_bytes:
            moved = kernel.moved_bytes(read.of_rows, written.of_rows)
            activations = moved - constants
            np.maximum(self.most, activations * alive, out=self.most)
            part = kernel.near_part(read.of_rows, written.of_rows)
            self.near_s += (1.0 - part) * seconds * runs

    def _run(
        self, kernel: _Kernel, seconds: FloatArray, runs: FloatArray, called_s: FloatArray
    ) -> None:
        if not kernel.launch_s:
            self.total_s += seconds * runs + called_s
            return
        launch = np.minimum(kernel.launch_s, seconds)
        self.launched_s += launch * runs + called_s
        np.maximum(self.total_s, self.launched_s, out=self.total_s)
        self.total_s += (seconds - launch) * runs

    def _of(self, share: Share) -> _Widths:
        found = self._widths.get(share)
        if found is None:
            found = self._widths[share] = self._count(share)
        return found

    def _count(self, share: Share) -> _Widths:
        rows = len(self.counts)
        if not share:
            one, all_rows = np.ones(1), np.ones(rows)
            return _Widths(one, np.zeros(rows, np.intp), all_rows, all_rows > 0, 1)
        live = np.zeros(rows)
        full = 0.0
        for group, times in share:
            live += self.counts[:, group] * times
            full += self.predictor.costs.groups[group].size * times
        whole = live.astype(np.intp)
        key: object = share
        if (whole != live).any() or full > rows:
            values, places = np.unique(live, return_inverse=True)
        else:
            # every count occurs, or nearly: no need to sort
            values, places, key = np.arange(int(full) + 1.0), whole, full
        return _Widths(values / full, places, live / full, live > 0, key)

    def _factors_of(self, kernel: _Kernel, read: _Widths, written: _Widths) -> _Factors | None:
        if kernel.model is None or not (kernel.model.features and kernel.model.weights):
            return None
        key = (*kernel.key, read.key, written.key)
        found = self._factors.get(key)
        if found is None:
            precise = np.float64 if len(self.counts) <= _FEW else np.float32
            found = self._factors[key] = _Factors(kernel, read.shares, written.shares, precise)
        return found


class _Kernel:
    """One kernel as a function of the shares of its channels that are alive."""

    def __init__(self, predictor: Predictor, group: Assigned, position: int) -> None:
        kernels = predictor.kernels
        self.predictor, self.group, self.model = predictor, group, group.model
        self.position = position
        self.dims, self.follows = kernels.dims[position], kernels.follows[position]
        self.itemsize = BYTES_PER_ELEMENT[kernels.dtypes[position]]
        self.launch_s = float(predictor.launch_s[position])
        self.key = group.name, self.dims.tobytes(), self.follows.tobytes()

    @property
    def has_constants(self) -> bool:
        """Whether it reads any."""
        return bool(self.dims[Dim.CONSTANT_ELEMENTS])

    def constant_bytes(self, reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) bytes of constants at (...) shares."""
        return self.itemsize * self._sum((Dim.CONSTANT_ELEMENTS,), reads, writes)

    def fetched_s(
        self, constants: FloatArray, reads: FloatArray, writes: FloatArray
    ) -> FloatArray | float:
        """(...) seconds longer with (...) bytes of constants in memory, at (...) shares."""
        if self.model is None or self.predictor.efficiency.launches_ahead:
            return 0.0
        return self.model.fetched_s(constants, self._sum((Dim.ROWS,), reads, writes))

    def moved_bytes(self, reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) bytes read and written at (...) shares."""
        return self.itemsize * self._sum(MOVED, reads, writes)

    def seconds(
        self, reads: FloatArray, writes: FloatArray, correction: Table | None
    ) -> tuple[FloatArray, FloatArray | float]:
        """(...) seconds at (...) shares, of one run, and how many of them it saves among others."""
        predictor = self.predictor
        moved = self.moved_bytes(reads, writes)
        done = self._done(reads, writes)
        if self.model is None:
            value = predictor.unmeasured_s(self.group, moved, done)
        else:
            logarithm = self.model.mean if correction is None else correction + self.model.mean
            value = self._base_s(moved, done) * np.exp(logarithm)
        if not self.group.exact:
            value = np.maximum(value, predictor.least_s(moved))
        per_element = predictor.per_element[self.position]
        if per_element:
            value = value + per_element * self._sum((Dim.OUT_ELEMENTS,), reads, writes)
        value = value + predictor.efficiency.dispatch_s
        nearby_s = predictor.nearby_s_per_byte[self.position]
        if nearby_s:
            value = predictor.nearby(value, nearby_s, moved)
        if predictor.in_rows[self.position] and predictor.efficiency.alone_s:
            return value, predictor.among_others_s(value, self.busy_s(reads, writes))
        return value, 0.0

    def _base_s(self, moved: FloatArray, done: FloatArray) -> FloatArray:
        assert self.model is not None
        if self.model.parts:
            # recurrent layers have no channels to prune
            return np.full(moved.shape, float(self.model.base_s(self.dims, self.itemsize)))
        return self.model.roofline_s(moved, done)

    def features(self, shares: FloatArray, of_inputs: bool) -> FloatArray:
        """(V, F) scaled features at (V,) shares of its inputs' channels alive, or its outputs'."""
        assert self.model is not None
        one = np.ones(1)
        reads, writes = (shares, one) if of_inputs else (one, shares)
        columns = [self._sum((dim,), reads, writes) for dim in Dim]
        dims = np.round(np.stack(np.broadcast_arrays(*columns), axis=-1), 6)
        return self.model.features_at(dims, float(self.predictor.measured_part[self.position]))

    def busy_s(self, reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) seconds that no cache saves at (...) shares; 0 without a family."""
        if self.model is None:
            return np.zeros(1)
        return self.model.busy_s(self.moved_bytes(reads, writes), self._done(reads, writes))

    def near_part(self, reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) part of its seconds that is left in the core's own cache at (...) shares."""
        if self.model is None or self.predictor.in_rows[self.position]:
            return np.ones(1)
        moved, done = self.moved_bytes(reads, writes), self._done(reads, writes)
        return self.predictor.near_part(self.model, moved, done)

    def _done(self, reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) FLOPs that it does at (...) shares."""
        model = self.model
        work = self._sum((Dim.WORK,), reads, writes)
        if model is None:
            return work
        if model.panel:
            numbers = self._sum((Dim.DEPTH,), reads, writes) * float(self.dims[Dim.ROWS])
            return model.in_panels(work, numbers, float(self.dims[Dim.INNER]))
        if not model.block:
            return work
        groups, columns, depth = (
            self._sum((dim,), reads, writes) for dim in (Dim.BATCH, Dim.COLS, Dim.DEPTH)
        )
        inputs, inside = depth / self.dims[Dim.TAPS], float(self.dims[Dim.INSIDE])
        return work * model.on_blocks(groups, inputs, groups * columns, inside)

    def _sum(self, which: tuple[Dim, ...], reads: FloatArray, writes: FloatArray) -> FloatArray:
        """(...) the sum of some dimensions at (...) shares."""
        amounts = [0.0] * len(Follows)
        for dim in which:
            amounts[self.follows[dim]] += float(self.dims[dim])
        total: FloatArray = np.full(1, amounts[Follows.NOTHING])
        if amounts[Follows.BOTH]:
            pairs = amounts[Follows.BOTH] * writes
            total = total + (pairs + amounts[Follows.READS]) * reads
        elif amounts[Follows.READS]:
            total = total + amounts[Follows.READS] * reads
        if amounts[Follows.WRITES]:
            total = total + amounts[Follows.WRITES] * writes
        return total


class _Factors:
    """Corrections of one kernel, as factors of the channels that it reads and that it writes.

    Attributes:
        entries: of the table of all pairs.
    """

    def __init__(
        self, kernel: _Kernel, ins: FloatArray, outs: FloatArray, kind: type[np.floating[Any]]
    ) -> None:
        model, follows = kernel.model, kernel.follows
        assert model is not None
        one = np.ones(1)
        by_in = kernel.features(ins if _follow(follows, Follows.READS) else one, True)
        by_out = kernel.features(outs if _follow(follows, Follows.WRITES) else one, False)
        base = kernel.features(one, True)[0]
        moves_in = (np.abs(by_in - base) > 1e-12).any(axis=0)
        moves_out = (np.abs(by_out - base) > 1e-12).any(axis=0) & ~moves_in
        still = ~(moves_in | moves_out)
        points = np.array(model.points)
        gap = base[still] - points[:, still]
        weights = np.array(model.weights) * np.exp(-0.5 * (gap * gap).sum(axis=1))
        least = _NEGLIGIBLE[kind]
        heavy = _heavy(np.abs(weights), least)
        points, weights = points[heavy], weights[heavy]
        left = _factor(by_in[:, moves_in], points[:, moves_in], kind)
        right = _factor(by_out[:, moves_out], points[:, moves_out], kind)
        heavy = _heavy(np.abs(weights) * left.max(axis=0) * right.max(axis=0), least)
        self._left = np.ascontiguousarray(left[:, heavy] * weights[heavy].astype(kind))
        self._right = np.ascontiguousarray(right[:, heavy])
        self._table: Table | None = None
        self.entries = len(left) * len(right)

    def table(self) -> Table:
        """(I, O) corrections, without the mean; a single row or column where they stay."""
        if self._table is None:
            self._table = self._left @ self._right.T
        return self._table

    def looked_up(self, ins: Places, outs: Places) -> Table:
        """(N,) corrections from the table."""
        found: Table = self.table()[self._at(ins, outs)]
        return found

    def multiplied(self, ins: Places, outs: Places) -> Table:
        """(N,) corrections without a table."""
        found: Table = np.empty(len(ins), dtype=self._left.dtype)
        for start in range(0, len(ins), _ROWS):
            part = slice(start, start + _ROWS)
            at_in, at_out = self._at(ins[part], outs[part])
            found[part] = np.einsum("nm,nm->n", self._left[at_in], self._right[at_out])
        return found

    def _at(self, ins: Places, outs: Places) -> tuple[Places, Places]:
        nothing = np.zeros(len(ins), dtype=np.intp)
        return (
            ins if len(self._left) > 1 else nothing,
            outs if len(self._right) > 1 else nothing,
        )


def _follow(follows: npt.NDArray[np.int64], what: Follows) -> bool:
    rules = follows.tolist()
    return what in rules or Follows.BOTH in rules


def _heavy(most: FloatArray, least: float) -> Places:
    """Positions of the points that matter, of those that change a logarithm by `most`."""
    order = np.argsort(most)
    light = int(np.searchsorted(np.cumsum(most[order]), least))
    return np.sort(order[light:])


def _factor(x: FloatArray, points: FloatArray, kind: type[np.floating[Any]]) -> Table:
    """(U, M) exp(-|x - point|^2 / 2); single precision is enough for corrections of per cents."""
    if not x.shape[1]:
        return np.ones((len(x), len(points)), dtype=kind)
    distance = (x * x).sum(axis=1)[:, None] + (points * points).sum(axis=1) - 2.0 * x @ points.T
    factor: Table = np.exp(-0.5 * np.maximum(distance, 0.0).astype(kind))
    return factor
