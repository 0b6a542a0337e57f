"""Costs as bilinear forms in a layer's live channel counts.

FLOPs, bytes, weights and parameters of every layer are `constant + per_in n_in + per_out n_out +
per_pair n_in n_out`. One type serves the API's coefficients, the penalty and the scoring of
sub-networks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BilinearForm:
    """A quantity as a function of a layer's live input and output channels."""

    constant: float = 0.0
    per_in: float = 0.0
    per_out: float = 0.0
    per_pair: float = 0.0

    def at(self, n_in: float, n_out: float) -> float:
        """The quantity with `n_in` live input channels and `n_out` live output channels."""
        return (
            self.constant + self.per_in * n_in + self.per_out * n_out + self.per_pair * n_in * n_out
        )

    def __add__(self, other: BilinearForm) -> BilinearForm:
        return BilinearForm(
            self.constant + other.constant,
            self.per_in + other.per_in,
            self.per_out + other.per_out,
            self.per_pair + other.per_pair,
        )

    def __mul__(self, factor: float) -> BilinearForm:
        return BilinearForm(
            self.constant * factor,
            self.per_in * factor,
            self.per_out * factor,
            self.per_pair * factor,
        )


ZERO = BilinearForm()
