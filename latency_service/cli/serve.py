"""`latency-service serve`: the HTTP service."""

from __future__ import annotations

import os
from typing import Annotated

import typer
import uvicorn

from latency_service.cli import options as shared
from latency_service.settings import settings
from latency_service.storage.engine import shown
from latency_service.usecases import open_workbench


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
) -> None:
    """Serve the REST API; interactive documentation is at /docs.

    [bold]latency-service serve --port 8000 --workers 4[/]
    """
    configuration = settings()
    if configuration.migrate_at_start:
        # once, before the workers: they find everything done
        with shared.working("preparing the database"):
            bench = open_workbench(configuration)
        devices = len(bench.catalogue().devices())
        shared.messages.print(
            f"database {shown(bench.engine.url)}: {devices} devices", markup=False
        )
        bench.close()
        os.environ["LATENCY_SERVICE_MIGRATE_AT_START"] = "false"
    shared.messages.print(f"listening on http://{host}:{port}, documentation at /docs")
    uvicorn.run(
        "latency_service.api.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
    )
