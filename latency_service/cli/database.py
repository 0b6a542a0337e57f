"""`latency-service database`: schema and shipped profiles."""

from __future__ import annotations

import typer

from latency_service.cli import options as shared
from latency_service.settings import settings
from latency_service.storage.engine import make_engine, shown
from latency_service.storage.migrate import pending
from latency_service.storage.profiles import ProfileRepository
from latency_service.usecases.workbench import prepare_database

app = typer.Typer(help="The database: schema and shipped profiles.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Migrate the schema and load the shipped profiles; does nothing the second time."""
    engine = make_engine(settings().url)
    try:
        with shared.working("upgrading"):
            steps = pending(engine)
            appended = prepare_database(engine, ProfileRepository(engine), settings())
        print(f"{shown(engine.url)}: {len(steps)} migrations, {appended} profiles appended")
    finally:
        engine.dispose()


@app.callback()
def database() -> None:
    """The database: schema and shipped profiles."""
