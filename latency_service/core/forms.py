"""Costs as bilinear forms in a layer's live channel counts.

FLOPs, bytes, weights and parameters of every layer are `constant + per_in n_in + per_out n_out +
per_pair n_in n_out`. One type serves the API's coefficients, the penalty and the scoring of
sub-networks.
"""

from __future__ import annotations

from typing import NamedTuple

from latency_service.core.graph import made


class BilinearForm(NamedTuple):
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

    def plus(self, other: BilinearForm) -> BilinearForm:
        """The sum of two quantities of the same channels."""
        a, b = self, other
        return made(BilinearForm, (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]))

    def scaled(self, factor: float) -> BilinearForm:
        """The quantity times a factor."""
        form = self[0] * factor, self[1] * factor, self[2] * factor, self[3] * factor
        return made(BilinearForm, form)


ZERO = BilinearForm()
