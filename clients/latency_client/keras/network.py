"""A model, its layer graph, and the answers about it: what is fetched once at startup."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from latency_client.cache import Cache
from latency_client.errors import OptionError
from latency_client.keras.extract import Extraction, extract
from latency_client.request import Request
from latency_client.selection import exactly, inside, kept_outside, patterns
from latency_client.service import Source, connect
from latency_client.wire import Answer


@dataclass(frozen=True)
class Network:
    """A model on its devices.

    Attributes:
        requests, answers: one per device.
        chosen: names of the layers that count; None: all.
    """

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
    model: Any,
    example_inputs: Any,
    devices: Sequence[str],
    service: str | Source,
    *,
    batch_size: int | None = None,
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
        dtype: of the tensors; None: that of the variables if it is half precision, else float32.
        model_kind: "roofline" or "calibrated"; None: calibrated where the profile is.
        unknown_ops: "freeze" charges layers that are not understood for their bytes, and prunes
            nothing through them.

    Raises:
        LatencyClientError: see `latency_client.errors`; a description is whole or not at all.
    """
    if not devices:
        raise OptionError("devices is empty; name at least one")
    rows = 1 if batch_size is None else batch_size
    if rows < 1:
        raise OptionError(f"batch_size={rows}: it must be at least 1")
    extraction = extract(model, example_inputs, batch_size=rows, unknown_ops=unknown_ops)
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
        "batch_size": rows,
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
    requests = tuple(Request(graph, device).with_options(**options) for device in devices)
    answers = tuple(source.coefficients(request) for request in requests)
    return Network(
        extraction, source, requests, answers, None if chosen is None else frozenset(chosen)
    )


def _own_dtype(model: Any) -> str | None:
    first = next((str(v.dtype) for v in model.variables if "float" in str(v.dtype)), None)
    return first if first in ("float16", "bfloat16") else None
