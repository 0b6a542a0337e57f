"""The application: routes, errors and metrics around one workbench."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool

from latency_service import __version__
from latency_service.api import problems
from latency_service.api.keeper import Keeper
from latency_service.api.metrics import Metrics
from latency_service.api.routes import coefficients, devices, graphs, operations, scores
from latency_service.api.schemas import CoefficientsIn, ScoresIn
from latency_service.settings import Settings
from latency_service.settings import settings as process_settings
from latency_service.usecases import open_workbench

DESCRIPTION = """\
What a network costs on your hardware: POST a layer graph, get per-layer latency coefficients
`max(FLOPs / rate, bytes / bandwidth)`, channel groups and totals for P100, V100 and a hundred other
devices, each number with its source.
"""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage cycles seldom.

    A 60 KB graph is thousands of objects: with the default thresholds the collector walks the whole
    program several times per request.
    """
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service; `latency-service serve` runs it under uvicorn."""
    configuration = settings or process_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        bench = await run_in_threadpool(
            open_workbench, configuration, configuration.migrate_at_start
        )
        app.state.workbench = bench
        app.state.keeper = Keeper(bench)
        with rare_collections():
            yield
        bench.close()

    app = FastAPI(
        title="latency_service",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0"},
    )
    problems.install(app)
    app.add_middleware(Metrics)
    for module in (operations, coefficients, graphs, scores, devices):
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """OpenAPI with the bodies that routes read themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            license_info=app.license_info,
        )
        _, extra = models_json_schema(
            [
                (CoefficientsIn, "validation"),
                (ScoresIn, "validation"),
                (problems.ProblemDocument, "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for name, definition in extra.get("$defs", {}).items():
            components.setdefault(name, definition)
        _as_problems(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _as_problems(schema: dict[str, Any]) -> None:
    """FastAPI documents its own 422; ours is a problem document like every other error."""
    reference = {"$ref": "#/components/schemas/ProblemDocument"}
    for path in schema["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422")
            if answer is not None:
                answer["content"] = {problems.MEDIA_TYPE: {"schema": reference}}
                answer["description"] = "The request, or the graph in it, is not usable."
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
