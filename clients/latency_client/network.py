"""A network on its devices: what is asked about its graph, and what the service has answered.

Each framework's own `Network` adds the model, and its `describe` makes the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from latency_client.cache import Cache
from latency_client.errors import OptionError
from latency_client.graph import LayerGraph
from latency_client.request import Request
from latency_client.selection import exactly, inside, kept_outside, patterns
from latency_client.service import Source, connect
from latency_client.wire import Answer


@dataclass(frozen=True, kw_only=True)
class AnsweredNetwork:
    """A layer graph on its devices.

    Attributes:
        requests, answers: one per device.
        chosen: names of the layers that count; None: all.
    """

    source: Source
    requests: tuple[Request, ...]
    answers: tuple[Answer, ...]
    chosen: frozenset[str] | None

    @property
    def answer(self) -> Answer:
        """The first one: groups are the same on every device."""
        return self.answers[0]

    def refreshed(self, alive: dict[str, int]) -> Self:
        """The same with coefficients at another structure, from the same revisions.

        Raises:
            ServiceError: if the service does not answer at once.
        """
        answers = []
        for request, answer in zip(self.requests, self.answers, strict=True):
            pinned = request.with_options(
                alive=alive, revision=answer.device.digest, runtime=answer.device.runtime
            )
            answers.append(self.source.coefficients(pinned, fresh=True))
        return replace(self, answers=tuple(answers))


class Part(NamedTuple):
    """The part of a graph that is regularised.

    Attributes:
        chosen: names of the layers that count; None: all.
        exclude: regular expressions over the layers whose channels all stay.
    """

    chosen: frozenset[str] | None
    exclude: list[str]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked about a network beside its model, its batch and its devices.

    Attributes:
        dtype: of the tensors; None: that of the model if it is half precision, else float32.
        model_kind: "roofline" or "calibrated"; None: calibrated where the profile is.
        force_group, exclude, input_boundary, output_boundary: regular expressions over the names
            of layers.
        regularizer_blacklist: MorphNet's name of `exclude`; both hold.
        unknown_ops: "freeze" charges what is not understood for its bytes, and prunes nothing
            through it.
        token, timeout_s, cache: see `connect`.
    """

    dtype: str | None = None
    math: str | None = None
    runtime: str | None = None
    revision: int | str | None = None
    model_kind: str | None = None
    fusion: str | None = None
    force_group: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    regularizer_blacklist: str | Sequence[str] | None = None
    input_boundary: str | Sequence[str] | None = None
    output_boundary: str | Sequence[str] | None = None
    freeze_outputs: bool = True
    unknown_ops: str = "refuse"
    token: str | None = None
    timeout_s: float = 10.0
    cache: Cache | str | os.PathLike[str] | bool | None = True

    def source(self, service: str | Source) -> Source:
        """Where the answers come from."""
        return connect(service, token=self.token, timeout_s=self.timeout_s, cache=self.cache)

    def part(self, graph: LayerGraph) -> Part:
        """What of a graph is regularised.

        Raises:
            OptionError: for an expression that is none, or matches no layer.
        """
        chosen = inside(
            graph,
            patterns(self.input_boundary, "input_boundary"),
            patterns(self.output_boundary, "output_boundary"),
        )
        excluded = patterns(self.exclude, "exclude")
        excluded += patterns(self.regularizer_blacklist, "regularizer_blacklist")
        if chosen is None:
            return Part(None, excluded)
        return Part(frozenset(chosen), excluded + exactly(kept_outside(graph, chosen)))

    def requests(
        self,
        graph: LayerGraph,
        devices: Iterable[str],
        exclude: Sequence[str],
        batch_size: int | None,
        model_dtype: str | None,
    ) -> tuple[Request, ...]:
        """One request per device.

        Args:
            exclude: of the graph's `part`.
            batch_size: None: the graph has it already.
            model_dtype: taken where `dtype` does not say.
        """
        options = {
            "batch_size": batch_size,
            "dtype": self.dtype or model_dtype,
            "math": self.math,
            "runtime": self.runtime,
            "revision": self.revision,
            "model": self.model_kind,
            "fusion": self.fusion,
            "force_group": patterns(self.force_group, "force_group") or None,
            "exclude": list(exclude) or None,
            "freeze_outputs": self.freeze_outputs,
            "unknown_ops": self.unknown_ops if self.unknown_ops != "refuse" else None,
        }
        return tuple(Request(graph, device).with_options(**options) for device in devices)


def named_devices(device: str | None, devices: Iterable[str] | None) -> list[str]:
    """The devices of a regulariser: v100 where none is named.

    Raises:
        OptionError: if one is named, and several.
    """
    if device is not None and devices is not None:
        raise OptionError("pass device=... for one device or devices=[...] for several")
    return [device or "v100"] if devices is None else list(devices)


def check_question(devices: Sequence[str], batch_size: int | None) -> None:
    """See that there is something to ask for.

    Raises:
        OptionError: without a device, or for a batch of no rows.
    """
    if not devices:
        raise OptionError("devices is empty; name at least one")
    if batch_size is not None and batch_size < 1:
        raise OptionError(f"batch_size={batch_size}: it must be at least 1")
