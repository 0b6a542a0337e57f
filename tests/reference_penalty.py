"""The penalty of the design document in plain float64 NumPy: slow, short, and easy to check.

`strengths` and `live` come from BatchNorm scales or weight norms; `penalties_s` is the sum that a
client has to reproduce.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_service.core.costs import CostModel, Member
from latency_service.core.roofline import LatencyModel
from latency_service.core.scoring import evaluate

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """What training has made of the channel groups."""

    alive: Array  # (G,) channels above the threshold
    strength: Array  # (G,) sum of the channels' strengths


def positions(member: Member, size: int) -> npt.NDArray[np.int64]:
    """(channels, occurrences) where a member holds the channels of its group."""
    run = member.run
    if run.index is not None:
        return np.array(run.index)
    starts = run.start + run.stride * np.arange(size)
    return starts[:, None] + np.arange(run.block)[None, :]


def structure(
    costs: CostModel,
    values: Mapping[str, Array],
    threshold: float,
    is_source: Callable[[Member], bool],
) -> Structure:
    """Alive channels and strengths: a group's strength is the maximum over its members.

    Args:
        values: per layer one non-negative number per channel (the scale, the weight norm).
    """
    alive, strength = costs.sizes.copy(), np.zeros(len(costs.groups))
    for index, group in enumerate(costs.groups):
        sources = [m for m in group.members if is_source(m) and m.layer in values]
        if not group.prunable or not sources:
            continue
        held = np.stack(
            [values[m.layer][positions(m, group.size)].max(axis=1) for m in sources]
        ).max(axis=0)
        alive[index] = (held > threshold).sum()
        strength[index] = held.sum()
    return Structure(alive, strength)


def penalty(forms: Array, n_in: Array, n_out: Array, r_in: Array, r_out: Array) -> Array:
    """per_in r_in + per_out r_out + per_pair (n_in r_out + n_out r_in), layer by layer."""
    return forms[:, 1] * r_in + forms[:, 2] * r_out + forms[:, 3] * (n_in * r_out + n_out * r_in)


def costs_and_penalties_s(model: LatencyModel, at: Structure) -> tuple[Array, Array]:
    """(L,) seconds, and (L,) seconds of penalty."""
    costs = model.costs
    n_in, n_out = costs.read_times @ at.alive, costs.write_times @ at.alive
    r_in, r_out = costs.read_times @ at.strength, costs.write_times @ at.strength
    compute = evaluate(model.compute, n_in, n_out)
    memory = evaluate(model.memory, n_in, n_out)
    switch = memory > compute
    return (
        model.overhead_s + np.maximum(compute, memory),
        np.where(
            switch,
            penalty(model.memory, n_in, n_out, r_in, r_out),
            penalty(model.compute, n_in, n_out, r_in, r_out),
        ),
    )
