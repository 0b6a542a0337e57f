"""Which channels live: what training has found, rounded, counted, written and read.

Two files per export: MorphNet's `learned_structure/alive_{step}` (counts per layer, its exact
format) and `structure_{step}.json` beside it, which says which channels they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_client.cache import write_whole
from latency_client.channels import ChannelMap, members_of, written_axis
from latency_client.errors import StructureError
from latency_client.graph import LayerGraph
from latency_client.resources import FloatArray
from latency_client.wire import Answer, Member

BoolArray = npt.NDArray[np.bool_]

FOLDER = "learned_structure"
_FORMAT = "latency-client structure 1"
_COUNTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Width:
    """The output channels of one layer: how many there were, and which of them live."""

    op: str
    size: int
    alive: tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """Which channels of every group live.

    Attributes:
        masks: per group id, (size,) whether each channel lives.
        strengths: per group id, (size,) of each channel; decides which ones rounding revives.
        steps: per group id, the step in which the device gets faster.
        members: per group id, where its channels sit; with them a structure is enough to prune.
        layers: the same seen from every layer whose output channels may be pruned.
        device: name, runtime, revision and digest of what the costs were for.
        graph: digest of the layer graph.
    """

    masks: Mapping[str, BoolArray]
    strengths: Mapping[str, FloatArray]
    steps: Mapping[str, int]
    members: Mapping[str, tuple[Member, ...]]
    layers: Mapping[str, Width]
    device: Mapping[str, Any]
    graph: str

    def alive_counts(self) -> dict[str, int]:
        """Live output channels of every layer that may be pruned, by name."""
        return {name: len(width.alive) for name, width in self.layers.items()}

    def group_counts(self) -> dict[str, int]:
        """Live channels of every group."""
        return {group: int(mask.sum()) for group, mask in self.masks.items()}

    def counts(self, groups: tuple[str, ...]) -> FloatArray:
        """(G,) live channels in the order of some groups.

        Raises:
            StructureError: if it does not know one of them.
        """
        for group in groups:
            if group not in self.masks:
                raise StructureError(
                    f"the structure has no channel group {group!r}; it belongs to another network"
                )
        return np.array([self.masks[group].sum() for group in groups], dtype=np.float64)


def trained_structure(
    graph: LayerGraph,
    answer: Answer,
    channels: ChannelMap,
    alive: BoolArray,
    strengths: FloatArray,
) -> Structure:
    """A structure from what a regulariser knows of its channels.

    Args:
        alive, strengths: (C,) of each channel that has a source.
    """
    ids = [group.id for group in answer.groups]
    own = zip(ids, channels.by_group(strengths), channels.regularised, strict=True)
    masks = dict(zip(ids, channels.masks(alive), strict=True))
    return make_structure(graph, answer, masks, {name: found for name, found, has in own if has})


def make_structure(
    graph: LayerGraph,
    answer: Answer,
    masks: Mapping[str, BoolArray],
    strengths: Mapping[str, FloatArray] | None = None,
) -> Structure:
    """A structure from what lives in every group.

    Args:
        masks: per group id; groups left out live in full.

    Raises:
        StructureError: for a group that the network does not have, or has with another size, or a
            channel that is dead in a group that is not prunable.
    """
    full = {group.id: np.ones(group.size, dtype=np.bool_) for group in answer.groups}
    for name, mask in masks.items():
        if name not in full or full[name].size != mask.size:
            have = f"with {full[name].size} channels" if name in full else "not at all"
            raise StructureError(
                f"the structure has a group {name!r} of {mask.size} channels, the network has it "
                f"{have}; it belongs to another network, or to this one before its code changed"
            )
        if not answer.groups[answer.group_index[name]].prunable and not mask.all():
            raise StructureError(
                f"group {name!r} is not prunable, but {int((~mask).sum())} of its channels are dead"
            )
    full.update({name: mask.astype(np.bool_) for name, mask in masks.items()})
    known = strengths or {}
    device = answer.device
    return Structure(
        full,
        {name: np.asarray(known.get(name, m), dtype=np.float64) for name, m in full.items()},
        {group.id: group.channel_step for group in answer.groups},
        {group.id: group.members for group in answer.groups},
        _widths(graph, answer, full),
        {
            "name": device.name,
            "runtime": device.runtime,
            "revision": device.revision,
            "digest": device.digest,
        },
        graph.digest,
    )


def _widths(graph: LayerGraph, answer: Answer, masks: Mapping[str, BoolArray]) -> dict[str, Width]:
    places = members_of(answer, ("weight",))
    found = {}
    for layer in graph.layers:
        axis = written_axis(layer)
        if axis is None or layer.op not in _COUNTED:
            continue
        weight = next(p for p in layer.parameters or () if p.role == "weight")
        size = weight.shape[axis]
        alive = np.ones(size, dtype=np.bool_)
        prunable = False
        for index, member in places.get(layer.name, ()):
            group = answer.groups[index]
            if member.axis == axis:
                prunable = prunable or group.prunable
                alive[member.positions(group.size)] = masks[group.id][:, None]
        if prunable:
            # a grouped ConvTranspose writes several channels per position that is seen
            times = layer.outputs[0].shape[1] // size if layer.op == "ConvTranspose" else 1
            kept = np.flatnonzero(np.repeat(alive, max(1, times)))
            found[layer.name] = Width(layer.op, size * max(1, times), tuple(kept.tolist()))
    return found


def rounded(
    structure: Structure,
    graph: LayerGraph,
    answer: Answer,
    *,
    floor: int = 0,
    multiple_of: int | str = 1,
) -> Structure:
    """The structure with the strongest dead channels revived where a number does not pay.

    Args:
        floor: least channels of every group (of fewer channels: all); 0 lets branches die.
        multiple_of: live channels are rounded up to a multiple of it, and to the full width at the
            most; "device": to the step that the device's profile says pays. Groups that are dead
            and that `floor` lets die stay dead.

    Raises:
        StructureError: for a multiple that is no positive whole number.
    """
    if multiple_of != "device" and (not isinstance(multiple_of, int) or multiple_of < 1):
        raise StructureError(
            f'multiple_of={multiple_of!r}: a positive whole number, or "device" for its own step'
        )
    masks = {}
    for group in answer.groups:
        mask, strength = structure.masks[group.id], structure.strengths[group.id]
        step = group.channel_step if isinstance(multiple_of, str) else multiple_of
        count = max(int(mask.sum()), min(floor, group.size))
        wanted = min(-(-count // step) * step, group.size)
        # live channels first, then by strength; ties by position
        order = np.lexsort((np.arange(group.size), -strength, ~mask))
        kept = np.zeros(group.size, dtype=np.bool_)
        kept[order[:wanted]] = True
        masks[group.id] = kept if group.prunable else mask
    made = make_structure(graph, answer, masks, structure.strengths)
    return replace(made, device=structure.device)


# --- files ----------------------------------------------------------------------------------------


def alive_file(base: str | os.PathLike[str], step: int) -> Path:
    """Where MorphNet's file of a training step is."""
    return Path(base) / FOLDER / f"alive_{step}"


