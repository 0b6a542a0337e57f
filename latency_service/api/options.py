"""The options of a request: in a JSON body as they are, in a query string spelled out.

In a query string a mapping is repeated: `dims=seq=128`, `shapes=image=1,3,224,224`, `alive=g1=32`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from latency_service.core.binding import Binding
from latency_service.core.costs import Pruning
from latency_service.core.errors import GraphError, Problem
from latency_service.core.graph import LayerGraph
from latency_service.usecases import Request

Size = Annotated[int, Field(gt=0, lt=2**31, strict=True)]
Count = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class Options(BaseModel):
    """Everything besides graph and device that an answer depends on."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    batch_size: Size | None = Field(default=None, description="replaces every input's batch axis")
    dims: dict[str, Size] = Field(
        default={}, description="values of named dimensions", examples=[{"seq": 128}]
    )
    shapes: dict[str, list[Size]] = Field(
        default={}, description="whole input shapes", examples=[{"image": [1, 3, 224, 224]}]
    )
    dtype: str | None = Field(
        default=None, description="what floating tensors are stored as; default: as the graph says"
    )
    math: str | None = Field(
        default=None, description="precision of the multiply; default: the profile's for the dtype"
    )
    runtime: str | None = Field(
        default=None, description="what executes the network; default: the device's"
    )
    revision: int | str | None = Field(
        default=None, description="number or digest of a revision; default: the latest"
    )
    model: Literal["roofline", "calibrated"] | None = Field(
        default=None, description="default: calibrated where the profile is"
    )
    fusion: Literal["none", "runtime"] | None = Field(
        default=None, description="default: none for a roofline"
    )
    alive: dict[str, Count] = Field(
        default={}, description="live channels of channel groups", examples=[{"g1": 32}]
    )
    force_group: list[str] = Field(
        default=[], description="regular expressions over layer names: grouped together"
    )
    exclude: list[str] = Field(
        default=[], description="regular expressions over layer names: never pruned"
    )
    freeze_outputs: bool = Field(
        default=True, description="whether the channels of the network's outputs are kept"
    )
    unknown_ops: Literal["refuse", "freeze"] = Field(
        default="refuse", description="freeze: charge an unknown operator its bytes"
    )

    def binding(self) -> Binding:
        """What they say about sizes."""
        return Binding(
            batch_size=self.batch_size,
            dims=self.dims,
            shapes={name: tuple(shape) for name, shape in self.shapes.items()},
            dtype=self.dtype,
            unknown_ops=self.unknown_ops,
        )

    def pruning(self) -> Pruning:
        """What they say about channels."""
        return Pruning(tuple(self.force_group), tuple(self.exclude), self.freeze_outputs)

    def request(self, device: str, graph: LayerGraph | str) -> Request:
        """The use case's request."""
        return Request(
            device=device,
            graph=graph,
            binding=self.binding(),
            pruning=self.pruning(),
            math=self.math,
            runtime=self.runtime,
            revision=None if self.revision is None else str(self.revision),
            model=self.model,
            fusion=self.fusion,
            alive=self.alive,
        )


_MAPPINGS = {"dims", "shapes", "alive"}
_LISTS = {"force_group", "exclude", "devices", "groups"}
_INTEGERS = {"batch_size"}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def from_query(query: QueryParams, ignore: Iterable[str] = ()) -> dict[str, Any]:
    """The options in a query string, as a JSON body would hold them.

    Raises:
        GraphError: for a value that is not written as its kind demands.
    """
    found: dict[str, Any] = {}
    for key in query:
        if key in ignore:
            continue
        values = query.getlist(key)
        if key in _MAPPINGS:
            found[key] = dict(_pair(key, value) for value in values)
        elif key in _LISTS:
            found[key] = [part for value in values for part in _parts(key, value)]
        elif key in _INTEGERS:
            found[key] = _integer(key, values[-1])
        elif key == "freeze_outputs":
            if values[-1].lower() not in _FLAGS:
                raise GraphError(Problem(None, key, f"{values[-1]!r} is neither true nor false"))
            found[key] = _FLAGS[values[-1].lower()]
        else:
            found[key] = values[-1]
    return found


def _parts(key: str, value: str) -> list[str]:
    # a comma may belong to a regular expression, never to the name of a device or group
    return value.split(",") if key in ("devices", "groups") else [value]


def _pair(key: str, value: str) -> tuple[str, Any]:
    name, equals, rest = value.rpartition("=")
    if not equals or not name:
        example = {"dims": "seq=128", "shapes": "image=1,3,224,224", "alive": "g1=32"}[key]
        raise GraphError(Problem(None, key, f"{value!r} must be written as {key}={example}"))
    if key == "shapes":
        return name, [_integer(key, part) for part in rest.split(",")]
    return name, _integer(key, rest)


def _integer(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise GraphError(Problem(None, key, f"{value!r} is not a whole number")) from None


def validated(kind: type[Options], document: Any) -> Any:
    """Options from JSON values.

    Raises:
        GraphError: with everything that is wrong with them.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise GraphError(
            [
                Problem(None, ".".join(str(part) for part in item["loc"]), item["msg"])
                for item in error.errors(include_url=False)
            ]
        ) from None
