"""Widths that meet a budget: expansion, shrinking, and adaptation without training.

Everything here counts channels; no framework is needed. A budget is a latency in seconds, a number
of FLOPs or of weights, and structures are measured by the service's own scores where it is there
(calibrated profiles evaluate their utilisation anew at every structure), else by the coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latency_client.errors import BudgetError, OptionError
from latency_client.reference import costs
from latency_client.request import Request
from latency_client.resources import FLOPS, LATENCY, MODEL_SIZE, FloatArray, cost_arrays
from latency_client.service import HttpService, Source
from latency_client.structure import Structure, make_structure
from latency_client.wire import Answer

# Halvings of the multiplier's range; they tell apart widths of thousands of channels.
_HALVINGS = 24

_RESOURCE = {"latency_s": LATENCY, "flops": FLOPS, "weights": MODEL_SIZE}


@dataclass(frozen=True)
class Target:
    """One thing that must not be exceeded."""

    quantity: str
    value: float


def target(
    target_latency_s: float | None = None,
    target_flops: float | None = None,
    target_weights: float | None = None,
) -> Target:
    """The one budget that is given.

    Raises:
        OptionError: unless exactly one is, and positive.
    """
    given = {
        "latency_s": target_latency_s,
        "flops": target_flops,
        "weights": target_weights,
    }
    named = [(key, value) for key, value in given.items() if value is not None]
    if len(named) != 1:
        raise OptionError("give exactly one of target_latency_s, target_flops and target_weights")
    quantity, value = named[0]
    if not value > 0:
        raise OptionError(f"target_{quantity}={value}: it must be positive")
    return Target(quantity, float(value))


@dataclass(frozen=True)
class Meter:
    """Measures sub-networks of one network on one device.

    Attributes:
        source: of scores; anything but an `HttpService` leaves them to the coefficients.
    """

    request: Request
    answer: Answer
    source: Source | None = None

    def __call__(self, counts: FloatArray, quantity: str) -> FloatArray:
        """(N,) a quantity of sub-networks.

        Args:
            counts: (N, G) live channels per group.
            quantity: latency_s, flops or weights.
        """
        scored = quantity == "latency_s" and self.answer.model == "calibrated"
        if scored and isinstance(self.source, HttpService):
            return self._scores(self.source, counts)
        found: FloatArray = costs(cost_arrays([self.answer], _RESOURCE[quantity]), counts)[0]
        return found

    def _scores(self, service: HttpService, counts: FloatArray) -> FloatArray:
        prunable = [i for i, group in enumerate(self.answer.groups) if group.prunable]
        device = self.answer.device
        options = {k: v for k, v in self.request.options.items() if k != "alive"}
        body = {
            **options,
            "graph": self.request.graph.document(),
            "devices": [self.request.device],
            "groups": [self.answer.groups[i].id for i in prunable],
            "alive": counts[:, prunable].astype(np.int64).tolist(),
            "runtime": device.runtime,
            "revision": device.digest,
        }
        document = service.post("/v1/scores", body)
        return np.array(document["latency_s"], dtype=np.float64)[:, 0]


def shrink_to(
    structure: Structure,
    meter: Meter,
    *,
    target_latency_s: float | None = None,
    target_flops: float | None = None,
    target_weights: float | None = None,
    multiple_of: int | str = 1,
    floor: int = 1,
) -> Structure:
    """The structure uniformly narrower, so that it meets a budget; its strongest channels stay.

    Args:
        target_latency_s, target_flops, target_weights: the budget, exactly one of them.
        multiple_of: widths are rounded down to it, "device": to the step of each group.
        floor: least channels of a group; one that has fewer keeps them, a dead one stays dead.

    Raises:
        OptionError: for no budget or several, or another `multiple_of`.
        BudgetError: if even the narrowest one does not.
    """
    wanted = target(target_latency_s, target_flops, target_weights)
    full = structure.counts(tuple(group.id for group in meter.answer.groups))
    steps = _steps(meter.answer, multiple_of)

    def at(multiplier: float) -> FloatArray:
        return narrowed(meter.answer, full, steps, multiplier, floor)

    def value(counts: FloatArray) -> float:
        return float(meter(counts[None], wanted.quantity)[0])

    if value(full) <= wanted.value:
        return structure
    least = value(at(0.0))
    if least > wanted.value:
        raise BudgetError(
            f"no width meets {wanted.quantity} <= {wanted.value:.4g}: with {floor} channels a "
            f"group it is still {least:.4g}; allow a larger budget, or drop exclude and boundaries"
        )
    best = _largest(0.0, 1.0, lambda m: value(at(m)) <= wanted.value)
    return with_counts(structure, meter, at(best))


def _largest(low: float, high: float, fits: Callable[[float], bool]) -> float:
    """The largest multiplier that fits, by halving; `low` does, `high` does not."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _steps(answer: Answer, multiple_of: int | str) -> FloatArray:
    if multiple_of == "device":
        return np.array([group.channel_step for group in answer.groups], dtype=np.float64)
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise OptionError(f'multiple_of={multiple_of!r}: a positive whole number, or "device"')
    return np.full(len(answer.groups), float(multiple_of))


