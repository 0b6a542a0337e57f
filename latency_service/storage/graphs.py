"""Layer graphs by the digest of what they say.

A client sends a graph once and then names it. The store is a cache with a cap: the least recently
used graphs are dropped, and whoever names one of those is told to send it again.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from latency_service.core.errors import UnknownGraphError
from latency_service.storage.engine import LOCK_GRAPHS, lock_for_all, reading, writing
from latency_service.storage.tables import graphs

# Built once: building a look-up anew takes half as long again as executing it.
_INSERT = {
    "sqlite": sqlite.insert(graphs).on_conflict_do_nothing().returning(graphs.c.graph_id),
    "postgresql": postgresql.insert(graphs).on_conflict_do_nothing().returning(graphs.c.graph_id),
}
_BODY = select(graphs.c.body).where(graphs.c.graph_id == bindparam("wanted"))
_THERE = select(graphs.c.graph_id).where(graphs.c.graph_id.in_(bindparam("wanted", expanding=True)))
_USED_AT = select(graphs.c.used_at).where(graphs.c.graph_id == bindparam("wanted"))
_COUNT = select(func.count()).select_from(graphs)

_GRAPH_ID = re.compile(r"sha256:[0-9a-f]{64}")
_TOUCH_EVERY = timedelta(minutes=1)

# 59 KB of layers: a fifteenth of the size in 0.07 ms; the default level takes 0.24 ms for little.
_COMPRESSION_LEVEL = 1


class StoredGraph(NamedTuple):
    """A graph that is to be kept.

    Attributes:
        graph_id: the SHA-256 of its canonical form, as "sha256:<hex>".
        canonical_text: what `GraphStore.get` gives back.
        layers: how many it has.
    """

    graph_id: str
    canonical_text: str
    layers: int


class GraphStore:
    """At most `max_graphs` layer graphs, over one database.

    It can be shared among threads and processes, and guarantees that

    * a graph, once returned, is what was put under its id, whole;
    * the graph just put is never the one that is dropped;
    * putting a graph that is there, and reading, never wait for a writer.

    Every method raises DatabaseError if the database cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        max_graphs: int = 10_000,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._max_graphs = max_graphs
        self._clock = clock
        # when this process last knew of a graph that it was there, and said that it was in use
        self._seen: dict[str, datetime] = {}
        self._seen_lock = threading.Lock()

    def seen_lately(self, graph_id: str) -> bool:
        """Whether this process put or touched it within the last minute; nothing is asked."""
        with self._seen_lock:
            return self._seen_lately(graph_id, self._clock())

    def put(self, graph_id: str, canonical_text: str, layers: int) -> bool:
        """Keep one graph, as `put_all`; tells whether it is new."""
        return bool(self.put_all([StoredGraph(graph_id, canonical_text, layers)]))

    def put_all(self, wanted: Sequence[StoredGraph]) -> set[str]:
        """Keep graphs, all or none, dropping the least recently used ones over the cap.

        Putting one that is there does not count as use: `touch` does. One that this process put or
        touched within the last minute is taken to be there.

        Returns:
            The ids of those that are new.

        Raises:
            ValueError: if a `graph_id` is malformed, or there are more graphs than the cap.
        """
        for graph in wanted:
            if not _GRAPH_ID.fullmatch(graph.graph_id):
                raise ValueError(
                    f"graph id {graph.graph_id!r} is not 'sha256:' and 64 hexadecimal digits"
                )
        if len(wanted) > self._max_graphs:
            raise ValueError(f"{len(wanted)} graphs at once, and room for {self._max_graphs}")
        now = self._clock()
        with self._seen_lock:
            unsure = [graph for graph in wanted if not self._seen_lately(graph.graph_id, now)]
        if not unsure:
            return set()
        with reading(self._engine) as connection:
            rows = connection.execute(_THERE, {"wanted": [graph.graph_id for graph in unsure]})
            there = set(rows.scalars())
        new = [self._row(graph) for graph in unsure if graph.graph_id not in there]
        if not new:
            return set()
        with writing(self._engine) as connection:
            # Somebody else may have put one in the meantime.
            created = set(connection.execute(_INSERT[self._engine.dialect.name], new).scalars())
            if created and _count(connection) > self._max_graphs:
                self._evict(connection, keep=created)
        with self._seen_lock:
            self._note(created, now)
        return created

    def _row(self, graph: StoredGraph) -> dict[str, object]:
        text = graph.canonical_text.encode()
        now = self._clock()
        return {
            "graph_id": graph.graph_id,
            "body": zlib.compress(text, _COMPRESSION_LEVEL),
            "layers": graph.layers,
            "size_bytes": len(text),
            "created_at": now,
            "used_at": now,
        }

    def get(self, graph_id: str) -> str:
        """The canonical text of a graph.

        Raises:
            UnknownGraphError: if it is not there, or the id is malformed; it says what to do.
        """
        if not _GRAPH_ID.fullmatch(graph_id):
            raise UnknownGraphError(
                f"{graph_id!r} is not the id of a graph, which is 'sha256:' and 64 hexadecimal "
                "digits. Send the graph to POST /v1/graphs, which answers its graph_id"
            )
        with reading(self._engine) as connection:
            body = connection.execute(_BODY, {"wanted": graph_id}).scalar_one_or_none()
        if body is None:
            raise UnknownGraphError(
                f"no stored graph has id {graph_id}: it was never sent, or was dropped as one of "
                "the least recently used. Send the graph again, to POST /v1/graphs or as `graph` "
                "of the request"
            )
        return zlib.decompress(body).decode()

    def touch(self, graph_id: str) -> None:
        """Say that a graph is in use; written down at most once a minute. Unknown ids pass."""
        if not _GRAPH_ID.fullmatch(graph_id):
            return
        now = self._clock()
        with self._seen_lock:
            if self._seen_lately(graph_id, now):
                return
        # Another process may have written it down already.
        with reading(self._engine) as connection:
            used_at = connection.execute(_USED_AT, {"wanted": graph_id}).scalar_one_or_none()
        if used_at is None:
            return
        # not before: whoever puts it meanwhile must not take it to be there
        with self._seen_lock:
            self._note((graph_id,), now)
        if now - used_at < _TOUCH_EVERY:
            return
        with writing(self._engine) as connection:
            connection.execute(
                update(graphs)
                .where(graphs.c.graph_id == graph_id, graphs.c.used_at < now)
                .values(used_at=now)
            )

    def count(self) -> int:
        """How many graphs there are."""
        with reading(self._engine) as connection:
            return _count(connection)

    def _seen_lately(self, graph_id: str, now: datetime) -> bool:
        last = self._seen.get(graph_id)
        # a clock that was set back says nothing
        return last is not None and timedelta() <= now - last < _TOUCH_EVERY

    def _note(self, graph_ids: Collection[str], now: datetime) -> None:
        if len(self._seen) + len(graph_ids) > self._max_graphs:
            self._seen.clear()
        self._seen.update(dict.fromkeys(graph_ids, now))

    def _evict(self, connection: Connection, keep: set[str]) -> None:
        with self._seen_lock:
            self._seen.clear()
        lock_for_all(connection, LOCK_GRAPHS)
        # Counted again: while this one waited, another may have made room.
        surplus = _count(connection) - self._max_graphs
        if surplus <= 0:
            return
        oldest = (
            select(graphs.c.graph_id)
            .where(graphs.c.graph_id.not_in(keep))
            .order_by(graphs.c.used_at, graphs.c.graph_id)
            .limit(surplus)
        )
        connection.execute(delete(graphs).where(graphs.c.graph_id.in_(oldest)))


def _count(connection: Connection) -> int:
    return int(connection.execute(_COUNT).scalar_one())
