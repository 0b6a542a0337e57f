"""POST /v1/coefficients, and the same for a stored graph."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, NamedTuple

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from latency_service.api import bodies
from latency_service.api.dependencies import Bench, GraphKeeper, may_read
from latency_service.api.keeper import Keeper
from latency_service.api.options import Options, from_query, validated
from latency_service.api.problems import problems
from latency_service.api.schemas import CoefficientsOut
from latency_service.api.turns import in_turn, on_the_loop
from latency_service.core import errors
from latency_service.core.costing import TakesLong
from latency_service.core.graph import LayerGraph
from latency_service.ingest import SHORT_BYTES, read_network
from latency_service.ingest.layer_graph import parse_layer_graph
from latency_service.storage.profiles import Catalogue
from latency_service.usecases import Request as CoefficientsRequest
from latency_service.usecases import Workbench
from latency_service.usecases.coefficients import Addressed, cost
from latency_service.usecases.workbench import Remembered

router = APIRouter(prefix="/v1", tags=["coefficients"], dependencies=[Depends(may_read)])

ERRORS = problems(
    errors.BodyError,
    errors.BodyTooLargeError,
    errors.GraphError,
    errors.GraphTooLargeError,
    errors.MediaTypeError,
    errors.MissingRateError,
    errors.ModelFileError,
    errors.OptionError,
    errors.TokenError,
    errors.UnknownDeviceError,
    errors.UnknownGraphError,
    errors.UnknownRevisionError,
    errors.DatabaseError,
)

_GRAPH_REF = {"$ref": "#/components/schemas/CoefficientsIn"}
_BODY = {
    "required": True,
    "content": {
        bodies.JSON: {"schema": _GRAPH_REF},
        bodies.OCTETS: {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.post(
    "/coefficients",
    responses={200: {"model": CoefficientsOut}, **ERRORS},
    openapi_extra={"requestBody": _BODY},
)
async def post_coefficients(request: Request, bench: Bench, keeper: GraphKeeper) -> Response:
    """Per-layer latency coefficients and channel groups of a graph on a device.

    The graph is sent as JSON, named by its `graph_id`, or sent as an ONNX file
    (application/octet-stream, with `device` and the options in the query string).
    """
    kind = bodies.require(bodies.media_type(request), bodies.JSON, bodies.OCTETS)
    body = await read_body(request, bench, kind)
    catalogue = await current_catalogue(bench)

    async def computed() -> Computed:
        asked = bench, catalogue, kind, body, request.query_params
        # how long a file takes is not told by its length, most of which is weights
        if kind == bodies.OCTETS or len(body) <= SHORT_BYTES:
            with suppress(TakesLong):
                return await on_the_loop(answer, *asked, True)
        return await in_turn(answer, *asked)

    if kind == bodies.OCTETS:
        # to digest 100 MB would take longer than to cost the network
        found = await computed()
        await keeper.keep(found.graph)
        return Response(found.body, media_type=bodies.JSON)
    question = hashlib.sha256(body).digest()
    known = await recall(bench, keeper, catalogue, question, computed)
    return Response(known.body, media_type=bodies.JSON)


async def current_catalogue(bench: Workbench) -> Catalogue:
    """All devices, from memory as long as that is fresh."""
    found = bench.fresh_catalogue()
    return await in_turn(bench.catalogue) if found is None else found


class Computed(NamedTuple):
    """The bytes of an answer, and the graph that is to be kept before they go out."""

    body: bytes
    graph: Addressed


async def recall(
    bench: Workbench,
    keeper: Keeper,
    catalogue: Catalogue,
    question: Hashable,
    compute: Callable[[], Awaitable[Computed]],
) -> Remembered:
    """The answer to a question, from memory where it was asked before.

    An answer is a function of the question and of the profiles there are.
    """
    key = question, catalogue.epoch
    known = bench.answers.get(key)
    if known is None:
        found = await compute()
        await keeper.keep(found.graph)
        known = bench.answers.put(key, Remembered(found.body, found.graph.graph_id))
    elif known.is_due():
        await in_turn(bench.graphs.touch, known.graph_id)
    return known


async def read_body(request: Request, bench: Workbench, kind: str) -> bytes:
    """The body, up to the limit for its kind."""
    if kind == bodies.OCTETS:
        most, setting = bench.settings.max_model_bytes, "LATENCY_SERVICE_MAX_MODEL_BYTES"
    else:
        most, setting = bench.settings.max_body_bytes, "LATENCY_SERVICE_MAX_BODY_BYTES"
    return await bodies.read(request, most, setting)


def answer(
    bench: Workbench,
    catalogue: Catalogue,
    kind: str,
    body: bytes,
    query: QueryParams,
    briefly: bool = False,
) -> Computed:
    """From the bytes of a request to the bytes of its answer.

    Raises:
        TakesLong: only if `briefly`, as `cost`.
    """
    if kind == bodies.OCTETS:
        document = from_query(query)
        wanted = _device(document)
        options = validated(Options, document)
        graph: LayerGraph | str = read_network(body, briefly=briefly)
    else:
        document = bodies.decode(body)
        sent, named = document.pop("graph", None), document.pop("graph_id", None)
        wanted = _device(document)
        options = validated(Options, document)
        graph = sent_or_named(sent, named)
    return encode(bench, catalogue, options.request(wanted, graph), briefly)


def _device(document: dict[str, Any]) -> str:
    device = document.pop("device", None)
    if not isinstance(device, str) or not device.strip():
        raise errors.GraphError(
            errors.Problem(None, "device", "name a device; GET /v1/devices lists them")
        )
    return device


def sent_or_named(sent: Any, named: Any) -> LayerGraph | str:
    """The graph in a request, or the id of the one it names.

    Raises:
        GraphError: unless it is exactly one of the two.
    """
    if (sent is None) == (named is None):
        raise errors.GraphError(
            errors.Problem(None, "graph", "send either a graph or the graph_id of a stored one")
        )
    if named is None:
        return parsed(sent)
    if not isinstance(named, str):
        raise errors.GraphError(errors.Problem(None, "graph_id", "must be a text"))
    return named


def parsed(graph: Any) -> LayerGraph:
    """A layer graph from the JSON values of a request."""
    if not isinstance(graph, dict):
        raise errors.GraphError(errors.Problem(None, "graph", "must be an object: a layer graph"))
    return parse_layer_graph(graph)


def encode(
    bench: Workbench, catalogue: Catalogue, request: CoefficientsRequest, briefly: bool = False
) -> Computed:
    """The answer as JSON."""
    found = cost(bench, catalogue, request, briefly)
    return Computed(orjson.dumps(found.answer), found.graph)


@router.get(
    "/graphs/{graph_id}/coefficients",
    responses={
        200: {"model": CoefficientsOut},
        304: {"description": "the answer is the one of If-None-Match"},
        **ERRORS,
    },
    openapi_extra={
        "parameters": [
            {"name": "device", "in": "query", "required": True, "schema": {"type": "string"}},
            *(
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": field.description,
                    "schema": {"type": "string"},
                }
                for name, field in Options.model_fields.items()
            ),
        ]
    },
)
async def get_coefficients(
    graph_id: str, request: Request, bench: Bench, keeper: GraphKeeper
) -> Response:
    """The same for a stored graph; the strong ETag changes when any byte of the answer does."""
    query = from_query(request.query_params)
    device = _device(query)
    options = validated(Options, query)
    catalogue = await current_catalogue(bench)
    known = await recall(
        bench,
        keeper,
        catalogue,
        (graph_id, request.url.query),
        lambda: in_turn(encode, bench, catalogue, options.request(device, graph_id)),
    )
    headers = {"ETag": known.etag, "Cache-Control": "no-cache"}
    if _matches(request.headers.get("if-none-match"), known.etag):
        return Response(status_code=304, headers=headers)
    return Response(known.body, headers=headers, media_type=bodies.JSON)


def _matches(stated: str | None, etag: str) -> bool:
    if stated is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in stated.split(",")}
    return "*" in tags or etag in tags