def narrowed(
    answer: Answer, counts: FloatArray, steps: FloatArray, multiplier: float, floor: int
) -> FloatArray:
    """(G,) counts times a multiplier, in steps; groups that may not be pruned keep theirs."""
    scaled = np.floor(counts * multiplier / steps + 1e-9) * steps
    scaled = np.minimum(np.maximum(scaled, np.minimum(counts, np.maximum(steps, floor))), counts)
    prunable = np.array([group.prunable for group in answer.groups])
    return np.where(prunable & (counts > 0), scaled, counts)


def with_counts(structure: Structure, meter: Meter, counts: FloatArray) -> Structure:
    """The structure with the strongest channels of every group, as many as are named."""
    masks = {}
    for column, group in enumerate(meter.answer.groups):
        mask, strength = structure.masks[group.id], structure.strengths[group.id]
        order = np.lexsort((np.arange(group.size), -strength, ~mask))
        kept = np.zeros(group.size, dtype=np.bool_)
        kept[order[: int(counts[column])]] = True
        masks[group.id] = kept
    made = make_structure(meter.request.graph, meter.answer, masks, structure.strengths)
    return replace(made, device=structure.device)


# --- expansion ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expansion:
    """A uniform width multiplier and what it gives.

    Attributes:
        multiplier: of the live channels of every group that may be pruned.
        counts: channels by group.
        widths: output channels by layer.
        value: of the quantity that was budgeted.
    """

    multiplier: float
    counts: Mapping[str, int]
    widths: Mapping[str, int]
    value: float


def expand(
    structure: Structure,
    meter: Meter,
    *,
    target_latency_s: float | None = None,
    target_flops: float | None = None,
    target_weights: float | None = None,
    multiple_of: int | str = 1,
    most: float = 64.0,
) -> Expansion:
    """The widest uniform multiple of a structure that meets a budget (MorphNet's expansion).

    Costs are bilinear in the channels, so the forms hold beyond the full width, too: exactly for a
    roofline, as a linearisation for a calibrated profile (ask for the expanded model's own latency
    before it is trained).

    Args:
        target_latency_s, target_flops, target_weights, multiple_of: as in `shrink_to`.
        most: the largest multiplier to try.

    Raises:
        OptionError: for no budget or several, or another `multiple_of`.
        BudgetError: if the structure as it is already exceeds the budget; `shrink_to` narrows it.

    Source: MorphNet (Gordon et al., 2018), step 3 of its algorithm.
    """
    wanted = target(target_latency_s, target_flops, target_weights)
    answer = meter.answer
    arrays = cost_arrays([answer], _RESOURCE[wanted.quantity])
    start = structure.counts(arrays.groups)
    prunable = np.array([group.prunable for group in answer.groups])
    steps = _steps(answer, multiple_of)

    def at(multiplier: float) -> FloatArray:
        scaled = np.floor(start * multiplier / steps + 1e-9) * steps
        return np.where(prunable, np.maximum(scaled, start), start)

    def value(multiplier: float) -> float:
        return float(costs(arrays, at(multiplier))[0])

    if value(1.0) > wanted.value:
        raise BudgetError(
            f"the structure has {wanted.quantity} = {value(1.0):.4g}, more than the "
            f"{wanted.value:.4g} it is to be expanded to; narrow it with shrink_to"
        )
    best = most
    if value(most) > wanted.value:
        best = _largest(1.0, most, lambda m: value(m) <= wanted.value)
    counts = at(best)
    written = arrays.writes @ counts
    return Expansion(
        best,
        dict(zip(arrays.groups, counts.astype(int).tolist(), strict=True)),
        {name: round(float(written[answer.layer_index[name]])) for name in structure.layers},
        value(best),
    )


