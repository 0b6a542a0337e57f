"""What a network costs, before any device is named: forms per layer and channel groups.

A `CostModel` is made once per graph and binding (latency_service/core/costing.py); every device,
every structure and every score is an evaluation of its arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from latency_service.core.channels import Run, Share
from latency_service.core.errors import OptionError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a request says about channels.

    Attributes:
        force_group: regular expressions over layer names; layers that one matches share a group.
        exclude: regular expressions over layer names; their groups are never pruned.
        freeze_outputs: whether the channels of the network's outputs are never prunable.
    """

    force_group: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    freeze_outputs: bool = True


class Member(NamedTuple):
    """Where the channels of a group sit in something that is cut along with them."""

    layer: str
    role: str
    axis: int
    run: Run


@dataclass(frozen=True, slots=True)
class Group:
    """Channels each of which lives or dies in all its members together."""

    id: str
    size: int
    prunable: bool
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a runtime executes for a network; P kernels, D dimensions (core/geometry.py).

    Attributes:
        layers: (P,) the layer that each kernel is charged to; a layer may have several.
        families: of each, as efficiency models name them.
        fallbacks: per kernel the families to try where that one was not measured.
        dtypes: of each kernel's tensors.
        dims: (P, D) at full width.
        follows: (P, D) what each dimension is proportional to (`geometry.Follows`).
        times: (P,) how often it runs.
        merges: per kernel what a contraction merges ("Conv Add Relu"); "" for nothing.
        slow_runs: (P, 3) runs of numbers per output element that a mask slows down, by cause
            (core/masks.py).
    """

    layers: npt.NDArray[np.int64]
    families: tuple[str, ...]
    fallbacks: tuple[tuple[str, ...], ...]
    dtypes: tuple[str, ...]
    dims: FloatArray
    follows: npt.NDArray[np.int64]
    times: FloatArray
    merges: tuple[str, ...]
    slow_runs: FloatArray


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of a network as arrays; L layers, G groups.

    Attributes:
        names, ops: of each layer, in canonical order.
        free: (L,) whether the layer costs nothing by nature.
        assumed: (L,) whether its operator is unknown.
        flops, bytes, weights, parameters: (L, 4) constant, per_in, per_out, per_pair.
        read_times, write_times: (L, G) how often a layer's inputs and outputs hold each channel.
        reads, writes: per layer (group, times), in the order of its inputs and outputs.
        rate_dtype: per layer the dtype that its FLOPs are done in; None without FLOPs.
        fused_into: per layer the one that carries its bytes, if another does.
        fuses: per layer those whose bytes it carries.
        kernels: what a runtime executes; None unless asked for.
    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    free: npt.NDArray[np.bool_]
    assumed: npt.NDArray[np.bool_]
    flops: FloatArray
    bytes: FloatArray
    weights: FloatArray
    parameters: FloatArray
    read_times: FloatArray
    write_times: FloatArray
    reads: tuple[Share, ...]
    writes: tuple[Share, ...]
    rate_dtype: tuple[str | None, ...]
    groups: tuple[Group, ...]
    dtype: str
    batch_size: int
    assumptions: tuple[str, ...]
    fused_into: tuple[int | None, ...]
    fuses: tuple[tuple[int, ...], ...]
    kernels: Kernels | None = None

    @property
    def sizes(self) -> FloatArray:
        """(G,) channels per group."""
        return np.array([group.size for group in self.groups], dtype=np.float64)

    def group_index(self, group_id: str) -> int:
        """Position of a group.

        Raises:
            OptionError: if there is none of that id.
        """
        for index, group in enumerate(self.groups):
            if group.id == group_id:
                return index
        listed = ", ".join(group.id for group in self.groups if group.prunable)
        raise OptionError(f"there is no channel group {group_id!r}; prunable ones: {listed}")
