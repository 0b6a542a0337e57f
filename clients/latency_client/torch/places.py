"""Where in a model the members of channel groups are: parameters and buffers to read or to cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from latency_client.graph import LayerGraph
from latency_client.torch.values import Piece
from latency_client.wire import Answer, Member


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter or buffer by its module, found anew each time: modules may replace theirs."""

    module: nn.Module
    attribute: str

    def tensor(self) -> Tensor:
        """The tensor as it is now."""
        value = getattr(self.module, self.attribute)
        assert isinstance(value, Tensor)
        return value


def slot(model: nn.Module, name: str) -> Slot:
    """The slot of a parameter or buffer by its full name."""
    path, _, attribute = name.rpartition(".")
    return Slot(model.get_submodule(path), attribute)


def exact_pieces(
    pieces: Mapping[tuple[str, str], tuple[Piece, ...]], member: Member
) -> Iterator[Piece]:
    """Pieces of the model that a member runs through, on an axis that the model's tensor has."""
    for piece in pieces.get((member.layer, member.role), ()):
        if piece.exact and member.axis < len(piece.axes) and piece.axes[member.axis] >= 0:
            yield piece


def out_of_reach(
    graph: LayerGraph, answer: Answer, pieces: Mapping[tuple[str, str], tuple[Piece, ...]]
) -> set[str]:
    """Layers whose channels must be kept, since nothing in the model can be cut for them.

    A weight that is computed in every step (normalised, gathered from elsewhere) and a constant
    that the code makes on the way have no parameter to cut.
    """
    found: set[str] = set()
    for group in answer.groups:
        if not group.prunable:
            continue
        for member in group.members:
            if member.role not in ("weight", "gamma") or any(exact_pieces(pieces, member)):
                continue
            layer = graph.by_name[member.layer]
            found.add(layer.name)
            found |= {graph.writer[t].name for t in layer.inputs if t in graph.writer}
    return found
