"""`latency-service tokens`: who may append calibrations."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latency_service.cli import options as shared

app = typer.Typer(help="Tokens for appending calibrations.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, as in ci-runner.")],
    scope: Annotated[
        str, typer.Option(metavar="calibrate|read", help="What it allows.")
    ] = "calibrate",
) -> None:
    """Make a token and print its secret, which is not shown again."""
    with shared.workbench() as bench:
        _, secret = bench.tokens.create(name, scope)
    shared.messages.print(f"token {name!r}, scope {scope}; keep it, it is not shown again:")
    print(secret)


@app.command("list")
def list_tokens() -> None:
    """List the tokens, without their secrets."""
    with shared.workbench() as bench:
        found = bench.tokens.list()
    table = Table("id", "name", "scope", "created", "revoked")
    for token in found:
        revoked = token.revoked_at.isoformat(" ", "seconds") if token.revoked_at else ""
        created = token.created_at.isoformat(" ", "seconds")
        table.add_row(str(token.id), token.name, token.scope, created, revoked)
    Console(highlight=False, width=None).print(table)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Revoke a token at once."""
    with shared.workbench() as bench:
        token = bench.tokens.revoke(int(name) if name.isdigit() else name)
    print(f"token {token.name!r} is revoked")
