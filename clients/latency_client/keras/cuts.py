"""Which positions of every variable survive a structure.

The groups of a structure say where channels sit in weights and scales; biases and statistics follow
the weight or scale of their own layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency_client.channels import NORMALISATIONS, written_axis
from latency_client.errors import PruningError
from latency_client.keras.extract import Extraction
from latency_client.keras.gates import GATE_ROLES
from latency_client.keras.views import IntArray
from latency_client.structure import Structure

_CUT_BY_POSITION = frozenset({"Slice", "Split", "Gather", "Pad", "Tile"})


@dataclass(frozen=True)
class Cuts:
    """What is left of a model.

    Attributes:
        kept: per (layer of the graph, role), per axis the positions that survive; axes that are
            left whole are left out.
        survivors: by id of variable, the flat positions of what survives of it.
    """

    kept: Mapping[tuple[str, str], dict[int, IntArray]]
    survivors: Mapping[int, IntArray]

    def width(self, layer: str, role: str, axis: int, full: int) -> int:
        """How many positions survive on an axis."""
        kept = self.kept.get((layer, role), {}).get(axis)
        return full if kept is None else int(kept.size)


def cuts_of(found: Extraction, structure: Structure) -> Cuts:
    """What a structure leaves of every variable.

    Raises:
        PruningError: where dead channels pass an operator whose settings name positions.
    """
    whole: dict[tuple[str, str], dict[int, Any]] = {}
    for group, mask in structure.masks.items():
        if mask.all():
            continue
        for member in structure.members[group]:
            row = found.graph.by_name[member.layer]
            if member.role in ("input", "output"):
                if row.op in _CUT_BY_POSITION:
                    raise PruningError(
                        f"channels of group {group!r} pass layer {member.layer!r} ({row.op}), "
                        "whose settings name positions; pass exclude=[...] with the layers that "
                        "write them"
                    )
                continue
            shape = next((p.shape for p in row.parameters or () if p.role == member.role), None)
            if shape is None:
                continue
            axes = whole.setdefault((member.layer, member.role), {})
            lives = axes.setdefault(member.axis, np.ones(shape[member.axis], dtype=np.bool_))
            positions = member.positions(mask.size)
            lives[positions[~mask].reshape(-1)] = False
    kept = {
        key: {axis: np.flatnonzero(lives) for axis, lives in axes.items()}
        for key, axes in whole.items()
    }
    _follow(found, kept)
    survivors: dict[int, IntArray] = {}
    for key, axes in kept.items():
        binding = found.bindings[key]
        left = binding.view.survivors(tuple(binding.variable.shape), axes)
        known = survivors.setdefault(id(binding.variable), left)
        if not np.array_equal(known, left):
            raise PruningError(
                f"the {key[1]} of layer {key[0]!r} is shared with another layer, and different "
                "channels of it live there; pass exclude=[...] with both layers"
            )
    return Cuts(kept, survivors)


def _follow(found: Extraction, kept: dict[tuple[str, str], dict[int, IntArray]]) -> None:
    """Cut biases and statistics along with the weight or scale that they belong to."""
    for row in found.graph.layers:
        if row.op in NORMALISATIONS:
            axes = kept.get((row.name, "gamma"))
            roles = ("beta", "mean", "variance")
        else:
            axis = written_axis(row)
            weight = next((p for p in row.parameters or () if p.role == "weight"), None)
            group = int(row.attributes.get("group", 1))
            if axis is None and row.op == "Conv" and group > 1 and weight is not None:
                axis = 0
            lives = kept.get((row.name, "weight"), {}).get(axis if axis is not None else -1)
            axes = None if lives is None else {0: lives}
            roles = ("bias",)  # type: ignore[assignment]
        if axes is None:
            continue
        for role in roles:
            if (row.name, role) in found.bindings:
                kept[row.name, role] = {0: axes[0]}
    for name in found.gates:
        axes = kept.get((name, "gamma")) or kept.get((name, "weight"))
        if axes is None:
            continue
        row = found.graph.by_name[name]
        place = 0 if row.op in NORMALISATIONS else written_axis(row)
        if place in axes:
            for role in GATE_ROLES:
                kept[name, role] = {0: axes[place]}
