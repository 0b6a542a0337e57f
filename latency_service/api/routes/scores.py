"""POST /v1/scores: many sub-networks of one graph on several devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from latency_service.api import bodies
from latency_service.api.dependencies import Bench, may_read
from latency_service.api.options import Options, from_query, validated
from latency_service.api.problems import problems
from latency_service.api.routes.coefficients import read_body, sent_or_named
from latency_service.api.schemas import ScoresOut
from latency_service.api.turns import in_turn
from latency_service.core import errors
from latency_service.core.costs import FloatArray
from latency_service.usecases import ScoreRequest, Workbench, scores
from latency_service.usecases.scores import QUANTITIES, Scores

router = APIRouter(prefix="/v1", tags=["scores"], dependencies=[Depends(may_read)])

_BODY = {
    "required": True,
    "content": {
        bodies.JSON: {"schema": {"$ref": "#/components/schemas/ScoresIn"}},
        bodies.NPY: {"schema": {"type": "string", "format": "binary"}},
    },
}
_NPY_PARAMETERS = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": text,
        "schema": {"type": "string"},
    }
    for name, text in {
        "devices": "device names, separated by commas (with an .npy body)",
        "graph_id": "of a stored graph (with an .npy body)",
        "groups": "channel groups, separated by commas (with an .npy body)",
        "quantity": "what an .npy answer holds: " + ", ".join(QUANTITIES),
    }.items()
]


@router.post(
    "/scores",
    responses={
        200: {"model": ScoresOut, "content": {bodies.NPY: {}}},
        **problems(
            errors.BodyError,
            errors.BodyTooLargeError,
            errors.GraphError,
            errors.GraphTooLargeError,
            errors.MediaTypeError,
            errors.MissingRateError,
            errors.OptionError,
            errors.TokenError,
            errors.UnknownDeviceError,
            errors.UnknownGraphError,
            errors.UnknownRevisionError,
            errors.DatabaseError,
        ),
    },
    openapi_extra={"requestBody": _BODY, "parameters": _NPY_PARAMETERS},
)
async def post_scores(request: Request, bench: Bench) -> Response:
    """Latency, FLOPs, weights and parameters of many sub-networks at once.

    With application/x-npy as Content-Type the body is the matrix `alive` and everything else stands
    in the query string; with application/x-npy under Accept the answer is one matrix, chosen by
    `quantity`.
    """
    kind = bodies.require(bodies.media_type(request), bodies.JSON, bodies.NPY)
    body = await read_body(request, bench, kind)
    wants_npy = bodies.NPY in request.headers.get("accept", "")
    return await in_turn(score, bench, kind, body, request.query_params, wants_npy)


def score(
    bench: Workbench, kind: str, body: bytes, query: QueryParams, wants_npy: bool
) -> Response:
    """From the bytes of a request to its answer."""
    document = bodies.decode(body) if kind == bodies.JSON else {}
    document |= from_query(query)
    quantity = document.pop("quantity", "latency_s")
    if quantity not in QUANTITIES:
        raise errors.OptionError(f"quantity {quantity!r}: choose one of {', '.join(QUANTITIES)}")
    alive = bodies.read_npy(body) if kind == bodies.NPY else _matrix(document.pop("alive", None))
    devices, groups = _names(document, "devices"), _names(document, "groups")
    sent, named = document.pop("graph", None), document.pop("graph_id", None)
    options = validated(Options, document)
    if options.alive:
        raise errors.OptionError("alive is the matrix of sub-networks here, not a mapping")
    found = scores(
        bench,
        ScoreRequest(
            devices=devices,
            graph=sent_or_named(sent, named),
            groups=groups,
            alive=alive,
            binding=options.binding(),
            pruning=options.pruning(),
            math=options.math,
            runtime=options.runtime,
            revision=None if options.revision is None else str(options.revision),
            model=options.model,
            fusion=options.fusion,
            quantities=(quantity,) if wants_npy else QUANTITIES,
        ),
    )
    if wants_npy:
        return Response(bodies.write_npy(_quantity(found, quantity)), media_type=bodies.NPY)
    answer = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(answer, media_type=bodies.JSON)


def _quantity(found: Scores, name: str) -> FloatArray:
    matrix: FloatArray = found[name]  # type: ignore[literal-required]
    return matrix


def _matrix(rows: Any) -> FloatArray:
    """(N, K) live channels; checked by NumPy rather than number by number."""
    wrong = errors.GraphError(
        errors.Problem(None, "alive", "must be a list of rows of whole numbers, one per group")
    )
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise wrong
    if not rows:
        raise errors.GraphError(errors.Problem(None, "alive", "holds no sub-network"))
    try:
        matrix = np.array(rows)
    except ValueError:
        raise errors.GraphError(
            errors.Problem(None, "alive", "its rows are of different lengths")
        ) from None
    if matrix.dtype.kind not in "iu" and matrix.size:
        raise wrong
    return matrix.astype(np.float64)


def _names(document: dict[str, Any], key: str) -> list[str]:
    names = document.pop(key, None)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise errors.GraphError(errors.Problem(None, key, "must be a list of names"))
    return names
