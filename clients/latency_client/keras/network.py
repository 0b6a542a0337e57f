"""A model, its layer graph, and the answers about it: what is fetched once at startup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latency_client.keras.extract import Extraction, extract
from latency_client.network import AnsweredNetwork, Options, check_question
from latency_client.service import Source


@dataclass(frozen=True, kw_only=True)
class Network(AnsweredNetwork):
    """A model on its devices."""

    extraction: Extraction


def describe(
    model: Any,
    example_inputs: Any,
    devices: Sequence[str],
    service: str | Source,
    *,
    batch_size: int | None = None,
    **options: Any,
) -> Network:
    """Extract a model's graph and fetch its coefficients for some devices.

    Args:
        batch_size: rows that are costed; None is one row, as in MorphNet.
        options: see `latency_client.network.Options`.

    Raises:
        LatencyClientError: see `latency_client.errors`; a description is whole or not at all.
    """
    asked = Options(**options)
    check_question(devices, batch_size)
    rows = 1 if batch_size is None else batch_size
    extraction = extract(model, example_inputs, batch_size=rows, unknown_ops=asked.unknown_ops)
    graph = extraction.graph
    part = asked.part(graph)
    source = asked.source(service)
    requests = asked.requests(graph, devices, part.exclude, rows, _own_dtype(model))
    return Network(
        extraction=extraction,
        source=source,
        requests=requests,
        answers=tuple(source.coefficients(request) for request in requests),
        chosen=part.chosen,
    )


def _own_dtype(model: Any) -> str | None:
    first = next((str(v.dtype) for v in model.variables if "float" in str(v.dtype)), None)
    return first if first in ("float16", "bfloat16") else None
