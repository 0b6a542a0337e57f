"""From a bound network to its costs: channel groups, and every layer's forms.

Operators' rules have said how channels flow (latency_service/core/ops); here the groups are found,
each layer's bytes are written as a form in what it reads and writes, and fused chains are merged.
"""

from __future__ import annotations

import re
from itertools import chain

import numpy as np

from latency_service.core import traffic
from latency_service.core.bind import Network, bind
from latency_service.core.binding import Binding
from latency_service.core.channels import (
    Partition,
    Run,
    Share,
    Tracker,
    boxed,
    partition,
    runs,
    shares,
    whole_groups,
)
from latency_service.core.costs import (
    CostModel,
    FloatArray,
    Group,
    Kernels,
    Member,
    Pruning,
)
from latency_service.core.efficiency import Efficiency
from latency_service.core.errors import OptionError
from latency_service.core.forms import ZERO, BilinearForm
from latency_service.core.fusion import chains
from latency_service.core.graph import LayerGraph, made
from latency_service.core.kernels import executed_views, find_kernels
from latency_service.core.node import IdArray, Node
from latency_service.core.profile import FusionRules
from latency_service.core.quantised_patterns import NOTHING
from latency_service.core.rows import Row, RowMaker
from latency_service.core.units import FLOATING, RATE_DTYPE


class TakesLong(Exception):
    """The costs of a graph are not a matter of milliseconds; nothing is wrong with it."""


# What is told within some ten milliseconds: ids of all layers' channels, (layer, group) pairs.
_FEW_IDS, _FEW_PAIRS = 1_000_000, 50_000


def cost_model(
    graph: LayerGraph,
    binding: Binding | None = None,
    pruning: Pruning | None = None,
    fusion: FusionRules | None = None,
    efficiency: Efficiency | None = None,
    briefly: bool = False,
) -> CostModel:
    """Bind a graph, group its channels, and write every layer's costs as forms.

    Args:
        fusion: what the runtime merges; None charges operator by operator.
        efficiency: of the profile, if its kernels are wanted too.
        briefly: whether to give up, early, where it would take long.

    Raises:
        TakesLong: only if `briefly`.
        GraphError: see `bind`.
        OptionError: if `force_group` or `exclude` does not fit the graph.
    """
    network = bind(graph, binding or Binding())
    if briefly and len(network.nodes) * _largest_extent(network) > _FEW_IDS:
        raise TakesLong
    return _Builder(network, pruning or Pruning(), fusion, efficiency, briefly).build()


def _largest_extent(network: Network) -> int:
    """The longest axis of all tensors and parameters: no layer has more channels."""
    shapes = [tensor.shape for node in network.nodes for tensor in node.outputs]
    shapes += [parameter.shape for node in network.nodes for parameter in node.parameters]
    return max(map(max, filter(None, shapes)), default=0)


