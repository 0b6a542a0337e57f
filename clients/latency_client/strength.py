"""How strong the penalty should be: where to start, and what to try around it."""

from __future__ import annotations

import numpy as np

from latency_client.errors import OptionError


def suggested_strength(initial_cost: float) -> float:
    """The strength that makes the penalty of the full network about as large as a loss of 1.

    Args:
        initial_cost: of the network before training, in the regulariser's own unit.

    Raises:
        OptionError: if the network costs nothing.

    Source: MorphNet's advice, 1 / initial cost.
    """
    if not initial_cost > 0 or not np.isfinite(initial_cost):
        raise OptionError(f"the network costs {initial_cost}; a strength needs a positive cost")
    return 1.0 / initial_cost


def strength_sweep(initial_cost: float, count: int = 7, decades: float = 3.0) -> tuple[float, ...]:
    """Strengths to try, evenly spaced in their logarithm around the suggested one.

    Args:
        decades: between the smallest and the largest.

    Raises:
        OptionError: for fewer than one, or a network that costs nothing.
    """
    if count < 1:
        raise OptionError(f"a sweep of {count} strengths; it needs at least one")
    middle = suggested_strength(initial_cost)
    if count == 1:
        return (middle,)
    exponents = np.linspace(-decades / 2, decades / 2, count)
    return tuple(float(middle * 10.0**exponent) for exponent in exponents)
