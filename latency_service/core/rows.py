"""What each layer reads and writes by channel group, and its bytes as a form in those."""

from __future__ import annotations

from typing import Any

from latency_service.core import traffic
from latency_service.core.channels import Partition, Share, shares
from latency_service.core.forms import ZERO, BilinearForm
from latency_service.core.fusion import Chain
from latency_service.core.node import IdArray, Node
from latency_service.core.ops import Traffic

# Operators whose inputs may follow each other along the channels: then one entry a piece.
_PIECEWISE = frozenset({"Concat", "QLinearConcat"})


class Row:
    """One layer while it is being costed."""

    __slots__ = (
        "bytes", "chain", "conflicts", "free", "fused_into", "fuses", "node", "notes", "reads",
        "writes",
    )  # fmt: skip

    def __init__(self, node: Node) -> None:
        self.node = node
        self.reads: Share = ()
        self.writes: Share = ()
        self.bytes = ZERO
        self.conflicts: list[IdArray] = []
        self.notes: list[str] = []
        self.free = False
        self.fused_into: int | None = None
        self.fuses: list[int] = []
        self.chain: Chain | None = None


class RowMaker:
    """Costs layers one by one, under one partition of the channels.

    Args:
        whole: the arrays that hold one group (`channels.whole_groups`).
        views: operators that this runtime gives away.
    """

    def __init__(self, part: Partition, whole: dict[int, int], views: tuple[str, ...]) -> None:
        self.part = part
        self.views = views
        self._shares: dict[int, Share] = {array: ((group, 1.0),) for array, group in whole.items()}

    def share(self, ids: IdArray) -> Share:
        """(group, times) of an id array."""
        # the nodes keep every id array alive, so its identity is a safe key
        share = self._shares.get(id(ids))
        if share is None:
            share = self._shares[id(ids)] = shares(self.part, ids)
        return share

    def same(self, left: IdArray | None, right: IdArray | None) -> bool:
        """Whether two tensors have the same live channels, however they are pruned."""
        if left is None or right is None:
            # channels that are never pruned are as good as none
            known = right if left is None else left
            return known is None or not any(
                self.part.prunable[group] for group, _ in self.share(known)
            )
        return proportional(self.share(left), self.share(right))

    def row(self, node: Node) -> Row:
        """What a layer reads and writes, and its bytes as a form."""
        row = Row(node)
        if node.frozen:
            total = node.moved_bytes * node.times
            row.bytes = BilinearForm(total)
            row.free = traffic.is_free(node)
            return row
        pieces = node.layer.op in _PIECEWISE and _follow_each_other(node)
        row.reads, read_rate, read_rest = self._side(row, traffic.reads(node), pieces)
        row.writes, write_rate, write_rest = self._side(row, traffic.writes(node), pieces)
        row.free = traffic.is_free(node) or node.layer.op in self.views
        if row.free:
            return row
        row.bytes = BilinearForm(read_rest + write_rest, read_rate, write_rate, 0.0)
        if node.parameter("weight") is not None:
            kernel = traffic.kernels(node)
            if kernel is not ZERO:
                row.bytes = kernel.plus(row.bytes)
        return row

    def _side(
        self,
        row: Row,
        sides: list[tuple[IdArray | None, float]],
        pieces: bool,
    ) -> tuple[Share, float, float]:
        """(share, bytes per live channel, other bytes) of what a layer reads, or writes.

        Each distinct set of channels counts once, with the first tensor's times. A set at another
        byte rate cannot be told apart by the layer's live channels: it is frozen.
        """
        prunable = self.part.prunable
        if len(sides) == 1:
            ids, amount = sides[0]
            if ids is None:
                return (), 0.0, amount
            return self.share(ids), amount / ids.size, 0.0
        rest = 0.0
        sets: dict[Any, list[Any]] = {}  # groups -> [share, size, bytes, ids]
        for position, (ids, amount) in enumerate(sides):
            if ids is None:
                rest += amount
                continue
            share = self.share(ids)
            key = position if pieces else frozenset(group for group, _ in share)
            entry = sets.get(key)
            if entry is None:
                sets[key] = [share, ids.size, amount, ids]
            elif proportional(entry[0], share):
                entry[2] += amount
            elif any(prunable[group] for group, _ in share):
                row.conflicts.append(ids)
                rest += amount
            else:
                rest += amount
        if not sets:
            return (), 0.0, rest
        entries = list(sets.values())
        first = next((e for e in entries if any(prunable[group] for group, _ in e[0])), entries[0])
        rate = first[2] / first[1]
        joined: list[tuple[int, float]] = []
        for entry in entries:
            share, size, amount, ids = entry
            if entry is first or abs(amount / size - rate) <= 1e-9 * rate:
                joined += share
                continue
            rest += amount
            if any(prunable[group] for group, _ in share):
                row.conflicts.append(ids)
            elif row.node.op.traffic is not Traffic.FREE:
                row.notes.append(
                    f"layer {row.node.name!r} reads or writes channels of different groups at "
                    "different byte rates: one of them is frozen and counted as constant"
                )
        return tuple(joined), rate, rest


def proportional(first: Share, other: Share) -> bool:
    """Whether two tensors hold the same groups, one of them so many times as often."""
    if first == other:
        return True
    ours, theirs = dict(first), dict(other)
    if len(ours) != len(first) or len(theirs) != len(other) or ours.keys() != theirs.keys():
        return False
    factors = [theirs[group] / times for group, times in ours.items()]
    return max(factors) - min(factors) <= 1e-9 * max(factors)


def _follow_each_other(node: Node) -> bool:
    """Whether the pieces' channels add up; joined along positions they are the same ones."""
    out = node.outputs[0].ids
    return out is not None and out.size == sum(ids.size for ids in node.in_ids if ids is not None)
