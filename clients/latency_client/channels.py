"""From what a model has learned to the strength of every channel: integer arrays, made once.

A *source* is a vector with one number per position of an axis: a BatchNorm's scales, the norms of a
kernel's filters, the logits of a gate. All sources, one after another, are one flat vector; here
stands which of its entries belong to which channel. In a training step a framework then needs one
gather, one segment maximum (channels), one segment sum (groups), however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from latency_client.errors import StaleAnswerError
from latency_client.graph import Layer, LayerGraph
from latency_client.resources import FloatArray
from latency_client.wire import Answer, IntArray, Member

NORMALISATIONS = frozenset({"BatchNormalization", "InstanceNormalization", "GroupNormalization"})


class SourceKey(NamedTuple):
    """Which vector: of a layer, by the role of the parameter and the axis that it runs along."""

    layer: str
    role: str
    axis: int


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """Which entries of the flat source vector hold which channel; E entries, C channels, G groups.

    Attributes:
        sources: in the order in which their vectors follow each other.
        lengths: of each vector.
        entries: (E,) positions in the flat vector, sorted by channel.
        channels: (E,) channel of each entry, ascending from 0.
        group_of: (C,) group of each channel, ascending; a group's channels are in its own order.
        regularised: (G,) whether the group has sources.
        sizes: (G,) channels per group; those without sources are alive, all of them.
    """

    sources: tuple[SourceKey, ...]
    lengths: tuple[int, ...]
    entries: IntArray
    channels: IntArray
    group_of: IntArray
    regularised: npt.NDArray[np.bool_]
    sizes: FloatArray

    @property
    def channel_count(self) -> int:
        """How many channels have a source."""
        return int(self.group_of.size)

    @property
    def fixed_counts(self) -> FloatArray:
        """(G,) channels of groups without sources, 0 elsewhere."""
        return np.where(self.regularised, 0.0, self.sizes)

    def strengths(self, flat: FloatArray) -> FloatArray:
        """(C,) strength of each channel: the maximum over its entries."""
        found = np.full(self.channel_count, -np.inf)
        np.maximum.at(found, self.channels, flat[self.entries])
        return found

    def probabilities(self, flat: FloatArray) -> FloatArray:
        """(C,) probability that any entry of a channel is on: 1 - prod(1 - p)."""
        off = np.ones(self.channel_count)
        np.multiply.at(off, self.channels, 1.0 - flat[self.entries])
        result: FloatArray = 1.0 - off
        return result

    def masks(self, alive: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
        """Per group which of its channels are alive; all of them where it has no source.

        Args:
            alive: (C,) of each channel that has a source.
        """
        return [
            own if has else np.ones(int(size), dtype=np.bool_)
            for own, has, size in zip(
                self.by_group(alive), self.regularised, self.sizes, strict=True
            )
        ]

    def by_group(self, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """(C,) values taken apart, one array per group; empty for groups without sources."""
        return np.split(values, np.searchsorted(self.group_of, np.arange(1, self.sizes.size)))

    def group_sums(self, values: FloatArray) -> FloatArray:
        """(G,) sums of (C,) values."""
        sums = np.bincount(self.group_of, weights=values, minlength=self.sizes.size)
        return sums.astype(np.float64)


def channel_map(answer: Answer, lengths: Mapping[SourceKey, int]) -> ChannelMap:
    """Find every channel of the prunable groups in the sources.

    Args:
        lengths: of each source's vector. Sources that hold no prunable channel are left out.

    Raises:
        StaleAnswerError: if a group reaches beyond the end of a source.
    """
    used: dict[SourceKey, int] = {}
    ends = np.cumsum([0, *lengths.values()])
    offset = dict(zip(lengths, ends[:-1].tolist(), strict=True))
    entries: list[IntArray] = []
    channels: list[IntArray] = []
    group_of: list[IntArray] = []
    regularised = np.zeros(len(answer.groups), dtype=np.bool_)
    count = 0
    for index, group in enumerate(answer.groups):
        if not group.prunable:
            continue
        found = False
        for member in group.members:
            key = SourceKey(member.layer, member.role, member.axis)
            if key not in lengths:
                continue
            positions = member.positions(group.size)  # (size, occurrences)
            if positions.max(initial=0) >= lengths[key]:
                raise StaleAnswerError(
                    f"group {group.id!r} reaches position {positions.max()} of the {key.role} of "
                    f"layer {key.layer!r}, which has {lengths[key]}; the answer belongs to another "
                    "network: fetch the coefficients again"
                )
            found = True
            used[key] = lengths[key]
            entries.append((positions + offset[key]).reshape(-1))
            channels.append(np.repeat(np.arange(count, count + group.size), positions.shape[1]))
        if found:
            regularised[index] = True
            group_of.append(np.full(group.size, index, dtype=np.int64))
            count += group.size
    return _packed(answer, used, offset, entries, channels, group_of, regularised)


def _packed(
    answer: Answer,
    used: Mapping[SourceKey, int],
    offset: Mapping[SourceKey, int],
    entries: Sequence[IntArray],
    channels: Sequence[IntArray],
    group_of: Sequence[IntArray],
    regularised: npt.NDArray[np.bool_],
) -> ChannelMap:
    """Let the vectors of unused sources go, and sort by channel."""
    nothing = np.zeros(0, dtype=np.int64)
    flat, owner = np.concatenate([nothing, *entries]), np.concatenate([nothing, *channels])
    if used:
        starts = np.array([offset[key] for key in used])
        moved = np.cumsum([0, *used.values()])[:-1]
        order = np.argsort(starts)
        source = order[np.searchsorted(starts[order], flat, side="right") - 1]
        flat = flat - starts[source] + moved[source]
    by_channel = np.lexsort((flat, owner))
    flat, owner = flat[by_channel], owner[by_channel]
    # a tied weight is the same entry twice
    fresh = np.ones(flat.size, dtype=np.bool_)
    fresh[1:] = (np.diff(flat) != 0) | (np.diff(owner) != 0)
    return ChannelMap(
        tuple(used),
        tuple(used.values()),
        flat[fresh],
        owner[fresh],
        np.concatenate([nothing, *group_of]),
        regularised,
        np.array([group.size for group in answer.groups], dtype=np.float64),
    )


# --- which parameters are sources -----------------------------------------------------------------


def gamma_sources(graph: LayerGraph) -> dict[SourceKey, int]:
    """Scales of normalisations: one vector per layer that has one."""
    return {
        SourceKey(layer.name, "gamma", 0): parameter.shape[0]
        for layer in graph.layers
        if layer.op in NORMALISATIONS
        for parameter in layer.parameters or ()
        if parameter.role == "gamma"
    }


def written_axis(layer: Layer) -> int | None:
    """The axis of a layer's weight that its output channels run along; None if it writes none.

    Depthwise convolutions write none: their channels are those of their input. Source: MorphNet,
    where they are no sources of the group lasso either (its section 2.7).
    """
    weight = next((p for p in layer.parameters or () if p.role == "weight"), None)
    if weight is None:
        return None
    group = int(layer.attributes.get("group", 1))
    if layer.op == "Conv":
        return None if group > 1 and weight.shape[1] == 1 else 0
    if layer.op == "ConvTranspose":
        # (I, O / group, k): of a grouped one whole conv-groups live and die, seen on axis 0
        return 1 if group == 1 else 0
    if layer.op == "Gemm":
        return 0
    if layer.op == "MatMul" and len(weight.shape) == 2:
        first = int(layer.attributes.get("weight_input", 1)) == 0
        return 0 if first or layer.attributes.get("transB") else 1
    if layer.op == "Gather" and len(weight.shape) == 2:
        return 1
    return None


def weight_sources(graph: LayerGraph) -> dict[SourceKey, int]:
    """Weights of layers that write channels: one norm per channel."""
    found = {}
    for layer in graph.layers:
        axis = written_axis(layer)
        if axis is not None:
            weight = next(p for p in layer.parameters or () if p.role == "weight")
            found[SourceKey(layer.name, "weight", axis)] = weight.shape[axis]
    return found


def members_of(answer: Answer, roles: Iterable[str]) -> dict[str, list[tuple[int, Member]]]:
    """Per layer (position of the group, member) for members of some roles."""
    wanted = frozenset(roles)
    found: dict[str, list[tuple[int, Member]]] = {}
    for index, group in enumerate(answer.groups):
        for member in group.members:
            if member.role in wanted:
                found.setdefault(member.layer, []).append((index, member))
    return found
