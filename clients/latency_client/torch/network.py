"""A model, its layer graph, and the answers about it: what is fetched once at startup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from latency_client.errors import RefusedError
from latency_client.network import AnsweredNetwork, Options, check_question
from latency_client.selection import exactly
from latency_client.service import Source
from latency_client.torch.extract import Extraction, extract, unwrapped
from latency_client.torch.places import out_of_reach

_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Network(AnsweredNetwork):
    """A model on its devices.

    Attributes:
        model: without DistributedDataParallel, torch.compile and the like around it.
    """

    model: nn.Module
    extraction: Extraction


def describe(
    model: nn.Module,
    example_inputs: Any,
    devices: Sequence[str],
    service: str | Source,
    *,
    batch_size: int | None = None,
    batch_axis: int | None = 0,
    **options: Any,
) -> Network:
    """Extract a model's graph and fetch its coefficients for some devices.

    Args:
        batch_size: rows that are costed; None is one row, as in MorphNet.
        batch_axis: of the inputs; None: they have none.
        options: see `latency_client.network.Options`.

    Raises:
        LatencyClientError: see `latency_client.errors`; a description is whole or not at all.
    """
    asked = Options(**options)
    check_question(devices, batch_size)
    model = unwrapped(model)
    settings: dict[str, Any] = {
        "batch_size": 1 if batch_size is None and batch_axis is not None else batch_size,
        "batch_axis": batch_axis,
        "unknown_ops": asked.unknown_ops,
    }
    extraction = extract(model, example_inputs, **settings)
    part = asked.part(extraction.graph)
    source = asked.source(service)
    dtype, rows = _own_dtype(model), extraction.batch_size
    requests = asked.requests(extraction.graph, devices, part.exclude, rows, dtype)
    try:
        answers = tuple(source.coefficients(request) for request in requests)
    except RefusedError as error:
        if rows is None or error.status != 422:
            raise
        # the model fixes its batch in its code: run it on all rows
        extraction = extract(model, example_inputs, most_rows=None, **settings)
        requests = asked.requests(extraction.graph, devices, part.exclude, None, dtype)
        answers = tuple(source.coefficients(request) for request in requests)
    # what has nothing to cut in the model must not be pruned; rare, so it is asked for afterwards
    kept: set[str] = set()
    while more := out_of_reach(extraction.graph, answers[0], extraction.pieces) - kept:
        kept |= more
        exclude = part.exclude + exactly(kept)
        requests = tuple(request.with_options(exclude=exclude) for request in requests)
        answers = tuple(source.coefficients(request) for request in requests)
    return Network(
        model=model,
        extraction=extraction,
        source=source,
        requests=requests,
        answers=answers,
        chosen=part.chosen,
    )


def _own_dtype(model: nn.Module) -> str | None:
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if first is None else _DTYPES.get(first.dtype)
