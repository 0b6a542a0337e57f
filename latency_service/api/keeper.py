"""Graphs that came with requests, stored before the answers go out: many in one transaction.

A transaction costs a tenth of costing a graph, whether it stores one or twenty. While one is under
way, the graphs of further requests gather for the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyio import Lock, to_thread

from latency_service.usecases import Workbench
from latency_service.usecases.coefficients import Addressed, keep_all, kept_lately


@dataclass(slots=True)
class _Waiting:
    graph: Addressed
    done: bool = False
    error: Exception | None = None


class Keeper:
    """Stores the graphs of one process's requests.

    Args:
        most: graphs in one transaction.
    """

    def __init__(self, bench: Workbench, most: int = 64) -> None:
        self._bench = bench
        self._most = min(most, bench.settings.max_graphs)
        self._waiting: list[_Waiting] = []
        self._lock = Lock()

    async def keep(self, graph: Addressed) -> None:
        """Store a graph, unless it came from the store.

        Raises:
            DatabaseError: if the database cannot be used; nothing has been stored then.
        """
        if kept_lately(self._bench, graph):
            return
        own = _Waiting(graph)
        self._waiting.append(own)
        while not own.done:
            # whoever comes first stores for all that wait by then
            async with self._lock:
                if not own.done:
                    await self._store()
        if own.error is not None:
            raise own.error

    async def _store(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        error: Exception | None = None
        try:
            await to_thread.run_sync(keep_all, self._bench, [item.graph for item in batch])
        except Exception as raised:
            error = raised
        except BaseException:
            # this caller has been cancelled: somebody else will store them
            self._waiting[:0] = batch
            raise
        for item in batch:
            item.done, item.error = True, error
