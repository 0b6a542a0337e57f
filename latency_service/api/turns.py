"""Heavy requests take turns.

Costing a graph is milliseconds of pure Python. Sixteen threads doing so at once only hand the
interpreter lock around, and all of them finish late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

AT_ONCE = 1
_limiter: RunVar[CapacityLimiter] = RunVar("latency_service.turns")


async def in_turn(function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Run a function in a worker thread when its turn comes."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(AT_ONCE)
        _limiter.set(limiter)
    return await to_thread.run_sync(function, *arguments, limiter=limiter)
