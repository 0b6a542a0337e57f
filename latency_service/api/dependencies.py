"""What routes are given: the workbench, the keeper of graphs, and the caller's token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from latency_service.api.keeper import Keeper
from latency_service.usecases import Workbench

_bearer = HTTPBearer(auto_error=False, description="made with `latency-service tokens create`")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


# `async`, for what is not is called in a thread, which takes longer than all of a known answer.


async def workbench(request: Request) -> Workbench:
    """The process's workbench."""
    bench: Workbench = request.app.state.workbench
    return bench


async def keeper(request: Request) -> Keeper:
    """What stores the graphs that come with requests."""
    found: Keeper = request.app.state.keeper
    return found


Bench = Annotated[Workbench, Depends(workbench)]
GraphKeeper = Annotated[Keeper, Depends(keeper)]


def may_calibrate(bench: Bench, credentials: Credentials) -> None:
    """Let only a caller with a `calibrate` token pass.

    Raises:
        TokenError: if there is no token, or not a valid one.
    """
    bench.tokens.check(credentials.credentials if credentials else None, "calibrate")


async def may_read(bench: Bench, credentials: Credentials) -> None:
    """Let everybody read, or, where reads are closed, callers with any valid token.

    Raises:
        TokenError: if reads are closed and the token is missing or invalid.
    """
    if not bench.settings.open_reads:
        sent = credentials.credentials if credentials else None
        await run_in_threadpool(bench.tokens.check, sent, None)