def structure_file(base: str | os.PathLike[str], step: int) -> Path:
    """Where the richer file of a training step is."""
    return Path(base) / FOLDER / f"structure_{step}.json"


def without_common_prefix(counts: Mapping[str, int], separator: str = "/") -> dict[str, int]:
    """The same with the first part of every name taken off, where all share it."""
    parts = {name.partition(separator)[0] for name in counts}
    if len(parts) != 1 or not all(separator in name for name in counts):
        return dict(counts)
    return {name.partition(separator)[2]: count for name, count in counts.items()}


def format_counts(counts: Mapping[str, int]) -> str:
    """The text of MorphNet's file: keys sorted, indented by two, no newline at the end."""
    return json.dumps(dict(counts), indent=2, sort_keys=True)


def write_structure(base: str | os.PathLike[str], step: int, structure: Structure) -> Path:
    """Write both files of a training step; returns the path of MorphNet's."""
    path = alive_file(base, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": _FORMAT,
        "step": step,
        "graph": structure.graph,
        "device": dict(structure.device),
        "groups": {
            group: {
                "size": int(mask.size),
                "alive": np.flatnonzero(mask).tolist(),
                "strengths": structure.strengths[group].tolist(),
                "channel_step": structure.steps[group],
                "members": [member.document() for member in structure.members[group]],
            }
            for group, mask in structure.masks.items()
        },
        "layers": {
            name: {"op": width.op, "size": width.size, "alive": list(width.alive)}
            for name, width in structure.layers.items()
        },
    }
    write_whole(structure_file(base, step), json.dumps(document, indent=2, sort_keys=True))
    write_whole(path, format_counts(structure.alive_counts()))
    return path


def read_alive_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """Live output channels by layer from MorphNet's file.

    Raises:
        StructureError: if it is no such file.
    """
    document = _read_json(Path(path))
    for name, count in document.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise StructureError(f"{path}: {name!r} has {count!r} live channels; that is no count")
    return document


def read_structure(path: str | os.PathLike[str]) -> Structure:
    """A structure from the richer file.

    Raises:
        StructureError: if it is no such file, or damaged.
    """
    document = _read_json(Path(path))
    if document.get("format") != _FORMAT:
        raise StructureError(
            f"{path} is no structure file ({_FORMAT!r}); MorphNet's alive_* files hold counts only "
            "and are read with read_alive_counts"
        )
    try:
        masks, strengths, steps, members = {}, {}, {}, {}
        for name, row in document["groups"].items():
            mask = np.zeros(row["size"], dtype=np.bool_)
            mask[np.array(row["alive"], dtype=np.int64)] = True
            masks[name] = mask
            strengths[name] = np.array(row["strengths"], dtype=np.float64)
            steps[name] = int(row["channel_step"])
            members[name] = tuple(map(Member.from_json, row["members"]))
        layers = {
            name: Width(row["op"], row["size"], tuple(row["alive"]))
            for name, row in document["layers"].items()
        }
        device, graph = document["device"], document["graph"]
        return Structure(masks, strengths, steps, members, layers, device, graph)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise StructureError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StructureError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise StructureError(f"{path} is no JSON, or only a part of it: {error}") from None
    if not isinstance(document, dict):
        raise StructureError(f"{path} holds no JSON object")
    return document


def check_structure(structure: Structure, graph: LayerGraph) -> None:
    """See that a structure belongs to a network.

    Raises:
        StructureError: naming the first layer that is missing or has another width.
    """
    by_name = graph.by_name
    for name, width in structure.layers.items():
        layer = by_name.get(name)
        if layer is None or layer.op != width.op:
            raise StructureError(
                f"the structure has a layer {name!r} ({width.op}), the network has "
                + (f"{layer.op} under that name" if layer else "none of that name")
                + "; it was exported from other code"
            )
        axis = written_axis(layer)
        weight = next((p for p in layer.parameters or () if p.role == "weight"), None)
        size = None if axis is None or weight is None else weight.shape[axis]
        if size is None or width.size % size:
            raise StructureError(
                f"layer {name!r} has {size} output channels, the structure was exported from "
                f"{width.size}; apply it to the model before pruning"
            )
