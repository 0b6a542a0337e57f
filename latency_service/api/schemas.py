"""How requests and answers look, for OpenAPI and for checking requests."""

from __future__ import annotations

import typing
from typing import Any

import typing_extensions
from pydantic import BaseModel, ConfigDict, Field

from latency_service.api.options import Count, Options
from latency_service.ingest.layer_graph import LayerGraphJson
from latency_service.usecases import devices
from latency_service.usecases.coefficients import Coefficients, DeviceUsed


def documented(kind: Any, seen: dict[Any, Any] | None = None) -> Any:
    """A TypedDict of the core in the form that pydantic documents.

    The core is standard library only, and pydantic reads typing_extensions' TypedDict alone before
    Python 3.12.
    """
    seen = {} if seen is None else seen
    if typing.is_typeddict(kind):
        if kind not in seen:
            hints = typing.get_type_hints(kind, include_extras=True)
            fields = {key: documented(hint, seen) for key, hint in hints.items()}
            made: Any = typing_extensions.TypedDict(kind.__name__, fields)  # type: ignore[misc]
            made.__doc__ = kind.__doc__
            seen[kind] = made
        return seen[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.NotRequired:
        return typing_extensions.NotRequired[documented(arguments[0], seen)]
    if origin is list:
        return list[documented(arguments[0], seen)]  # type: ignore[misc]
    if origin is dict:
        return dict[str, documented(arguments[1], seen)]  # type: ignore[misc]
    return kind


_seen: dict[Any, Any] = {}
CoefficientsOut: Any = documented(Coefficients, _seen)
DeviceUsedOut: Any = documented(DeviceUsed, _seen)
DeviceListOut: Any = documented(devices.DeviceList, _seen)
DeviceOut: Any = documented(devices.DeviceDocument, _seen)
HistoryOut: Any = documented(devices.History, _seen)
RevisionOut: Any = documented(devices.RevisionDocument, _seen)


class CoefficientsIn(Options):
    """A graph, or the id of one, on a device."""

    device: str = Field(description="name or alias", examples=["v100"], max_length=200)
    graph: LayerGraphJson | None = Field(default=None, description="a layer graph")
    graph_id: str | None = Field(default=None, description="of a stored graph")


class ScoresIn(Options):
    """Sub-networks of a graph on several devices."""

    devices: list[str] = Field(min_length=1, max_length=200, examples=[["v100", "p100"]])
    graph: LayerGraphJson | None = Field(default=None, description="a layer graph")
    graph_id: str | None = Field(default=None, description="of a stored graph")
    groups: list[str] = Field(description="the columns of `alive`", examples=[["g1", "g4"]])
    alive: list[list[Count]] = Field(  # type: ignore[assignment]
        description="live channels: one row a sub-network", examples=[[[64, 12], [30, 7]]]
    )


class ScoresOut(BaseModel):
    """One row a sub-network; `latency_s` has one column a device."""

    latency_s: list[list[float]]
    flops: list[float]
    weights: list[float]
    parameters: list[float]
    devices: list[DeviceUsedOut]
    graph_id: str


class GraphOut(BaseModel):
    """The address of a stored graph."""

    graph_id: str = Field(examples=["sha256:7a38..."])
    layers: int


class RevisionIn(BaseModel):
    """A calibration to append."""

    model_config = ConfigDict(extra="forbid")

    profile: dict[str, Any] = Field(
        description="tables device, memory, compute, fusion and the runtime, as in a revision"
    )
    origin: typing.Literal["measured", "published", "datasheet"] = "measured"
    samples: list[dict[str, Any]] | None = Field(
        default=None, description="the raw measurements behind it"
    )
    source: str | None = Field(default=None, description="where published measurements come from")


class SamplesOut(BaseModel):
    """The raw measurements behind a revision."""

    model_config = ConfigDict(extra="allow")

    samples: list[dict[str, Any]]
