"""Budgets for regularised models: expand, shrink and adapt, whatever their framework."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from latency_client.budget import Expansion, Meter, adapt_counts
from latency_client.budget import expand as expand_structure
from latency_client.budget import shrink_to as shrink_structure
from latency_client.errors import OptionError
from latency_client.network import AnsweredNetwork
from latency_client.structure import Structure

Model_co = TypeVar("Model_co", covariant=True)


class Regularizer(Protocol[Model_co]):
    """What a budget needs of the `NetworkRegularizer` of a framework."""

    @property
    def network(self) -> AnsweredNetwork:
        """The model's graph and the answers about it."""
        ...

    def structure(self) -> Structure:
        """Which channels live now."""
        ...

    def full_structure(self) -> Structure:
        """Every channel alive, with the strengths of now."""
        ...

    def prune_to(self, structure: Structure, **options: Any) -> Model_co:
        """A smaller copy of the model, with the weights that survive."""
        ...


def meter_of(regularizer: Regularizer[Any], device: str | None = None) -> Meter:
    """What measures sub-networks of a regulariser's model on one of its devices.

    Raises:
        OptionError: if it has no such device.
    """
    network = regularizer.network
    for request, answer in zip(network.requests, network.answers, strict=True):
        if device in (None, request.device, answer.device.name):
            return Meter(request, answer, network.source)
    raise OptionError(
        f"the regulariser has no device {device!r}; it has "
        + ", ".join(request.device for request in network.requests)
    )


def shrink_to(
    regularizer: Regularizer[Any],
    structure: Structure | None = None,
    *,
    device: str | None = None,
    **target: Any,
) -> Structure:
    """A structure uniformly narrower, so that it meets a budget; see `budget.shrink_to`."""
    start = regularizer.structure() if structure is None else structure
    return shrink_structure(start, meter_of(regularizer, device), **target)


def expand(
    regularizer: Regularizer[Any],
    structure: Structure | None = None,
    *,
    device: str | None = None,
    **target: Any,
) -> Expansion:
    """The widest uniform multiple of a structure that meets a budget; see `budget.expand`.

    `latency_client.keras.at_widths(model, expansion.widths)` builds the model in Keras.
    """
    start = regularizer.structure() if structure is None else structure
    return expand_structure(start, meter_of(regularizer, device), **target)


def adapt(
    regularizer: Regularizer[Model_co],
    budget_s: float,
    *,
    device: str | None = None,
    steps: int = 32,
    multiple_of: int | str = "device",
    floor: int = 1,
    **options: Any,
) -> Model_co:
    """A smaller copy of a regulariser's model that meets a latency, without training in the loop.

    The groups are narrowed where a second costs least strength; see `budget.adapt_counts`. The
    weights that survive are the model's own: train it on afterwards.

    Args:
        options: of `NetworkRegularizer.prune_to`.
    """
    structure = adapt_counts(
        regularizer.full_structure(),
        meter_of(regularizer, device),
        budget_s,
        steps=steps,
        multiple_of=multiple_of,
        floor=floor,
    )
    return regularizer.prune_to(structure, **options)
