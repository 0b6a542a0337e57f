"""A model, its layer graph, and the answers about it: what is fetched once at startup."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from latency_client.cache import Cache
from latency_client.errors import OptionError, RefusedError
from latency_client.request import Request
from latency_client.selection import exactly, inside, kept_outside, patterns
from latency_client.service import Source, connect
from latency_client.torch.extract import Extraction, extract, unwrapped
from latency_client.torch.places import out_of_reach
from latency_client.wire import Answer

_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Network:
    """A model on its devices.

    Attributes:
        model: without DistributedDataParallel, torch.compile and the like around it.
        requests, answers: one per device.
        chosen: names of the layers that count; None: all.
    """

    model: nn.Module
    extraction: Extraction
    source: Source
    requests: tuple[Request, ...]
    answers: tuple[Answer, ...]
    chosen: frozenset[str] | None

    @property
    def answer(self) -> Answer:
        """The first one: groups are the same on every device."""
        return self.answers[0]

    def refreshed(self, alive: dict[str, int]) -> Network:
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


def describe(
    model: nn.Module,
    example_inputs: Any,
    devices: Sequence[str],
    service: str | Source,
    *,
    batch_size: int | None = None,
    batch_axis: int | None = 0,
    dtype: str | None = None,
    math: str | None = None,
    runtime: str | None = None,
    revision: int | str | None = None,
    model_kind: str | None = None,
    fusion: str | None = None,
    force_group: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    input_boundary: str | Sequence[str] | None = None,
    output_boundary: str | Sequence[str] | None = None,
    freeze_outputs: bool = True,
    unknown_ops: str = "refuse",
    token: str | None = None,
    timeout_s: float = 10.0,
    cache: Cache | str | os.PathLike[str] | bool | None = True,
) -> Network:
    """Extract a model's graph and fetch its coefficients for some devices.

    Args:
        batch_size: rows that are costed; None is one row, as in MorphNet.
        dtype: of the tensors; None: that of the model if it is half precision, else float32.
        model_kind: "roofline" or "calibrated"; None: calibrated where the profile is.

    Raises:
        LatencyClientError: see `latency_client.errors`; a description is whole or not at all.
    """
    if not devices:
        raise OptionError("devices is empty; name at least one")
    model = unwrapped(model)
    wanted = 1 if batch_size is None and batch_axis is not None else batch_size
    if wanted is not None and wanted < 1:
        raise OptionError(f"batch_size={wanted}: it must be at least 1")
    settings: dict[str, Any] = {
        "batch_size": wanted, "batch_axis": batch_axis, "unknown_ops": unknown_ops,
    }  # fmt: skip
    extraction = extract(model, example_inputs, **settings)
    graph = extraction.graph
    chosen = inside(
        graph,
        patterns(input_boundary, "input_boundary"),
        patterns(output_boundary, "output_boundary"),
    )
    excluded = patterns(exclude, "exclude")
    if chosen is not None:
        excluded += exactly(kept_outside(graph, chosen))
    options: dict[str, Any] = {
        "batch_size": extraction.batch_size,
        "dtype": dtype or _own_dtype(model),
        "math": math,
        "runtime": runtime,
        "revision": revision,
        "model": model_kind,
        "fusion": fusion,
        "force_group": patterns(force_group, "force_group") or None,
        "exclude": excluded or None,
        "freeze_outputs": freeze_outputs,
        "unknown_ops": unknown_ops if unknown_ops != "refuse" else None,
    }
    source = connect(service, token=token, timeout_s=timeout_s, cache=cache)
    requests = [Request(graph, device).with_options(**options) for device in devices]
    try:
        answers = [source.coefficients(request) for request in requests]
    except RefusedError as error:
        if extraction.batch_size is None or error.status != 422:
            raise
        # the model fixes its batch in its code: run it on all rows
        extraction = extract(model, example_inputs, most_rows=None, **settings)
        graph, options["batch_size"] = extraction.graph, None
        requests = [Request(graph, device).with_options(**options) for device in devices]
        answers = [source.coefficients(request) for request in requests]
    # what has nothing to cut in the model must not be pruned; rare, so it is asked for afterwards
    kept: set[str] = set()
    while more := out_of_reach(graph, answers[0], extraction.pieces) - kept:
        kept |= more
        requests = [r.with_options(exclude=excluded + exactly(kept)) for r in requests]
        answers = [source.coefficients(request) for request in requests]
    return Network(
        model,
        extraction,
        source,
        tuple(requests),
        tuple(answers),
        None if chosen is None else frozenset(chosen),
    )


def _own_dtype(model: nn.Module) -> str | None:
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if first is None else _DTYPES.get(first.dtype)