class _Builder:
    def __init__(
        self,
        network: Network,
        pruning: Pruning,
        fusion: FusionRules | None,
        efficiency: Efficiency | None,
        briefly: bool,
    ) -> None:
        self.network = network
        self.briefly = briefly
        self.fusion = fusion
        self.efficiency = efficiency
        self.views = () if fusion is None else fusion.views
        self.pruning = pruning
        self.tracker = Tracker()
        self.assumptions = list(network.assumptions)

    def build(self) -> CostModel:
        nodes, tracker = self.network.nodes, self.tracker
        self._propagate()
        if self.pruning.freeze_outputs:
            for tensor in self.network.outputs:
                tracker.freeze(tensor.ids)
        self._exclude()
        arrays = self._arrays()
        part = self._partition(arrays)
        if self.pruning.force_group and self._force(part):
            part = self._partition(arrays)
        if self.briefly and len(nodes) * len(part.sizes) > _FEW_PAIRS:
            raise TakesLong
        while True:
            whole = whole_groups(part, arrays)
            maker = RowMaker(part, whole, self.views)
            rows = [maker.row(node) for node in nodes]
            conflicts = [ids for row in rows for ids in row.conflicts]
            if not conflicts:
                break
            for ids in conflicts:
                tracker.freeze(ids)
            part = partition(tracker, arrays)
        if self.fusion is not None:
            self._fuse(rows, maker, self.fusion)
        if self.efficiency is not None:
            for index in executed_views(nodes, self.efficiency.families):
                rows[index].free = False
        return self._assemble(rows, part, whole)

    def _partition(self, arrays: list[IdArray]) -> Partition:
        part = partition(self.tracker, arrays)
        while boxed(self.tracker, part, arrays):
            part = partition(self.tracker, arrays)
        return part

    def _fuse(self, rows: list[Row], maker: RowMaker, rules: FusionRules) -> None:
        layout = None if self.efficiency is None else self.efficiency.layout
        nodes, outputs = self.network.nodes, self.network.outputs
        for merged in chains(nodes, outputs, rules, maker.same, layout):
            host = rows[merged.host]
            host.chain = merged
            if merged.runs_as == NOTHING:
                for member in merged.members:
                    rows[member].bytes = ZERO
                    if member != merged.host:
                        rows[member].fused_into = merged.host
                        host.fuses.append(member)
                continue
            before = sum(amount for _, amount in traffic.writes(host.node))
            # inside an If, Loop or Scan every cost is a constant of all its runs
            frozen = host.node.frozen
            ids = None if frozen else host.node.outputs[0].ids
            after = merged.end.bytes + sum(tensor.bytes for tensor in merged.others)
            constant = 0.0
            for extra, amount in merged.extras:
                if extra is None:
                    constant += amount
                else:
                    after += amount
            for member in merged.members:
                if member == merged.host:
                    continue
                kernel = traffic.kernels(rows[member].node)
                constant += kernel.constant
                if ids is not None or frozen:
                    # the member's output has the host's channels, perhaps less often
                    own = rows[member].node.outputs[0].ids
                    after += kernel.per_out * (0 if own is None else own.size)
                rows[member].bytes = ZERO
                rows[member].fused_into = merged.host
                host.fuses.append(member)
            if ids is None:
                more = BilinearForm(constant=host.node.times * (constant + after - before))
            else:
                more = BilinearForm(constant=constant, per_out=(after - before) / ids.size)
            host.bytes = host.bytes.plus(more)

    def _propagate(self) -> None:
        seen: set[str] = set()
        inner: set[str] = set()
        for node in self.network.nodes:
            if node.frozen:
                # its costs are known; a parameter that it shares is counted once all the same
                own = {p.id: p.role for p in node.parameters if p.id is not None}
                node.shared = frozenset(role for name, role in own.items() if name in seen)
                seen.update(own)
                inner.update(own)
                continue
            node.in_ids = [None if tensor is None else tensor.ids for tensor in node.inputs]
            held = [(p.id, p.role) for p in node.parameters if p.id is not None]
            if held:
                again = [role for name, role in held if name in seen]
                if again:
                    node.shared = frozenset(again)
                seen.update([name for name, _ in held])
            node.op.channels(node, self.tracker)
        for name in inner:
            self.tracker.freeze_parameter(name)

    def _arrays(self) -> list[IdArray]:
        found: dict[int, IdArray] = {}
        for node in self.network.nodes:
            if node.frozen:
                continue
            for ids in node.in_ids:
                if ids is not None:
                    found[id(ids)] = ids
            for tensor in node.outputs:
                if tensor.ids is not None:
                    found[id(tensor.ids)] = tensor.ids
        return list(found.values())

    # --- what the user asks of the groups ------------------------------------------------------

    def _matching(self, pattern: str, option: str) -> list[Node]:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise OptionError(f"{option}: {pattern!r} is no regular expression ({error})") from None
        found = [node for node in self.network.nodes if compiled.search(node.name)]
        if not found:
            raise OptionError(
                f"{option}: {pattern!r} matches no layer; layer names look like "
                + ", ".join(repr(node.name) for node in self.network.nodes[:3])
            )
        return found

    def _exclude(self) -> None:
        for pattern in self.pruning.exclude:
            for node in self._matching(pattern, "exclude"):
                for tensor in node.outputs:
                    if not node.frozen:
                        self.tracker.freeze(tensor.ids)

    def _force(self, part: Partition) -> bool:
        for pattern in self.pruning.force_group:
            held: list[tuple[str, IdArray]] = []
            for node in self._matching(pattern, "force_group"):
                ids = node.outputs[0].ids if node.outputs and not node.frozen else None
                if ids is None or len(shares(part, ids)) != 1:
                    count = 0 if ids is None else len(shares(part, ids))
                    raise OptionError(
                        f"force_group: {pattern!r} matches layer {node.name!r}, whose output has "
                        f"{count} channel groups; every layer that is forced must have exactly one"
                    )
                held.append((node.name, ids))
            first_name, first = held[0]
            for name, ids in held[1:]:
                if ids.size != first.size:
                    raise OptionError(
                        f"force_group: {pattern!r} matches {first_name!r} with {first.size} "
                        f"channels and {name!r} with {ids.size}; they must have equally many"
                    )
                self.tracker.tie(first.reshape(-1), ids.reshape(-1))
        return True

    # --- all layers ----------------------------------------------------------------------------

    def _assemble(self, rows: list[Row], part: Partition, whole: dict[int, int]) -> CostModel:
        nodes = self.network.nodes
        groups = len(part.sizes)
        flops: list[BilinearForm] = []
        weights: list[BilinearForm] = []
        parameters: list[BilinearForm] = []
        for row in rows:
            node = row.node
            work = node.flops if node.times == 1 else node.flops.scaled(node.times)
            kernel = ZERO if "weight" in node.shared else node.weights
            flops.append(work)
            weights.append(kernel)
            parameters.append(node.learned if kernel is ZERO else kernel.plus(node.learned))
            self.assumptions += row.notes
        return CostModel(
            names=tuple([node.name for node in nodes]),
            ops=tuple([node.layer.op for node in nodes]),
            free=np.array([row.free for row in rows], dtype=bool),
            assumed=np.array([node.op.name == "unknown" for node in nodes], dtype=bool),
            flops=_table(flops),
            bytes=_table([row.bytes for row in rows]),
            weights=_table(weights),
            parameters=_table(parameters),
            read_times=_times([row.reads for row in rows], groups),
            write_times=_times([row.writes for row in rows], groups),
            reads=tuple([row.reads for row in rows]),
            writes=tuple([row.writes for row in rows]),
            rate_dtype=tuple([_rate_dtype(n) if n.op.contraction else None for n in nodes]),
            groups=self._groups(part, whole),
            dtype=self.network.dtype,
            batch_size=self.network.batch_size,
            assumptions=tuple(dict.fromkeys(self.assumptions)),
            fused_into=tuple([row.fused_into for row in rows]),
            fuses=tuple([tuple(row.fuses) for row in rows]),
            kernels=None if self.efficiency is None else self._kernels(rows),
        )

    def _kernels(self, rows: list[Row]) -> Kernels:
        assert self.efficiency is not None
        return find_kernels(
            self.network,
            [row.free for row in rows],
            [row.fused_into for row in rows],
            [row.chain for row in rows],
            self.efficiency,
            self.fusion,
        )

    def _groups(self, part: Partition, whole: dict[int, int]) -> tuple[Group, ...]:
        members: list[list[Member]] = [[] for _ in part.sizes]
        known: dict[tuple[int, int | None], tuple[Run, ...]] = {
            (array, None): (Run(group, 0, 1, 1),) for array, group in whole.items()
        }
        for node, role, axis, ids, along in self.tracker.places:
            key = id(ids), along
            found = known.get(key)
            if found is None:
                found = known[key] = runs(part, ids, along)
            for run in found:
                members[run.group].append(made(Member, (node.name, role, axis, run)))
        return tuple(
            Group(f"g{index}", size, part.prunable[index], tuple(members[index]))
            for index, size in enumerate(part.sizes)
        )


def _table(forms: list[BilinearForm]) -> FloatArray:
    """(L, 4) the forms as an array."""
    flat = np.fromiter(chain.from_iterable(forms), dtype=np.float64, count=4 * len(forms))
    return flat.reshape(-1, 4)


def _times(held: list[Share], groups: int) -> FloatArray:
    """(L, G) how often each layer holds each channel of each group."""
    cells = [layer * groups + group for layer, share in enumerate(held) for group, _ in share]
    times = [times for share in held for _, times in share]
    table: FloatArray = np.zeros(len(held) * groups)
    if cells:
        table += np.bincount(cells, times, table.size)
    return table.reshape(len(held), groups)


def _rate_dtype(node: Node) -> str:
    data = node.x.dtype if node.inputs and node.inputs[0] is not None else node.dtype
    return data if data in FLOATING else RATE_DTYPE.get(data, data)
