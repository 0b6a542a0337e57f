"""Where the strength of a channel comes from: scales, weight norms, or gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from latency_client.channels import NORMALISATIONS, SourceKey, gamma_sources, weight_sources
from latency_client.errors import OptionError
from latency_client.torch.extract import Extraction
from latency_client.torch.gates import Gate, gates_of
from latency_client.torch.places import Slot, slot
from latency_client.torch.values import Piece


class Source(Protocol):
    """One vector with a number for every position of an axis."""

    def vector(self) -> Tensor:
        """The numbers as they are now, with their gradients."""
        ...


@dataclass(frozen=True, slots=True)
class Scales:
    """|gamma| of a normalisation. Source: MorphNet's gamma regulariser."""

    slot: Slot

    def vector(self) -> Tensor:
        """See `Source.vector`."""
        return self.slot.tensor().abs()


@dataclass(frozen=True, slots=True)
class Norms:
    """(1 - f) sqrt(mean(w^2)) + f mean(|w|) over all axes but one.

    Source: MorphNet's group lasso, whose norm is a mean, not a sum.
    """

    slot: Slot
    piece: Piece
    axis: int
    l1_fraction: float

    def vector(self) -> Tensor:
        """See `Source.vector`."""
        weight = self.slot.tensor()
        own = self.piece.axes[self.axis]
        for axis, start, extent in zip(
            self.piece.axes, self.piece.starts, self.piece.shape, strict=True
        ):
            if axis >= 0 and weight.shape[axis] != extent:
                weight = weight.narrow(axis, start, extent)
        rows = weight.movedim(own, 0).flatten(1).float()
        # vector_norm, not a square root: its gradient at zero is zero
        quadratic: Tensor = torch.linalg.vector_norm(rows, dim=1) * rows.shape[1] ** -0.5
        if not self.l1_fraction:
            return quadratic
        absolute = rows.abs().mean(dim=1)
        mixed: Tensor = (1 - self.l1_fraction) * quadratic + self.l1_fraction * absolute
        return mixed


@dataclass(frozen=True, slots=True)
class Gates:
    """What a gate lets through: its last sample, or its probability."""

    gate: Gate
    on_mask: bool

    def vector(self) -> Tensor:
        """See `Source.vector`."""
        return self.gate.last_mask() if self.on_mask else self.gate.probabilities()


@dataclass(frozen=True)
class Algorithm:
    """Base of the three: finds its sources in a model, and joins those of one channel.

    Attributes:
        threshold: a channel is alive above it.
    """

    threshold: float

    probabilistic = False
    inclusive = False
    missing = ""

    def lengths(self, model: nn.Module, extraction: Extraction) -> dict[SourceKey, int]:
        """Every source there is, and how long its vector is."""
        raise NotImplementedError

    def sources(
        self, model: nn.Module, extraction: Extraction, keys: Sequence[SourceKey]
    ) -> list[Source]:
        """The sources themselves."""
        raise NotImplementedError


def _piece(pieces: Mapping[tuple[str, str], tuple[Piece, ...]], key: SourceKey) -> Piece:
    return pieces[key.layer, key.role][0]


@dataclass(frozen=True)
class Gamma(Algorithm):
    """Scales of normalisations."""

    missing = (
        "no scale of a BatchNorm governs a channel that may be pruned: put nn.BatchNorm2d (with "
        "affine=True) behind the convolutions to be regularised, or take a GroupLasso regulariser, "
        "which needs none"
    )

    def lengths(self, model: nn.Module, extraction: Extraction) -> dict[SourceKey, int]:
        """See `Algorithm.lengths`."""
        return {
            key: length
            for key, length in gamma_sources(extraction.graph).items()
            if (key.layer, key.role) in extraction.pieces and _piece(extraction.pieces, key).exact
        }

    def sources(
        self, model: nn.Module, extraction: Extraction, keys: Sequence[SourceKey]
    ) -> list[Source]:
        """See `Algorithm.sources`."""
        return [Scales(slot(model, _piece(extraction.pieces, key).name)) for key in keys]


@dataclass(frozen=True)
class GroupLasso(Algorithm):
    """Norms of the kernels that write a channel."""

    l1_fraction: float = 0.0

    missing = "no layer of the model writes channels that may be pruned"

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 <= self.l1_fraction <= 1:
            raise OptionError(f"l1_fraction={self.l1_fraction}: it must lie between 0 and 1")

    def lengths(self, model: nn.Module, extraction: Extraction) -> dict[SourceKey, int]:
        """See `Algorithm.lengths`."""
        found = {}
        for key, length in weight_sources(extraction.graph).items():
            pieces = extraction.pieces.get((key.layer, key.role), ())
            if pieces and pieces[0].exact and pieces[0].learned:
                found[key] = length
        return found

    def sources(
        self, model: nn.Module, extraction: Extraction, keys: Sequence[SourceKey]
    ) -> list[Source]:
        """See `Algorithm.sources`."""
        pieces = [_piece(extraction.pieces, key) for key in keys]
        return [
            Norms(slot(model, piece.name), piece, key.axis, self.l1_fraction)
            for key, piece in zip(keys, pieces, strict=True)
        ]


@dataclass(frozen=True)
class LogisticSigmoid(Algorithm):
    """Gates that were put into the model with `add_gates`."""

    regularize_on_mask: bool = True
    mask_as_alive_vector: bool = True

    probabilistic = True
    inclusive = True
    missing = "the model has no gates on channels that may be pruned: call add_gates(model) first"

    def _keys(self, model: nn.Module, extraction: Extraction) -> dict[SourceKey, Gate]:
        gated = gates_of(model)
        found = {}
        for layer in extraction.graph.layers:
            gate = gated.get(extraction.owners[layer.name])
            if gate is None:
                continue
            if layer.op in NORMALISATIONS:
                found[SourceKey(layer.name, "gamma", 0)] = gate
            else:
                written = {k: v for k, v in weight_sources(extraction.graph).items()
                           if k.layer == layer.name}  # fmt: skip
                found.update(dict.fromkeys(written, gate))
        return found

    def lengths(self, model: nn.Module, extraction: Extraction) -> dict[SourceKey, int]:
        """See `Algorithm.lengths`."""
        return {key: gate.channels for key, gate in self._keys(model, extraction).items()}

    def sources(
        self, model: nn.Module, extraction: Extraction, keys: Sequence[SourceKey]
    ) -> list[Source]:
        """See `Algorithm.sources`."""
        gates = self._keys(model, extraction)
        return [Gates(gates[key], self.regularize_on_mask) for key in keys]

    def alive_sources(
        self, model: nn.Module, extraction: Extraction, keys: Sequence[SourceKey]
    ) -> list[Source]:
        """What decides which channels live."""
        gates = self._keys(model, extraction)
        return [Gates(gates[key], self.mask_as_alive_vector) for key in keys]