# --- adaptation -----------------------------------------------------------------------------------


def adapt_counts(
    structure: Structure,
    meter: Meter,
    budget_s: float,
    *,
    steps: int = 32,
    multiple_of: int | str = "device",
    floor: int = 1,
) -> Structure:
    """Narrow the group that costs least importance per second saved, until a latency is met.

    Args:
        budget_s: latency in seconds.
        steps: rounds in which the excess is worked off.

    Raises:
        BudgetError: if no structure with `floor` channels a group meets the budget.

    Source: NetAdapt (Yang et al., 2018), with the channels' strengths in the place of its short
    trainings.
    """
    if not budget_s > 0:
        raise OptionError(f"budget_s={budget_s}: it must be positive")
    answer = meter.answer
    counts = structure.counts(tuple(group.id for group in answer.groups))
    unit = _steps(answer, multiple_of)
    lost = [_cumulative_loss(structure, group.id) for group in answer.groups]
    now = float(meter(counts[None], "latency_s")[0])
    quota = max(0.0, now - budget_s) / steps
    while now > budget_s:
        proposals = [
            _proposals(counts, column, unit[column], min(floor, group.size))
            for column, group in enumerate(answer.groups)
            if group.prunable
        ]
        rows = [row for own in proposals for row in own]
        if not rows:
            raise BudgetError(
                f"no structure meets {budget_s:.4g} s: with {floor} channels a group the network "
                f"still takes {now:.4g} s"
            )
        matrix = np.stack(rows)
        seconds = meter(matrix, "latency_s")
        saved = now - seconds
        harm = np.array([_harm(lost, counts, row) for row in matrix])
        # a round takes at least its share of the excess, from whom it hurts least per second
        enough = saved >= min(quota, now - budget_s) - 1e-18
        useful = enough if enough.any() else saved > 0
        if not useful.any():
            # on a plateau of the hardware's steps no single cut pays: take the least harmful one
            useful = np.ones(len(rows), dtype=np.bool_)
        price = np.where(useful, harm / np.maximum(saved, 1e-12), np.inf)
        best = int(price.argmin())
        counts, now = matrix[best], float(seconds[best])
    return with_counts(structure, meter, counts)


def _proposals(counts: FloatArray, column: int, unit: float, floor: int) -> list[FloatArray]:
    """The structure with one group narrower: by one unit, by two, by four, ..."""
    found: list[FloatArray] = []
    have, taken = counts[column], unit
    while True:
        left = math.floor((have - taken) / unit + 1 - 1e-9) * unit
        if left < floor:
            if have > floor and not found:
                row = counts.copy()
                row[column] = floor
                found.append(row)
            return found
        row = counts.copy()
        row[column] = left
        found.append(row)
        taken *= 2


def _cumulative_loss(structure: Structure, group: str) -> FloatArray:
    """(size + 1,) part of a group's strength that its n strongest channels lack, by n."""
    strength = np.sort(np.abs(structure.strengths[group]) * structure.masks[group])[::-1]
    total = strength.sum()
    if not total:
        return np.linspace(1.0, 0.0, strength.size + 1)
    return np.concatenate([[1.0], 1.0 - np.cumsum(strength) / total])


def _harm(lost: Sequence[FloatArray], before: FloatArray, after: FloatArray) -> float:
    columns = [int(c) for c in np.flatnonzero(before != after)]
    return sum(float(lost[c][int(after[c])] - lost[c][int(before[c])]) + 1e-9 for c in columns)
