"""Layer graphs: stored under the address of their content."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from latency_service.api import bodies
from latency_service.api.dependencies import Bench, may_read
from latency_service.api.problems import problems
from latency_service.api.routes.coefficients import parsed, read_body
from latency_service.api.schemas import GraphOut
from latency_service.api.turns import in_turn
from latency_service.core import errors
from latency_service.core.canonical import graph_to_json
from latency_service.ingest import read_network
from latency_service.ingest.layer_graph import LayerGraphJson
from latency_service.usecases import Workbench, store_graph, stored_graph

router = APIRouter(prefix="/v1/graphs", tags=["graphs"], dependencies=[Depends(may_read)])

_BODY = {
    "required": True,
    "content": {
        bodies.JSON: {"schema": {"$ref": "#/components/schemas/LayerGraphJson"}},
        bodies.OCTETS: {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.post(
    "",
    responses={
        200: {"model": GraphOut, "description": "the graph was there already"},
        201: {"model": GraphOut},
        **problems(
            errors.BodyError,
            errors.BodyTooLargeError,
            errors.GraphError,
            errors.GraphTooLargeError,
            errors.MediaTypeError,
            errors.ModelFileError,
            errors.TokenError,
            errors.DatabaseError,
        ),
    },
    status_code=201,
    openapi_extra={"requestBody": _BODY},
)
async def post_graph(request: Request, bench: Bench) -> Response:
    """Store a layer graph (JSON) or the structure of an ONNX file (application/octet-stream)."""
    kind = bodies.require(bodies.media_type(request), bodies.JSON, bodies.OCTETS)
    body = await read_body(request, bench, kind)
    return await in_turn(_store, bench, kind, body)


def _store(bench: Workbench, kind: str, body: bytes) -> Response:
    graph = read_network(body) if kind == bodies.OCTETS else parsed(bodies.decode(body))
    graph_id, created = store_graph(bench, graph)
    answer = orjson.dumps({"graph_id": graph_id, "layers": graph.layer_count})
    headers = {"Location": f"/v1/graphs/{graph_id}"}
    return Response(answer, 201 if created else 200, headers, bodies.JSON)


@router.get(
    "/{graph_id}",
    responses={
        200: {"model": LayerGraphJson},
        **problems(errors.TokenError, errors.UnknownGraphError, errors.DatabaseError),
    },
)
def get_graph(graph_id: str, bench: Bench) -> Response:
    """The layer graph in canonical order, inferred shapes filled in."""
    graph = stored_graph(bench, graph_id)
    return Response(orjson.dumps(graph_to_json(graph)), media_type=bodies.JSON)
