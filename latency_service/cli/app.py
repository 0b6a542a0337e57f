"""All commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

from latency_service import __version__
from latency_service.cli import (
    calibrate,
    database,
    devices,
    estimate,
    export,
    groups,
    score,
    serve,
    tokens,
    validate,
)

app = typer.Typer(
    name="latency-service",
    help="What a network costs on your hardware: per-layer latency from device rooflines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What a network costs on your hardware: per-layer latency from device rooflines."""


app.command()(serve.serve)
app.command()(estimate.estimate)
app.command("coefficients")(export.coefficients)
app.command()(score.score)
app.command("groups")(groups.groups)
app.command("calibrate")(calibrate.calibrate)
app.command("refit")(calibrate.refit)
app.command()(validate.validate)
app.add_typer(devices.app, name="devices")
app.add_typer(tokens.app, name="tokens")
app.add_typer(database.app, name="database")
