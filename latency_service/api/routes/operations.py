"""What an operator watches: liveness, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from latency_service.api import metrics
from latency_service.api.dependencies import Bench
from latency_service.api.problems import problem
from latency_service.core.errors import LatencyServiceError
from latency_service.storage.migrate import is_current

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "not ready; the detail says why"}})
def readyz(bench: Bench) -> Any:
    """Whether the database is reachable and migrated, and profiles are loaded."""
    try:
        migrated = is_current(bench.engine)
        devices = len(bench.profiles.catalogue().devices()) if migrated else 0
    except LatencyServiceError as error:
        return problem(503, "not-ready", str(error))
    if not migrated:
        return problem(
            503,
            "not-ready",
            "the database schema is not current: run latency-service database upgrade",
        )
    if not devices:
        return problem(
            503, "not-ready", "no device profile is loaded: run latency-service database upgrade"
        )
    return {"status": "ready", "devices": devices}


@router.get("/metrics", response_class=Response)
def prometheus(_: Request) -> Response:
    """Requests, their durations and sizes, in Prometheus' text format."""
    body, media_type = metrics.exposition()
    return Response(body, media_type=media_type)
