"""Heavy requests take turns.

Costing a graph is milliseconds of pure Python. Sixteen threads doing so at once only hand the
interpreter lock around, and all of them finish late. So one computes at a time: a short one on the
event loop itself, between two looks at the sockets (a thread of its own would lose a fifth of its
time to handing the interpreter lock over), anything longer, or that waits for a database, in a
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter, Lock, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

AT_ONCE = 1
_limiter: RunVar[CapacityLimiter] = RunVar("latency_service.turns.limiter")
_lock: RunVar[Lock] = RunVar("latency_service.turns.lock")


async def in_turn(function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Run a function in a worker thread when its turn comes."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(AT_ONCE)
        _limiter.set(limiter)
    return await to_thread.run_sync(function, *arguments, limiter=limiter)


async def on_the_loop(function: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Run a function that takes milliseconds and never waits, when its turn comes."""
    try:
        lock = _lock.get()
    except LookupError:
        lock = Lock()
        _lock.set(lock)
    # who waits is woken by the loop, which has looked at its sockets then
    async with lock:
        return function(*arguments)
