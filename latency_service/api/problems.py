"""Errors as RFC 9457 problem documents, and the HTTP status of each."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from latency_service.core import errors

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.LatencyServiceError], int] = {
    errors.GraphError: 422,
    errors.UnknownOpError: 422,
    errors.UnboundDimensionError: 422,
    errors.GraphTooLargeError: 422,
    errors.BodyTooLargeError: 413,
    errors.BodyError: 400,
    errors.MediaTypeError: 415,
    errors.ModelFileError: 422,
    errors.OptionError: 422,
    errors.ProfileError: 422,
    errors.UnknownDeviceError: 404,
    errors.UnknownRevisionError: 404,
    errors.UnknownGraphError: 404,
    errors.MissingRateError: 422,
    errors.ConflictError: 409,
    errors.TokenError: 401,
    errors.SampleError: 422,
    errors.CalibrationError: 422,
    errors.MissingExtraError: 501,
    errors.DatabaseError: 503,
}


class ProblemItem(BaseModel):
    """One thing that is wrong with a request."""

    layer: str | None = Field(description="the layer's name, if it is about one")
    field: str | None = Field(description="where in the layer or the request")
    detail: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem: what went wrong, where, and what to do."""

    type: str = Field(examples=["urn:latency-service:unknown-op"])
    title: str = Field(examples=["Unknown op"])
    status: int = Field(examples=[422])
    detail: str
    errors: list[ProblemItem] | None = Field(
        default=None, description="for a bad graph or request: everything that is wrong with it"
    )


def problems(*kinds: type[errors.LatencyServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may raise these."""
    texts: dict[int | str, list[str]] = {}
    for kind in kinds:
        summary = (kind.__doc__ or kind.__name__).strip().splitlines()[0]
        texts.setdefault(STATUS[kind], []).append(summary)
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {"description": " ".join(lines), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status, lines in texts.items()
    }


def problem(
    status: int,
    slug: str,
    detail: str,
    items: list[dict[str, str | None]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    body: dict[str, Any] = {
        "type": f"urn:latency-service:{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    if items is not None:
        body["errors"] = items
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


def slug_of(kind: type[errors.LatencyServiceError]) -> str:
    """UnknownOpError is "unknown-op"."""
    name = kind.__name__.removesuffix("Error")
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


def install(app: FastAPI) -> None:
    """Let every error of the application leave as a problem document."""

    @app.exception_handler(errors.LatencyServiceError)
    def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, errors.LatencyServiceError)
        items = None
        if isinstance(error, errors.GraphError):
            items = [
                {"layer": p.layer, "field": p.field, "detail": p.detail}
                for p in error.problems[:MOST_ITEMS]
            ]
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, errors.TokenError) else None
        return problem(STATUS[type(error)], slug_of(type(error)), str(error), items, headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid_request(list(error.errors()))

    @app.exception_handler(HTTPException)
    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        names = {404: "not-found", 405: "method-not-allowed"}
        slug = names.get(error.status_code, "http-error")
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, slug, str(error.detail), headers=headers)

    @app.exception_handler(Exception)
    def unforeseen(_: Request, error: Exception) -> Response:
        detail = (
            "the service met an error of its own and wrote it to its log; the request can be sent "
            "again, nothing was stored half"
        )
        return problem(500, "internal-error", detail)


# A graph of 20 000 wrong layers needs no answer of 20 000 errors.
MOST_ITEMS = 1000


def invalid_request(found: list[Any]) -> Response:
    """What pydantic found wrong with options, path or query."""
    items: list[dict[str, str | None]] = [
        {
            "layer": None,
            "field": ".".join(str(p) for p in item["loc"] if p not in ("body", "query", "path")),
            "detail": str(item["msg"]),
        }
        for item in found
    ]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in items[:10])
    return problem(422, "invalid-request", detail, items)
