"""Which channels of a graph live and die together.

A tensor's channels travel through the graph as an integer array of channel ids: concat is
np.concatenate, slice is indexing, flatten is a broadcast, add is a tie. Seven rules cover the
operators: new, keep, tie, concat, take, spread, freeze. Ids that are tied are one *unit*; units
that every tensor holds equally often form one group. See docs/cost-model.md#channel-groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from latency_service.core.graph import Parameter, made
from latency_service.core.node import IdArray, Node

# An id array larger than this is tied down to one axis rather than spelled out.
MOST_IDS = 1 << 20

# Real networks have some millions at most; what claims more is a mistake or an attack.
MOST_CHANNELS = 1 << 24


class Place(NamedTuple):
    """Where ids sit in something that has to be cut when they die.

    Attributes:
        role: "weight", "gamma", "input" or "output".
        axis: the axis whose position p holds id p of `ids`, read in order.
        along: where the ids vary along several axes, the one that is meant: the place counts if in
            the end all ids at a position of it are one channel.
    """

    node: Node
    role: str
    axis: int
    ids: IdArray
    along: int | None = None


@dataclass(slots=True)
class Tracker:
    """Hands out channel ids and remembers which are tied and which are frozen.

    Tying or freezing more than necessary is always safe: it only forbids prunings.
    """

    count: int = 0
    ties: list[tuple[IdArray, IdArray]] = field(default_factory=list)
    frozen: list[IdArray] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    _parameters: dict[str, dict[int, IdArray]] = field(default_factory=dict)

    # --- rules ---------------------------------------------------------------------------------

    def new(self, amount: int, rank: int, axis: int) -> IdArray:
        """Fresh ids along one axis.

        Raises:
            ValueError: if the graph had more channels than can be followed.
        """
        if self.count + amount > MOST_CHANNELS:
            raise ValueError(f"the graph has more than {MOST_CHANNELS} channels in all")
        ids = np.arange(self.count, self.count + amount, dtype=np.int64)
        self.count += amount
        shape = [1] * rank
        shape[axis] = amount
        return ids.reshape(shape)

    def tie(self, left: IdArray, right: IdArray) -> None:
        """Let ids at the same position live and die together; the arrays broadcast."""
        if left is not right:
            self.ties.append((left, right))

    def freeze(self, ids: IdArray | None) -> None:
        """Never prune these."""
        if ids is not None:
            self.frozen.append(ids)

    def collapse(self, ids: IdArray, axes: Iterable[int]) -> IdArray:
        """Tie ids along every axis but `axes`, and keep one of each."""
        kept = tuple(axes)
        if len(kept) == 1 and ids.shape[kept[0]] == ids.size:
            return ids
        for axis, extent in enumerate(ids.shape):
            if extent > 1 and axis not in kept:
                first = ids.take([0], axis)
                self.tie(first, ids)
                ids = first
        return ids

    def along(self, node: Node, position: int, axis: int) -> IdArray:
        """The ids of an input along one axis: what a contraction over that axis reads.

        Channels on other axes are tied into it; a tensor without channels gets frozen ones.
        """
        tensor = node.input(position)
        extent = tensor.shape[axis]
        if not extent:
            node.fail("inputs", f"{tensor.name!r} is empty: {list(tensor.shape)}")
        ids = tensor.ids
        if ids is not None:
            ids = self.collapse(ids, (axis,))
            if ids.shape[axis] != extent:
                self.freeze(ids)
                ids = None
        if ids is None:
            ids = self.new(extent, len(tensor.shape), axis)
            self.freeze(ids)
            if tensor.ids is None:
                tensor.ids = ids
        node.in_ids[position] = ids
        return ids

    def freeze_parameter(self, name: str) -> None:
        """Freeze every channel of a parameter that something opaque reads too."""
        for ids in self._parameters.get(name, {}).values():
            self.freeze(ids)

    def opaque(self, node: Node) -> None:
        """Freeze all that a node reads; what it writes has no channels."""
        for tensor in node.inputs:
            if tensor is not None:
                self.freeze(tensor.ids)

    # --- what must be cut ----------------------------------------------------------------------

    def place(
        self, node: Node, role: str, axis: int, ids: IdArray, along: int | None = None
    ) -> None:
        """Record that position p of `axis` holds id p of `ids`, see `Place`."""
        self.places.append(made(Place, (node, role, axis, ids, along)))

    def learned(self, node: Node, parameter: Parameter | None, axes: dict[int, IdArray]) -> None:
        """Record the channels of a parameter, tying them where its id was seen before.

        Args:
            axes: per axis of the parameter, the ids along it.
        """
        if parameter is None:
            return
        role = "gamma" if parameter.role == "gamma" else "weight"
        for axis, ids in axes.items():
            self.place(node, role, axis, ids)
        if parameter.id is None:
            return
        before = self._parameters.get(parameter.id)
        if before is None:
            self._parameters[parameter.id] = dict(axes)
            return
        # one table read as (V, D) here and as (D, V) there is the same parameter
        same_way = all(ids.size == before[a].size for a, ids in axes.items() if a in before)
        for axis, ids in axes.items():
            own = axis if same_way or len(parameter.shape) != 2 else 1 - axis
            if own not in before:
                before[own] = ids
            elif before[own].size == ids.size:
                self.tie(before[own].reshape(-1), ids.reshape(-1))
            else:
                self.freeze(before[own])
                self.freeze(ids)


# --- from ids to groups ---------------------------------------------------------------------------


def roots(count: int, ties: list[tuple[IdArray, IdArray]]) -> IdArray:
    """(count,) smallest id that each id is tied to, directly or through others."""
    parent = np.arange(count, dtype=np.int64)
    if not ties:
        return parent
    lefts, rights = [], []
    for left, right in ties:
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        lefts.append(left.reshape(-1))
        rights.append(right.reshape(-1))
    left, right = np.concatenate(lefts), np.concatenate(rights)
    # `take`, not brackets: on these arrays it needs two thirds of the time
    while left.size:
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while True:
            above = parent.take(parent)
            if (above == parent).all():
                break
            parent = above
        left, right = parent.take(left), parent.take(right)
        apart = np.flatnonzero(left != right)
        left, right = left.take(apart), right.take(apart)
    return parent


@lru_cache(maxsize=4096)
def scramble(number: int) -> int:
    """A 64-bit number that looks random (the finaliser of SplitMix64, Steele et al., 2014)."""
    mask = (1 << 64) - 1
    number = (number + 1) * 0x9E3779B97F4A7C15 & mask
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & mask
    number = (number ^ number >> 27) * 0x94D049BB133111EB & mask
    return number ^ number >> 31


@dataclass(frozen=True, slots=True)
class Partition:
    """The channel groups of a graph.

    Attributes:
        group_of: (ids,) group of each id.
        index_of: (ids,) which channel of that group the id belongs to.
        sizes: channels per group.
        prunable: per group, whether it may lose channels.
    """

    group_of: IdArray
    index_of: IdArray
    sizes: tuple[int, ...]
    prunable: tuple[bool, ...]


def partition(tracker: Tracker, arrays: list[IdArray]) -> Partition:
    """Sort all ids into groups.

    Args:
        arrays: the distinct id arrays that tensors and operators hold.

    Two units are in one group if every array holds them equally often. Each array adds a random
    64-bit number per occurrence, so equal sums mean equal occurrences (but for 1 in 2**64).
    """
    count = tracker.count
    root = roots(count, tracker.ties)
    is_unit = root == np.arange(count)
    numbers = is_unit.cumsum()
    unit_of = numbers.take(root)
    unit_of -= 1
    units = int(numbers[-1]) if count else 0
    signature = np.zeros(units, dtype=np.uint64)
    if arrays:
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        weights = np.repeat(
            np.array([scramble(n) for n in range(len(arrays))], dtype=np.uint64),
            [array.size for array in arrays],
        )
        np.add.at(signature, unit_of.take(flat), weights)
    unseen = signature == 0
    frozen = np.zeros(units, dtype=bool)
    for ids in tracker.frozen:
        frozen[unit_of[ids.reshape(-1)]] = True
    # frozen units stay apart from those that may die
    signature[frozen] ^= np.uint64(scramble(1 << 40))
    # units come in runs of one signature: a few hundred runs stand for tens of thousands of units
    starts = np.concatenate([[0], np.flatnonzero(signature[1:] != signature[:-1]) + 1])[:units]
    lengths = np.diff(starts, append=units)
    _, first, group_of_run = np.unique(signature[starts], return_index=True, return_inverse=True)
    # ids that no array holds were given up on the way; they come last and are nobody's
    order = np.lexsort((first, unseen[starts[first]]))
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    group_of_run = rank[group_of_run.reshape(-1)]
    by_group = np.argsort(group_of_run, kind="stable")
    before = np.cumsum(lengths[by_group]) - lengths[by_group]
    opens = np.searchsorted(group_of_run[by_group], np.arange(order.size))
    offset = np.empty_like(starts)
    offset[by_group] = before - before[opens][group_of_run[by_group]]
    index_of_unit = np.arange(units) + np.repeat(offset - starts, lengths)
    group_of_unit = np.repeat(group_of_run, lengths)
    sizes = np.bincount(group_of_run, weights=lengths, minlength=order.size)
    holder = starts[first[order]]
    prunable = ~(frozen | unseen)[holder]
    seen = int((~unseen[holder]).sum())
    return Partition(
        group_of_unit.take(unit_of),
        index_of_unit.take(unit_of),
        tuple(sizes[:seen].astype(np.int64).tolist()),
        tuple(prunable[:seen].tolist()),
    )


def boxed(tracker: Tracker, part: Partition, arrays: list[IdArray]) -> bool:
    """Tie channels until what is left of every tensor is a box; tells whether there was a need.

    A channel axis seen as rows and columns (channel shuffle, heads) would be left with holes. The
    axis that keeps most channels apart stays; each of its positions lives and dies as a whole.
    """
    arrays = [ids for ids in arrays if ids.size != max(ids.shape, default=1)]
    if not arrays:
        return False
    prunable = np.zeros(int(part.group_of.max(initial=0)) + 1, dtype=bool)
    prunable[: len(part.prunable)] = part.prunable
    unit = part.group_of * (part.index_of.max(initial=0) + 1) + part.index_of
    # ids tied in this pass: what else holds them has to be looked at anew
    stale = np.zeros(tracker.count, dtype=bool)
    for ids in arrays:
        if not prunable[part.group_of[ids]].any():
            continue
        units = unit[ids]
        varying = [a for a in range(ids.ndim) if (units != units.take([0], a)).any()]
        if len(varying) < 2 or stale[ids].any():
            continue
        free = prunable[part.group_of[ids]]
        kept = max(varying, key=lambda axis: _apart(units, free, axis))
        tracker.collapse(ids, (kept,))
        stale[ids] = True
    return bool(stale.any())


def _apart(units: IdArray, free: npt.NDArray[np.bool_], axis: int) -> int:
    """How many prunable channels are left if all at a position of an axis are one."""
    _, labels = np.unique(units, return_inverse=True)
    labels = labels.reshape(units.shape)
    slabs = np.moveaxis(labels, axis, 0).reshape(units.shape[axis], -1)
    root = roots(int(labels.max()) + 1, [(slabs[:, :1], slabs)])
    return np.setdiff1d(root[labels], root[labels[~free]]).size


def whole_groups(part: Partition, arrays: list[IdArray]) -> dict[int, int]:
    """The group of each array that holds all its channels, once and in order, by `id(array)`.

    Most arrays of most networks are of this kind, so that nobody has to look at them one by one.
    """
    arrays = [array for array in arrays if array.size]
    if not arrays:
        return {}
    flat = np.concatenate([array.reshape(-1) for array in arrays])
    lengths = np.array([array.size for array in arrays])
    starts = np.cumsum(lengths) - lengths
    groups = part.group_of.take(flat)
    first = groups.take(starts)
    in_order = part.index_of.take(flat) == np.arange(flat.size) - np.repeat(starts, lengths)
    in_order &= groups == np.repeat(first, lengths)
    whole = np.logical_and.reduceat(in_order, starts)
    return {
        id(array): group
        for array, group, fits in zip(arrays, first.tolist(), whole.tolist(), strict=True)
        if fits and group < len(part.sizes) and array.size == part.sizes[group]
    }


Share = tuple[tuple[int, float], ...]


def shares(part: Partition, ids: IdArray) -> Share:
    """(group, times) of an id array, in order of first appearance."""
    groups = part.group_of.take(ids.reshape(-1))
    first = int(groups[0])
    if not np.count_nonzero(groups != first):
        return ((first, groups.size / part.sizes[first]),)
    found, places, counts = np.unique(groups, return_index=True, return_counts=True)
    order = np.argsort(places)
    return tuple((int(found[i]), int(counts[i]) / part.sizes[int(found[i])]) for i in order)


@dataclass(frozen=True, slots=True)
class Run:
    """Channel k of a group sits at [start + k stride, start + k stride + block), or at `index`.

    Attributes:
        index: per channel the positions it occupies, where no run describes them.
    """

    group: int
    start: int
    stride: int
    block: int
    index: tuple[tuple[int, ...], ...] | None = None


def runs(part: Partition, ids: IdArray, along: int | None = None) -> tuple[Run, ...]:
    """Where the channels of each group sit along an axis that holds `ids`.

    Args:
        along: the axis of `ids` that is meant, where they vary along several; there is nothing to
            say if a position of it holds several channels.
    """
    if along is not None:
        ids = np.moveaxis(ids, along, 0).reshape(ids.shape[along], -1)
        line = ids[:, :1]
        for what in (part.group_of, part.index_of):
            if (what[ids] != what[line]).any():
                return ()
        ids = line
    ids = ids.reshape(-1)
    groups = part.group_of.take(ids)
    found: list[Run] = []
    for group in dict.fromkeys(groups.tolist()):
        if group >= len(part.sizes):
            continue  # ids that no tensor holds are nobody's
        positions = np.nonzero(groups == group)[0]
        channels = part.index_of[ids[positions]]
        found.extend(_runs_of_group(group, positions, channels, part.sizes[group]))
    return tuple(found)


def _runs_of_group(group: int, positions: IdArray, channels: IdArray, size: int) -> list[Run]:
    times = positions.size // size
    order = np.argsort(channels, kind="stable")
    table = positions[order].reshape(size, times)  # (channel, occurrence)
    if size == 1:
        return _one_channel(group, table[0])
    steps = table[1:] - table[:-1]
    stride = int(steps[0, 0])
    regular = (steps == stride).all()
    if regular and stride > 0:
        # occurrences side by side are one block; others are a member each
        breaks = np.nonzero(np.diff(table[0]) != 1)[0] + 1
        pieces = np.split(table[0], breaks)
        if len(pieces) <= 8:
            return [Run(group, int(p[0]), stride, int(p.size)) for p in pieces]
    index = tuple(tuple(int(p) for p in row) for row in table)
    return [Run(group, 0, 0, 0, index)]


def _one_channel(group: int, positions: IdArray) -> list[Run]:
    pieces = np.split(positions, np.nonzero(np.diff(positions) != 1)[0] + 1)
    if len(pieces) <= 8:
        return [Run(group, int(p[0]), int(p.size), int(p.size)) for p in pieces]
    return [Run(group, 0, 0, 0, (tuple(int(p) for p in positions),))]
