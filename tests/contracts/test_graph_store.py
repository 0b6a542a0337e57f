"""What every graph store must hold, on each database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, event, select

from latency_service.core.errors import UnknownGraphError
from latency_service.storage.engine import reading, writing
from latency_service.storage.graphs import GraphStore, StoredGraph
from latency_service.storage.tables import graphs


class Clock:
    """Moves when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 5, 7, 11, 13, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float = 1) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is asked of the database."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def graph(n: int) -> tuple[str, str]:
    text = f'{{"graph":"µ{n}"}}' * 100
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest(), text


def used_at(engine: Engine, graph_id: str) -> datetime:
    with reading(engine) as connection:
        query = select(graphs.c.used_at).where(graphs.c.graph_id == graph_id)
        moment: datetime = connection.execute(query).scalar_one()
    return moment


class TestGraphStore:
    def test_a_graph_comes_back_whole_and_is_new_once(self, engine: Engine):
        store = GraphStore(engine)
        graph_id, text = graph(1)
        assert store.put(graph_id, text, layers=3)
        assert not store.put(graph_id, text, layers=3)
        assert store.get(graph_id) == text
        assert store.count() == 1

    def test_several_are_put_at_once_and_the_new_ones_told(self, engine: Engine):
        store = GraphStore(engine)
        store.put(*graph(2), layers=1)

        created = store.put_all([StoredGraph(*graph(n), layers=n) for n in (1, 2, 3)])

        assert created == {graph(1)[0], graph(3)[0]}
        assert [store.get(graph(n)[0]) for n in (1, 2, 3)] == [graph(n)[1] for n in (1, 2, 3)]
        assert store.put_all([]) == set()

    def test_if_one_of_several_is_malformed_none_is_put(self, engine: Engine):
        store = GraphStore(engine)
        with pytest.raises(ValueError, match="hexadecimal"):
            store.put_all([StoredGraph(*graph(1), layers=1), StoredGraph("sha256:x", "{}", 1)])
        assert store.count() == 0

    def test_several_at_once_stay_even_if_that_drops_all_others(self, engine: Engine, clock: Clock):
        store = GraphStore(engine, max_graphs=2, clock=clock)
        store.put(*graph(0), layers=1)
        store.put(*graph(1), layers=1)
        clock.tick(-1000)
        store.put_all([StoredGraph(*graph(n), layers=1) for n in (2, 3)])
        assert store.count() == 2
        assert store.get(graph(2)[0]) == graph(2)[1]
        assert store.get(graph(3)[0]) == graph(3)[1]
        with pytest.raises(ValueError, match="3 graphs at once, and room for 2"):
            store.put_all([StoredGraph(*graph(n), layers=1) for n in (4, 5, 6)])

    def test_an_unknown_graph_says_to_send_it_again(self, engine: Engine):
        with pytest.raises(UnknownGraphError, match="Send the graph again"):
            GraphStore(engine).get(graph(1)[0])

    @pytest.mark.parametrize(
        "bad", ["", "abc", "sha256:", "sha256:" + "G" * 64, "a\x00b", "\ud800"]
    )
    def test_a_malformed_id_is_unknown(self, engine: Engine, bad: str):
        store = GraphStore(engine)
        with pytest.raises(UnknownGraphError, match="Send the graph"):
            store.get(bad)
        with pytest.raises(ValueError, match="hexadecimal"):
            store.put(bad, "{}", 0)
        store.touch(bad)

    def test_the_least_recently_used_go_first(self, engine: Engine, clock: Clock):
        store = GraphStore(engine, max_graphs=3, clock=clock)
        ids = [graph(n)[0] for n in range(5)]
        for n in range(3):
            store.put(*graph(n), layers=1)
            clock.tick()
        clock.tick(100)
        store.touch(ids[0])
        clock.tick()
        store.put(*graph(3), layers=1)
        clock.tick()
        store.put(*graph(4), layers=1)

        assert store.count() == 3
        for n, kept in enumerate([True, False, False, True, True]):
            if kept:
                assert store.get(ids[n]) == graph(n)[1]
            else:
                with pytest.raises(UnknownGraphError):
                    store.get(ids[n])

    def test_the_new_one_stays_even_if_the_others_are_from_the_future(
        self, engine: Engine, clock: Clock
    ):
        store = GraphStore(engine, max_graphs=1, clock=clock)
        store.put(*graph(0), layers=1)
        clock.tick(-1000)
        store.put(*graph(1), layers=1)
        assert store.get(graph(1)[0]) == graph(1)[1]
        assert store.count() == 1

    def test_a_lower_cap_takes_effect_with_the_next_graph(self, engine: Engine, clock: Clock):
        for n in range(7):
            GraphStore(engine, max_graphs=10, clock=clock).put(*graph(n), layers=1)
            clock.tick()
        GraphStore(engine, max_graphs=2, clock=clock).put(*graph(7), layers=1)
        assert GraphStore(engine).count() == 2

    def test_for_a_minute_a_graph_is_taken_to_be_there(
        self, engine: Engine, clock: Clock, statements: list[str]
    ):
        store = GraphStore(engine, clock=clock)
        graph_id, text = graph(1)
        assert not store.seen_lately(graph_id)
        store.put(graph_id, text, layers=1)
        statements.clear()
        assert store.seen_lately(graph_id)
        assert not store.put(graph_id, text, layers=1)
        assert statements == []
        clock.tick(61)
        assert not store.seen_lately(graph_id)
        assert not store.put(graph_id, text, layers=1)
        assert statements

    def test_a_graph_that_was_dropped_or_never_there_is_put(self, engine: Engine, clock: Clock):
        store = GraphStore(engine, max_graphs=1, clock=clock)
        for n in (1, 2, 1):
            store.touch(graph(n)[0])
            assert store.put(*graph(n), layers=1)
            clock.tick()
            assert store.get(graph(n)[0]) == graph(n)[1]

    def test_what_is_put_while_it_is_touched_is_put(
        self, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ):
        store = GraphStore(engine, clock=clock)
        graph_id, text = graph(1)

        @contextmanager
        def interrupted(engine: Engine) -> Iterator[Connection]:
            monkeypatch.setattr("latency_service.storage.graphs.reading", reading)
            with reading(engine) as connection:
                yield connection
            assert store.put(graph_id, text, layers=1)

        monkeypatch.setattr("latency_service.storage.graphs.reading", interrupted)
        store.touch(graph_id)
        assert store.get(graph_id) == text

    def test_touching_is_written_once_a_minute(self, engine: Engine, clock: Clock):
        store = GraphStore(engine, clock=clock)
        graph_id, text = graph(1)
        store.put(graph_id, text, layers=1)
        made = used_at(engine, graph_id)
        for seconds, written in ((59, False), (2, True), (58, False), (3, True)):
            clock.tick(seconds)
            before = used_at(engine, graph_id)
            store.touch(graph_id)
            # Another process, which remembers nothing, does not write again either.
            GraphStore(engine, clock=clock).touch(graph_id)
            assert (used_at(engine, graph_id) > before) == written
        assert used_at(engine, graph_id) == made + timedelta(seconds=59 + 2 + 58 + 3)

    def test_what_is_there_is_put_and_read_while_somebody_writes(self, engine: Engine):
        store = GraphStore(engine)
        graph_id, text = graph(1)
        store.put(graph_id, text, layers=1)
        # another process, which does not know yet that it is there
        other = GraphStore(engine)
        with writing(engine) as connection:
            connection.execute(graphs.update().values(layers=2))
            assert not other.put(graph_id, text, layers=1)
            assert other.get(graph_id) == text
            other.touch(graph_id)

    def test_many_at_once_keep_to_the_cap(self, engine: Engine):
        store = GraphStore(engine, max_graphs=5)
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(lambda n: store.put(*graph(n % 20), layers=1), range(40)))
        assert sum(created) >= 20
        store.put(*graph(99), layers=1)
        assert store.count() == 5
