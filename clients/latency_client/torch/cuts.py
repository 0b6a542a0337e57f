"""What a structure means for the tensors of a model: which positions of which axes stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from latency_client.channels import written_axis
from latency_client.errors import PruningError
from latency_client.structure import BoolArray, Structure
from latency_client.torch.extract import Extraction
from latency_client.torch.places import exact_pieces
from latency_client.torch.values import Piece
from latency_client.wire import IntArray, Member

# Vectors that run along a layer's channels beside the member that is named.
_ALONG_GAMMA = ("beta", "mean", "variance")


@dataclass(frozen=True, slots=True)
class Dead:
    """Positions that a member of a group loses."""

    group: str
    member: Member
    positions: IntArray


def dead_members(structure: Structure) -> Iterator[Dead]:
    """Every place where a channel has died."""
    for group, mask in structure.masks.items():
        if mask.all():
            continue
        for member in structure.members[group]:
            yield Dead(group, member, member.positions(mask.size)[~mask].reshape(-1))


class Cuts:
    """Per tensor of the model and axis, which positions stay.

    Attributes:
        kept: by name of the parameter or buffer, then by axis.
    """

    def __init__(self, model: nn.Module, extraction: Extraction, structure: Structure) -> None:
        """Collect them.

        Raises:
            PruningError: naming a layer whose channels sit in nothing that can be cut.
        """
        self.kept: dict[str, dict[int, BoolArray]] = {}
        self._tensors: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
        self._tensors.update(model.named_parameters(remove_duplicate=False))
        self._extraction = extraction
        for dead in dead_members(structure):
            if dead.member.role in ("weight", "gamma"):
                self._cut_member(dead)

    def _cut_member(self, dead: Dead) -> None:
        pieces, member = self._extraction.pieces, dead.member
        found = list(exact_pieces(pieces, member))
        if not found:
            raise PruningError(
                f"channels of group {dead.group!r} sit in the {member.role} of layer "
                f"{member.layer!r}, which is computed anew in every step and cannot be cut; keep "
                f"them with exclude={['^' + member.layer + '$']!r}"
            )
        for piece in found:
            self._cut(piece, member.axis, dead.positions)
        if member.role == "gamma":
            for role in _ALONG_GAMMA:
                for piece in pieces.get((member.layer, role), ()):
                    self._cut(piece, 0, dead.positions)
            return
        layer = self._extraction.graph.by_name[member.layer]
        depthwise = layer.op == "Conv" and member.axis == 0
        if member.axis == written_axis(layer) or depthwise:
            for piece in pieces.get((member.layer, "bias"), ()):
                self._cut(piece, 0, self._of_bias(dead, piece))

    def _of_bias(self, dead: Dead, piece: Piece) -> IntArray:
        """Of a grouped ConvTranspose every position seen stands for several of the bias."""
        weight = self._extraction.pieces[dead.member.layer, "weight"][0]
        layer = self._extraction.graph.by_name[dead.member.layer]
        if layer.op != "ConvTranspose" or int(layer.attributes.get("group", 1)) == 1:
            return dead.positions
        # whole conv-groups die: I / group inputs of one make way for O / group outputs
        groups = int(layer.attributes["group"])
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        gone = np.unique(dead.positions // inputs)
        return (gone[:, None] * outputs + np.arange(outputs)).reshape(-1)

    def _cut(self, piece: Piece, axis: int, positions: IntArray) -> None:
        own = piece.axes[axis]
        size = self._tensors[piece.name].shape[own]
        by_axis = self.kept.setdefault(piece.name, {})
        kept = by_axis.setdefault(own, np.ones(size, dtype=np.bool_))
        kept[positions + piece.starts[axis]] = False

    def is_gone(self, name: str) -> bool:
        """Whether nothing stays of some axis of a tensor."""
        return any(not kept.any() for kept in self.kept.get(name, {}).values())

    def applied(self, name: str, tensor: Tensor) -> Tensor:
        """What stays of a tensor."""
        for axis, kept in self.kept.get(name, {}).items():
            index = torch.from_numpy(np.flatnonzero(kept)).to(tensor.device)
            tensor = tensor.index_select(axis, index)
        return tensor


def mask_(model: nn.Module, extraction: Extraction, structure: Structure) -> None:
    """Zero what reads a dead channel, in place: the model that a pruned one equals.

    Source: DESIGN, "a masked model is one in which every consumer's weight slice that reads a dead
    group is zero".
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for dead in dead_members(structure):
            member = dead.member
            if member.role != "weight":
                continue
            layer = extraction.graph.by_name[member.layer]
            if written_axis(layer) in (None, member.axis):
                continue  # it writes the channel, or only scales it
            grouped = int(layer.attributes.get("group", 1)) > 1
            for piece in exact_pieces(extraction.pieces, member):
                if grouped or piece.name not in tensors:
                    continue
                index = torch.from_numpy(dead.positions + piece.starts[member.axis])
                own = piece.axes[member.axis]
                tensor = tensors[piece.name]
                tensor.index_fill_(own, index.to(tensor.device), 0.0)
